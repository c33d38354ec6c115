"""Results of benchmarks as a table for people and as JSON for programs."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

from rich.table import Table

from omni_diffusion.evaluation.scoring import BenchmarkResult, Metric
from omni_diffusion.io import files

CAPTION = (
    "*_wer: word error rate, lower is better; it counts all errors,"
    " 'capped' at most as many an utterance as it has words"
)


def results_table(results: Mapping[str, BenchmarkResult], title: str = "eval mini") -> Table:
    """One row a benchmark and one dimmed row a detail; all metrics in percent."""
    table = Table(title=title, caption=CAPTION)
    table.add_column("task")
    for name in ("value", "± stderr", "n", "ceiling"):
        table.add_column(name, justify="right")
    for benchmark, result in results.items():
        table.add_row(benchmark, *_cells(result), _percent(result["ceiling"]))
        for name, metric in result.get("details", {}).items():
            table.add_row(f"  {name}", *_cells(metric), "", style="dim")
    return table


def save_results(results: Mapping[str, BenchmarkResult], path: str | Path) -> None:
    """Write the results as JSON in one atomic step; ratios stay between 0 and 1."""
    files.write_text(Path(path), json.dumps(results, indent=2) + "\n")


def _cells(metric: Metric) -> tuple[str, str, str]:
    return _percent(metric["value"]), _percent(metric["stderr"]), str(metric["n"])


def _percent(ratio: float) -> str:
    return f"{100 * ratio:.1f} %"
