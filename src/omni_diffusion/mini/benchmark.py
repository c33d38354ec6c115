"""How well the small model knows its world: eight figures from samples that no training showed.

The model answers through its engine; `exams` asks and judges. The same seed asks the same.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import cache, partial
from pathlib import Path
from typing import Protocol

import torch

from omni_diffusion.diffusion.params import SamplingParams
from omni_diffusion.engine.engine import Engine
from omni_diffusion.engine.request import Request, Result
from omni_diffusion.errors import EvaluationError
from omni_diffusion.evaluation import speech
from omni_diffusion.evaluation.scoring import Mark, Score, figure, right, share
from omni_diffusion.evaluation.speech import Recogniser, WhisperJudge
from omni_diffusion.mini import scenes
from omni_diffusion.mini.exams import EXAMS, Exam, Setting
from omni_diffusion.mini.judge import Marks
from omni_diffusion.mini.recordings import Bank
from omni_diffusion.models.omni import SHIPPED, OmniModel
from omni_diffusion.tasks import catalog

BANK = SHIPPED / "bank"
BATCH = 32  # requests handed to the engine at a time


class Runs(Protocol):
    """Whoever answers requests, in their order."""

    def run(self, requests: Sequence[Request]) -> list[Result]:
        """One result for each request."""
        ...


def evaluate(
    model: OmniModel,
    seed: int = 0,
    samples: int = 100,
    tasks: Sequence[str] | None = None,
    steps: int | None = None,
    progress: Callable[[str, int, int], None] | None = None,
    *,
    bank: str | Path = BANK,
    recogniser: Recogniser | None = None,
    engine: Runs | None = None,
) -> dict[str, Score]:
    """Scores by task: caption vqa t2i s2i svqa inpaint (shares of right answers), asr_wer tts_wer.

    samples: of each task; what is spoken is drawn from a bank and ends with it. steps: denoising
    steps of every answer; None = as many as each task has by default. progress: called with task,
    answers so far and answers in all. recogniser: who hears spoken answers; Whisper by default.
    Raises EvaluationError for an unknown task, missing packages, a model of other pictures than
    the small world's, or one that answers nothing.
    """
    names = _names(tasks)
    if samples < 1:
        raise EvaluationError(f"{samples} samples say nothing; give 1 or more")
    painted = model.codecs.image.config.generation_size
    if painted != scenes.SIZE:
        raise EvaluationError(
            f"this model paints {painted} x {painted} pixels, the small world is judged at "
            f"{scenes.SIZE} x {scenes.SIZE}; give a model that was trained on it"
        )
    recogniser = recogniser or _recogniser(names)
    recordings = cache(partial(Bank.open, bank))
    runs = engine or Engine(model)
    scores = {}
    for name in names:
        rng = random.Random(f"{name} {seed}")
        exam = EXAMS[name](Setting(model.codecs, recordings, recogniser, seed, rng, samples))
        tell = None if progress is None else partial(progress, name)
        scores[name] = _score(exam, _sit(exam, runs, _params(model, exam.task, steps), tell))
    return scores


def _names(tasks: Sequence[str] | None) -> list[str]:
    unknown = [name for name in tasks or () if name not in EXAMS]
    if unknown:
        raise EvaluationError(f"no exam is called {unknown[0]!r}; give {', '.join(EXAMS)}")
    return [name for name in EXAMS if tasks is None or name in tasks]


def _recogniser(names: Sequence[str]) -> Recogniser | None:
    """Whisper where it is needed, or only of use and there."""
    if "asr_wer" in names or "tts_wer" in names:
        speech.require(*speech.SCORING)
    if "tts_wer" in names:
        speech.require(*speech.RECOGNISING)
    wanted = "tts_wer" in names or "svqa" in names
    if not wanted or speech.missing(*speech.SCORING, *speech.RECOGNISING):
        return None
    return WhisperJudge.open(torch.get_num_threads())


def _params(model: OmniModel, name: str, steps: int | None) -> SamplingParams | None:
    if steps is None:
        return None
    return replace(model.sampling.get(name, catalog.task(name).params), steps=steps)


def _sit(
    exam: Exam,
    engine: Runs,
    params: SamplingParams | None,
    tell: Callable[[int, int], None] | None,
) -> list[Marks]:
    """Answer every trial; a request that fails is a wrong answer, but not all may fail."""
    marks: list[Marks] = []
    failed: list[Exception] = []
    for start in range(0, len(exam.trials), BATCH):
        trials = exam.trials[start : start + BATCH]
        asked = [Request(exam.task, trial.conversation, params) for trial in trials]
        for trial, result in zip(trials, engine.run(asked), strict=True):
            failed += [] if result.error is None else [result.error]
            marks.append({**trial.judge(result.parts), "failed": right(result.error is not None)})
        if tell:
            tell(len(marks), len(exam.trials))
    if failed and len(failed) == len(marks):
        reason = f"every request of task {exam.task!r} failed: {failed[0]}"
        raise EvaluationError(reason) from failed[0]
    return marks


def _score(exam: Exam, marks: Sequence[Marks]) -> Score:
    by_name: dict[str, list[Mark]] = {}
    for each in marks:
        for name, mark in each.items():
            by_name.setdefault(name, []).append(mark)
    if not any(mark.amount for mark in by_name["failed"]):
        del by_name["failed"]
    found = {name: figure(column) for name, column in by_name.items()}
    own = found.pop("value")
    score = Score(value=own["value"], stderr=own["stderr"], n=own["n"], ceiling=share(exam.ceiling))
    if found:
        score["details"] = found
    return score
