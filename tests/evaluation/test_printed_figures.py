"""A percentage in a table of README, card or docs is in a committed result that its section names.

So no figure can be printed that nobody measured, and none stays when its result changes.
"""

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parents[2]
CARD = "src/omni_diffusion/mini/weights/README.md"
PAGES = ["README.md", CARD, *(f"docs/{path.name}" for path in sorted(ROOT.glob("docs/*.md")))]
RESULT = re.compile(r"(?:benchmarks|experiments|scripts)/results/[\w.-]+\.json")
FIGURE = re.compile(r"(-?\d+\.(\d+)) %")


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


def unfounded(section: str, root: Path = ROOT) -> list[str]:
    """The percentages in tables of a section that no result named in it holds."""
    known = [
        number
        for name in set(RESULT.findall(section))
        if (root / name).is_file()
        for number in numbers(json.loads((root / name).read_text(encoding="utf-8")))
    ]
    rows = [line for line in section.splitlines() if line.startswith("|")]
    scaled = [scale * number for number in known for scale in (1, 100)]
    return [
        figure
        for row in rows
        for figure, decimals in FIGURE.findall(row)
        if figure not in {f"{number:.{len(decimals)}f}" for number in scaled}
    ]


@pytest.mark.parametrize("page", PAGES)
def test_every_percentage_in_a_table_is_a_committed_result(page: str) -> None:
    for section in sections((ROOT / page).read_text(encoding="utf-8")):
        assert unfounded(section) == [], section[:200]


def test_a_figure_without_a_result_is_found(tmp_path: Path) -> None:
    (tmp_path / "benchmarks" / "results").mkdir(parents=True)
    result = {"t2i": {"value": 0.9, "stderr": 0.0387}}
    (tmp_path / "benchmarks" / "results" / "it.json").write_text(json.dumps(result))
    table = "| `t2i` | 90.0 % | 3.9 % |\n"
    assert unfounded(table, tmp_path) == ["90.0", "3.9"]
    named = f"{table}made by `benchmarks/results/it.json`"
    assert unfounded(named, tmp_path) == []
    assert unfounded(named.replace("90.0", "90.1"), tmp_path) == ["90.1"]
