"""A run as one HTML page that needs nothing else: curves of its figures, samples by step.

What the page is made of lies in FOLDER/page, so that a resumed run goes on with it.
"""

from __future__ import annotations

import math
import time
from collections.abc import Mapping, Sequence
from html import escape
from pathlib import Path
from string import Template

from omni_diffusion import html
from omni_diffusion.io import files
from omni_diffusion.training.logs import Lines, Shown

PAGE_FILE = "index.html"
PARTS_FOLDER = "page"
KEPT = 24  # steps whose samples stay on the page
POINTS = 240  # of a drawn curve, at most
PAUSE = 30.0  # seconds between two writings of the page for the sake of a row
WIDTH, HEIGHT = 300, 80  # of a drawing

Curve = list[tuple[int, float]]

PAGE = Template("""<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>$title</title>
<style>
$style
.curves { display: grid; grid-template-columns: repeat(auto-fill, minmax(15rem, 1fr)); gap: 1rem; }
.curve { margin: 0; padding: .7rem .9rem; background: var(--panel); border: 1px solid var(--line);
  border-radius: .7rem; }
.curve figcaption { display: flex; justify-content: space-between; }
.curve svg { display: block; width: 100%; height: 5rem; margin: .4rem 0; }
.curve path { fill: none; stroke: var(--text); stroke-width: 1.6;
  vector-effect: non-scaling-stroke; }
.curve .quiet { font-size: .78rem; display: flex; justify-content: space-between; }
summary { margin-top: 1.4rem; font-size: 1.15rem; font-weight: 600; cursor: pointer; }
.sound svg { cursor: auto; }
</style>
</head>
<body>
<h1>$title</h1>
<p class="quiet">$facts</p>
<section class="curves" aria-label="Figures">
$curves
</section>
<main>
$samples
</main>
</body>
</html>
""")


class PageLog:
    """`index.html` in a folder, written anew with every samples and now and then with a row.

    Who reads it meets a whole page always. Of many samples some stay, evenly spread over the run,
    the first and the latest among them.
    """

    def __init__(self, folder: Path) -> None:
        self.path = folder / PAGE_FILE
        self._title = folder.resolve().name
        self._parts = folder / PARTS_FOLDER
        self._lines = Lines(self._parts / "figures.jsonl")
        self._curves: dict[str, Curve] = {}
        self._step, self._written = 0, 0.0

    def forget(self, step: int) -> None:
        """Drop rows and samples beyond `step`, and take up those before."""
        self._lines.forget(step)
        for line in self._lines:
            self._add(line.pop("step"), line)
        for number in self._sampled():
            if number > step:
                files.remove(self._sample(number))

    def row(self, step: int, figures: Mapping[str, float]) -> None:
        """A point on each curve; the page follows within half a minute, or at the next row."""
        finite = {name: value for name, value in figures.items() if math.isfinite(value)}
        self._lines.append(step, finite)
        self._add(step, finite)
        if time.monotonic() - self._written > PAUSE:
            self._write()

    def samples(self, step: int, shown: Sequence[Shown]) -> None:
        """What was asked beside what was answered; the page is written."""
        cards = (_card(one, f"step-{step}-{number}") for number, one in enumerate(shown))
        files.write_text(self._sample(step), "\n".join(cards))
        self._step = max(self._step, step)
        while len(steps := self._sampled()) > KEPT:
            files.remove(self._sample(_crowded(steps)))
        self._write()

    def close(self) -> None:
        """Write the page a last time."""
        self._write()

    def _add(self, step: int, figures: Mapping[str, float]) -> None:
        self._step = max(self._step, step)
        for name, value in figures.items():
            self._curves.setdefault(name, []).append((step, value))

    def _sample(self, step: int) -> Path:
        return self._parts / f"{step:09}.html"

    def _sampled(self) -> list[int]:
        return sorted(int(path.stem) for path in self._parts.glob("*.html"))

    def _write(self) -> None:
        steps = self._sampled()
        folds = []
        for step in reversed(steps):
            cards = self._sample(step).read_text(encoding="utf-8")
            state = " open" if step == steps[-1] else ""
            folds.append(f"<details{state}><summary>Step {step:,}</summary>\n{cards}\n</details>")
        page = PAGE.substitute(
            title=escape(self._title),
            facts=f"step {self._step:,} · samples of {len(steps)} steps",
            style=html.style(),
            curves="\n".join(_figure(name, curve) for name, curve in self._curves.items()),
            samples="\n".join(folds),
        )
        files.write_text(self.path, page)
        self._written = time.monotonic()


def _crowded(steps: Sequence[int]) -> int:
    """The step whose neighbours lie closest together; never the first or the last."""
    around = zip(steps, steps[1:], steps[2:], strict=False)
    return min(around, key=lambda three: three[2] - three[0])[1]


def _card(one: Shown, key: str) -> str:
    notes = "".join(f'<p class="note">{escape(note)}</p>' for note in one.notes)
    if one.fault is not None:
        notes += f'<p class="note fault">{escape(one.fault)}</p>'
    return f"""<article class="card"><header><h2>{escape(one.name)}</h2></header>
<div class="sides">
<section><h3>Asked</h3>{html.parts(one.asked, key + "-in")}</section>
<section><h3>Answer</h3>{html.parts(one.answer, key + "-out")}{notes}</section>
</div></article>"""


def _figure(name: str, curve: Curve) -> str:
    points = _thinned(curve)
    steps, values = [step for step, _ in points], [value for _, value in points]
    low, high = min(values), max(values)
    x = WIDTH / max(1, steps[-1] - steps[0])
    y = HEIGHT / ((high - low) or 1.0)
    line = "L".join(f"{(s - steps[0]) * x:.1f} {(high - v) * y:.1f}" for s, v in points)
    return f"""<figure class="curve">
<figcaption>{escape(name)}<b>{curve[-1][1]:.4g}</b></figcaption>
<svg viewBox="0 -2 {WIDTH} {HEIGHT + 4}" preserveAspectRatio="none" aria-hidden="true">
<path d="M{line}"/></svg>
<p class="quiet"><span>steps {steps[0]:,} to {steps[-1]:,}</span>
<span>{low:.3g} to {high:.3g}</span></p></figure>"""


def _thinned(curve: Curve) -> Curve:
    """At most POINTS points, each the mean of as many neighbours."""
    size = math.ceil(len(curve) / POINTS)
    groups = [curve[i : i + size] for i in range(0, len(curve), size)]
    return [(group[-1][0], sum(value for _, value in group) / len(group)) for group in groups]
