"""Quality against time: a task's benchmark under several samplings, and the preset that pays.

Each candidate is written as a preset file, and the benchmark's requests name that file, so what is
measured is what the preset does later.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from omni_diffusion.diffusion.params import SamplingParams
from omni_diffusion.engine.request import Request, Result
from omni_diffusion.evaluation.runner import RequestRunner
from omni_diffusion.evaluation.scoring import BenchmarkResult
from omni_diffusion.io import config as configs
from omni_diffusion.tasks.presets import TunedPreset, TunedSampling
from omni_diffusion.tasks.task import Task

BASELINE = "default"  # the name of the candidate that the others are compared with
ALL_STEPS = "all steps"  # and of the task's schedule, where the default commits more


@dataclass(frozen=True)
class Candidate:
    """A sampling to try, under a short name."""

    name: str
    sampling: TunedSampling


@dataclass(frozen=True)
class TunedPoint:
    """What a candidate came to.

    value, stderr, n: of the benchmark. seconds, cpu_seconds: of an answer, on the clock and of this
    process's threads; requests share passes. steps: of an answer, on average.
    """

    name: str
    value: float
    stderr: float
    n: int
    seconds: float
    cpu_seconds: float
    steps: float


def candidates(task: Task, params: SamplingParams) -> list[Candidate]:
    """The samplings to try for a task whose default is `params`; the default comes first.

    The others start from the default's schedule, without a threshold or bound that it may have.
    """
    tried = [Candidate(BASELINE, TunedSampling(params))]
    scheduled = params.scheduled()
    if scheduled != params:
        tried.append(Candidate(ALL_STEPS, TunedSampling(scheduled)))
    if task.answer == ("image",) or task.partial == "image":
        others = _for_pictures(scheduled)
    else:
        others = _for_tokens(scheduled, task.pace)
    return tried + [one for one in others if one.sampling != tried[0].sampling]


def _for_pictures(params: SamplingParams) -> list[Candidate]:
    tried = {}
    for steps in (32, 16, 10, 5):
        tried[f"{steps} steps"] = replace(params, steps=steps)
    for steps in (16, 10, 5):
        tried[f"{steps} steps, halton"] = replace(params, steps=steps, confidence="halton")
    if params.guidance:
        ten = replace(params, steps=10)
        tried["10 steps, guided to half"] = replace(ten, guidance_until=0.5)
        tried["10 steps, guided from half"] = replace(ten, guidance_from=0.5)
        tried["10 steps, not guided"] = replace(ten, guidance=0.0)
    for bound in (1.0, 4.0):
        tried[f"entropy bound {bound:g}"] = _bounded(params, bound)
    return [Candidate(name, TunedSampling(one)) for name, one in tried.items()]


def _for_tokens(params: SamplingParams, pace: float) -> list[Candidate]:
    tried = {"end early": TunedSampling(replace(params, end_early=True))}
    for part in (0.5, 0.25):
        tried[f"{part * pace:g} steps a token"] = TunedSampling(params, part * pace)
    for bound in (0.1, 0.5):
        tried[f"entropy bound {bound:g}"] = TunedSampling(_bounded(params, bound))
    sure = replace(params, confidence="max_probability", threshold=0.9)
    tried["threshold 0.9"] = TunedSampling(sure)
    tried["threshold 0.9, end early"] = TunedSampling(replace(sure, end_early=True))
    return [Candidate(name, one) for name, one in tried.items()]


def _bounded(params: SamplingParams, bound: float) -> SamplingParams:
    return replace(params, confidence="entropy", entropy_bound=bound)


@dataclass
class PresetRunner:
    """Runs requests under a preset file, and counts their time and steps."""

    engine: RequestRunner
    preset: str
    answers: int = 0
    steps: int = 0
    seconds: float = 0.0
    cpu_seconds: float = field(default=0.0)

    def run(self, requests: Sequence[Request]) -> list[Result]:
        """One result for each request, with the preset's sampling and nothing else."""
        began, cpu = time.perf_counter(), time.process_time()
        results = self.engine.run(
            [replace(request, preset=self.preset, params=None) for request in requests]
        )
        self.seconds += time.perf_counter() - began
        self.cpu_seconds += time.process_time() - cpu
        self.answers += len(results)
        self.steps += sum(result.steps for result in results)
        return results


def measure(
    task: str,
    tried: Sequence[Candidate],
    engine: RequestRunner,
    score: Callable[[RequestRunner], BenchmarkResult],
    report: Callable[[TunedPoint], None] | None = None,
) -> list[TunedPoint]:
    """The figures of every candidate, in their order.

    score: runs the benchmark's requests and returns its result; the same samples at every call.
    """
    points = []
    with tempfile.TemporaryDirectory() as folder:
        for number, candidate in enumerate(tried):
            path = Path(folder, f"{number}.json")
            configs.save(TunedPreset(candidate.name, {task: candidate.sampling}), path)
            runner = PresetRunner(engine, str(path))
            result = score(runner)
            points.append(_point(candidate.name, result, runner))
            if report:
                report(points[-1])
    return points


def _point(name: str, result: BenchmarkResult, runner: PresetRunner) -> TunedPoint:
    return TunedPoint(
        name,
        result["value"],
        result["stderr"],
        result["n"],
        runner.seconds / runner.answers,
        runner.cpu_seconds / runner.answers,
        runner.steps / runner.answers,
    )


def fastest(points: Sequence[TunedPoint], *, lower_is_better: bool) -> TunedPoint:
    """The point of least CPU time whose value is at most one standard error worse than the first's.

    The first point is the default; it is returned where nothing faster is as good.
    """
    base, sign = points[0], -1 if lower_is_better else 1
    good = [p for p in points if sign * (p.value - base.value) >= -base.stderr]
    return min(good, key=lambda point: point.cpu_seconds)


def tuned_preset(
    task: str,
    chosen: TunedPoint,
    tried: Sequence[Candidate],
    points: Sequence[TunedPoint],
    provenance: dict[str, Any],
) -> TunedPreset:
    """The preset of the chosen candidate, with the figures of all."""
    sampling = {candidate.name: candidate.sampling for candidate in tried}[chosen.name]
    figures = {"chosen": chosen.name, "points": [asdict(point) for point in points]}
    return TunedPreset(f"tuned-{task}", {task: sampling}, provenance | figures)
