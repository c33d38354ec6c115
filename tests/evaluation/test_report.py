import io
import json
from pathlib import Path

import pytest
from rich.console import Console

from omni_diffusion.errors import StorageError
from omni_diffusion.evaluation import report
from omni_diffusion.evaluation.scoring import BenchmarkResult, Metric

SCORES = {
    "caption": BenchmarkResult(
        value=0.815,
        stderr=0.0388,
        n=100,
        ceiling=0.99,
        details={"objects": Metric(value=0.9, stderr=0.03, n=100)},
    ),
    "asr_wer": BenchmarkResult(value=0.05, stderr=0.01, n=40, ceiling=0.0),
}


def test_the_table_tells_every_figure() -> None:
    out = io.StringIO()
    Console(file=out, width=100).print(report.results_table(SCORES))
    text = out.getvalue()
    for cell in ("caption", "81.5 %", "3.9 %", "100", "99.0 %", "objects", "90.0 %", "asr_wer"):
        assert cell in text
    assert "lower is better" in text


def test_json_is_the_scores_and_nothing_else(tmp_path: Path) -> None:
    path = tmp_path / "mini.json"
    report.save_results(SCORES, path)
    assert json.loads(path.read_text()) == SCORES
    with pytest.raises(StorageError, match="create its folder"):
        report.save_results(SCORES, tmp_path / "none" / "mini.json")
