"""The script for a GPU, rehearsed on the CPU; a part that fails harms no other."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from benchmarks import gpu, gpu_parts

from omni_diffusion import OmniModel

MACHINE = gpu.PARTS[0]


def test_parts_are_known_and_fit_into_the_budget() -> None:
    assert [part.name for part in gpu.PARTS] == list(gpu_parts.PARTS)
    assert gpu.BUDGET <= 480
    least = sum(part.seconds for part in gpu.PARTS[:-1]) + gpu.PARTS[-1].least
    assert least < gpu.BUDGET  # the last part has its least time even if all others use theirs


def test_a_part_that_fails_or_hangs_costs_only_itself(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(gpu, "GRACE", 0.1)
    path = tmp_path / "gpu.json"
    parts = [gpu.Part("machine", 0.5, least=0), gpu.Part("speech", 60, least=50)]
    results = gpu.run(parts, "cpu", path, 5, tiny=True)
    assert results["parts"]["machine"]["status"].startswith("stopped")
    assert results["parts"]["speech"]["status"] == "skipped"
    assert json.loads(path.read_text()) == results


@pytest.mark.slow
def test_an_error_is_kept(tmp_path: Path) -> None:
    row = gpu.run_part("machine", "cuda:99", 120, True, None)
    assert row["status"] == "failed"
    assert "cuda" in " ".join(row["log"]).lower()


def test_notes_are_written_as_they_come(tmp_path: Path) -> None:
    notes = gpu_parts.Notes(tmp_path / "notes.json")
    notes(one=1 / 3, rows=[{"two": 12345.678}])
    notes.attempt("three", lambda: 1 // 0)
    kept = json.loads((tmp_path / "notes.json").read_text())
    assert kept == {
        "one": 0.3333,
        "rows": [{"two": 12350.0}],
        "three": "failed: integer division or modulo by zero",
    }


@pytest.mark.slow
def test_everything_runs_at_a_tiny_size(tmp_path: Path) -> None:
    path, folder = tmp_path / "gpu.json", tmp_path / "model"
    results = gpu.run(list(gpu.PARTS), "cpu", path, 3600, tiny=True, keep=folder)
    assert {name: row["status"] for name, row in results["parts"].items()} == {
        part.name: "ok" for part in gpu.PARTS
    }
    assert path.stat().st_size < 8000
    failed = [line for line in path.read_text().splitlines() if '"failed: ' in line]
    assert [line for line in failed if '"int4' not in line] == []
    parity = results["parts"]["parity"]
    assert parity["float32_engine_equals_plain_loop"] == 1.0
    assert results["parts"]["train_small"]["steps"] == 2
    assert OmniModel.open(folder).config.name == "mini"
