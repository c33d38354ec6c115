"""Bring docs/ablations.md up to date: its tables, and the pictures of each setting's value.

    python -m scripts.ablation_page

Takes what `experiments/results/ablate-inference.json` and `ablate-training.json` hold. A table of
the page stands between the comments `<!-- table NAME -->` and `<!-- end -->`.
"""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from experiments import ablate_inference, ablate_training
from PIL import Image, ImageDraw, ImageFont

from omni_diffusion.io import files

IMAGES, PAGE = Path("docs/images"), Path("docs/ablations.md")
WIDTH, ROW, HEAD, LEFT, RIGHT = 460, 22, 34, 150, 40
COLUMNS = 2
INK, LIGHT, MARK = "#222222", "#dddddd", "#2563eb"


@dataclass(frozen=True)
class Bar:
    """A setting with its value in percent and the standard error, 0 where it is unknown."""

    name: str
    value: float
    error: float
    marked: bool = False


@dataclass(frozen=True)
class Panel:
    """What is compared, and its settings."""

    title: str
    bars: Sequence[Bar]

    @property
    def height(self) -> int:
        """Pixels."""
        return HEAD + ROW * len(self.bars) + 26


def picture(panels: Sequence[Panel]) -> Image.Image:
    """All panels in two columns, each below the shorter one so far."""
    heights, places = [0] * COLUMNS, []
    for panel in panels:
        column = heights.index(min(heights))
        places.append((column * WIDTH, heights[column], panel))
        heights[column] += panel.height
    sheet = Image.new("RGB", (COLUMNS * WIDTH, max(heights)), "white")
    draw = ImageDraw.Draw(sheet)
    for left, top, panel in places:
        _panel(draw, left, top, panel)
    return sheet


def _panel(draw: ImageDraw.ImageDraw, left: int, top: int, panel: Panel) -> None:
    font, small = ImageFont.load_default(14), ImageFont.load_default(12)
    draw.text((left + 8, top + 8), panel.title, INK, font)
    low = min(0.0, *(bar.value - bar.error for bar in panel.bars))
    high = max(100.0, *(bar.value + bar.error for bar in panel.bars))
    first, last = left + LEFT, left + WIDTH - RIGHT
    foot = top + HEAD + ROW * len(panel.bars)

    def x(value: float) -> float:
        return first + (value - low) / (high - low) * (last - first)

    for tick in (0, 25, 50, 75, 100):
        draw.line((x(tick), top + HEAD - 4, x(tick), foot), LIGHT)
        draw.text((x(tick), foot + 2), f"{tick} %", INK, small, anchor="ma")
    for i, bar in enumerate(panel.bars):
        y = top + HEAD + ROW * i + ROW / 2
        draw.text((first - 8, y), bar.name, INK, small, anchor="rm")
        draw.line((x(bar.value - bar.error), y, x(bar.value + bar.error), y), MARK, 2)
        box = (x(bar.value) - 4, y - 4, x(bar.value) + 4, y + 4)
        draw.ellipse(box, MARK if bar.marked else "white", MARK, 2)


def inference_panels(made: dict[str, Any]) -> list[Panel]:
    """One for each ablation and benchmark; the reference is filled."""
    groups: dict[tuple[str, str], list[Bar]] = {}
    for row in made["rows"]:
        bar = Bar(row["variant"], 100 * row["value"], 100 * row["stderr"], row["reference"])
        groups.setdefault((row["ablation"], row["benchmark"]), []).append(bar)
    titles = ablate_inference.TITLES
    return [Panel(f"{name}: {titles[task]}", bars) for (name, task), bars in groups.items()]


def training_panels(made: dict[str, Any]) -> list[Panel]:
    """One for each metric of the two studies; the paper's rule is filled."""
    return [
        Panel(
            title,
            [
                Bar(name, 100 * value.mean, 100 * value.error, i == 0)
                for i, (name, value) in enumerate(arms.items())
            ],
        )
        for title, arms in ablate_training.shares(made).items()
    ]


def all_tables() -> dict[str, list[str]]:
    """By name, the lines of every table of the committed results, and which result it is."""
    found: dict[str, list[str]] = {}
    source = ablate_inference.RESULT
    if source.is_file():
        for name, lines in ablate_inference.tables(json.loads(source.read_text())).items():
            found[name] = [*lines, "", f"Source: `{source}`."]
    source = ablate_training.RESULT
    if source.is_file():
        made = json.loads(source.read_text())
        for study in sorted({run["study"] for run in made["runs"]}):
            found[study] = [*ablate_training.table(made, study), "", f"Source: `{source}`."]
    return found


def with_tables(page: str, tables: dict[str, list[str]]) -> str:
    """The page with its tables replaced; a table without a result becomes "Not run yet."."""

    def replaced(match: re.Match[str]) -> str:
        lines = tables.get(match[1], ["Not run yet."])
        return "\n".join([f"<!-- table {match[1]} -->", "", *lines, "", "<!-- end -->"])

    return re.sub(r"<!-- table (.+?) -->.*?<!-- end -->", replaced, page, flags=re.DOTALL)


def main() -> None:
    """Write the pictures, then the page."""
    for name, result, panels in (
        ("ablations-inference.png", ablate_inference.RESULT, inference_panels),
        ("ablations-training.png", ablate_training.RESULT, training_panels),
    ):
        if result.is_file():
            picture(panels(json.loads(result.read_text()))).save(IMAGES / name, optimize=True)
            print(IMAGES / name)
    files.write_text(PAGE, with_tables(PAGE.read_text(encoding="utf-8"), all_tables()))
    print(PAGE)


if __name__ == "__main__":
    main()
