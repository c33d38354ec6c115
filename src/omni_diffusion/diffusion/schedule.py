"""Time, share masked and the number of places that each denoising step commits.

Knows nothing of tokens, logits or canvases: only counts and shares. Progress ``u`` runs from 0
(everything masked) to 1 (nothing masked).
"""

import math
from collections.abc import Sequence
from typing import Literal, get_args

import torch
from torch import Tensor

from omni_diffusion.errors import SamplingError

Curve = Literal["linear", "cosine"]
Schedule = Literal["even", "cosine", "published"]

LAST_TIME = 0.001
"""The published code's time grid ends here instead of at 0."""


def share_masked(u: Tensor, curve: Curve = "linear") -> Tensor:
    """Share of places that are masked at progress ``u`` in [0, 1]; same shape.

    linear: 1 - u (the paper's ratio t). cosine: cos(pi u / 2) (MaskGIT), mostly masked for long.
    """
    return 1 - u if curve == "linear" else torch.cos(u * (math.pi / 2))


def commit_count(left: int, step: int, steps: int, schedule: Schedule = "even") -> int:
    """How many of ``left`` blanks step ``step`` of 0..``steps`` - 1 commits; the last takes all.

    even: the same number at each step, rounded. cosine: few at first, many at the end. Both keep
    one blank for every later step, so that no step idles while left >= steps - step. published:
    the published code's grid, int(left * (1 - t[i+1] / t[i])) over t = linspace(1, 0.001) in
    float32, at least one; it rounds down and leaves the rest to the last step.
    """
    if step == steps - 1:
        return left
    if schedule == "published":
        times = torch.linspace(1, LAST_TIME, steps + 1)
        return min(left, max(1, int(left * (1 - times[step + 1] / times[step]))))
    curve: Curve = "cosine" if schedule == "cosine" else "linear"
    now, then = share_masked(torch.tensor([step, step + 1]) / steps, curve).tolist()
    count: int = min(round(left * (1 - then / now)), left - (steps - 1 - step))
    return min(left, max(1, count))


def commits(blanks: int, steps: int, schedule: Schedule = "even") -> tuple[int, ...]:
    """How many places each step commits; at least one each, adding up to ``blanks``.

    More steps than blanks are cut to one per blank, but under "published", which merely ends early.
    """
    if blanks < 0 or steps < 1:
        raise SamplingError(
            f"cannot spread {blanks} blanks over {steps} steps; give at least 1 step and no"
            " negative number of blanks"
        )
    if schedule not in get_args(Schedule):
        raise SamplingError(f"unknown schedule {schedule!r}; use one of {get_args(Schedule)}")
    if schedule != "published":
        steps = min(steps, blanks)
    counts: list[int] = []
    while (left := blanks - sum(counts)) > 0:
        counts.append(commit_count(left, len(counts), steps, schedule))
    return tuple(counts)


def spread_steps(steps: int, blanks: Sequence[int]) -> tuple[int, ...]:
    """Share ``steps`` among blocks by their blanks: at least 1 and at most one per blank.

    Adds up to ``steps`` cut to the total of blanks, or raised to one for each block with blanks.
    """
    shares = []
    left, steps = sum(blanks), max(min(steps, sum(blanks)), sum(n > 0 for n in blanks))
    for i, n in enumerate(blanks):
        later = sum(m > 0 for m in blanks[i + 1 :])
        share = min(n, steps - later, max(1, round(steps * n / left))) if n else 0
        shares.append(share)
        left, steps = left - n, steps - share
    return tuple(shares)
