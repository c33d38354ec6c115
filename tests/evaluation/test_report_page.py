"""The report: everything inside of one page, with the paper's figures beside ours."""

import re
from dataclasses import replace
from pathlib import Path
from xml.etree import ElementTree

import pytest
from tests.evaluation.suites.miniature import MINIATURES, Answers, Reader

from omni_diffusion.errors import EvaluationError
from omni_diffusion.evaluation.plots import PlotPoint, PlotSeries, bar_plot, line_plot
from omni_diffusion.evaluation.report_page import html_report, markdown_table, write_report
from omni_diffusion.evaluation.results import EvaluationSettings, find_records
from omni_diffusion.evaluation.session import EvaluationSession

MODEL = {"name": "it", "digest": "d"}


def evaluate(name: str, root: Path, wrong: int = 0, **changes: object) -> None:
    """Evaluate a miniature, with a few wrong answers."""
    miniature = next(m for m in MINIATURES if m.name == name)
    data = root / "data" / name
    if not data.exists():
        miniature.write(data)
    benchmark = miniature.open(data)
    answers = [miniature.right(item) for item in benchmark.samples()]
    answers[:wrong] = [()] * wrong
    judges = {"whisper": Reader.version} if name == "libritts" else {}
    settings = EvaluationSettings(name, "paper", judges=judges)
    session = EvaluationSession(Answers(answers), MODEL, root / "runs")
    session.run(benchmark, replace(settings, **changes))  # type: ignore[arg-type]


@pytest.fixture
def runs(tmp_path: Path) -> Path:
    evaluate("libritts", tmp_path, wrong=1)
    for steps, wrong in ((256, 0), (50, 1), (10, 3)):
        evaluate("coco-t2i", tmp_path, wrong, overrides={"steps": steps})
    return tmp_path / "runs"


def test_the_page_holds_everything_and_the_papers_figures(runs: Path, tmp_path: Path) -> None:
    page, markdown = write_report([runs], tmp_path / "report.html")
    text, tables = page.read_text(), markdown.read_text()
    assert "<audio controls" in text
    assert text.count("data:audio/wav;base64,") >= 1
    assert text.count("data:image/png;base64,") >= 3
    assert re.findall(r'(?:src|href)="(?!data:)', text) == []
    assert "<script" not in text
    found = [record.settings for record in find_records([runs]).values()]
    assert [each.benchmark for each in found] == [*["coco-t2i"] * 3, "libritts"]
    assert [each.overrides["steps"] for each in found[:3]] == [10, 50, 256]
    for figure in ("3.07", "2.22", "0.235", "0.2354", "0.226"):
        assert figure in tables, figure
    row = next(line for line in tables.splitlines() if "steps 10" in line)
    assert "clip_t" in row
    assert "0.2325" in row  # the paper's figure at 10 steps
    for told in ("commit", "whisper reader", "torch", "preset: paper", "steps 256"):
        assert told in tables, told
    assert str(tmp_path) not in text + tables


def test_wrong_answers_are_in_the_gallery_too(runs: Path) -> None:
    text = html_report(find_records([runs]))
    assert 'class="wrong"' in text
    assert 'class="right"' in text
    assert "3 passes" in text


def test_steps_become_a_plot(runs: Path) -> None:
    text = html_report(find_records([runs]))
    assert "coco-t2i by steps" in text
    for drawn in re.findall(r"<svg class=\"plot\".*?</svg>", text, re.DOTALL):
        ElementTree.fromstring(drawn)


def test_no_evaluation_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(EvaluationError, match="no finished evaluation"):
        write_report([tmp_path], tmp_path / "report.html")


def test_points_lie_where_their_values_are() -> None:
    points = [PlotPoint(1, 0.0), PlotPoint(10, 0.5, 0.1), PlotPoint(100, 1.0)]
    root = ElementTree.fromstring(
        line_plot([PlotSeries("a < b", points)], "x", "y", log_x=True, percent=True)
    )
    circles = [(float(c.get("cx", 0)), float(c.get("cy", 0))) for c in root.iter("circle")]
    (x0, y0), (x1, y1), (x2, y2) = circles
    assert x1 - x0 == pytest.approx(x2 - x1)
    assert y0 - y1 == pytest.approx(y1 - y2)
    assert y0 > y2
    bars = ElementTree.fromstring(bar_plot([("one", 0.5, 0.1), ("two", 1.0, 0.0)], "bars"))
    widths = [float(bar.get("width", 0)) for bar in bars.iter("rect")]
    assert widths[1] == pytest.approx(2 * widths[0], rel=0.01)


def test_equal_values_and_a_single_point_can_be_drawn() -> None:
    ElementTree.fromstring(line_plot([PlotSeries("a", [PlotPoint(5, 0.0)])], "x", "y", log_x=True))


def test_a_markdown_table_aligns_numbers_to_the_right() -> None:
    table = markdown_table(["a", "b", "c", "d"], [["1", "2", "3", "4"]])
    assert table == "| a | b | c | d |\n| --- | --- | --- | ---: |\n| 1 | 2 | 3 | 4 |"
