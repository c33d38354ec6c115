"""The ablations change what they say, and docs/ablations.md prints their committed tables."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from experiments import ablate_training
from experiments.ablate_inference import CELLS, Cell, compared, decoding
from experiments.ablate_training import ARMS, RAINBOW, padded
from scripts import ablation_page

from omni_diffusion import Inputs, OmniModel, ask
from omni_diffusion.canvas import Canvas
from omni_diffusion.data.mixture import TaskGroup
from omni_diffusion.engine import prepare
from omni_diffusion.media import Waveform

ROOT = Path(__file__).parents[2]
PAGE = ROOT / "docs" / "ablations.md"
SPEECH = ROOT / "src/omni_diffusion/demo/inputs/color-of-elephant.ogg"


@pytest.fixture(scope="module")
def model() -> OmniModel:
    return OmniModel.open()


def test_cells_have_names_of_their_own_and_a_reference() -> None:
    names = [cell.name for cell in CELLS]
    assert len(set(names)) == len(names)
    groups = {(cell.ablation, cell.benchmark) for cell in CELLS}
    for group in groups:
        references = [c for c in CELLS if (c.ablation, c.benchmark) == group and c.reference]
        assert len(references) == 1, group


def test_differences_are_of_the_same_samples() -> None:
    def row(variant: str, scores: list[list[float]]) -> dict[str, object]:
        return {
            "ablation": "order", "variant": variant, "benchmark": "t2i", "scores": scores,
            "reference": variant == "entropy",
        }  # fmt: skip

    first, second = compared(
        [row("entropy", [[1, 1], [1, 1], [0, 1]]), row("random", [[1, 1], [0, 1], [0, 1]])]
    )
    assert "difference" not in first
    assert second["difference"]["value"] == pytest.approx(-1 / 3)
    assert second["difference"]["n"] == 3
    same = compared([row("entropy", [[1, 1], [0, 1]]), row("random", [[1, 1], [0, 1]])])[1]
    assert (same["difference"]["value"], same["difference"]["stderr"]) == (0, 0)


def test_speech_begins_where_a_cell_says(model: OmniModel) -> None:
    request = ask("sqa", Inputs(speech=Waveform.read(SPEECH)))
    opener = model.vocabulary.begin_of_audio

    def openers(at: float | None) -> tuple[list[int], Canvas]:
        with decoding(Cell("pre-infilling", str(at), "svqa", speech_at=at)):
            canvas = prepare.prepare(request, model).canvas
        answer = canvas.ids[slice(*canvas.answer)]
        return (answer == opener).nonzero().flatten().tolist(), canvas

    assert openers(0.25)[0] == [19]  # of 76
    assert openers(0.2)[0] == [15]
    found, canvas = openers(None)
    assert found == []
    assert bool(canvas.blank[slice(*canvas.answer)].all())


def test_speech_is_read_behind_a_token_that_the_model_wrote(model: OmniModel) -> None:
    request = ask("sqa", Inputs(speech=Waveform.read(SPEECH)))
    vocabulary = model.vocabulary
    with decoding(Cell("pre-infilling", "none", "svqa", speech_at=None)):
        prepared = prepare.prepare(request, model)
        first, last = prepared.canvas.answer
        text = vocabulary.text.lift(model.codecs.text.encode("four dogs"))
        codes = torch.arange(20) + vocabulary.speech.start
        ids = torch.full((last - first,), vocabulary.pad)
        written = torch.cat([text, torch.tensor([vocabulary.begin_of_audio]), codes])
        ids[: len(written)] = written
        canvas = prepared.canvas.fill(torch.arange(first, last), ids)
        answer = prepare.decode(canvas, prepared, model)
    kinds = [type(part).__name__ for part in answer.parts]
    assert kinds == ["Text", "Speech"]


def test_pads_take_turns_behind_the_end_of_the_answer(model: OmniModel) -> None:
    vocabulary = model.vocabulary
    ids = torch.tensor([1, 2, vocabulary.im_end, 3, *[vocabulary.pad] * 9])
    allowed = torch.tensor(vocabulary.range("any")).expand(len(ids), 2)
    canvas = Canvas(ids, torch.zeros(len(ids), dtype=torch.bool), allowed, (1, len(ids)))
    rainbow = padded(canvas, "rainbow", vocabulary).ids
    assert rainbow[:4].tolist() == ids[:4].tolist()
    names = [vocabulary.name(id) for id in rainbow[4:].tolist()]
    assert names == [*RAINBOW, *RAINBOW[:2]]
    assert (padded(canvas, "end", vocabulary).ids[4:] == vocabulary.im_end).all()
    assert padded(canvas, "void", vocabulary).ids.tolist() == ids.tolist()


def test_halves_keep_the_weight_of_a_task() -> None:
    canvas = Canvas(
        torch.zeros(2, dtype=torch.int64), torch.zeros(2, dtype=torch.bool),
        torch.tensor([[0, 1], [0, 1]]), (0, 2),
    )  # fmt: skip
    group = TaskGroup.of("t2i", 3.0, [canvas] * 5)
    first, second = ablate_training.halves(group)
    assert (first.total, second.total) == (3, 2)
    assert first.weight + second.weight == pytest.approx(3.0)
    assert [each.number for each in first.drawn] == [0, 1, 2]
    assert [each.number for each in second.drawn] == [0, 1]


def test_arms_differ() -> None:
    assert len({(arm.study, arm.name) for arm in ARMS}) == len(ARMS)
    assert len({(arm.study, arm.masking, arm.half, arm.pads, arm.adapter) for arm in ARMS}) == len(
        ARMS
    )


def test_the_page_prints_the_tables_of_the_committed_results(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(ROOT)
    page, made = PAGE.read_text(encoding="utf-8"), ablation_page.all_tables()
    assert ablation_page.with_tables(page, made) == page
    assert [name for name in made if f"<!-- table {name} -->" not in page] == []
