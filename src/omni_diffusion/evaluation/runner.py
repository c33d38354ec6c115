"""Runs a benchmark: a model answers every sample, and the scores become one result."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import NamedTuple, Protocol

from omni_diffusion.conversation import Conversation, Part, Speech
from omni_diffusion.engine.request import Request, Result
from omni_diffusion.errors import EvaluationError
from omni_diffusion.evaluation.benchmark import Benchmark, S
from omni_diffusion.evaluation.predictions import Prediction, PredictionStore, plain
from omni_diffusion.evaluation.scoring import BenchmarkResult, correct

BATCH = 32  # requests given to the engine at once
ReportProgress = Callable[[str, int, int], None]
"""Called with the benchmark's name, the answers so far and the number of samples."""


class RequestRunner(Protocol):
    """Answers requests in their order, as `Engine` does."""

    def run(self, requests: Sequence[Request]) -> list[Result]:
        """One result for each request."""
        ...


class Shard(NamedTuple):
    """The samples number, number + of, number + 2 of, ..; the first is number 0."""

    number: int = 0
    of: int = 1

    @classmethod
    def parse(cls, text: str) -> Shard:
        """The shard of "0/4"; raises EvaluationError for another form."""
        number, _, of = text.partition("/")
        if not (number.isdecimal() and of.isdecimal() and int(number) < int(of)):
            raise EvaluationError(
                f"{text!r} is not a shard",
                field="shard",
                value=text,
                fix="give i/n with i from 0 to n - 1, such as 0/4",
            )
        return cls(int(number), int(of))

    def of_samples(self, samples: Sequence[S]) -> Sequence[S]:
        """The samples of this shard."""
        return samples[self.number :: self.of]


def run_benchmark(
    benchmark: Benchmark[S],
    engine: RequestRunner,
    progress: ReportProgress | None = None,
    *,
    store: PredictionStore | None = None,
    limit: int | None = None,
    batch: int = BATCH,
) -> BenchmarkResult:
    """Answer and score the samples, all or the first `limit`, and report their result.

    store: predictions that are there already are used, new ones are added after each batch; None
    keeps none. batch: requests given to the engine at once. A request that fails counts as a wrong
    answer, and the detail `failed` reports the fraction. Raises EvaluationError if every request
    fails or there is nothing to score.
    """
    store = PredictionStore() if store is None else store
    samples = benchmark.samples()[:limit]
    answer_samples(benchmark, engine, samples, store, progress, batch)
    return report_of(benchmark, store, samples)


def answer_samples(
    benchmark: Benchmark[S],
    engine: RequestRunner,
    samples: Sequence[S],
    store: PredictionStore,
    progress: ReportProgress | None = None,
    batch: int = BATCH,
) -> None:
    """Answer, score and keep those samples that the store has no prediction for.

    Raises EvaluationError if every request of the first batch fails; these are not kept.
    """
    waiting = [sample for sample in samples if store.find(benchmark.facts(sample)) is None]
    done = len(samples) - len(waiting)
    for start in range(0, len(waiting), batch):
        predictions = _answered(benchmark, engine, waiting[start : start + batch], store)
        if not done and all(prediction.failed for prediction, _ in predictions):
            _refuse(benchmark.name, predictions[0][0], predictions[0][1])
        for prediction, _ in predictions:
            store.add(prediction)
        done += len(predictions)
        if progress:
            progress(benchmark.name, done, len(samples))


def report_of(
    benchmark: Benchmark[S], store: PredictionStore, samples: Sequence[S]
) -> BenchmarkResult:
    """The result of samples that are all answered; raises EvaluationError for others."""
    found = [(sample, store.find(benchmark.facts(sample))) for sample in samples]
    answered = [(sample, kept) for sample, kept in found if kept is not None]
    if len(answered) < len(found):
        raise EvaluationError(
            f"{len(found) - len(answered)} of {len(found)} samples of {benchmark.name!r} are not"
            " answered yet",
            field="shard",
            value=len(answered),
            fix="run the other shards",
        )
    if answered and all(kept.failed for _, kept in answered):
        _refuse(benchmark.name, answered[0][1])
    return benchmark.report([(sample, kept.scored()) for sample, kept in answered])


class _Round(NamedTuple):
    """What was asked, what came of it, and the first answer that it was made of, if any."""

    asked: Conversation
    result: Result
    via: tuple[Part, ...]


def _answered(
    benchmark: Benchmark[S], engine: RequestRunner, samples: Sequence[S], store: PredictionStore
) -> list[tuple[Prediction, Exception | None]]:
    began = time.perf_counter()
    requests = [benchmark.request(sample) for sample in samples]
    first = engine.run(requests)
    rounds = [_Round(r.conversation, result, ()) for r, result in zip(requests, first, strict=True)]
    asked: dict[int, Request] = {}
    for i, (sample, result) in enumerate(zip(samples, first, strict=True)):
        request = None if result.error else benchmark.follow_up(sample, result.parts)
        if request is not None:
            asked[i] = request
    second = engine.run(list(asked.values())) if asked else []
    for i, result in zip(asked, second, strict=True):
        both = _both(first[i], result)
        rounds[i] = _Round(requests[i].conversation, both, first[i].parts)
    share = (time.perf_counter() - began) / len(samples)
    return [
        (_prediction(benchmark, sample, each, share, store), each.result.error)
        for sample, each in zip(samples, rounds, strict=True)
    ]


def _both(first: Result, second: Result) -> Result:
    """The second result, with the time and the forward passes of both."""
    return Result(
        second.id,
        second.task,
        second.parts,
        None,
        (),
        first.seconds + second.seconds,
        first.steps + second.steps,
        second.error,
        (*first.notes, *second.notes),
        second.params,
    )


def _prediction(
    benchmark: Benchmark[S], sample: S, each: _Round, share: float, store: PredictionStore
) -> Prediction:
    facts, result = plain(benchmark.facts(sample)), each.result
    marked = {"failed": correct(result.error is not None)}
    scores = {**benchmark.score(sample, result.parts), **marked}
    return Prediction(
        facts=facts,
        answer=store.media(result.parts, facts, ""),
        scores={name: [score.amount, score.of] for name, score in scores.items()},
        seconds=result.seconds,
        share=share,
        steps=result.steps,
        speech_seconds=sum(p.waveform.seconds for p in result.parts if isinstance(p, Speech)),
        via=store.media(each.via, facts, "via"),
        prompt=store.prompt(each.asked, facts),
        error=None if result.error is None else str(result.error),
        notes=list(result.notes),
    )


def _refuse(name: str, prediction: Prediction, cause: Exception | None = None) -> None:
    problem = f"every request of benchmark {name!r} failed: {prediction.error}"
    raise EvaluationError(problem, value=name) from cause
