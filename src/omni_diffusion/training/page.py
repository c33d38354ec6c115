"""A run as one self-contained HTML page: curves of its metrics, and samples by step.

The page is built from files in FOLDER/page, so that a resumed run can continue it.
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
from omni_diffusion.training.records import JsonLines, SampleRecord

PAGE_FILE = "index.html"
PARTS_FOLDER = "page"
MAX_SAMPLED_STEPS = 24  # steps whose samples stay on the page
MAX_POINTS = 240  # of a drawn curve
WRITE_INTERVAL = 30.0  # seconds between two writings of the page for new metrics
WIDTH, HEIGHT = 300, 80  # of a curve

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
<section class="curves" aria-label="Metrics">
$curves
</section>
<main>
$samples
</main>
</body>
</html>
""")


class PageLog:
    """`index.html` in a folder, written with all samples and at most twice a minute with metrics.

    The file is replaced atomically. Samples of at most MAX_SAMPLED_STEPS steps are kept, evenly
    spread over the run, with the first and the latest.
    """

    def __init__(self, folder: Path) -> None:
        self.path = folder / PAGE_FILE
        self._title = folder.resolve().name
        self._parts = folder / PARTS_FOLDER
        self._lines = JsonLines(self._parts / "metrics.jsonl")
        self._curves: dict[str, Curve] = {}
        self._step, self._written_at = 0, 0.0

    def truncate(self, step: int) -> None:
        """Delete records and samples beyond `step`, and read those before."""
        self._lines.truncate(step)
        for line in self._lines:
            self._add(line.pop("step"), line)
        for number in self._sampled_steps():
            if number > step:
                files.remove(self._cards_file(number))

    def record(self, step: int, metrics: Mapping[str, float]) -> None:
        """Add a point to each curve; the page is rewritten every half minute."""
        finite = {name: value for name, value in metrics.items() if math.isfinite(value)}
        self._lines.append(step, finite)
        self._add(step, finite)
        if time.monotonic() - self._written_at > WRITE_INTERVAL:
            self._write()

    def samples(self, step: int, samples: Sequence[SampleRecord]) -> None:
        """Add prompts and answers, and write the page."""
        cards = (_card(sample, f"step-{step}-{number}") for number, sample in enumerate(samples))
        files.write_text(self._cards_file(step), "\n".join(cards))
        self._step = max(self._step, step)
        while len(steps := self._sampled_steps()) > MAX_SAMPLED_STEPS:
            files.remove(self._cards_file(_most_crowded(steps)))
        self._write()

    def close(self) -> None:
        """Write the page."""
        self._write()

    def _add(self, step: int, metrics: Mapping[str, float]) -> None:
        self._step = max(self._step, step)
        for name, value in metrics.items():
            self._curves.setdefault(name, []).append((step, value))

    def _cards_file(self, step: int) -> Path:
        return self._parts / f"{step:09}.html"

    def _sampled_steps(self) -> list[int]:
        return sorted(int(path.stem) for path in self._parts.glob("*.html"))

    def _write(self) -> None:
        steps = self._sampled_steps()
        folds = []
        for step in reversed(steps):
            cards = self._cards_file(step).read_text(encoding="utf-8")
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
        self._written_at = time.monotonic()


def _most_crowded(steps: Sequence[int]) -> int:
    """The step whose neighbours are closest together; never the first or the last."""
    triples = zip(steps, steps[1:], steps[2:], strict=False)
    return min(triples, key=lambda triple: triple[2] - triple[0])[1]


def _card(sample: SampleRecord, key: str) -> str:
    notes = "".join(f'<p class="note">{escape(note)}</p>' for note in sample.notes)
    if sample.error is not None:
        notes += f'<p class="note fault">{escape(sample.error)}</p>'
    return f"""<article class="card"><header><h2>{escape(sample.name)}</h2></header>
<div class="sides">
<section><h3>Prompt</h3>{html.parts(sample.prompt, key + "-in")}</section>
<section><h3>Answer</h3>{html.parts(sample.answer, key + "-out")}{notes}</section>
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
    """At most MAX_POINTS points, each the mean of neighbouring ones."""
    size = math.ceil(len(curve) / MAX_POINTS)
    groups = [curve[i : i + size] for i in range(0, len(curve), size)]
    return [(group[-1][0], sum(value for _, value in group) / len(group)) for group in groups]
