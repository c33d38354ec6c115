"""Guidance on a part of the steps, and answers that end early, on the small model."""

from __future__ import annotations

import pytest
import torch

from omni_diffusion import Engine, Inputs, OmniModel, ask
from omni_diffusion.canvas import Canvas
from omni_diffusion.engine.prepare import prepare
from omni_diffusion.engine.runner import GuidedCanvas, commit, logits
from omni_diffusion.engine.stream import behind_ends
from omni_diffusion.tasks.layout import SegmentSpan


@pytest.fixture(scope="module")
def shipped() -> OmniModel:
    return OmniModel.open()


def test_guidance_runs_both_branches_only_in_its_range(model: OmniModel) -> None:
    request = ask("t2i", Inputs("a dog"), guidance=1.0, guidance_from=0.25, guidance_until=0.5)
    prepared = prepare(request, model)
    mask_id = model.vocabulary.mask
    guided = GuidedCanvas(prepared.canvas, prepared.uncond, prepared.params, mask_id)
    branches = []
    while not guided.state.done:
        branches.append(len(guided.lengths))
        assert guided.guides == (len(guided.lengths) == 2)
        commit([guided], logits(model.backbone, [guided]))
    assert branches == [1] * 4 + [2] * 4 + [1] * 8  # of 16 cells
    assert guided.uncond is not None
    start = guided.uncond.answer[0] - guided.canvas.answer[0]
    answer = slice(*guided.canvas.answer)
    other = slice(answer.start + start, answer.stop + start)
    assert torch.equal(guided.uncond.ids[other], guided.canvas.ids[answer])


def test_what_stands_behind_an_end_is_found(model: OmniModel) -> None:
    words = model.vocabulary
    letter, mask = words.text.start, words.mask
    ids = torch.tensor([letter, letter, words.im_end, mask, mask, letter, mask])
    canvas = Canvas(ids, ids == mask, torch.tensor([[0, words.size]]).expand(7, 2), (0, 7))
    whole = SegmentSpan("text", 0, 7)
    assert behind_ends(canvas, [whole], words).tolist() == [3, 4, 6]
    assert behind_ends(canvas, [SegmentSpan("image", 0, 7)], words).tolist() == []
    assert behind_ends(canvas, [SegmentSpan("text", 3, 7)], words).tolist() == []
    unsure = canvas.erase([1], mask)
    assert behind_ends(unsure, [whole], words).tolist() == []


def test_an_answer_that_ends_early_is_the_same_answer(shipped: OmniModel) -> None:
    inputs = Inputs("is a strawberry a fruit?")
    changes = {"block_length": 4}  # so that the end is committed before what is behind it
    plain, early = Engine(shipped).run(
        [ask("chat", inputs, **changes), ask("chat", inputs, end_early=True, **changes)]
    )
    assert plain.error is early.error is None
    assert plain.parts == early.parts
    assert early.steps < plain.steps
    assert early.canvas is not None
    assert early.canvas.blanks == 0
