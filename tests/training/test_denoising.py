import math
import threading
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Literal

import pytest
import torch
from torch import Tensor, nn

from omni_diffusion.backbone.config import DreamConfig
from omni_diffusion.backbone.dream import Dream
from omni_diffusion.canvas import Batch, Canvas, FeatureSlot, rounded, starts_of
from omni_diffusion.data.mixture import TaskGroup
from omni_diffusion.data.packing import pack
from omni_diffusion.diffusion.loss import Weighting
from omni_diffusion.diffusion.masking import MaskingConfig, ratios
from omni_diffusion.errors import DataError
from omni_diffusion.training.batches import MaskedExample, mask_answer
from omni_diffusion.training.denoising import (
    DenoisingConfig,
    DenoisingObjective,
    init_code_embeddings,
)
from omni_diffusion.training.optim import OptimConfig
from omni_diffusion.training.trainer import LoopConfig, Trainer
from omni_diffusion.vocab import Vocabulary

VOCABULARY = Vocabulary(text_size=20, speech_size=4, image_size=16)


def backbone(*, tied: bool = False, seed: int = 0) -> Dream:
    torch.manual_seed(seed)
    return Dream(
        DreamConfig(
            vocab_size=VOCABULARY.size,
            hidden_size=32,
            num_layers=2,
            num_heads=2,
            num_kv_heads=1,
            head_dim=16,
            intermediate_size=48,
            initializer_range=0.2,  # far from uniform, so that a wrong target shows
            speech_dim=3,
            tie_embeddings=tied,
        )
    )


def canvas(prompt: int, answer: int, pads: int = 0, *, seed: int = 0, heard: int = 0) -> Canvas:
    """Random text: `prompt` places, of which `heard` are speech, `answer` places, then pads."""
    generator = torch.Generator().manual_seed(seed)
    ids = torch.randint(0, 20, (prompt + answer + pads,), generator=generator)
    length = len(ids)
    ids[prompt + answer :] = VOCABULARY.pad
    return Canvas(
        ids,
        torch.zeros(length, dtype=torch.bool),
        torch.tensor([0, VOCABULARY.size]).expand(length, 2),
        (prompt, length),
        (FeatureSlot(1, torch.randn(heard, 3, generator=generator)),) if heard else (),
    )


class Fixed:
    """The same groups in every step."""

    def __init__(self, *groups: TaskGroup) -> None:
        self.groups = list(groups)

    def draw(self, step: int, generator: torch.Generator) -> list[TaskGroup]:
        return self.groups


class Afresh(Fixed):
    """The same canvases, masked anew in every step."""

    def draw(self, step: int, generator: torch.Generator) -> list[TaskGroup]:
        return [TaskGroup.of(g.name, g.weight, g.canvases, seed=step) for g in self.groups]


def objective(
    model: Dream,
    *groups: TaskGroup,
    masking: MaskingConfig | None = None,
    weighting: Weighting = "plain",
) -> DenoisingObjective:
    config = DenoisingConfig(masking or MaskingConfig(), weighting)
    return DenoisingObjective(model, VOCABULARY, Fixed(*groups), config)


CANVASES = (
    canvas(3, 5, seed=1),
    canvas(6, 4, 4, seed=2, heard=3),
    canvas(2, 9, 2, seed=3),
)


# -------------------------------------------------------------------------------------------- loss
def masked(canvases: Sequence[Canvas], seed: int, weighting: Weighting) -> list[MaskedExample]:
    """The masking that the objective draws for a group of these in a step of that seed."""
    group = TaskGroup.of("t", 1.0, canvases)
    t = ratios(MaskingConfig(), len(canvases), torch.Generator().manual_seed(seed))
    return [mask_answer(each, 0, t, MaskingConfig(), weighting, VOCABULARY) for each in group.drawn]


