import itertools
import math
import random

import pytest
import torch
from torch import Tensor

from omni_diffusion.codecs.magvit2 import Magvit2, Magvit2Config, pixels_of
from omni_diffusion.mini import scenes
from omni_diffusion.mini.codecs.image_codec import (
    ImageCodecConfig,
    ImageCodecObjective,
    ScenePair,
    assignment_entropies,
    background_consistency,
    sample_pair,
    sprite_consistency,
)
from omni_diffusion.mini.scenes import Scene

SIZES = Magvit2Config(
    channels=4,
    multipliers=(1, 1, 1, 1),
    encoder_blocks=(1, 1, 1, 1),
    decoder_blocks=(1, 1, 1, 1),
    bits=4,
    groups=2,
    understanding_size=64,
    generation_size=64,
)


def objective(**changes: float) -> ImageCodecObjective:
    torch.manual_seed(0)
    return ImageCodecObjective(Magvit2(SIZES), ImageCodecConfig(**{"batch": 6, **changes}))  # type: ignore[arg-type]


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


# --------------------------------------------------------------------------------------- entropies
def by_enumeration(z: Tensor, temperature: float) -> tuple[float, float]:
    """Softmax of -|z - code|^2 / temperature over every code, and both entropies from it."""
    bits = z.shape[1]
    codes = torch.tensor(list(itertools.product((-1.0, 1.0), repeat=bits)), dtype=torch.float64)
    places = z.double().movedim(1, -1).reshape(-1, bits)
    chances = (-torch.cdist(places, codes).square() / temperature).softmax(1)

    def entropy(p: Tensor) -> Tensor:
        return -torch.xlogy(p, p).sum(-1)

    return float(entropy(chances).mean()), float(entropy(chances.mean(0)))


@pytest.mark.parametrize("temperature", [0.5, 1.0, 3.0])
@pytest.mark.parametrize("scale", [0.05, 1.0, 6.0])
@pytest.mark.parametrize("bits", [1, 2, 5])
def test_entropies_against_all_codes(bits: int, scale: float, temperature: float) -> None:
    z = scale * torch.randn(2, bits, 3, 2)
    each, spread = assignment_entropies(z, temperature)
    assert (float(each), float(spread)) == pytest.approx(by_enumeration(z, temperature), abs=2e-5)
    assert float(each) <= float(spread) + 1e-5


def test_entropies_at_their_ends() -> None:
    unsure = assignment_entropies(torch.zeros(1, 3, 2, 2), 1.0)
    assert [float(value) for value in unsure] == pytest.approx([3 * math.log(2)] * 2)
    every = torch.tensor(list(itertools.product((-20.0, 20.0), repeat=3)))  # each code once, sure
    sure = assignment_entropies(every.T.reshape(1, 3, 2, 4), 1.0)
    assert [float(value) for value in sure] == pytest.approx([0.0, 3 * math.log(2)], abs=1e-6)


def test_gradients_stay_finite_where_codes_are_sure() -> None:
    z = (50 * torch.randn(2, 4, 2, 2)).requires_grad_()
    each, spread = assignment_entropies(z, 1.0)
    (each - spread).backward()
    assert z.grad is not None
    assert bool(z.grad.isfinite().all())


# ------------------------------------------------------------------------------------------- pairs
def test_a_pair_shares_its_sprite_and_draws_the_rest_anew() -> None:
    rng = random.Random(0)
    pairs, known = [sample_pair(rng) for _ in range(400)], set(scenes.every_scene())
    for each in pairs:
        (first, second), (at_first, at_second) = each.scenes, each.at
        assert first.objects[at_first] == second.objects[at_second]
        assert first.style == second.style
        sides = [scenes.LAYOUTS[s.layout][a][2] for s, a in zip(each.scenes, each.at, strict=True)]
        assert sides[0] == sides[1]
        assert second in known
    for different in (
        lambda a, b: a.background != b.background,
        lambda a, b: a.layout != b.layout,
        lambda a, b: set(a.objects) != set(b.objects),
    ):
        assert sum(different(*each.scenes) for each in pairs) > 100


def steadiness(first: Scene, second: Scene, at: tuple[int, int], z: Tensor) -> float:
    shown = torch.stack([pixels_of(scenes.render_scene(s), scenes.SIZE) for s in (first, second)])
    return float(sprite_consistency(z, shown, [ScenePair((first, second), at)]))


