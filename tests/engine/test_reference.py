"""The engine's path gives the tokens of the plain loop, alone and in mixed batches."""

from __future__ import annotations

import random
from collections.abc import Sequence
from functools import cache

import pytest
from tests.engine.reference_loop import Reference
from tests.tasks.tiny_scenes import CONVERSATIONS
from tests.tiny import tiny_model

from omni_diffusion.conversation import Turn
from omni_diffusion.diffusion.params import SamplingParams
from omni_diffusion.engine import runner
from omni_diffusion.engine.runner import GuidedCanvas
from omni_diffusion.models.omni import OmniModel
from omni_diffusion.tasks.catalog import CATALOG
from omni_diffusion.tasks.encode import encode
from omni_diffusion.tasks.render import Prepared, render

BATCH = 16


@cache
def model() -> OmniModel:
    """Sure of itself, so that few choices are as good as equal."""
    opened = tiny_model()
    opened.backbone.lm_head.weight.data.mul_(30)
    return opened


@cache
def turns(task: str) -> Sequence[Turn]:
    return tuple(encode(CONVERSATIONS[task], model().codecs))


def random_canvas(seed: int, longest: int) -> Prepared:
    """A request of any task, with any way to sample it."""
    rng = random.Random(seed)
    task = list(CATALOG)[seed % len(CATALOG)]
    length = rng.choice([8, 12, 30, longest])
    params = SamplingParams(
        steps=rng.choice([1, 3, 6]),
        confidence=rng.choice(["entropy", "entropy", "margin", "max_probability"]),
        temperature=rng.choice([0.0, 0.0, 0.8]),
        top_p=rng.choice([None, 0.9]),
        top_k=rng.choice([None, 5]),
        repetition_penalty=rng.choice([1.0, 1.3]),
        position_penalty=rng.choice([1.0, 2.0]),
        guidance=rng.choice([0.0, 1.5]),
        block_length=rng.choice([None, None, 10]),
        constrain=rng.random() < 0.7,
        rules=rng.choice(["paper", "paper", "upstream"]),
        schedule=rng.choice(["even", "cosine"]),
        seed=seed,
    )
    return render(CATALOG[task], turns(task), model(), params, max_tokens=length)


def guided(prepared: Prepared) -> GuidedCanvas:
    mask = model().vocabulary.mask
    return GuidedCanvas(prepared.canvas, prepared.uncond, prepared.params, mask)


def denoise(canvases: Sequence[GuidedCanvas]) -> list[list[int]]:
    """Together in one pass a step, each until it is done: the ids of each."""
    while active := [canvas for canvas in canvases if not canvas.state.done]:
        commits = runner.commit(active, runner.logits(model().backbone, active))
        assert None not in commits
    return [canvas.canvas.ids.tolist() for canvas in canvases]


def compare(seeds: range, longest: int) -> int:
    """The number of canvases where rounding decided something and the tokens differ."""
    prepared = [random_canvas(seed, longest) for seed in seeds]
    alone = [denoise([guided(each)])[0] for each in prepared]
    batches = [prepared[at : at + BATCH] for at in range(0, len(prepared), BATCH)]
    together = [ids for batch in batches for ids in denoise([guided(each) for each in batch])]
    undecided = 0
    for seed, each, one, other in zip(seeds, prepared, alone, together, strict=True):
        mask = model().vocabulary.mask
        plain = Reference(model().backbone, each.canvas, each.uncond, each.params, mask)
        want = plain.decode().tolist()
        if not want == one == other:
            assert plain.close, f"canvas {seed}: {each.task.name} {each.params}"
            undecided += 1
    return undecided


def test_the_same_tokens_as_the_plain_loop() -> None:
    assert compare(range(40), 20) <= 2


@pytest.mark.slow
def test_the_same_tokens_as_the_plain_loop_on_a_thousand_canvases() -> None:
    assert compare(range(40, 1040), 130) <= 20
