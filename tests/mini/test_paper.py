"""The small model's paper: what runs, that a finished run is not opened again, and its summary."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path

import pytest

from omni_diffusion import OmniModel
from omni_diffusion.evaluation.results import RECORD
from omni_diffusion.evaluation.session import EvaluationSession
from omni_diffusion.media import Waveform
from omni_diffusion.mini import paper
from omni_diffusion.mini.paper import PAPER_RUNS, run_paper, save_summary


class Deaf:
    """Hears nothing; no run of these tests is spoken."""

    version = "deaf"

    def transcribe(self, waveform: Waveform) -> str:
        return ""


def test_every_run_has_a_name_of_its_own_and_some_samples() -> None:
    assert max(Counter(run.name for run in PAPER_RUNS).values()) == 1
    assert {run.samples(40) for run in PAPER_RUNS} == {20, 40}
    assert all(run.samples(1) == 1 for run in PAPER_RUNS)


def test_a_run_goes_on_and_a_finished_one_is_not_opened_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = OmniModel.open()
    session = EvaluationSession.of(model, None, tmp_path / "eval")

    def answered() -> dict[str, object]:
        records = run_paper(session, model.codecs, samples=2, only=["infill"], transcriber=Deaf())
        save_summary(records, 0, tmp_path / "paper.json")
        made: dict[str, object] = json.loads((tmp_path / "paper.json").read_text())
        return made

    first = answered()
    assert first["runs"]["infill"]["n"] == 2  # type: ignore[index]
    (record,) = (tmp_path / "eval").rglob(RECORD)
    record.unlink()  # as if it was killed before its result

    def unused(*_: object) -> None:
        raise AssertionError

    monkeypatch.setattr(session.engine, "run", unused)  # all answers are kept
    assert answered()["runs"] == first["runs"]
    monkeypatch.setattr(paper, "paper_benchmark", unused)
    assert answered()["runs"] == first["runs"]
