"""Classifier-free guidance: the logits of a conditional and an unconditional branch, combined.

The caller aligns the answers of the two branches.
"""

from __future__ import annotations

from torch import Tensor


def join(conditional: Tensor, unconditional: Tensor, scale: float | Tensor) -> Tensor:
    """z = u + (scale + 1)(c - u): logits [m, V] of the same positions in two branches -> [m, V].

    Scale 0 gives the conditional branch. A tensor [m, 1] gives each position its own scale. Row i
    of both branches must belong to the same position of the answer.

    The published code pairs positions by their index in the whole sequence and pads a shorter
    unconditional sequence at its end with zero embeddings, so answers of prompts of unequal length
    are misaligned. To reproduce this, pass the logits of such sequences.
    """
    return unconditional + (scale + 1) * (conditional - unconditional)