def window(scene: Scene, at: int) -> tuple[slice, slice]:
    x, y, side = (value // 8 for value in scenes.LAYOUTS[scene.layout][at])
    return slice(y, y + side), slice(x, x + side)


def test_steadiness_looks_at_the_shared_sprite_alone() -> None:
    first, second = Scene("row", ("dog", "cat"), "blue"), Scene("column", ("key", "dog"), "blue")
    z = torch.randn(2, 4, 8, 8)
    one, other = (slice(None), *window(first, 0)), (slice(None), *window(second, 1))
    z[1][other] = z[0][one]
    assert steadiness(first, second, (0, 1), z) == 0
    z[1][other] += torch.linspace(0, 1, 16).view(4, 4)
    by_hand = (z[0][one].tanh() - z[1][other].tanh()).square().mean()
    assert steadiness(first, second, (0, 1), z) == pytest.approx(float(by_hand))


def test_where_the_background_shows_through_codes_may_differ() -> None:
    first, second = Scene("one", ("ball",), "blue"), Scene("one", ("ball",), "green")
    corner, middle = torch.zeros(2, 4, 8, 8), torch.zeros(2, 4, 8, 8)
    corner[1, :, 1, 1] = 2.0
    middle[1, :, 4, 4] = 2.0
    assert steadiness(first, second, (0, 0), middle) > 0
    assert steadiness(first, second, (0, 0), corner) < 0.1 * steadiness(
        first, second, (0, 0), middle
    )


def test_the_ground_is_steady_where_each_colour_has_one_code() -> None:
    chosen = [Scene("row", ("dog", "cat"), ground) for ground in ("blue", "green", "blue")]
    shown = torch.stack([pixels_of(scenes.render_scene(s), scenes.SIZE) for s in chosen])
    z = torch.tensor([1.0, -1.0, 1.0])[:, None, None, None].repeat(1, 4, 8, 8)
    z[:, :, 3, 1] += torch.randn(3, 4)  # within the first sprite
    assert float(background_consistency(z, shown)) == pytest.approx(0, abs=1e-6)
    z[2, :, 0, 0] = -1.0
    assert float(background_consistency(z, shown)) > 0.01


def test_a_batch_without_plain_ground_has_nothing_to_keep_steady() -> None:
    assert float(background_consistency(torch.randn(1, 4, 8, 8), torch.rand(1, 3, 64, 64))) == 0


# -------------------------------------------------------------------------------------------- loss
def test_the_loss_is_the_sum_of_its_terms() -> None:
    plain, figures = objective(entropy=0, commit=0, steady=0).loss(0, generator())
    with_all, _ = objective(entropy=2.0, commit=3.0, steady=5.0, steady_from=0).loss(0, generator())
    entropy, commit, steady = (
        objective(**{"entropy": 0, "commit": 0, "steady": 0, "steady_from": 0, name: 1.0}).loss(
            0, generator()
        )[0]
        - plain
        for name in ("entropy", "commit", "steady")
    )
    parts = 2 * entropy + 3 * commit + 5 * steady
    assert float((with_all - plain).detach()) == pytest.approx(float(parts.detach()), rel=1e-3)
    assert figures["steady"] == pytest.approx(float(steady.detach()), abs=1e-5)
    assert 1 <= figures["codes"] <= SIZES.codes
    assert 0 <= figures["entropy"] <= 4 * math.log(2) + 1e-5


def test_steadiness_waits_for_its_step() -> None:
    with_it, without = objective(steady=9.0, steady_from=5), objective(steady=0.0)
    early, late = (with_it.loss(step, generator())[0] for step in (4, 5))
    base = without.loss(4, generator())[0]
    assert float(early.detach()) == float(base.detach())
    assert float(late.detach()) > float(base.detach())


def test_the_batch_depends_on_the_generator_alone() -> None:
    one = objective()
    random.seed(1)
    first = one.loss(0, generator(3))[0].item()
    random.seed(2)
    assert one.loss(0, generator(3))[0].item() == first
    assert one.loss(0, generator(4))[0].item() != first


def test_every_weight_is_trained_through_the_quantizer() -> None:
    one = objective(entropy=0, commit=0, steady=0)
    one.loss(0, generator())[0].backward()
    for name, weight in one.module.named_parameters():
        assert weight.grad is not None, name
        assert bool(weight.grad.isfinite().all()), name
    assert bool(one.codec.encoder.conv_in.weight.grad.any())


def test_in_the_end_codes_stay_and_the_decoder_alone_learns() -> None:
    one = objective(codes_until=3)
    one.loss(2, generator())[0].backward()
    assert one.codec.encoder.conv_in.weight.grad is not None
    one.module.zero_grad()
    one.loss(3, generator())[0].backward()
    assert one.codec.encoder.conv_in.weight.grad is None
    assert one.codec.decoder.conv_out.weight.grad is not None
    assert bool(one.codec.decoder.conv_out.weight.grad.any())


@pytest.mark.slow
def test_a_few_pictures_are_learned() -> None:
    one = objective(batch=4)
    optimizer = torch.optim.Adam(one.module.parameters(), lr=5e-3)
    told = []
    for step in range(15):
        loss, figures = one.loss(step, generator())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        told.append(figures["mse"])
    assert told[-1] < 0.8 * told[0]
