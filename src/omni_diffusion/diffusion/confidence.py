"""Confidence of a predicted token, from the denoiser's distribution at its position.

Dimensions: m positions, K candidates.
"""

from __future__ import annotations

import math
from typing import Literal

from torch import Tensor

Measure = Literal["entropy", "margin", "max_probability", "random"]

EPSILON = 1e-10


def entropy(log_p: Tensor) -> Tensor:
    """Negative entropy sum_v p_v ln p_v of log-probabilities [m, K] -> [m]; 0 is most confident.

    The published code adds 1e-10 to p inside the logarithm. Here ln p is clamped to at least
    ln 1e-10, which differs by less than K * 1e-10 and needs no second logarithm.
    """
    return (log_p.exp() * log_p.clamp(min=math.log(EPSILON))).sum(dim=-1)


def margin(log_p: Tensor) -> Tensor:
    """Probability of the best candidate minus that of the second best: [m, K] -> [m]."""
    best = log_p.topk(min(2, log_p.shape[-1]), dim=-1).values.exp()
    return best[:, 0] - best[:, 1] if best.shape[1] == 2 else best[:, 0]


def confidence(measure: Measure, log_p: Tensor, chosen: Tensor) -> Tensor:
    """Confidence [m] of the chosen candidates [m] under log-probabilities [m, K].

    "random" orders positions without regard to confidence; for it, as for "max_probability", this
    is the probability of the chosen candidate.
    """
    if measure == "entropy":
        return entropy(log_p)
    if measure == "margin":
        return margin(log_p)
    return log_p.gather(1, chosen[:, None])[:, 0].exp()
