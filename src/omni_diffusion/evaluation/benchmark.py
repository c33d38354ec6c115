"""What a benchmark has to provide; `evaluation.runner` answers and scores it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Protocol, TypeVar

from omni_diffusion.conversation import Part
from omni_diffusion.engine.request import Request
from omni_diffusion.evaluation.scoring import (
    BenchmarkResult,
    Score,
    Scores,
    Unit,
    aggregate,
    ratio,
)

S = TypeVar("S")


class Benchmark(Protocol[S]):
    """A set of samples, how to ask a model about each, and how to score its answer.

    name: the name under which results are reported. unit: of its metrics. ceiling: scores that a
    perfect model would get through the same codecs and the same judge; empty where nobody measured
    them.
    """

    name: str
    unit: Unit = "percent"
    ceiling: Sequence[Score] = ()

    def samples(self) -> Sequence[S]:
        """All samples, in a fixed order."""
        ...

    def facts(self, sample: S) -> Mapping[str, Any]:
        """What is asked and expected, as JSON values; "id" is unique within the benchmark.

        A kept prediction counts for a sample only if these are the same.
        """
        ...

    def request(self, sample: S) -> Request:
        """The request that a model has to answer."""
        ...

    def follow_up(self, sample: S, answer: Sequence[Part]) -> Request | None:
        """A second request, made of the first answer; None where the first answer is scored."""
        return None

    def score(self, sample: S, answer: Sequence[Part]) -> Scores:
        """The scores of an answer; `answer` is empty if the request failed."""
        ...

    def report(self, outcomes: Sequence[tuple[S, Scores]]) -> BenchmarkResult:
        """The result of all scored samples; by default the ratios of `summarize`."""
        result = summarize([scores for _, scores in outcomes], self.ceiling)
        if self.unit != "percent":
            result["unit"] = self.unit
        return result


def summarize(scores: Sequence[Scores], ceiling: Sequence[Score] = ()) -> BenchmarkResult:
    """The result of a benchmark from the scores of its answers.

    "value" becomes the result's own metric, every other name a detail; `failed` only if a request
    failed.
    """
    by_name: dict[str, list[Score]] = {}
    for answer in scores:
        for name, score in answer.items():
            by_name.setdefault(name, []).append(score)
    if not any(score.amount for score in by_name.get("failed", ())):
        by_name.pop("failed", None)
    metrics = {name: aggregate(column) for name, column in by_name.items()}
    value = metrics.pop("value")
    result = BenchmarkResult(value=value["value"], stderr=value["stderr"], n=value["n"])
    if ceiling:
        result["ceiling"] = ratio(ceiling)
    if metrics:
        result["details"] = metrics
    return result
