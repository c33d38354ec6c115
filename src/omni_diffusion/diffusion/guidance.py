"""Classifier-free guidance: a conditional and an unconditional opinion joined into one.

Knows nothing of prompts: whoever prepares the two branches aligns their answers.
"""

from torch import Tensor


def join(conditional: Tensor, unconditional: Tensor, scale: float | Tensor) -> Tensor:
    """z = u + (scale + 1)(c - u): logits [m, V] of the same places in two branches -> [m, V].

    Scale 0 gives the conditional branch; a tensor [m, 1] gives each place its own scale. Place i
    of one branch must be place i of the answer in the other. (The published code pairs places by
    their index in the whole row, padding a shorter unconditional row at its end with zero
    embeddings, so answers of prompts of unequal length are contrasted against each other askew;
    whoever wants that hands in those rows.)
    """
    return unconditional + (scale + 1) * (conditional - unconditional)
