"""Plots as SVG text: lines with error bars, and horizontal bars. No library, no script."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape

WIDTH, HEIGHT = 520, 300
LEFT, RIGHT, TOP, BOTTOM = 62, 14, 14, 46  # margins around the plotting area
BAR, GAP = 16, 8
INKS = ("--text", "--image", "--speech", "--special", "--now")  # colours of the style sheet


@dataclass(frozen=True)
class PlotPoint:
    """A point with its error, half the height of its bar."""

    x: float
    y: float
    error: float = 0.0


@dataclass(frozen=True)
class PlotSeries:
    """A line with its name."""

    name: str
    points: Sequence[PlotPoint]


def line_plot(
    series: Sequence[PlotSeries],
    x_label: str,
    y_label: str,
    *,
    log_x: bool = False,
    percent: bool = False,
) -> str:
    """Lines through points with error bars. log_x: of a positive x. percent: y is a ratio."""
    points = [point for each in series for point in each.points]
    xs = [math.log(point.x) if log_x else point.x for point in points]
    low, high = (
        min(point.y - point.error for point in points),
        max(point.y + point.error for point in points),
    )
    ticks = _ticks(low, high)
    across = _Scale(min(xs), max(xs), LEFT + 12, WIDTH - RIGHT - 12)
    up = _Scale(min(ticks[0], low), max(ticks[-1], high), HEIGHT - BOTTOM, TOP)
    parts = [_grid(ticks, up, percent)]
    for value in sorted({point.x for point in points}):
        at = across(math.log(value) if log_x else value)
        parts.append(_text(at, HEIGHT - BOTTOM + 16, f"{value:.3g}"))
    for i, each in enumerate(series):
        ink = INKS[i % len(INKS)]
        parts.append(_line(each, across, up, ink, log_x))
        if len(series) > 1:
            parts.append(_text(WIDTH - RIGHT, TOP + 14 * i + 8, each.name, "end", ink))
    parts.append(_text((LEFT + WIDTH - RIGHT) / 2, HEIGHT - 8, x_label))
    middle = (TOP + HEIGHT - BOTTOM) / 2
    turned = f'transform="rotate(-90 14 {middle:.1f})"'
    parts.append(_text(14, middle, y_label, more=turned))
    return _svg(WIDTH, HEIGHT, "".join(parts), f"{y_label} by {x_label}")


def bar_plot(bars: Sequence[tuple[str, float, float]], label: str, *, percent: bool = True) -> str:
    """Horizontal bars of (name, value, error) from 0 to the greatest, or to 100 %."""
    most = max(*(value + error for _, value, error in bars), 1.0 if percent else 1e-9)
    left = 12 + 7.2 * max(len(name) for name, _, _ in bars)
    scale = _Scale(0.0, most, left, WIDTH - 70)
    parts = []
    for i, (name, value, error) in enumerate(bars):
        top = GAP + i * (BAR + GAP)
        middle = top + BAR / 2
        width = max(0.0, scale(value) - left)
        shown = f"{100 * value:.1f} %" if percent else f"{value:.4g}"
        parts.append(_text(left - 8, middle + 4, name, "end"))
        parts.append(
            f'<rect x="{left:.1f}" y="{top}" width="{width:.1f}" height="{BAR}" rx="3"'
            ' fill="var(--text)" opacity=".75"/>'
        )
        low, high = scale(max(0.0, value - error)), scale(value + error)
        parts.append(_stroke(f"M{low:.1f} {middle}H{high:.1f}", "--ink"))
        parts.append(_text(max(high, left) + 6, middle + 4, shown, "start"))
    return _svg(WIDTH, GAP + len(bars) * (BAR + GAP), "".join(parts), label)


@dataclass(frozen=True)
class _Scale:
    """Maps low..high to start..stop."""

    low: float
    high: float
    start: float
    stop: float

    def __call__(self, value: float) -> float:
        if self.high == self.low:
            return (self.start + self.stop) / 2
        share = (value - self.low) / (self.high - self.low)
        return self.start + share * (self.stop - self.start)


def _ticks(low: float, high: float) -> list[float]:
    """Four to nine round values around low..high."""
    span = (high - low) or abs(high) or 1.0
    step = 10 ** math.floor(math.log10(span / 4))
    step *= next(factor for factor in (1, 2, 5, 10) if span / (factor * step) <= 7)
    first, last = math.floor(low / step), math.ceil(high / step)
    return [i * step for i in range(first, last + 1)]


def _grid(ticks: Sequence[float], up: _Scale, percent: bool) -> str:
    drawn = []
    for tick in ticks:
        y = up(tick)
        drawn.append(_stroke(f"M{LEFT} {y:.1f}H{WIDTH - RIGHT}", "--line"))
        drawn.append(
            _text(LEFT - 6, y + 4, f"{100 * tick:g} %" if percent else f"{tick:.4g}", "end")
        )
    return "".join(drawn)


def _line(series: PlotSeries, across: _Scale, up: _Scale, ink: str, log_x: bool) -> str:
    ordered = sorted(series.points, key=lambda point: point.x)
    placed = [(across(math.log(p.x) if log_x else p.x), p) for p in ordered]
    path = "L".join(f"{x:.1f} {up(p.y):.1f}" for x, p in placed)
    marks = "".join(
        f'<circle cx="{x:.1f}" cy="{up(p.y):.1f}" r="3.5" fill="var({ink})"/>'
        + _stroke(f"M{x:.1f} {up(p.y - p.error):.1f}V{up(p.y + p.error):.1f}", ink)
        for x, p in placed
    )
    return _stroke(f"M{path}", ink) + marks


def _stroke(path: str, ink: str) -> str:
    return f'<path d="{path}" fill="none" stroke="var({ink})" stroke-width="1.5"/>'


def _text(
    x: float, y: float, text: str, anchor: str = "middle", ink: str = "--quiet", more: str = ""
) -> str:
    return (
        f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}" fill="var({ink})" {more}>'
        f"{escape(text)}</text>"
    )


def _svg(width: float, height: float, inner: str, label: str) -> str:
    return (
        f'<svg class="plot" viewBox="0 0 {width:.0f} {height:.0f}" role="img"'
        f' aria-label="{escape(label, quote=True)}">{inner}</svg>'
    )
