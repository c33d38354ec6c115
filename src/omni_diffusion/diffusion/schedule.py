"""Time, share masked and the number of places that each denoising step commits.

Knows nothing of tokens, logits or canvases: only counts and shares. Progress ``u`` runs from 0
(everything masked) to 1 (nothing masked).
"""

import math
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


def commits(blanks: int, steps: int, schedule: Schedule = "even") -> tuple[int, ...]:
    """How many places each step commits; at least one each, adding up to ``blanks``.

    More steps than blanks are cut to one per blank. even: the same number at each step, rounded.
    cosine: few at first, many at the end. published: the published code's grid, which rounds down
    and leaves the rest to the last step.
    """
    if blanks < 0 or steps < 1:
        raise SamplingError(
            f"cannot spread {blanks} blanks over {steps} steps; give at least 1 step and no"
            " negative number of blanks"
        )
    if schedule not in get_args(Schedule):
        raise SamplingError(f"unknown schedule {schedule!r}; use one of {get_args(Schedule)}")
    if schedule == "published":
        return _published(blanks, steps)
    steps = min(steps, blanks)
    counts, left = [], blanks
    for i in range(steps):
        done = (i + 1) / steps
        share = 1 - done if schedule == "even" else math.cos(done * math.pi / 2)
        remain = max(min(round(blanks * share), left - 1), steps - 1 - i)
        counts.append(left - remain)
        left = remain
    return tuple(counts)


def _published(blanks: int, steps: int) -> tuple[int, ...]:
    """int(left * (1 - t[i+1] / t[i])) over t = linspace(1, 0.001), in float32 as published."""
    times = torch.linspace(1, LAST_TIME, steps + 1)
    falls = 1 - times[1:] / times[:-1]
    counts, left = [], blanks
    for i in range(steps):
        if left == 0:
            break
        count = left if i == steps - 1 else max(int(left * falls[i]), 1)
        counts.append(count)
        left -= count
    return tuple(counts)
