"""How single answers become one figure with its uncertainty. Knows no task and no judge."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NotRequired, TypedDict

import torch

from omni_diffusion.errors import EvaluationError

RESAMPLES = 1000


@dataclass(frozen=True)
class Mark:
    """What one answer adds: 1 of 1 where it is right, 0 of 1 where not; or wrong of all words."""

    amount: int
    of: int


class Figure(TypedDict):
    """A share from 0 to 1 (an error rate may exceed 1), its standard error, and of how many."""

    value: float
    stderr: float
    n: int


class Score(Figure):
    """A task's figure beside what the same judge gives when only the codecs are at work.

    details: the same of a part of the samples, or of a part of each answer.
    """

    ceiling: float
    details: NotRequired[dict[str, Figure]]


def right(yes: bool) -> Mark:
    """The mark of an answer that is right or wrong."""
    return Mark(int(yes), 1)


def share(marks: Sequence[Mark]) -> float:
    """All amounts over all that they are of; raises EvaluationError where that is nothing."""
    total = sum(mark.of for mark in marks)
    if not total:
        raise EvaluationError("there is nothing to score: 0 words or answers; give more samples")
    return sum(mark.amount for mark in marks) / total


def figure(marks: Sequence[Mark]) -> Figure:
    """The share with its standard error.

    Of right and wrong answers binomial, sqrt(p (1 - p) / n); of words, which are not independent
    within a sentence, the deviation over resampled sentences (bootstrap, always the same draws).
    """
    value = share(marks)
    if all(mark.of == 1 for mark in marks):
        stderr = math.sqrt(value * (1 - value) / len(marks))
    else:
        stderr = _bootstrap(marks)
    return Figure(value=value, stderr=stderr, n=len(marks))


def _bootstrap(marks: Sequence[Mark]) -> float:
    table = torch.tensor([(m.amount, m.of) for m in marks], dtype=torch.float64)  # [n, 2]
    generator = torch.Generator().manual_seed(0)
    drawn = torch.randint(len(marks), (RESAMPLES, len(marks)), generator=generator)
    amounts, totals = table[drawn].sum(1).unbind(-1)
    return float((amounts / totals.clamp(min=1)).std())