def surprises(model: Dream, one: MaskedExample) -> list[tuple[float, bool]]:
    """-log p of every masked token of one canvas, alone and unpadded, and whether it was best."""
    slots = [(0, slot) for slot in one.canvas.slots]
    logits = model(one.canvas.ids[None], slots=slots)[0].detach()
    found = []
    places = one.masked.nonzero().flatten().tolist()
    for place, token in zip(places, one.targets.tolist(), strict=True):
        chances = [math.exp(float(value)) for value in logits[place]]
        found.append((-math.log(chances[token] / sum(chances)), max(chances) == chances[token]))
    return found


@pytest.mark.parametrize("weighting", ["plain", "elbo", "per_length"])
def test_the_loss_is_the_masked_cross_entropy(weighting: Weighting) -> None:
    model = backbone()
    loss, figures = objective(model, TaskGroup.of("t", 1.0, CANVASES), weighting=weighting).loss(
        0, torch.Generator().manual_seed(7)
    )
    total, count, right = 0.0, 0, 0
    lengths = [one.answer[1] - one.answer[0] for one in CANVASES]
    for one, example, length in zip(CANVASES, masked(CANVASES, 7, weighting), lengths, strict=True):
        assert not example.masked[: one.answer[0]].any()  # a prompt is never masked
        t = float(ratios(MaskingConfig(), 3, torch.Generator().manual_seed(7))[CANVASES.index(one)])
        for (surprise, best), place in zip(
            surprises(model, example), example.masked.nonzero().flatten().tolist(), strict=True
        ):
            chance = chance_of(one, place, t)
            weight = {"plain": 1.0, "elbo": 1 / chance, "per_length": 1 / (chance * length)}
            total += weight[weighting] * surprise
            count, right = count + 1, right + best
    divisor = {"plain": count, "elbo": sum(lengths), "per_length": len(CANVASES)}[weighting]
    assert count > 6
    assert float(loss.detach()) == pytest.approx(total / divisor, rel=1e-4)
    assert figures["loss"] == pytest.approx(float(loss.detach()))
    assert figures["t_loss"] == pytest.approx(float(loss.detach()))
    assert figures["t_accuracy"] == pytest.approx(right / count)


def chance_of(one: Canvas, place: int, t: float) -> float:
    """That a place had to be masked: t, or what a row without any gives one of its places."""
    if int(one.ids[place]) == VOCABULARY.pad:
        return 0.6 * t
    real = int((one.ids[slice(*one.answer)] != VOCABULARY.pad).sum())
    return t + (1 - t) ** real / real


def test_figures_part_the_loss_by_kind_and_by_how_much_is_hidden() -> None:
    model = backbone()
    crowd = [canvas(2, 8, 3, seed=seed) for seed in range(12)]
    for one in crowd[:6]:
        one.ids[3:6] = VOCABULARY.image.start
    figures = objective(model, TaskGroup.of("t", 1.0, crowd)).loss(
        0, torch.Generator().manual_seed(1)
    )[1]
    sums: dict[str, list[float]] = {}
    for one in masked(crowd, 1, "plain"):
        real = one.canvas.length - 2 - 3
        hidden = sum(1 for token in one.targets.tolist() if token != VOCABULARY.pad) / real
        quarter = min(int(hidden * 4), 3)
        for (surprise, _), token in zip(surprises(model, one), one.targets.tolist(), strict=True):
            kind = "image" if token == VOCABULARY.image.start else "text"
            kind = "pad" if token == VOCABULARY.pad else kind
            bucket = f"masked_{25 * quarter}_{25 * quarter + 25}"
            sums.setdefault(kind, []).append(surprise)
            sums.setdefault(bucket, []).append(surprise)
    assert {"text", "pad", "image", "masked_75_100"} <= sums.keys()
    told = {name for name in figures if name.endswith("_loss")} - {"t_loss"}
    assert told == {f"{name}_loss" for name in sums}
    for name, values in sums.items():
        assert figures[f"{name}_loss"] == pytest.approx(sum(values) / len(values), rel=1e-4)
    assert figures["tokens"] == 12 * 13
    assert figures["padding"] == 0


