"""Evaluates the small model on held-out scenes: eight benchmarks, the same samples for a seed."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import cache, partial
from pathlib import Path

import torch

from omni_diffusion.engine.engine import Engine
from omni_diffusion.errors import EvaluationError
from omni_diffusion.evaluation import speech
from omni_diffusion.evaluation.runner import RequestRunner, run_benchmark
from omni_diffusion.evaluation.scoring import BenchmarkResult
from omni_diffusion.evaluation.speech import Transcriber, WhisperJudge
from omni_diffusion.mini import scenes
from omni_diffusion.mini.benchmarks import BENCHMARKS, EvalContext
from omni_diffusion.mini.recordings import Bank
from omni_diffusion.models.omni import SMALL_MODEL, OmniModel

BANK = SMALL_MODEL / "bank"


def evaluate(
    model: OmniModel,
    seed: int = 0,
    samples: int = 100,
    tasks: Sequence[str] | None = None,
    steps: int | None = None,
    progress: Callable[[str, int, int], None] | None = None,
    *,
    bank: str | Path = BANK,
    transcriber: Transcriber | None = None,
    engine: RequestRunner | None = None,
) -> dict[str, BenchmarkResult]:
    """Results by benchmark: accuracies of caption vqa t2i s2i svqa inpaint, and asr_wer tts_wer.

    samples: number of samples a benchmark; recordings are drawn from a bank and end with it.
    steps: denoising steps of every answer; None = the default of each task. progress: called with
    benchmark, answers so far and all answers. transcriber: transcribes spoken answers; Whisper by
    default. Raises EvaluationError for an unknown benchmark, a model of another image size, or a
    model whose requests all fail, and MissingDependencyError without the packages of "eval".
    """
    names = _names(tasks)
    if samples < 1:
        raise EvaluationError(f"{samples} samples; give 1 or more", field="samples", value=samples)
    size = model.codecs.image.config.generation_size
    if size != scenes.SIZE:
        raise EvaluationError(
            f"this model generates {size} x {size} pixels, scenes have {scenes.SIZE} x"
            f" {scenes.SIZE}; use a model that was trained on scenes",
            field="model",
            value=size,
        )
    transcriber = transcriber or _transcriber(names)
    open_bank = cache(partial(Bank.open, bank))
    engine = engine or Engine(model)
    results = {}
    for name in names:
        rng = random.Random(f"{name} {seed}")
        context = EvalContext(model.codecs, open_bank, transcriber, seed, rng, samples)
        benchmark = replace(BENCHMARKS[name](context), steps=steps)
        results[name] = run_benchmark(benchmark, engine, progress)
    return results


def _names(tasks: Sequence[str] | None) -> list[str]:
    unknown = [name for name in tasks or () if name not in BENCHMARKS]
    if unknown:
        raise EvaluationError(
            f"unknown benchmark {unknown[0]!r}; give {', '.join(BENCHMARKS)}",
            field="tasks",
            value=unknown[0],
        )
    return [name for name in BENCHMARKS if tasks is None or name in tasks]


def _transcriber(names: Sequence[str]) -> Transcriber | None:
    """Whisper if a benchmark requires it, or one can use it and it is installed."""
    if "asr_wer" in names or "tts_wer" in names:
        speech.require_packages(*speech.SCORING_PACKAGES)
    if "tts_wer" in names:
        speech.require_packages(*speech.WHISPER_PACKAGES)
    used = "tts_wer" in names or "svqa" in names
    if not used or speech.missing(*speech.SCORING_PACKAGES, *speech.WHISPER_PACKAGES):
        return None
    return WhisperJudge.open(threads=torch.get_num_threads())
