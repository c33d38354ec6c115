"""Sampling efficiency: quality and seconds by denoising steps, the paper's tables of steps.

A sweep runs a benchmark once for each of its step counts; every run is an evaluation of its own and
is kept as such.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class SweepPoint:
    """One run of a sweep: the benchmark with some sampling parameters, or another pace.

    paper: the paper's figures at this point by metric: arXiv, ICML, and ICML's seconds of an answer
    (for speech: of a second of it).
    """

    benchmark: str
    overrides: Mapping[str, Any]
    pace: float | None = None
    paper: Mapping[str, tuple[float | None, float | None]] | None = None
    paper_seconds: float | None = None


SWEEP = (
    SweepPoint("coco-t2i", {"steps": 256}, None, {"clip_t": (0.235, 0.2360)}, 28.57),
    SweepPoint("coco-t2i", {"steps": 50}, None, {"clip_t": (0.233, 0.2354)}, 5.52),
    SweepPoint("coco-t2i", {"steps": 10}, None, {"clip_t": (0.226, 0.2325)}, 1.29),
    SweepPoint("clip-s2i", {"steps": 256}, None, {"clip_t": (0.225, 0.2322)}, 39.90),
    SweepPoint("clip-s2i", {"steps": 50}, None, {"clip_t": (0.229, None)}),
    SweepPoint("clip-s2i", {"steps": 10}, None, {"clip_t": (0.231, 0.2289)}, 4.25),
    SweepPoint("libritts", {}, 0.5, {"wer": (3.07, 2.22)}, 0.427),
    SweepPoint("libritts", {}, 0.25, {"wer": (3.74, None)}),
    SweepPoint("libritts", {}, 0.125, {"wer": (4.83, 5.54)}, 0.341),
)