def test_each_groups_mean_counts_by_its_share() -> None:
    groups = (TaskGroup.of("a", 0.3, CANVASES[:1]), TaskGroup.of("b", 2.0, CANVASES[1:]))
    loss, figures = objective(backbone(), *groups).loss(0, torch.Generator().manual_seed(0))
    assert figures.keys() >= {"a_loss", "a_accuracy", "b_loss", "b_accuracy"}
    assert float(loss.detach()) == pytest.approx(0.3 * figures["a_loss"] + 2 * figures["b_loss"])
    loss.backward()
    assert all(
        bool(p.grad.isfinite().all())
        for p in objective(backbone()).module.parameters()
        if p.grad is not None
    )


def test_the_loss_depends_on_the_generator_alone() -> None:
    one = objective(backbone(), TaskGroup.of("t", 1.0, CANVASES))
    first, again, other = (
        one.loss(s, torch.Generator().manual_seed(g))[0].item() for s, g in ((0, 1), (9, 1), (0, 2))
    )
    assert first == again != other


def test_a_task_may_have_a_forward_process_of_its_own() -> None:
    groups = (TaskGroup.of("a", 1.0, CANVASES), TaskGroup.of("b", 1.0, CANVASES))
    whole = MaskingConfig(full=1.0, gamma=1.0)

    def figures(config: DenoisingConfig) -> dict[str, float]:
        one = DenoisingObjective(backbone(), VOCABULARY, Fixed(*groups), config)
        return one.loss(0, torch.Generator().manual_seed(0))[1]

    both, one = figures(DenoisingConfig(whole)), figures(DenoisingConfig(by_task={"b": whole}))
    assert one["b_loss"] == pytest.approx(both["b_loss"])  # all places, whatever is drawn
    assert one["a_loss"] != pytest.approx(both["a_loss"])


def test_heard_speech_reaches_the_loss() -> None:
    model = backbone()
    loss, _ = objective(model, TaskGroup.of("t", 1.0, CANVASES)).loss(0, torch.Generator())
    loss.backward()
    assert all(
        p.grad is not None and bool(p.grad.any()) for p in model.model.audio_projection.parameters()
    )


# -------------------------------------------------------------------------------------------- pads
@pytest.mark.parametrize("gamma", [0.0, 0.6, 1.0])
def test_pads_are_masked_less(gamma: float) -> None:
    model, seen = backbone(), list[Tensor]()
    model.model.embed_tokens.register_forward_pre_hook(lambda _, given: seen.append(given[0]))
    crowd = [canvas(2, 15, 15, seed=seed) for seed in range(60)]
    mixture = Afresh(TaskGroup.of("t", 1.0, crowd))
    config = DenoisingConfig(MaskingConfig(gamma=gamma))
    one = DenoisingObjective(model, VOCABULARY, mixture, config)
    with torch.no_grad():
        for step in range(8):
            one.loss(step, torch.Generator().manual_seed(step))
    masked = (torch.stack(seen) == VOCABULARY.mask).float()
    assert not masked[..., :2].any()
    real, pads = float(masked[..., 2:17].mean()), float(masked[..., 17:].mean())
    assert real == pytest.approx(0.5, abs=0.05)
    assert pads / real == pytest.approx(gamma, abs=0.04)


# ----------------------------------------------------------------------------------------- packing
ROWS = (CANVASES[:2], CANVASES[2:])
CROWD = [canvas(2 + n % 3, 3 + n % 7, n % 4, seed=n, heard=n % 2) for n in range(24)]


