"""What README, card and docs print as measured is in a committed result that the place names.

So no figure can be printed that nobody measured, and none stays when its result changes.
"""

import json
import re
from collections.abc import Collection, Iterator
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parents[2]
CARD = "src/omni_diffusion/mini/weights/README.md"
PAGES = ["README.md", CARD, *(f"docs/{path.name}" for path in sorted(ROOT.glob("docs/*.md")))]
RESULT = re.compile(r"(?:benchmarks|experiments|scripts)/results/[\w.-]+\.json")
PERCENTAGE = re.compile(r"(?<![\w.])(\d+(?:\.(\d+))?) %")
DECIMAL = re.compile(r"(?<![\w.])(\d+\.(\d+))(?![\w.])")
SCALES = (1, 100, 1e3, 1e-3, 1 / 60, 1e-6, 1e-9, 2**-20, 2**-30)  # units of the tables
DERIVED = ("experiments/results/training.json",)  # its tables print means over seeds
WRITTEN = ("experiments/results/ablate-training.json",)  # tests/experiments compares its tables
NOT_KEPT = "not kept"  # a paragraph that says so has figures of no result
EARLIER = "the version before"
CITED = re.compile(r"\b\d{4}\.\d{5}\b")  # arXiv: a paragraph that cites has figures of others


def sections(text: str) -> list[str]:
    """The text between headings."""
    return re.split(r"^#+ .*$", text, flags=re.MULTILINE)


def numbers(value: Any) -> Iterator[float]:
    """All numbers in a JSON value."""
    if isinstance(value, dict):
        value = list(value.values())
    if isinstance(value, list):
        for each in value:
            yield from numbers(each)
    elif isinstance(value, int | float) and not isinstance(value, bool):
        yield float(value)


def measured(text: str, root: Path) -> set[float]:
    """All numbers of the results that a text names."""
    return {
        number
        for name in set(RESULT.findall(text))
        if (root / name).is_file()
        for number in numbers(json.loads((root / name).read_text(encoding="utf-8")))
    }


def unfounded(
    figures: list[tuple[str, str]], known: Collection[float], scales: tuple[float, ...] = (1, 100)
) -> list[str]:
    """The figures, given with their decimals, that are no rounding of a known number."""
    scaled = [scale * abs(number) for number in known for scale in scales]
    return [f for f, part in figures if f not in {f"{n:.{len(part)}f}" for n in scaled}]


def in_tables(section: str, root: Path = ROOT) -> list[str]:
    """Unfounded figures in the tables of a section: percentages, and decimals beside a result."""
    if any(name in section for name in WRITTEN):
        return []
    rows = "\n".join(line for line in section.splitlines() if line.startswith("|"))
    known = measured(section, root)
    found = unfounded(PERCENTAGE.findall(rows), known)
    if RESULT.search(section) and not any(name in section for name in DERIVED):
        found += unfounded(DECIMAL.findall(rows), known, SCALES)
    return found


def in_prose(page: str, root: Path = ROOT) -> list[str]:
    """Unfounded percentages outside of tables, by the results that the page names."""
    known = measured(page, root)
    prose = re.sub(r"^```.*?^```", "", page, flags=re.DOTALL | re.MULTILINE)
    paragraphs = re.split(r"\n\s*\n|\n(?=- )", prose)
    return [
        figure
        for paragraph in paragraphs
        if NOT_KEPT not in paragraph and EARLIER not in paragraph and not CITED.search(paragraph)
        for line in paragraph.splitlines()
        if not line.startswith("|")
        for figure in unfounded(PERCENTAGE.findall(line), known)
    ]


@pytest.mark.parametrize("page", PAGES)
def test_every_figure_of_a_table_is_a_committed_result(page: str) -> None:
    for section in sections((ROOT / page).read_text(encoding="utf-8")):
        assert in_tables(section) == [], section[:200]


@pytest.mark.parametrize("page", PAGES)
def test_every_percentage_in_prose_is_a_committed_result(page: str) -> None:
    text = (ROOT / page).read_text(encoding="utf-8")
    if RESULT.search(text):
        assert in_prose(text) == []


@pytest.mark.parametrize("page", PAGES)
def test_every_result_that_is_named_is_committed(page: str) -> None:
    text = (ROOT / page).read_text(encoding="utf-8")
    named = set(RESULT.findall(re.sub(r"--json \S+", "", text)))  # not what a command would write
    assert [name for name in sorted(named) if not (ROOT / name).is_file()] == []


def test_a_figure_without_a_result_is_found(tmp_path: Path) -> None:
    (tmp_path / "benchmarks" / "results").mkdir(parents=True)
    result = {"t2i": {"value": 0.9, "stderr": 0.0387}, "seconds": 0.513}
    (tmp_path / "benchmarks" / "results" / "it.json").write_text(json.dumps(result))
    table = "| `t2i` | 90.0 % | 3.9 % | 0.51 |\n"
    assert in_tables(table, tmp_path) == ["90.0", "3.9"]
    named = f"{table}made by `benchmarks/results/it.json`"
    assert in_tables(named, tmp_path) == []
    assert in_tables(named.replace("90.0", "90.1"), tmp_path)[0] == "90.1"
    assert in_tables(named.replace("0.51", "0.52"), tmp_path) == ["0.52"]
    assert in_prose(f"{named}\n\nof them 90 % are right", tmp_path) == []
    assert in_prose(f"{named}\n\nof them 91 % are right", tmp_path) == ["91"]
    assert in_prose(f"{named}\n\nof them 91 % are right (not kept)", tmp_path) == []
    assert in_prose(f"{named}\n\n91 % in their paper (2508.14896)", tmp_path) == []
