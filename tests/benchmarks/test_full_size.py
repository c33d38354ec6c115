"""The full-size model end to end, in small: written, converted, opened and asked."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest
from benchmarks import full_size

from omni_diffusion.tasks.catalog import CATALOG


def test_every_task_has_an_example() -> None:
    assert {example.task for example in full_size.EXAMPLES} == set(CATALOG)
    for example in full_size.EXAMPLES:
        assert example.inputs().kinds


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="Linux only")
def test_memory_is_watched() -> None:
    with full_size.PeakMemory() as peak:
        block = bytearray(200_000_000)
        peak._done.wait(5 * full_size.POLL)
    assert len(block) == 200_000_000
    row = peak.row()
    assert row["private_gb"] > 0.19
    assert row["resident_gb"] >= row["private_gb"]


@pytest.mark.slow
def test_it_runs_from_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "results.json"
    words = ["--work", tmp_path / "work", "--scale", 0.02, "--steps", 2, "--dtype", "float32"]
    words += ["--tasks", "asr,t2i", "--json", path]
    monkeypatch.setattr(sys, "argv", ["full_size", *map(str, words)])
    full_size.main()
    results = json.loads(path.read_text())
    assert results["full_size"] is False
    assert results["convert"]["exit_code"] == 0
    assert set(results["phases"]["tasks"]) == set(results["command_line"]) == {"asr", "t2i"}
    assert [row["exit_code"] for row in results["command_line"].values()] == [0, 0]
    assert results["phases"]["tasks"]["t2i"]["parts"] == ["Image"]
    assert results["phases"]["open"]["private_gb"] < 1
