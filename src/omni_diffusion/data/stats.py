"""Statistics of a manifest: counts, hours of speech, sizes of pictures; as tables and as JSON."""

from __future__ import annotations

import bisect
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, field
from itertools import pairwise
from typing import TYPE_CHECKING, Any, TypeAlias

from omni_diffusion.data.manifest import ManifestSample, MediaFile, Problem
from omni_diffusion.media import SoundHeader
from omni_diffusion.tasks.prompts import TAG_PATTERN, part_kinds, task_of

if TYPE_CHECKING:
    from rich.table import Table

MediaHeader: TypeAlias = SoundHeader | tuple[int, int]
"""The header of a recording, or a picture's width and height."""

SECONDS_EDGES = (1, 2, 5, 10, 20, 30, 60, 120)
SIDE_EDGES = (64, 128, 256, 512, 1024, 2048)
WORD_EDGES = (1, 5, 10, 20, 50, 100, 200)
BAR_WIDTH = 30  # characters of the longest bar


@dataclass
class Histogram:
    """Counts of values below the first edge, between neighbouring edges, and above the last."""

    edges: tuple[int, ...]
    counts: list[int] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.counts = [0] * (len(self.edges) + 1)

    def add(self, value: float) -> None:
        """Count a value; a value on an edge belongs to the range above."""
        self.counts[bisect.bisect_right(self.edges, value)] += 1

    def rows(self) -> Iterator[tuple[str, int]]:
        """(range, count) from the first to the last range that is not empty."""
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
class ManifestStats:
    """Problems and statistics of a manifest.

    samples: lines that can be trained on; the fields below it count these alone. hours: of speech,
    "heard" from users and "said" by the assistant. rates: recordings by sampling rate (Hz).
    seconds: lengths of recordings. sizes: pictures by "width x height"; sides: their shorter side,
    in pixels. words: words of an answer.
    """

    manifest: str
    lines: int = 0
    samples: int = 0
    problems: list[Problem] = field(default_factory=list)
    tasks: Counter[str] = field(default_factory=Counter)
    hours: dict[str, float] = field(default_factory=lambda: {"heard": 0.0, "said": 0.0})
    rates: Counter[int] = field(default_factory=Counter)
    seconds: Histogram = field(default_factory=lambda: Histogram(SECONDS_EDGES))
    sizes: Counter[str] = field(default_factory=Counter)
    sides: Histogram = field(default_factory=lambda: Histogram(SIDE_EDGES))
    words: Histogram = field(default_factory=lambda: Histogram(WORD_EDGES))

    @property
    def errors(self) -> list[Problem]:
        """The problems that are not warnings."""
        return [problem for problem in self.problems if not problem.warning]

    def add(self, sample: ManifestSample, headers: Sequence[MediaHeader]) -> None:
        """Count a good sample with the headers of its media, in order."""
        self.samples += 1
        self.tasks[task_of(sample.messages).name] += 1
        waiting = iter(headers)
        for message in sample.messages:
            for medium in message.media:
                header = next(waiting)
                if isinstance(header, SoundHeader):
                    self._add_speech(header, medium, "heard" if message.role == "user" else "said")
                else:
                    width, height = header
                    self.sizes[f"{width} x {height}"] += 1
                    self.sides.add(min(width, height))
            if message.role == "assistant" and "text" in part_kinds(message):
                self.words.add(len(TAG_PATTERN.sub(" ", message.content).split()))

    def _add_speech(self, header: SoundHeader, medium: MediaFile, direction: str) -> None:
        self.rates[header.rate] += 1
        seconds = seconds_of(medium, header)
        if seconds is not None:
            self.hours[direction] += seconds / 3600
            self.seconds.add(seconds)

    def as_json(self) -> dict[str, Any]:
        """The statistics as plain values."""
        problems = [
            {"line": p.source.line, "message": p.message, "warning": p.warning}
            for p in self.problems
        ]
        return {
            **{"manifest": self.manifest, "lines": self.lines, "samples": self.samples},
            "errors": len(self.errors),
            "warnings": len(self.problems) - len(self.errors),
            "problems": problems,
            "tasks": dict(self.tasks),
            "speech": {
                "hours": self.hours,
                "rates": {str(rate): n for rate, n in sorted(self.rates.items())},
                "seconds": asdict(self.seconds),
            },
            "pictures": {"sizes": dict(self.sizes.most_common()), "sides": asdict(self.sides)},
            "answers": {"words": asdict(self.words)},
        }


def stats_tables(stats: ManifestStats, bar: str = "█") -> list[Table]:
    """The statistics without the problems, for a terminal; bar: a character of the histograms."""
    from rich.table import Table

    counts = Table(title=stats.manifest, show_header=False)
    hours = stats.hours
    rows = {
        "lines": stats.lines,
        "good samples": stats.samples,
        "errors": len(stats.errors),
        "warnings": len(stats.problems) - len(stats.errors),
        **{f"task {name}": count for name, count in stats.tasks.most_common()},
        "hours of speech": f"{hours['heard']:.2f} input, {hours['said']:.2f} output",
        **{f"recordings at {rate} Hz": count for rate, count in sorted(stats.rates.items())},
        **{f"pictures of {size}": count for size, count in stats.sizes.most_common(5)},
    }
    for name, value in rows.items():
        counts.add_row(name, str(value))
    histograms = [
        ("seconds of a recording", stats.seconds),
        ("pixels of a picture's shorter side", stats.sides),
        ("words of an answer", stats.words),
    ]
    return [
        counts,
        *(
            _histogram_table(title, histogram, bar)
            for title, histogram in histograms
            if any(histogram.counts)
        ),
    ]


def _histogram_table(title: str, histogram: Histogram, bar: str) -> Table:
    from rich.table import Table

    table = Table(title=title, show_header=False)
    most = max(histogram.counts)
    for name, count in histogram.rows():
        table.add_row(name, str(count), bar * round(BAR_WIDTH * count / most))
    return table


def seconds_of(medium: MediaFile, header: SoundHeader) -> float | None:
    """The length of a recording or its section; None if the header does not state it."""
    return header.seconds if medium.section is None else medium.section[1] - medium.section[0]
