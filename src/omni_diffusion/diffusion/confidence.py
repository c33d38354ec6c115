"""How sure the denoiser is of a place, from its distribution over tokens.

Knows nothing of how the distribution was bent or filtered. Letters: m places, K candidates.
"""

import math
from typing import Literal

from torch import Tensor

Measure = Literal["entropy", "margin", "max_probability", "random"]

EPSILON = 1e-10


def entropy(log_p: Tensor) -> Tensor:
    """Negative entropy sum_v p_v ln p_v of log-probabilities [m, K] -> [m]; 0 is surest.

    The published code adds 1e-10 to p inside the logarithm; here the logarithm is held above
    ln 1e-10, which differs by less than K * 1e-10 and takes no second logarithm.
    """
    return (log_p.exp() * log_p.clamp(min=math.log(EPSILON))).sum(dim=-1)


def margin(log_p: Tensor) -> Tensor:
    """Probability of the best candidate less that of the next one: [m, K] -> [m]."""
    best = log_p.topk(min(2, log_p.shape[-1]), dim=-1).values.exp()
    return best[:, 0] - best[:, 1] if best.shape[1] == 2 else best[:, 0]


def confidence(measure: Measure, log_p: Tensor, chosen: Tensor) -> Tensor:
    """Confidence [m] of the chosen candidates [m] under log-probabilities [m, K]; higher is surer.

    "random" is an order without regard to confidence; it reports the chosen one's probability.
    """
    if measure == "entropy":
        return entropy(log_p)
    if measure == "margin":
        return margin(log_p)
    return log_p.gather(1, chosen[:, None])[:, 0].exp()
