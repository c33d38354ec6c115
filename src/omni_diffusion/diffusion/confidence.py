"""Confidence of a predicted token, from the denoiser's distribution at its position.

Dimensions: m positions, K candidates.
"""

from __future__ import annotations

import math
from typing import Literal

import torch
from torch import Tensor

Measure = Literal["entropy", "margin", "max_probability", "random", "halton"]

EPSILON = 1e-10
FLOOR = -87.0  # exp of it is the least normal float32; what lies lower has no weight in a sum


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

    "random" and "halton" order positions without regard to confidence; for them, as for
    "max_probability", this is the probability of the chosen candidate.
    """
    if measure == "entropy":
        return entropy(log_p)
    if measure == "margin":
        return margin(log_p)
    return log_p.gather(1, chosen[:, None])[:, 0].exp()


class RunningConfidence:
    """The likeliest candidate and its confidence, of logits that pass by in parts of V_i columns.

    Needs one look at each part (Milakov & Gimelshein 2018, extended to the entropy). `measure`
    "random" and "halton" count as "max_probability", as in `confidence`.
    """

    def __init__(self, measure: Measure, positions: int, device: torch.device) -> None:
        self._measure = measure
        self._best = torch.full((positions,), -torch.inf, device=device)
        self._second = self._best
        self._mass = torch.zeros(positions, device=device)  # sum of exp(z - best)
        self._tilt = self._mass  # sum of exp(z - best) (z - best)
        self.chosen = torch.zeros(positions, dtype=torch.int64, device=device)

    def add(self, values: Tensor, first: int) -> None:
        """Take the next logits [m, V_i], of candidates from `first` on; overwrites them."""
        peak, at = values.max(dim=1)
        if self._measure == "margin":
            others = values.topk(min(2, values.shape[1]), dim=1).values
            both = torch.cat([self._best[:, None], self._second[:, None], others], dim=1)
            self._second = both.topk(2, dim=1).values[:, 1]
        best = torch.maximum(self._best, peak)
        self.chosen = torch.where(peak > self._best, at + first, self.chosen)
        shifted = values.sub_(best[:, None]).clamp_(min=FLOOR)
        weights = shifted.exp()
        drop = (self._best - best).clamp(min=FLOOR)
        old = drop.exp()
        tilt = old * (self._tilt + drop * self._mass)
        self._mass = old * self._mass + weights.sum(dim=1)
        self._tilt = tilt + weights.mul_(shifted).sum(dim=1)
        self._best = best

    @property
    def value(self) -> Tensor:
        """The confidence [m] of the likeliest candidates so far."""
        if self._measure == "entropy":
            return self._tilt / self._mass - self._mass.log()
        if self._measure == "margin":
            return (1 - (self._second - self._best).exp()) / self._mass
        return 1 / self._mass
