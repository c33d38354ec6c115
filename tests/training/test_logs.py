import json
from pathlib import Path
from typing import Any

from omni_diffusion.conversation import Text
from omni_diffusion.training.logs import JsonLog, Shown


def lines(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]


def test_a_row_is_a_line_of_six_decimals(tmp_path: Path) -> None:
    log = JsonLog(tmp_path / "new" / "folder")
    log.row(10, {"loss": 1.23456789, "rate": 2.0})
    log.row(20, {"loss": 1.0})
    log.close()
    assert lines(tmp_path / "new" / "folder") == [
        {"step": 10, "loss": 1.234568, "rate": 2.0},
        {"step": 20, "loss": 1.0},
    ]


def test_rows_beyond_the_step_and_a_cut_off_one_are_forgotten(tmp_path: Path) -> None:
    log = JsonLog(tmp_path)
    log.forget(0)  # there is no file yet
    for step in (10, 20, 30):
        log.row(step, {"loss": 1.0 / step})
    with log.path.open("a") as file:
        file.write('{"step": 4')
    again = JsonLog(tmp_path)
    again.forget(20)
    again.row(30, {"loss": 9.0})
    assert [line["step"] for line in lines(tmp_path)] == [10, 20, 30]
    assert lines(tmp_path)[-1]["loss"] == 9.0


def test_nothing_is_written_where_nothing_is_to_be_forgotten(tmp_path: Path) -> None:
    log = JsonLog(tmp_path)
    log.row(10, {"loss": 1.0})
    before = log.path.stat()
    log.forget(10)
    assert log.path.stat().st_ino == before.st_ino


def test_figures_alone_lie_in_the_lines(tmp_path: Path) -> None:
    log = JsonLog(tmp_path)
    log.samples(10, [Shown("chat", (Text("who"),), (Text("me"),))])
    assert not log.path.exists()
