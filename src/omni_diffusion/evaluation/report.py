"""Results of benchmarks as a table for people and as JSON for programs."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path

from rich.table import Table

from omni_diffusion.evaluation.likelihood import LineBound, bound_metrics
from omni_diffusion.evaluation.results import EvaluationRecord
from omni_diffusion.evaluation.scoring import BenchmarkResult, Metric, Unit
from omni_diffusion.evaluation.suites.catalog import SUITES, SuiteEntry
from omni_diffusion.io import files

CAPTION = (
    "*_wer: word error rate, lower is better; it counts all errors,"
    " 'capped' at most as many an utterance as it has words"
)


def record_table(record: EvaluationRecord) -> Table:
    """One evaluation: its value, details and the paper's figures."""
    entry = known_suite(record.settings.benchmark)
    result = record.result
    assert result is not None
    unit = result.get("unit", "percent")
    table = Table(title=f"{record.settings.benchmark}, {record.model['name']}")
    for name in ("metric", "value", "± stderr", "n", "paper", "ICML"):
        table.add_column(name, justify="left" if name == "metric" else "right")
    value = entry.metrics[0] if entry else "value"
    metrics = {value: Metric(value=result["value"], stderr=result["stderr"], n=result["n"])}
    for name, metric in (metrics | result.get("details", {})).items():
        known = entry.paper.get(name, (None, None)) if entry else (None, None)
        paper = ["" if figure is None else f"{figure:g}" for figure in known]
        table.add_row(name, *shown_metric(metric, unit), *paper)
    return table


def shown_metric(metric: Metric, unit: Unit) -> tuple[str, str, str]:
    """Value, standard error and number of answers, as a table shows them."""
    return (
        shown_value(metric["value"], unit),
        shown_value(metric["stderr"], unit),
        str(metric["n"]),
    )


def shown_value(value: float, unit: Unit) -> str:
    """A value in its unit: 12.3 %, 1176.1 points or a cosine of 0.235."""
    if unit == "percent":
        return _percent(value)
    return f"{value:.1f}" if unit == "points" else f"{value:.4f}"


def results_table(results: Mapping[str, BenchmarkResult], title: str = "eval mini") -> Table:
    """One row a benchmark and one dimmed row a detail; all metrics in percent."""
    table = Table(title=title, caption=CAPTION)
    table.add_column("task")
    for name in ("value", "± stderr", "n", "ceiling"):
        table.add_column(name, justify="right")
    for benchmark, result in results.items():
        table.add_row(benchmark, *_cells(result), _ceiling(result))
        for name, metric in result.get("details", {}).items():
            table.add_row(f"  {name}", *_cells(metric), "", style="dim")
    return table


def save_results(results: Mapping[str, BenchmarkResult], path: str | Path) -> None:
    """Write the results as JSON in one atomic step; ratios stay between 0 and 1."""
    files.write_text(Path(path), json.dumps(results, indent=2) + "\n")


def _cells(metric: Metric) -> tuple[str, str, str]:
    return _percent(metric["value"]), _percent(metric["stderr"]), str(metric["n"])


def _ceiling(result: BenchmarkResult) -> str:
    return _percent(result["ceiling"]) if "ceiling" in result else ""


def _percent(ratio: float) -> str:
    return f"{100 * ratio:.1f} %"


def known_suite(name: str) -> SuiteEntry | None:
    """The entry of a benchmark of the paper; None for another."""
    return next((entry for entry in SUITES if entry.name == name), None)


def bounds_table(metrics: Mapping[str, Metric]) -> Table:
    """Bounds on -log p in nats of a token, and the perplexity that they bound."""
    table = Table(title="upper bound on -log p", caption="± is the standard error over answers")
    table.add_column("tokens")
    for name in ("nats per token", "± stderr", "perplexity at most", "answers"):
        table.add_column(name, justify="right")
    for name, metric in metrics.items():
        value, stderr = metric["value"], metric["stderr"]
        cells = (f"{value:.4f}", f"{stderr:.4f}", f"{math.exp(min(value, 700)):.3f}")
        table.add_row(name, *cells, str(metric["n"]))
    return table


def save_bounds(bounds: Sequence[LineBound], path: Path) -> None:
    """Write each line's bound and the metrics of all as JSON, atomically."""
    lines = [
        {"line": str(each.source.line), "task": each.task, **asdict(each.bound)} for each in bounds
    ]
    content = {"metrics": bound_metrics(bounds), "lines": lines}
    files.write_text(path, json.dumps(content, indent=2) + "\n")
