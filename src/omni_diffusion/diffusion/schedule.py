"""The fraction that is masked over time, and how many positions each denoising step commits.

Progress `u` runs from 0 (everything masked) to 1 (nothing masked).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

Schedule = Literal["even", "cosine"]
Curve = Literal["linear", "cosine"]


@dataclass(frozen=True)
class Block:
    """Positions start..stop-1, filled in `steps` steps before the next block begins."""

    start: int
    stop: int
    steps: int


def masked_fraction(u: Tensor, curve: Curve = "linear") -> Tensor:
    """Fraction of positions that are masked at progress `u` in [0, 1]; same shape.

    linear: 1 - u (the paper's ratio t). cosine: cos(pi u / 2) (MaskGIT), mostly masked for long.
    """
    return 1 - u if curve == "linear" else torch.cos(u * (math.pi / 2))


def commit_count(masked: int, step: int, steps: int, schedule: Schedule = "even") -> int:
    """How many of `masked` positions step `step` of 0..`steps` - 1 commits; the last takes all.

    even: the same number at each step, rounded. cosine: few at first, many at the end. Both leave
    one position for every later step, so no step is idle while masked >= steps - step.
    """
    if step == steps - 1:
        return masked
    curve: Curve = "cosine" if schedule == "cosine" else "linear"
    now, then = masked_fraction(torch.tensor([step, step + 1]) / steps, curve).tolist()
    count: int = min(round(masked * (1 - then / now)), masked - (steps - 1 - step))
    return min(masked, max(1, count))


def spread_steps(steps: int, masked: Sequence[int]) -> tuple[int, ...]:
    """Divide `steps` among blocks by their masked positions: 1 to that number for each block.

    A block without masked positions gets none. The sum is `steps`, cut to the total of masked
    positions or raised to one for each block that has some.
    """
    counts = []
    remaining = sum(masked)
    steps = max(min(steps, remaining), sum(n > 0 for n in masked))
    for i, n in enumerate(masked):
        later = sum(m > 0 for m in masked[i + 1 :])
        count = min(n, steps - later, max(1, round(steps * n / remaining))) if n else 0
        counts.append(count)
        remaining, steps = remaining - n, steps - count
    return tuple(counts)
