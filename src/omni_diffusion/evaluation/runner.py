"""Runs a benchmark: a model answers every sample, and the scores become one result."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Protocol, TypeVar

from omni_diffusion.engine.request import Request, Result
from omni_diffusion.errors import EvaluationError
from omni_diffusion.evaluation.benchmark import Benchmark
from omni_diffusion.evaluation.scoring import (
    BenchmarkResult,
    Score,
    Scores,
    aggregate,
    correct,
    ratio,
)

BATCH = 32  # requests given to the engine at once
S = TypeVar("S")


class RequestRunner(Protocol):
    """Answers requests in their order, as `Engine` does."""

    def run(self, requests: Sequence[Request]) -> list[Result]:
        """One result for each request."""
        ...


def run_benchmark(
    benchmark: Benchmark[S],
    engine: RequestRunner,
    progress: Callable[[str, int, int], None] | None = None,
) -> BenchmarkResult:
    """Answer and score all samples.

    progress: called with the benchmark's name, the answers so far and the number of samples. A
    request that fails counts as a wrong answer, and the detail `failed` reports the fraction.
    Raises EvaluationError if every request fails or there is nothing to score.
    """
    samples = benchmark.samples()
    scores: list[Scores] = []
    failed: list[Exception] = []
    for start in range(0, len(samples), BATCH):
        batch = samples[start : start + BATCH]
        results = engine.run([benchmark.request(sample) for sample in batch])
        for sample, result in zip(batch, results, strict=True):
            failed += [] if result.error is None else [result.error]
            marked = {"failed": correct(result.error is not None)}
            scores.append({**benchmark.score(sample, result.parts), **marked})
        if progress:
            progress(benchmark.name, len(scores), len(samples))
    if failed and len(failed) == len(scores):
        problem = f"every request of benchmark {benchmark.name!r} failed: {failed[0]}"
        raise EvaluationError(problem, value=benchmark.name) from failed[0]
    return summarize(scores, benchmark.ceiling)


def summarize(scores: Sequence[Scores], ceiling: Sequence[Score]) -> BenchmarkResult:
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
    result = BenchmarkResult(
        value=value["value"], stderr=value["stderr"], n=value["n"], ceiling=ratio(ceiling)
    )
    if metrics:
        result["details"] = metrics
    return result
