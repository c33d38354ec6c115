"""Two penalties on logits: against repeating a token, and against filling the far end early.

Knows nothing of vocabularies or steps. Letters: m blank places, K candidates of each.
"""

import torch
from torch import Tensor

HEAD = 100
"""Places at the front of an answer that the position penalty leaves alone."""


def bend(values: Tensor, factor: Tensor | float) -> Tensor:
    """Make logits [m, K] less likely: divide the positive by a factor >= 1, multiply the others."""
    return torch.where(values < 0, values * factor, values / factor)


def repetition(values: Tensor, repeated: Tensor, penalty: float) -> Tensor:
    """Bend the logits [m, K] of repeated candidates (bool [m, K] or [K]); once, however often."""
    return torch.where(repeated, bend(values, penalty), values)


def position_scale(places: Tensor, length: int, blanks: int, penalty: float) -> Tensor:
    """The paper's gamma_p [m] to multiply logits by, for places [m] counted within the answer.

    1 over the first 100 places of an answer of ``length``, then falling evenly to 1 / penalty (0.5)
    at the last one. Scaling down flattens a distribution, so the far end seems less sure. Only
    early in decoding: with no more than 100 of the answer's ``blanks`` left it is 1 everywhere.
    """
    if blanks <= HEAD or length <= HEAD + 1:
        return torch.ones(len(places))
    way = (places - HEAD).clamp(min=0) / (length - 1 - HEAD)
    return 1 - (1 - 1 / penalty) * way


def published_position_factor(blanks: int, penalty: float) -> Tensor:
    """The published code's factor [blanks] for :func:`bend`.

    Counts the rank among remaining blanks instead of places: 1 for the first 100, then rising
    towards the penalty; off once no more than 100 are left.
    """
    rank = torch.arange(blanks)
    if blanks <= HEAD:
        return torch.ones(blanks)
    return 1 + (penalty - 1) * (rank - HEAD).clamp(min=0) / (blanks - HEAD)
