"""Scores of single answers, and the metric with its uncertainty that many scores give."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, NotRequired, TypeAlias, TypedDict, TypeVar

import torch

from omni_diffusion.errors import EvaluationError

RESAMPLES = 1000  # of the bootstrap
T = TypeVar("T")

Unit: TypeAlias = Literal["percent", "points", "cosine"]
"""How a metric is shown: a ratio in percent, a sum of points, or a cosine similarity."""


@dataclass(frozen=True)
class Score:
    """The score of one answer: `amount` out of `of`.

    A correct answer scores 1 of 1, a wrong one 0 of 1; a transcript scores its word errors of the
    words in the reference; a similarity is an amount of 1.
    """

    amount: float
    of: float


Scores: TypeAlias = Mapping[str, Score]
"""The scores of one answer by name: "value" is the benchmark's score, the others are details."""


class Metric(TypedDict):
    """A ratio, its standard error and the number of answers; an error rate may exceed 1."""

    value: float
    stderr: float
    n: int


class BenchmarkResult(Metric):
    """The metric of one benchmark.

    ceiling: the ratio that the codecs alone would reach, where it is known. details: metrics of
    parts of the samples, or of other properties of the answers. unit: of all of them; percent where
    it is not given.
    """

    ceiling: NotRequired[float]
    details: NotRequired[dict[str, Metric]]
    unit: NotRequired[Unit]


def correct(yes: bool) -> Score:
    """The score of an answer that is either correct or wrong."""
    return Score(int(yes), 1)


def capped(score: Score) -> Score:
    """The score with at most `of` errors: one bad answer counts as all its words wrong, no more."""
    return Score(min(score.amount, score.of), score.of)


def ratio(scores: Sequence[Score]) -> float:
    """Sum of the amounts over the sum of `of`. Raises EvaluationError if the latter is 0."""
    total = sum(score.of for score in scores)
    if not total:
        raise EvaluationError("nothing to score: 0 words or answers", value=0, fix="add samples")
    return sum(score.amount for score in scores) / total


def aggregate(scores: Sequence[Score]) -> Metric:
    """The ratio of the scores with its standard error.

    Correct or wrong answers: binomial, sqrt(p (1 - p) / n). Other scores: standard deviation over
    bootstrap resamples of the answers, because words of one sentence are not independent. The
    resamples are the same in every call.
    """
    value = ratio(scores)
    if all(score.of == 1 and score.amount in (0, 1) for score in scores):
        stderr = math.sqrt(value * (1 - value) / len(scores))
    else:
        stderr = _bootstrap(scores)
    return Metric(value=value, stderr=stderr, n=len(scores))


def bootstrap(
    groups: Sequence[T], statistic: Callable[[Sequence[T]], float], resamples: int = RESAMPLES
) -> Metric:
    """A statistic of independent groups, and its standard deviation over resamples of them.

    For what is no ratio of sums, such as F1 or the score of MME. Raises EvaluationError without
    groups.
    """
    if not groups:
        raise EvaluationError("nothing to score: 0 answers", value=0, fix="add samples")
    drawn = _draws(len(groups), resamples)
    values = [statistic([groups[i] for i in rows]) for rows in drawn.tolist()]
    spread = float(torch.tensor(values, dtype=torch.float64).std()) if resamples > 1 else 0.0
    return Metric(value=statistic(groups), stderr=spread, n=len(groups))


def _bootstrap(scores: Sequence[Score]) -> float:
    table = torch.tensor([(s.amount, s.of) for s in scores], dtype=torch.float64)  # [n, 2]
    amounts, totals = table[_draws(len(scores), RESAMPLES)].sum(1).unbind(-1)
    ratios = (amounts / totals)[totals > 0]  # a resample may hold no case that counts
    return float(ratios.std()) if len(ratios) > 1 else 0.0


def _draws(n: int, resamples: int) -> torch.Tensor:
    """Indices [resamples, n] of the bootstrap; the same in every call."""
    generator = torch.Generator().manual_seed(0)
    return torch.randint(n, (resamples, n), generator=generator)
