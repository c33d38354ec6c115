import itertools
import math
import random

import pytest
import torch
from torch import Tensor

from omni_diffusion.codecs.magvit2 import Magvit2, Magvit2Config
from omni_diffusion.data import world
from omni_diffusion.data.world import Scene
from omni_diffusion.training.image_codec import ImageCodecConfig, ImageCodecObjective, entropies

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
    each, spread = entropies(z, temperature)
    assert (float(each), float(spread)) == pytest.approx(by_enumeration(z, temperature), abs=2e-5)
    assert float(each) <= float(spread) + 1e-5


def test_entropies_at_their_ends() -> None:
    unsure = entropies(torch.zeros(1, 3, 2, 2), 1.0)
    assert [float(value) for value in unsure] == pytest.approx([3 * math.log(2)] * 2)
    every = torch.tensor(list(itertools.product((-20.0, 20.0), repeat=3)))  # each code once, sure
    sure = entropies(every.T.reshape(1, 3, 2, 4), 1.0)
    assert [float(value) for value in sure] == pytest.approx([0.0, 3 * math.log(2)], abs=1e-6)


def test_gradients_stay_finite_where_codes_are_sure() -> None:
    z = (50 * torch.randn(2, 4, 2, 2)).requires_grad_()
    each, spread = entropies(z, 1.0)
    (each - spread).backward()
    assert z.grad is not None
    assert bool(z.grad.isfinite().all())


# ------------------------------------------------------------------------------------------ scenes
def test_every_second_scene_shares_the_first_sprite_of_the_one_before() -> None:
    scenes = objective(batch=40)._scenes(random.Random(0))
    assert len(scenes) == 40
    pairs = list(zip(scenes[::2], scenes[1::2], strict=True))
    assert any(not first.uniform for first, _ in pairs)
    for first, second in pairs:
        if not first.uniform:
            assert second.objects[0] == first.objects[0]
            assert second.objects[1] not in first.objects
            assert (second.layout, second.background, second.style) == (
                first.layout, first.background, first.style,
            )  # fmt: skip


@pytest.mark.parametrize("layout", ["row", "column"])
def test_steadiness_looks_at_the_shared_sprite_alone(layout: str) -> None:
    one = objective()
    scenes = [Scene(layout, ("dog", other), "blue") for other in ("cat", "key")]
    x, y, side = (value // 8 for value in world.LAYOUTS[layout][0])
    z = torch.randn(1, 4, 8, 8).repeat(2, 1, 1, 1)
    elsewhere = torch.ones(8, 8, dtype=torch.bool)
    elsewhere[y : y + side, x : x + side] = False
    z[1][:, elsewhere] += 1.0
    assert float(one._steady(z, scenes)) == 0
    z[1][:, y, x] += 1.0
    by_hand = (z[0].tanh() - z[1].tanh())[:, ~elsewhere].square().mean()
    assert float(one._steady(z, scenes)) == pytest.approx(float(by_hand))


def test_scenes_without_a_shared_sprite_have_no_steadiness() -> None:
    scenes = [Scene("one", ("dog",), "blue"), Scene("one", ("dog",), "blue")]
    steady = objective()._steady(torch.randn(2, 4, 8, 8), scenes)
    assert float(steady) == 0


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