@pytest.mark.parametrize("precision", [torch.float32, torch.bfloat16])
def test_no_gradient_leaks_between_packed_canvases(precision: torch.dtype) -> None:
    model = backbone()
    embedded: list[Tensor] = []

    def keep(_: nn.Module, given: object, made: Tensor) -> None:
        made.retain_grad()
        embedded.append(made)

    model.model.embed_tokens.register_forward_hook(keep)
    frames = [torch.randn(3, 3, requires_grad=True) for _ in range(3)]
    crowd = [replace(canvas(5, 4, 2, seed=n), slots=(FeatureSlot(1, frames[n]),)) for n in range(3)]
    batch = Batch.packed([crowd, crowd[:1]], VOCABULARY.pad)
    assert batch.segments is not None
    for number in (1, 2, 3):
        embedded.clear()
        model.zero_grad()
        for each in frames:
            each.grad = None
        with torch.autocast("cpu", torch.bfloat16, enabled=precision == torch.bfloat16):
            logits = model(batch.ids, slots=batch.slots, segments=batch.segments)
        inside = batch.segments == number
        inside[1] = False
        logits[inside].logsumexp(-1).sum().backward()
        felt = embedded[0].grad
        assert felt is not None
        heard = [slot.start for row, slot in batch.slots if row == 0]
        covered = torch.zeros_like(inside)
        for start in heard:
            covered[0, start : start + 3] = True  # frames lie over these embeddings
        assert torch.equal(felt.abs().sum(-1) > 0, inside & ~covered)
        touched = [each.grad is not None and bool(each.grad.any()) for each in frames]
        assert touched == [n == number for n in (1, 2, 3)]


