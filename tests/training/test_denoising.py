import math
from collections.abc import Sequence
from pathlib import Path

import pytest
import torch
from torch import Tensor

from omni_diffusion.backbone.config import DreamConfig
from omni_diffusion.backbone.dream import Dream
from omni_diffusion.canvas import Batch, Canvas, FeatureSlot
from omni_diffusion.data.mixture import Group
from omni_diffusion.diffusion.loss import Weighting
from omni_diffusion.diffusion.masking import Corruption, MaskingConfig, corrupt
from omni_diffusion.training.denoising import (
    DenoisingConfig,
    DenoisingObjective,
    answer_places,
    give_geometry,
)
from omni_diffusion.training.optim import OptimConfig
from omni_diffusion.training.trainer import LoopConfig, Trainer
from omni_diffusion.vocab import Vocabulary

VOCABULARY = Vocabulary.build(text=20, speech=4, image=16)


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

    def __init__(self, *groups: Group) -> None:
        self.groups = list(groups)

    def draw(self, generator: torch.Generator) -> list[Group]:
        return self.groups


def objective(
    model: Dream,
    *groups: Group,
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
def corrupted(canvases: Sequence[Canvas], generator: torch.Generator) -> Corruption:
    """The masking that the objective draws from the same generator."""
    ids = Batch.of(canvases, VOCABULARY.pad).ids
    maskable = torch.zeros(ids.shape, dtype=torch.bool)
    for row, one in enumerate(canvases):
        maskable[row, slice(*one.answer)] = True
    pad = maskable & (ids == VOCABULARY.pad)
    return corrupt(ids, maskable, pad, VOCABULARY.mask, MaskingConfig(), generator)


def surprises(model: Dream, one: Canvas, row: Tensor, masked: Tensor) -> list[tuple[float, bool]]:
    """-log p of every masked token of one canvas, alone and unpadded, and whether it was best."""
    slots = [(0, slot) for slot in one.slots]
    logits = model(row[None, : one.length], slots=slots)[0].detach()
    found = []
    for place in masked[: one.length].nonzero().flatten().tolist():
        chances = [math.exp(float(value)) for value in logits[place]]
        token = int(one.ids[place])
        found.append((-math.log(chances[token] / sum(chances)), max(chances) == chances[token]))
    return found


@pytest.mark.parametrize("weighting", ["plain", "elbo", "per_length"])
def test_the_loss_is_the_masked_cross_entropy(weighting: Weighting) -> None:
    model = backbone()
    loss, figures = objective(model, Group("t", 1.0, CANVASES), weighting=weighting).loss(
        0, torch.Generator().manual_seed(5)
    )
    corruption = corrupted(CANVASES, torch.Generator().manual_seed(5))
    total, count, right = 0.0, 0, 0
    places = [one.answer[1] - one.answer[0] for one in CANVASES]
    for row, one in enumerate(CANVASES):
        masked = corruption.masked[row]
        assert not masked[: one.answer[0]].any()  # a prompt is never masked
        assert not masked[one.length :].any()  # nor what fills up the batch
        own = surprises(model, one, corruption.ids[row], masked)
        ratios = corruption.ratio[row][masked].tolist()
        for (surprise, best), ratio in zip(own, ratios, strict=True):
            weight = {"plain": 1.0, "elbo": 1 / ratio, "per_length": 1 / (ratio * places[row])}
            total += weight[weighting] * surprise
            count, right = count + 1, right + best
    divisor = {"plain": count, "elbo": sum(places), "per_length": len(CANVASES)}[weighting]
    assert count > 6
    assert float(loss.detach()) == pytest.approx(total / divisor, rel=1e-4)
    assert figures == {
        "t_loss": pytest.approx(float(loss.detach())),
        "t_right": pytest.approx(right / count),
    }


def test_each_groups_mean_counts_by_its_share() -> None:
    groups = (Group("a", 0.3, CANVASES[:1]), Group("b", 2.0, CANVASES[1:]))
    loss, figures = objective(backbone(), *groups).loss(0, torch.Generator().manual_seed(0))
    assert figures.keys() == {"a_loss", "a_right", "b_loss", "b_right"}
    assert float(loss.detach()) == pytest.approx(0.3 * figures["a_loss"] + 2 * figures["b_loss"])
    loss.backward()
    assert all(
        bool(p.grad.isfinite().all())
        for p in objective(backbone()).module.parameters()
        if p.grad is not None
    )


def test_the_loss_depends_on_the_generator_alone() -> None:
    one = objective(backbone(), Group("t", 1.0, CANVASES))
    first, again, other = (
        one.loss(s, torch.Generator().manual_seed(g))[0].item() for s, g in ((0, 1), (9, 1), (0, 2))
    )
    assert first == again != other


def test_a_task_may_have_a_forward_process_of_its_own() -> None:
    groups = (Group("a", 1.0, CANVASES), Group("b", 1.0, CANVASES))
    whole = MaskingConfig(full=1.0, gamma=1.0)

    def figures(config: DenoisingConfig) -> dict[str, float]:
        one = DenoisingObjective(backbone(), VOCABULARY, Fixed(*groups), config)
        return one.loss(0, torch.Generator().manual_seed(0))[1]

    both, one = figures(DenoisingConfig(whole)), figures(DenoisingConfig(by_task={"b": whole}))
    assert one["b_loss"] == pytest.approx(both["b_loss"])  # all places, whatever is drawn
    assert one["a_loss"] != pytest.approx(both["a_loss"])


def test_heard_speech_reaches_the_loss() -> None:
    model = backbone()
    loss, _ = objective(model, Group("t", 1.0, CANVASES)).loss(0, torch.Generator())
    loss.backward()
    assert all(
        p.grad is not None and bool(p.grad.any()) for p in model.model.audio_projection.parameters()
    )


def test_answer_places() -> None:
    ids = Batch.of(CANVASES, VOCABULARY.pad).ids
    expected = [
        [start <= i < stop for i in range(ids.shape[1])]
        for start, stop in (c.answer for c in CANVASES)
    ]
    assert answer_places(CANVASES, ids).tolist() == expected


# -------------------------------------------------------------------------------------------- pads
@pytest.mark.parametrize("gamma", [0.0, 0.6, 1.0])
def test_pads_are_masked_less(gamma: float) -> None:
    model, seen = backbone(), list[Tensor]()
    model.model.embed_tokens.register_forward_pre_hook(lambda _, given: seen.append(given[0]))
    crowd = [canvas(2, 15, 15, seed=seed) for seed in range(60)]
    one = objective(model, Group("t", 1.0, crowd), masking=MaskingConfig(gamma=gamma))
    with torch.no_grad():
        for step in range(8):
            one.loss(step, torch.Generator().manual_seed(step))
    masked = (torch.stack(seen) == VOCABULARY.mask).float()
    assert not masked[..., :2].any()
    real, pads = float(masked[..., 2:17].mean()), float(masked[..., 17:].mean())
    assert real == pytest.approx(0.5, abs=0.05)
    assert pads / real == pytest.approx(gamma, abs=0.04)


# ---------------------------------------------------------------------------------------- learning
def test_four_canvases_are_learned_by_heart(tmp_path: Path) -> None:
    four = [canvas(4, 6, 2, seed=seed) for seed in range(4)]
    one = objective(backbone(), Group("t", 1.0, four * 4))
    loop = LoopConfig(70, optim=OptimConfig(lr=1e-2, warmup=5), log_every=10)
    told: list[dict[str, float]] = []
    Trainer(one, loop, tmp_path).fit(lambda _, row: told.append(row))
    assert told[0]["t_right"] < 0.5
    assert told[-1]["t_right"] > 0.95
    assert told[-1]["t_loss"] < 0.25


# ---------------------------------------------------------------------------------------- geometry
SIGNS = torch.cartesian_prod(*[torch.tensor([-1.0, 1.0])] * 4)  # of the 16 codes of four bits


@pytest.mark.parametrize("tied", [False, True])
def test_codes_that_are_near_begin_near(tied: bool) -> None:
    model = backbone(tied=tied)
    before = model.model.embed_tokens.weight.detach().clone()
    vectors = SIGNS
    give_geometry(
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
        give_geometry(model, VOCABULARY.image, SIGNS, scale=0.1, generator=generator)
        tables.append(model.lm_head.weight.detach()[VOCABULARY.image.start :])
    assert torch.equal(*tables)
