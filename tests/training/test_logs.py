import json
import os
import re
import sys
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from tests.tiny import checkers, tone

from omni_diffusion.conversation import Image, Speech, Text
from omni_diffusion.errors import MissingDependencyError, TrainingError
from omni_diffusion.training.logs import (
    JsonLog,
    SampleRecord,
    TensorBoardLog,
    WandbLog,
    default_logs,
    open_logs,
)
from omni_diffusion.training.page import MAX_SAMPLED_STEPS, PAGE_FILE, PageLog, _thinned

NASTY = "</script><b>é & $x"
SHOWN = (
    SampleRecord("svqa", (Speech(tone()), Image(checkers())), (Text(NASTY), Speech(tone(0.1)))),
    SampleRecord("t2i", (Text("a dog"),), (), ("a note",), "there is no answer"),
)


def lines(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]


# ------------------------------------------------------------------------------------------- lines
def test_a_row_is_a_line_of_six_decimals(tmp_path: Path) -> None:
    log = JsonLog(tmp_path / "new" / "folder")
    log.record(10, {"loss": 1.23456789, "rate": 2.0})
    log.record(20, {"loss": 1.0})
    log.close()
    assert lines(tmp_path / "new" / "folder") == [
        {"step": 10, "loss": 1.234568, "rate": 2.0},
        {"step": 20, "loss": 1.0},
    ]


def test_rows_beyond_the_step_and_a_cut_off_one_are_forgotten(tmp_path: Path) -> None:
    log = JsonLog(tmp_path)
    log.truncate(0)  # there is no file yet
    for step in (10, 20, 30):
        log.record(step, {"loss": 1.0 / step})
    with (tmp_path / "metrics.jsonl").open("a") as file:
        file.write('{"step": 4')
    again = JsonLog(tmp_path)
    again.truncate(20)
    again.record(30, {"loss": 9.0})
    assert [line["step"] for line in lines(tmp_path)] == [10, 20, 30]
    assert lines(tmp_path)[-1]["loss"] == 9.0


def test_nothing_is_written_where_nothing_is_to_be_forgotten(tmp_path: Path) -> None:
    log = JsonLog(tmp_path)
    log.record(10, {"loss": 1.0})
    before = (tmp_path / "metrics.jsonl").stat()
    log.truncate(10)
    assert (tmp_path / "metrics.jsonl").stat().st_ino == before.st_ino


def test_figures_alone_lie_in_the_lines(tmp_path: Path) -> None:
    JsonLog(tmp_path).samples(10, SHOWN)
    assert not (tmp_path / "metrics.jsonl").exists()


