"""Two penalties on logits: against repeating a token, and against filling the far end early.

Dimensions: m masked positions, K candidates of each.
"""

from __future__ import annotations

import torch
from torch import Tensor

HEAD = 100  # positions at the start of an answer that the position penalty leaves alone


def penalize(values: Tensor, factor: Tensor | float) -> Tensor:
    """Lower logits [m, K]: divide positive ones by a factor >= 1, multiply the others by it."""
    return torch.where(values < 0, values * factor, values / factor)


def repetition(values: Tensor, repeated: Tensor, penalty: float) -> Tensor:
    """Penalize logits [m, K] of repeated candidates (bool [m, K] or [K]), once per candidate."""
    return torch.where(repeated, penalize(values, penalty), values)


def repetition_columns(values: Tensor, ids: Tensor, penalty: float) -> None:
    """Penalize the columns `ids` int64 [r] of logits [m, V] in place; the others are not read."""
    if penalty == 1 or not len(ids):
        return
    ids = ids.to(values.device)
    values.index_copy_(1, ids, penalize(values.index_select(1, ids), penalty))


def position_scale(positions: Tensor, length: int, masked: int, penalty: float) -> Tensor:
    """The paper's gamma_p [m], a factor on the logits of positions [m] counted within the answer.

    1 over the first 100 positions of an answer of `length`, then falling linearly to 1 / penalty
    (0.5 in the paper) at the last one. Smaller logits flatten the distribution, so the far end
    becomes less confident. Early in decoding only: with no more than 100 `masked` positions left
    the factor is 1 everywhere.
    """
    if masked <= HEAD or length <= HEAD + 1:
        return torch.ones(len(positions))
    way = (positions - HEAD).clamp(min=0) / (length - 1 - HEAD)
    return 1 - (1 - 1 / penalty) * way
