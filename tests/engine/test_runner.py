"""One step for many canvases: packing, guidance, alignment of both branches."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from tests.tasks.tiny_scenes import CONVERSATIONS

from omni_diffusion.canvas import Canvas
from omni_diffusion.diffusion.sampler import SamplingParams
from omni_diffusion.engine import runner
from omni_diffusion.engine.runner import GuidedCanvas
from omni_diffusion.errors import CanvasError, TaskError
from omni_diffusion.models.omni import OmniModel
from omni_diffusion.tasks.catalog import CATALOG
from omni_diffusion.tasks.render import Prepared, render

GUIDED = ("t2i", "s2i", "tts", "svqa", "inpaint", "infill")


def prepared(name: str, model: OmniModel, params: SamplingParams) -> Prepared:
    return render(CATALOG[name], CONVERSATIONS[name], model, params, max_tokens=12)


def row(name: str, model: OmniModel, **params: float) -> GuidedCanvas:
    laid = prepared(name, model, SamplingParams(**params))  # type: ignore[arg-type]
    return GuidedCanvas(laid.canvas, laid.uncond, laid.params, model.vocabulary.mask)


def logits(model: OmniModel, rows: list[GuidedCanvas]) -> tuple[torch.Tensor, ...]:
    """Logits [m, V] of each canvas, all of one pass."""
    queried = runner.logits(model.backbone, rows)
    whole = queried.compute(torch.arange(queried.positions), 0, queried.size)
    return whole.split([int(each.state.query_mask.sum()) for each in rows])


def answer(canvas: Canvas) -> torch.Tensor:
    return canvas.ids[slice(*canvas.answer)]


def test_logits_are_those_of_the_model_alone(model: OmniModel) -> None:
    rows = [row(name, model) for name in ("t2i", "asr", "vqa", "svqa")]
    for each, found in zip(rows, logits(model, rows), strict=True):
        slots = [(0, slot) for slot in each.canvas.slots]
        with torch.no_grad():
            every = model.backbone(each.canvas.ids[None], slots=slots)[0]
        torch.testing.assert_close(found, every[each.state.query_mask], rtol=0, atol=1e-5)


def test_guidance_joins_both_branches(model: OmniModel) -> None:
    guided, plain = row("s2i", model, guidance=1.5), row("s2i", model)
    assert guided.uncond is not None
    assert guided.lengths == (guided.canvas.length, guided.uncond.length)
    assert guided.shift != 0  # or this test would show nothing
    own = logits(model, [plain])[0]
    with torch.no_grad():
        null = model.backbone(guided.uncond.ids[None])[0, guided.uncond.blank]
    found = logits(model, [guided])[0]
    torch.testing.assert_close(found, null + 2.5 * (own - null), rtol=0, atol=1e-5)


@pytest.mark.parametrize("name", GUIDED)
def test_the_answer_is_the_same_in_both_branches_at_every_step(name: str, model: OmniModel) -> None:
    each = row(name, model, guidance=1.0, steps=5, temperature=1.0)
    while not each.state.done:
        assert each.uncond is not None
        assert torch.equal(answer(each.canvas), answer(each.uncond))
        runner.commit([each], runner.logits(model.backbone, [each]))
    assert torch.equal(answer(each.canvas), answer(each.uncond))
    assert each.canvas.blanks == each.uncond.blanks == 0


def test_only_queried_positions_leave_the_last_block(model: OmniModel) -> None:
    seen = []
    hook = model.backbone.model.norm.register_forward_hook(lambda *a: seen.append(a[2].shape[1]))
    rows = [row("t2i", model, block_length=4), row("s2i", model, guidance=1.0), row("chat", model)]
    queried = runner.logits(model.backbone, rows)
    hook.remove()
    counts = [int(each.state.query_mask.sum()) for each in rows]
    assert queried.positions == sum(counts)
    assert seen == [sum(counts) + counts[1]]  # the unconditional branch too
    assert counts[0] < rows[0].canvas.blanks


def test_branches_that_differ_are_refused(model: OmniModel) -> None:
    laid = prepared("t2i", model, SamplingParams(guidance=1.0))
    assert laid.uncond is not None
    place = int(laid.uncond.blank.nonzero()[0])
    other = laid.uncond.fill([place], [model.vocabulary.image.start])
    with pytest.raises(CanvasError, match="same answer block"):
        GuidedCanvas(laid.canvas, other, laid.params, model.vocabulary.mask)
    outside = replace(laid.canvas, answer=(laid.canvas.answer[0] + 2, laid.canvas.answer[1]))
    twin = replace(laid.uncond, answer=(laid.uncond.answer[0] + 2, laid.uncond.answer[1]))
    with pytest.raises(CanvasError, match="every masked token inside"):
        GuidedCanvas(outside, twin, laid.params, model.vocabulary.mask)
    with pytest.raises(TaskError, match="no unconditional prompt"):
        GuidedCanvas(laid.canvas, None, laid.params, model.vocabulary.mask)
