"""What is in a manifest: counts, hours of speech, sizes of pictures; as tables and as JSON.

Knows no file: `check` counts samples in.
"""

from __future__ import annotations

import bisect
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, field
from itertools import pairwise
from typing import TYPE_CHECKING, Any, TypeAlias

from omni_diffusion.data import manifest
from omni_diffusion.data.manifest import Medium, Problem, Sample
from omni_diffusion.media import SoundHeader
from omni_diffusion.tasks import prompts

if TYPE_CHECKING:
    from rich.table import Table

Header: TypeAlias = SoundHeader | tuple[int, int]
"""What a sound's header says, or a picture's width and height."""

SECONDS = (1, 2, 5, 10, 20, 30, 60, 120)
SIDES = (64, 128, 256, 512, 1024, 2048)
WORDS = (1, 5, 10, 20, 50, 100, 200)
BAR = 30  # characters of the longest bar


@dataclass
class Histogram:
    """How many values lie below each edge, from one edge to the next, and above the last."""

    edges: tuple[int, ...]
    counts: list[int] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.counts = [0] * (len(self.edges) + 1)

    def add(self, value: float) -> None:
        """Count a value; one on an edge belongs above it."""
        self.counts[bisect.bisect_right(self.edges, value)] += 1

    def rows(self) -> Iterator[tuple[str, int]]:
        """(range, count) from the first to the last range that has any."""
        rows = list(self.all_rows())
        used = [i for i, count in enumerate(self.counts) if count]
        yield from rows[used[0] : used[-1] + 1] if used else ()

    def all_rows(self) -> Iterator[tuple[str, int]]:
        """(range, count) of every range."""
        names = [f"below {self.edges[0]}"]
        names += [f"{low} to {high}" for low, high in pairwise(self.edges)]
        names.append(f"{self.edges[-1]} and more")
        yield from zip(names, self.counts, strict=True)


@dataclass
class Report:
    """All that was found in a manifest; `samples` are the lines that can be trained on."""

    manifest: str
    lines: int = 0
    samples: int = 0
    problems: list[Problem] = field(default_factory=list)
    tasks: Counter[str] = field(default_factory=Counter)
    hours: dict[str, float] = field(default_factory=lambda: {"heard": 0.0, "said": 0.0})
    rates: Counter[int] = field(default_factory=Counter)
    seconds: Histogram = field(default_factory=lambda: Histogram(SECONDS))
    sizes: Counter[str] = field(default_factory=Counter)
    sides: Histogram = field(default_factory=lambda: Histogram(SIDES))
    words: Histogram = field(default_factory=lambda: Histogram(WORDS))

    @property
    def errors(self) -> list[Problem]:
        """The problems that are no mere warnings."""
        return [problem for problem in self.problems if not problem.warning]

    def add(self, sample: Sample, headers: Sequence[Header]) -> None:
        """Count a good sample with the headers of its media, in their order."""
        self.samples += 1
        self.tasks[prompts.task_of(sample.entries).name] += 1
        left = iter(headers)
        for entry in sample.entries:
            for medium in entry.media:
                header = next(left)
                if isinstance(header, SoundHeader):
                    self._hear(header, medium, "heard" if entry.role == "user" else "said")
                else:
                    width, height = header
                    self.sizes[f"{width} x {height}"] += 1
                    self.sides.add(min(width, height))
            if entry.role == "assistant" and "text" in prompts.kinds(entry):
                self.words.add(len(manifest.TAG.sub(" ", entry.content).split()))

    def _hear(self, header: SoundHeader, medium: Medium, how: str) -> None:
        self.rates[header.rate] += 1
        seconds = seconds_of(medium, header)
        if seconds is not None:
            self.hours[how] += seconds / 3600
            self.seconds.add(seconds)

    def as_json(self) -> dict[str, Any]:
        """The report as plain values."""
        told = [
            {"line": p.place.line, "message": p.message, "warning": p.warning}
            for p in self.problems
        ]
        return {
            **{"manifest": self.manifest, "lines": self.lines, "samples": self.samples},
            "errors": len(self.errors),
            "warnings": len(self.problems) - len(self.errors),
            "problems": told,
            "tasks": dict(self.tasks),
            "speech": {
                "hours": self.hours,
                "rates": {str(rate): n for rate, n in sorted(self.rates.items())},
                "seconds": asdict(self.seconds),
            },
            "pictures": {"sizes": dict(self.sizes.most_common()), "sides": asdict(self.sides)},
            "answers": {"words": asdict(self.words)},
        }


def tables(report: Report) -> list[Table]:
    """The report without its problems, for a terminal."""
    from rich.table import Table

    counts = Table(title=report.manifest, show_header=False)
    hours = report.hours
    rows = {
        "lines": report.lines,
        "of them good": report.samples,
        "errors": len(report.errors),
        "warnings": len(report.problems) - len(report.errors),
        **{f"task {name}": count for name, count in report.tasks.most_common()},
        "hours of speech": f"{hours['heard']:.2f} heard, {hours['said']:.2f} said",
        **{f"sounds of {rate} Hz": count for rate, count in sorted(report.rates.items())},
        **{f"pictures of {size}": count for size, count in report.sizes.most_common(5)},
    }
    for name, value in rows.items():
        counts.add_row(name, str(value))
    drawn = [
        ("seconds of a sound", report.seconds),
        ("pixels of a picture's shorter side", report.sides),
        ("words of an answer", report.words),
    ]
    return [
        counts,
        *(_drawn(title, histogram) for title, histogram in drawn if any(histogram.counts)),
    ]


def _drawn(title: str, histogram: Histogram) -> Table:
    from rich.table import Table

    table = Table(title=title, show_header=False)
    most = max(histogram.counts)
    for name, count in histogram.rows():
        table.add_row(name, str(count), "█" * round(BAR * count / most))
    return table


def seconds_of(medium: Medium, header: SoundHeader) -> float | None:
    """How long a sound or its section is; None where nobody knows."""
    return header.seconds if medium.section is None else medium.section[1] - medium.section[0]
