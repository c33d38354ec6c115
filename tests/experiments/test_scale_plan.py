"""The tables of docs/scale.md are those of the committed result."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


@pytest.mark.slow
def test_the_tables_of_the_plan_are_those_of_the_committed_file() -> None:
    pytest.importorskip("peft")  # here, since its import takes seconds
    from experiments.scale_plan import tables

    page = (ROOT / "docs" / "scale.md").read_text(encoding="utf-8")
    results = json.loads((ROOT / "experiments" / "results" / "scale-plan.json").read_text())
    for name, rows in tables(results).items():
        assert "\n".join(rows) in page, name