# ------------------------------------------------------------------------------------- tensorboard
def events(folder: Path) -> Any:
    pytest.importorskip("tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    return EventAccumulator(str(folder / "tensorboard")).Reload()


def test_tensorboard_has_figures_words_pictures_and_sound(tmp_path: Path) -> None:
    pytest.importorskip("tensorboard")
    log = TensorBoardLog(tmp_path)
    log.record(5, {"loss": 2.5})
    log.samples(5, SHOWN)
    log.samples(10, SHOWN)
    log.close()
    seen = events(tmp_path)
    tags = seen.Tags()
    assert [(e.step, e.value) for e in seen.Scalars("loss")] == [(5, 2.5)]
    assert tags["audio"] == ["svqa/prompt/0", "svqa/answer/1"]
    assert tags["images"] == ["svqa/prompt/1"]
    assert {tag.removesuffix("/text_summary") for tag in tags["tensors"]} == {
        *("svqa/answer/0", "t2i/prompt/0", "t2i/answer/0", "t2i/answer/1"),
    }
    assert [e.step for e in seen.Tensors("svqa/answer/0/text_summary")] == [5, 10]
    assert [e.step for e in seen.Tensors("t2i/prompt/0/text_summary")] == [5]  # said once
    written = seen.Tensors("svqa/answer/0/text_summary")[0].tensor_proto.string_val[0].decode()
    assert written == "<pre>&lt;/script&gt;&lt;b&gt;é &amp; $x</pre>"


def test_tensorboard_forgets_what_a_killed_run_wrote(tmp_path: Path) -> None:
    pytest.importorskip("tensorboard")
    for step, value in ((0, 1.0), (20, 2.0)):  # begun, killed after step 30; gone on with from 20
        log = TensorBoardLog(tmp_path)
        log.truncate(step)
        for row in range(step + 10, 40, 10):
            log.record(row, {"loss": value})
        log.close()
    found = events(tmp_path).Scalars("loss")
    assert [(e.step, e.value) for e in found] == [(10, 1.0), (20, 1.0), (30, 2.0)]


# ------------------------------------------------------------------------------------------- wandb
def test_wandb_goes_on_with_the_run_of_the_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    wandb = pytest.importorskip("wandb")
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setenv("WANDB_SILENT", "true")
    ids = []
    for _ in range(2):
        log = WandbLog(tmp_path)
        log.truncate(0)
        ids.append(wandb.run.id)
        log.record(10, {"loss": 2.5})
        log.samples(10, SHOWN)
        log.close()
    assert ids[0] == ids[1] == (tmp_path / "wandb-id.txt").read_text().strip()
    assert len(list((tmp_path / "wandb").glob(f"offline-run-*-{ids[0]}*"))) >= 1


# -------------------------------------------------------------------------------------------- page
def html(folder: Path) -> str:
    return (folder / PAGE_FILE).read_text(encoding="utf-8")


def sampled(folder: Path) -> list[int]:
    found = re.findall(r"<summary>Step ([\d,]+)</summary>", html(folder))
    return [int(number.replace(",", "")) for number in found]


def test_the_page_shows_all_and_needs_nothing(tmp_path: Path) -> None:
    log = PageLog(tmp_path)
    log.truncate(0)
    log.record(10, {"loss": 2.5, "a<b": float("nan")})
    log.record(20, {"loss": 1.5, "a<b": 3.0})
    log.samples(20, SHOWN)
    made = html(tmp_path)
    assert made.count("<audio") == 2
    assert made.count("<img") == 1
    assert "&lt;/script&gt;&lt;b&gt;é &amp; $x" in made
    assert "there is no answer" in made
    assert NASTY not in made
    assert "a&lt;b" in made
    assert 'd="M0.0 0.0L300.0 80.0"' in made  # the loss falls
    assert "nan" not in made
    assert all(src.startswith("data:") for src in re.findall(r'(?:src|href)="(.*?)"', made))


def test_the_page_goes_on_where_the_run_does(tmp_path: Path) -> None:
    log = PageLog(tmp_path)
    for step in (10, 20, 30):
        log.record(step, {"loss": 100.0 + step})
        log.samples(step, SHOWN)
    again = PageLog(tmp_path)
    again.truncate(20)
    again.record(30, {"loss": 5.0})
    again.close()
    assert sampled(tmp_path) == [20, 10]
    assert "<b>5</b>" in html(tmp_path)
    assert "5 to 120" in html(tmp_path)
    assert "to 130" not in html(tmp_path)


@pytest.mark.slow
def test_many_samples_are_thinned_evenly(tmp_path: Path) -> None:
    log = PageLog(tmp_path)
    for step in range(0, 1000, 10):
        log.samples(step, SHOWN[1:])
    left = sampled(tmp_path)[::-1]
    assert len(left) == MAX_SAMPLED_STEPS
    assert (left[0], left[-1]) == (0, 990)
    gaps = [b - a for a, b in pairwise(left)]
    assert max(gaps) <= 100


def test_a_long_curve_is_drawn_by_its_means() -> None:
    points = _thinned([(step, float(step % 2)) for step in range(1, 961)])
    assert len(points) == 240
    assert points[-1] == (960, 0.5)


# --------------------------------------------------------------------------------------- by a name
def test_logs_are_chosen_by_name(tmp_path: Path) -> None:
    assert [type(log) for log in open_logs(("page", "page"), tmp_path)] == [PageLog]
    with pytest.raises(TrainingError, match=r"'pag'; did you mean page\?"):
        open_logs(("pag",), tmp_path)


@pytest.mark.parametrize("name", ["tensorboard", "wandb"])
def test_a_missing_library_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    monkeypatch.setitem(sys.modules, name, None)
    with pytest.raises(
        MissingDependencyError, match=re.escape(f"pip install 'omni-diffusion[{name}]'")
    ):
        open_logs((name,), tmp_path)


def test_the_usual_logs_are_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert default_logs()[0] == "page"
    open_logs(default_logs(), tmp_path)
    (tmp_path / "tensorboard").mkdir(exist_ok=True)
    monkeypatch.delitem(sys.modules, "tensorboard", raising=False)
    monkeypatch.setattr(sys, "path", [os.fspath(tmp_path)])
    assert default_logs() == ("page",)