def test_a_packed_canvas_has_the_logits_that_it_has_alone() -> None:
    model = backbone()
    batch = Batch.packed(ROWS, VOCABULARY.pad)
    logits = model(batch.ids, slots=batch.slots, segments=batch.segments)
    for number, row in enumerate(ROWS):
        for one, start in zip(row, starts_of(row), strict=True):
            alone = model(one.ids[None], slots=[(0, slot) for slot in one.slots])[0]
            packed = logits[number, start : start + one.length]
            torch.testing.assert_close(packed, alone, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("weighting", ["plain", "elbo", "per_length"])
def test_packed_rows_have_the_loss_and_gradients_of_the_same_canvases_alone(
    weighting: Weighting,
) -> None:
    """With all places masked, so that it is the same masking whatever is drawn."""
    whole = MaskingConfig(full=1.0, gamma=1.0)
    losses, gradients = list[float](), list[Tensor]()
    for max_length in (None, 40):
        model = backbone()
        config = DenoisingConfig(whole, weighting, max_length=max_length)
        one = DenoisingObjective(model, VOCABULARY, Fixed(TaskGroup.of("t", 1.0, CROWD)), config)
        loss, figures = one.loss(0, torch.Generator())
        loss.backward()
        losses.append(float(loss.detach()))
        gradients.append(torch.cat([p.grad.flatten() for p in model.parameters()]))  # type: ignore[union-attr]
    taken = [sum(each.length for each in row) for row in pack(CROWD, 40)]
    length = min(rounded(max(taken)), 40)
    assert figures["padding"] == pytest.approx(1 - sum(taken) / (len(taken) * length))
    assert figures["padding"] < 0.2
    assert losses[1] == pytest.approx(losses[0], rel=1e-5)
    torch.testing.assert_close(gradients[1], gradients[0], atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("weighting", ["plain", "elbo", "per_length"])
@pytest.mark.parametrize("loss_average", ["task", "token"])
def test_however_a_step_is_laid_its_loss_and_gradients_are_the_same(
    weighting: Weighting, loss_average: Literal["task", "token"]
) -> None:
    groups = (TaskGroup.of("a", 0.3, CROWD[:10], 1), TaskGroup.of("b", 2.0, CROWD[10:], 2))
    losses, gradients = list[float](), list[Tensor]()
    for max_length, places in ((None, None), (None, 60), (40, None), (40, 80), (90, 1)):
        model = backbone()
        config = DenoisingConfig(
            MaskingConfig("antithetic"),
            weighting,
            loss_average=loss_average,
            max_length=max_length,
            micro_batch_tokens=places,
        )
        one = DenoisingObjective(model, VOCABULARY, Fixed(*groups), config)
        figures = one.backward(0, torch.Generator().manual_seed(3))
        losses.append(figures["loss"])
        gradients.append(torch.cat([p.grad.flatten() for p in model.parameters()]))  # type: ignore[union-attr]
    assert losses == pytest.approx([losses[0]] * 5, rel=1e-5)
    for other in gradients[1:]:
        torch.testing.assert_close(other, gradients[0], atol=1e-5, rtol=1e-4)


def test_the_mean_over_tokens_is_that_of_all_tasks() -> None:
    groups = (TaskGroup.of("a", 0.3, CROWD[:10], 1), TaskGroup.of("b", 2.0, CROWD[10:], 2))
    config = DenoisingConfig(loss_average="token")
    one = DenoisingObjective(backbone(), VOCABULARY, Fixed(*groups), config)
    prepared = one.prepare(0, torch.Generator().manual_seed(0))
    a, b = prepared.sums[2:4].tolist()  # how many places are masked
    figures = one.loss(0, torch.Generator().manual_seed(0))[1]
    mean = (a * figures["a_loss"] + b * figures["b_loss"]) / (a + b)
    assert figures["loss"] == pytest.approx(mean, rel=1e-5)


def test_a_step_drawn_ahead_is_the_step() -> None:
    one = objective(backbone(), TaskGroup.of("t", 1.0, CANVASES))
    alone = [one.backward(step, torch.Generator().manual_seed(step))["loss"] for step in (0, 1, 2)]
    one.prefetch(1, torch.Generator().manual_seed(1))
    one.prefetch(7, torch.Generator().manual_seed(7))  # of a step that does not come
    found = [one.backward(1, torch.Generator().manual_seed(9))["loss"]]
    found.append(one.backward(2, torch.Generator().manual_seed(2))["loss"])
    assert found == alone[1:]


def test_the_loop_has_each_step_drawn_once_while_the_one_before_runs(tmp_path: Path) -> None:
    drawn: list[tuple[int, str]] = []

    class Noted(Fixed):
        def draw(self, step: int, generator: torch.Generator) -> list[TaskGroup]:
            drawn.append((step, threading.current_thread().name.split("_")[0]))
            return super().draw(step, generator)

    mixture = Noted(TaskGroup.of("t", 1.0, CANVASES))
    one = DenoisingObjective(backbone(), VOCABULARY, mixture, DenoisingConfig())
    run = Trainer(one, LoopConfig(4), tmp_path)
    run.advance()
    time.sleep(0.2)
    assert drawn == [(0, "batches"), (1, "batches")]  # the next is there before it is asked for
    run.fit()
    assert drawn == [(step, "batches") for step in range(4)]


def test_what_befalls_a_step_drawn_ahead_is_told_at_its_turn() -> None:
    config = DenoisingConfig(max_length=12)
    one = DenoisingObjective(
        backbone(), VOCABULARY, Fixed(TaskGroup.of("t", 1.0, CANVASES)), config
    )
    one.prefetch(0, torch.Generator())
    with pytest.raises(DataError, match="a sample has 14 tokens, a row has 12"):
        one.backward(0, torch.Generator())


def test_in_packed_rows_answers_alone_are_masked_and_each_has_a_ratio_of_its_own() -> None:
    model, seen = backbone(), list[Tensor]()
    model.model.embed_tokens.register_forward_pre_hook(lambda _, given: seen.append(given[0]))
    crowd = [canvas(2, 15, 15, seed=seed) for seed in range(64)]
    masking = MaskingConfig(variant="antithetic")
    config = DenoisingConfig(masking, max_length=100)
    one = DenoisingObjective(model, VOCABULARY, Afresh(TaskGroup.of("t", 1.0, crowd)), config)
    with torch.no_grad():
        for step in range(8):
            one.loss(step, torch.Generator().manual_seed(step))
    # three canvases of 32 places a row, and the last row has one
    masked = torch.cat([ids == VOCABULARY.mask for ids in seen]).view(8, 22, 96)
    masked = masked.view(8, 66, 32)
    assert not masked[:, 64:].any()
    answers = masked[:, :64].float()
    assert not answers[..., :2].any()
    assert (answers[..., 2:17].sum(-1) >= 1).all()
    real, pads = answers[..., 2:17].mean(), answers[..., 17:].mean()
    assert float(real) == pytest.approx(0.5, abs=0.02)  # antithetic: even over all sequences
    assert float(pads / real) == pytest.approx(0.6, abs=0.04)
    shares = masked[..., 2:17].float().mean(-1).view(8, 22, 3)[:, :21]
    apart = shares[..., 0] - shares[..., 1]  # two canvases of one row
    assert float(apart.std()) > 0.35  # were the ratio the row's, 0.15


def test_a_canvas_that_is_longer_than_a_row_is_told() -> None:
    config = DenoisingConfig(max_length=12)
    one = DenoisingObjective(
        backbone(), VOCABULARY, Fixed(TaskGroup.of("t", 1.0, CANVASES)), config
    )
    with pytest.raises(DataError, match="a sample has 14 tokens, a row has 12"):
        one.loss(0, torch.Generator())


# ---------------------------------------------------------------------------------------- learning
@pytest.mark.slow
def test_four_canvases_are_learned_by_heart(tmp_path: Path) -> None:
    four = [canvas(4, 6, 2, seed=seed) for seed in range(4)]
    one = objective(backbone(), TaskGroup.of("t", 1.0, four * 4))
    loop = LoopConfig(70, optim=OptimConfig(lr=1e-2, warmup=5), log_every=10)
    told: list[dict[str, float]] = []
    Trainer(one, loop, tmp_path).fit(lambda _, row: told.append(row))
    assert told[0]["t_accuracy"] < 0.5
    assert told[-1]["t_accuracy"] > 0.95
    assert told[-1]["t_loss"] < 0.25


# ---------------------------------------------------------------------------------------- geometry
SIGNS = torch.cartesian_prod(*[torch.tensor([-1.0, 1.0])] * 4)  # of the 16 codes of four bits


@pytest.mark.parametrize("tied", [False, True])
def test_codes_that_are_near_begin_near(tied: bool) -> None:
    model = backbone(tied=tied)
    before = model.model.embed_tokens.weight.detach().clone()
    vectors = SIGNS
    init_code_embeddings(
        model, VOCABULARY.image, vectors, scale=0.05, generator=torch.Generator().manual_seed(0)
    )
    span = slice(VOCABULARY.image.start, VOCABULARY.image.stop)
    tables = [model.model.embed_tokens.weight] + ([] if tied else [model.lm_head.weight])
    for table in tables:
        rows = table.detach()[span]
        assert float(rows.std()) == pytest.approx(0.05, rel=1e-4)
        apart, bits = torch.cdist(rows, rows), (vectors[:, None] != vectors).sum(-1)
        assert apart[bits == 0].max() < 1e-3
        means = [float(apart[bits == differ].mean()) for differ in range(1, 5)]
        assert means == sorted(means)
        # opposite codes are opposite vectors, so that no code is favoured at first
        assert torch.allclose(rows, -rows.flip(0), atol=1e-6)
    after = model.model.embed_tokens.weight.detach()
    assert torch.equal(after[: span.start], before[: span.start])


def test_geometry_depends_on_its_generator_alone() -> None:
    tables = []
    for seed in (0, 1):
        model = backbone(seed=seed)
        generator = torch.Generator().manual_seed(7)
        init_code_embeddings(model, VOCABULARY.image, SIGNS, scale=0.1, generator=generator)
        tables.append(model.lm_head.weight.detach()[VOCABULARY.image.start :])
    assert torch.equal(*tables)
