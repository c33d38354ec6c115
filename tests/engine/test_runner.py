"""One step for many rows: guidance rows, padding, alignment of both branches."""

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


def answer(canvas: Canvas) -> torch.Tensor:
    return canvas.ids[slice(*canvas.answer)]


def test_logits_are_those_of_the_model_alone(model: OmniModel) -> None:
    rows = [row(name, model) for name in ("t2i", "asr", "vqa", "svqa")]
    for each, found in zip(rows, runner.logits(model.backbone, rows, 0), strict=True):
        slots = [(0, slot) for slot in each.canvas.slots]
        with torch.no_grad():
            every = model.backbone(each.canvas.ids[None], slots=slots)[0]
        torch.testing.assert_close(found, every[each.state.query_mask], rtol=0, atol=1e-5)


def test_guidance_joins_both_branches(model: OmniModel) -> None:
    guided, plain = row("s2i", model, guidance=1.5), row("s2i", model)
    assert guided.uncond is not None
    assert guided.lengths == (guided.canvas.length, guided.uncond.length)
    assert guided.shift != 0  # or this test would show nothing
    own = runner.logits(model.backbone, [plain], 0)[0]
    with torch.no_grad():
        null = model.backbone(guided.uncond.ids[None])[0, guided.uncond.blank]
    found = runner.logits(model.backbone, [guided], 0)[0]
    torch.testing.assert_close(found, null + 2.5 * (own - null), rtol=0, atol=1e-5)


@pytest.mark.parametrize("name", GUIDED)
def test_the_answer_is_the_same_in_both_branches_at_every_step(name: str, model: OmniModel) -> None:
    each = row(name, model, guidance=1.0, steps=5, temperature=1.0)
    while not each.state.done:
        assert each.uncond is not None
        assert torch.equal(answer(each.canvas), answer(each.uncond))
        runner.commit([each], runner.logits(model.backbone, [each], 0))
    assert torch.equal(answer(each.canvas), answer(each.uncond))
    assert each.canvas.blanks == each.uncond.blanks == 0


def test_only_the_wanted_places_pass_the_head(model: OmniModel) -> None:
    seen = []
    hook = model.backbone.lm_head.register_forward_hook(lambda *a: seen.append(len(a[1][0])))
    each = row("t2i", model, block_length=4)
    runner.logits(model.backbone, [each], 0)
    hook.remove()
    assert seen == [int(each.state.query_mask.sum())]
    assert seen[0] < each.canvas.blanks


def test_rows_of_one_length_need_no_mask(model: OmniModel) -> None:
    rows = row("t2i", model).rows()
    assert runner.Pass.of([*rows, *rows], 0, torch.device("cpu")).segments is None
    short = row("chat", model).rows()
    sheet = runner.Pass.of([*rows, *short], 0, torch.device("cpu"))
    assert sheet.segments is not None
    assert int(sheet.query_mask.sum()) == sum(int(wanted.sum()) for _, wanted in [*rows, *short])


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


def test_what_is_no_number_is_found_row_by_row() -> None:
    bad = torch.zeros(2, 3)
    bad[1, 1] = float("nan")
    assert runner.finite([torch.zeros(2, 3), bad, torch.full((1, 3), 1e4)]) == [True, False, True]
    assert runner.finite([torch.full((4, 50), 60000.0, dtype=torch.float16)]) == [True]
