"""Draw the curve of a preset file of `omni-diffusion tune`: quality against time, as an SVG.

    python scripts/tune_picture.py PRESET.json [--out docs/images/tune-TASK.svg]

One point for each sampling, with its standard error, and its name in the margin; the chosen one is
filled.
"""

from __future__ import annotations

import argparse
import math
from html import escape
from pathlib import Path
from typing import Any

from omni_diffusion.io import config as configs
from omni_diffusion.io import files
from omni_diffusion.tasks.presets import TunedPreset

WIDTH, HEIGHT, LEFT, TOP = 720, 400, 70, 30
RIGHT, BOTTOM = WIDTH - 190, HEIGHT - 50
ROW = 14  # pixels from one name to the next
STYLE = "font: 12px sans-serif; fill: #333"


def draw(preset: TunedPreset) -> str:
    """The SVG text; seconds on a logarithmic axis."""
    found = preset.provenance
    points: list[dict[str, Any]] = found["points"]
    times = [point["cpu_seconds"] for point in points]
    low, high = math.log(min(times) / 1.3), math.log(max(times) * 1.3)
    worst = min(p["value"] - p["stderr"] for p in points) - 0.02
    best = max(p["value"] + p["stderr"] for p in points) + 0.02

    def x(seconds: float) -> float:
        return LEFT + (math.log(seconds) - low) / (high - low) * (RIGHT - LEFT)

    def y(value: float) -> float:
        return BOTTOM - (value - worst) / (best - worst) * (BOTTOM - TOP)

    title = f"{found['judge']}, {points[0]['n']} samples: value against CPU seconds of an answer"
    parts = [f'<text x="{LEFT}" y="18">{escape(title)}</text>']
    parts.append(f'<path d="M{LEFT} {TOP}V{BOTTOM}H{RIGHT}" fill="none" stroke="#999"/>')
    ticks = (worst + (best - worst) * part for part in (0.0, 0.25, 0.5, 0.75, 1.0))
    for value in sorted({round(tick, 2) for tick in ticks}):
        parts.append(f'<text x="{LEFT - 45}" y="{y(value) + 4:.0f}">{100 * value:.0f} %</text>')
    for seconds in sorted({times[0], min(times), max(times)}):
        parts.append(f'<text x="{x(seconds) - 14:.0f}" y="{BOTTOM + 20}">{seconds:.2g} s</text>')
    for point in points:
        at, up = x(point["cpu_seconds"]), y(point["value"])
        top, bottom = y(point["value"] + point["stderr"]), y(point["value"] - point["stderr"])
        fill = "#2563eb" if point["name"] == found["chosen"] else "white"
        parts.append(f'<path d="M{at:.1f} {top:.1f}V{bottom:.1f}" stroke="#93c5fd"/>')
        parts.append(f'<circle cx="{at:.1f}" cy="{up:.1f}" r="5" fill="{fill}" stroke="#2563eb"/>')
    named = sorted(points, key=lambda point: (-point["value"], point["cpu_seconds"]))
    row = TOP
    for number, point in enumerate(named):  # beside its point, or below the name before
        room = BOTTOM - ROW * (len(named) - number)
        row = round(max(row, min(y(point["value"]), room)))
        start = f"M{x(point['cpu_seconds']) + 6:.1f} {y(point['value']):.1f}"
        parts.append(f'<path d="{start}L{RIGHT + 4} {row}" stroke="#ddd"/>')
        parts.append(f'<text x="{RIGHT + 8}" y="{row + 4}">{escape(point["name"])}</text>')
        row += ROW
    size = f'width="{WIDTH}" height="{HEIGHT}" viewBox="0 0 {WIDTH} {HEIGHT}"'
    style = f'style="{STYLE}; background: white"'
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" {size} {style}>\n' + "\n".join(parts) + "</svg>\n"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("preset", type=Path)
    parser.add_argument("--out", type=Path, help="default: the preset's name with .svg")
    given = parser.parse_args()
    out = given.out or given.preset.with_suffix(".svg")
    files.write_text(out, draw(configs.load(TunedPreset, given.preset)))
    print(out)


if __name__ == "__main__":
    main()
