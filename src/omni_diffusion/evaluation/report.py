"""Scores for people (a table) and for programs (JSON)."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

from rich.table import Table

from omni_diffusion.evaluation.scoring import Figure, Score
from omni_diffusion.io import files


def table(scores: Mapping[str, Score], title: str = "eval mini") -> Table:
    """One row a task and, dimmed, one a detail; all figures in percent."""
    made = Table(title=title, caption="*_wer: word error rate, lower is better")
    made.add_column("task")
    for name in ("value", "± stderr", "n", "ceiling"):
        made.add_column(name, justify="right")
    for task, score in scores.items():
        made.add_row(task, *_cells(score), _percent(score["ceiling"]))
        for name, figure in score.get("details", {}).items():
            made.add_row(f"  {name}", *_cells(figure), "", style="dim")
    return made


def save(scores: Mapping[str, Score], path: str | Path) -> None:
    """Write the scores as JSON, whole or not at all; shares from 0 to 1 as they are."""
    files.write_text(Path(path), json.dumps(scores, indent=2) + "\n")


def _cells(figure: Figure) -> tuple[str, str, str]:
    return _percent(figure["value"]), _percent(figure["stderr"]), str(figure["n"])


def _percent(share: float) -> str:
    return f"{100 * share:.1f} %"
