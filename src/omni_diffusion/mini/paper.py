"""The small model's paper: one run for every figure that the documentation prints about it.

Every run is kept like any other evaluation: an interrupted one continues, and a finished one is not
opened again. The summary that is committed, benchmarks/results/paper.json, holds the results
without the predictions.
"""

from __future__ import annotations

import json
import random
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from functools import cache, partial
from pathlib import Path
from typing import Any

from omni_diffusion.codecs.suite import CodecSuite
from omni_diffusion.errors import EvaluationError
from omni_diffusion.evaluation.results import EvaluationRecord, EvaluationSettings
from omni_diffusion.evaluation.session import EvaluationSession
from omni_diffusion.evaluation.speech import Transcriber
from omni_diffusion.io import files
from omni_diffusion.io.config import nearest
from omni_diffusion.mini.benchmarks import BENCHMARKS, EvalContext, SceneBenchmark
from omni_diffusion.mini.evaluate import BANK
from omni_diffusion.mini.further_benchmarks import ALL_BENCHMARKS, FURTHER
from omni_diffusion.mini.recordings import Bank

HEARD = ("svqa", "tts_wer", "utterance_wer", "speech_text_speech")  # judged by Whisper
PICTURE_STEPS = (4, 8, 16, 32, 64)  # a picture has 64 tokens
SPEECH_STEPS = (4, 16, 64, 256)
HALF = ("speech_text_speech", "text_speech_image")  # two answers a sample, one of them spoken


@dataclass(frozen=True)
class PaperRun:
    """One run: a benchmark, and the denoising steps where they are not the model's default.

    share: the part of the samples that it takes, since some runs cost more than they tell.
    """

    benchmark: str
    steps: int | None = None
    share: float = 1.0

    @property
    def name(self) -> str:
        """The name in the summary: t2i, or t2i@10 with steps."""
        return self.benchmark if self.steps is None else f"{self.benchmark}@{self.steps}"

    def samples(self, most: int) -> int:
        """How many of at most `most` samples it takes."""
        return max(1, round(self.share * most))


PAPER_RUNS = (
    *map(PaperRun, BENCHMARKS),
    *(PaperRun(name, share=0.5 if name in HALF else 1.0) for name in FURTHER),
    *(PaperRun("t2i", steps, 0.5) for steps in PICTURE_STEPS),
    *(PaperRun("tts_wer", steps, 0.5) for steps in SPEECH_STEPS),
)


def run_paper(
    session: EvaluationSession,
    codecs: CodecSuite,
    *,
    seed: int = 0,
    samples: int = 60,
    only: Sequence[str] | None = None,
    bank: Path = BANK,
    transcriber: Transcriber | None = None,
) -> dict[str, EvaluationRecord]:
    """The record of each run by its name; only: names of benchmarks.

    transcriber: hears spoken answers; the session's Whisper by default. Raises EvaluationError for
    an unknown name.
    """
    chosen = _chosen(only)
    hear = transcriber or session.judges.transcriber()
    open_bank = cache(partial(Bank.open, bank))

    @cache  # its ceiling is dear, and the same at any number of steps
    def drawn(name: str, number: int) -> SceneBenchmark:
        return paper_benchmark(PaperRun(name), codecs, open_bank, hear, seed, number)

    records = {}
    for run in chosen:
        number = run.samples(samples)
        settings = EvaluationSettings(
            f"mini-{run.benchmark}",
            None,
            {} if run.steps is None else {"steps": run.steps},
            {"whisper": hear.version} if run.benchmark in HEARD else {},
            {"seed": seed, "samples": number},
        )
        records[run.name] = session.finished(settings) or session.run(
            replace(drawn(run.benchmark, number), steps=run.steps), settings
        )
    return records


def paper_benchmark(
    run: PaperRun,
    codecs: CodecSuite,
    bank: Callable[[], Bank],
    transcriber: Transcriber,
    seed: int,
    samples: int,
) -> SceneBenchmark:
    """The benchmark of a run; its samples are those of `eval mini` with the same seed."""
    rng = random.Random(f"{run.benchmark} {seed}")
    context = EvalContext(codecs, bank, transcriber, seed, rng, samples)
    return replace(ALL_BENCHMARKS[run.benchmark](context), steps=run.steps)


def summary(records: dict[str, EvaluationRecord], seed: int) -> dict[str, Any]:
    """What is committed: the results and costs of all runs, and what they were run on."""
    if not records:
        raise EvaluationError("no run to summarize", field="only", fix="name a benchmark")
    first = next(iter(records.values()))
    return {
        "model": first.model,
        "environment": first.environment,
        "seed": seed,
        "batch": first.batch,
        "judges": {name: v for r in records.values() for name, v in r.settings.judges.items()},
        "runs": {
            name: {**(record.result or {}), "costs": asdict(record.costs) if record.costs else None}
            for name, record in records.items()
        },
    }


def save_summary(records: dict[str, EvaluationRecord], seed: int, path: Path) -> None:
    """Write the summary as JSON, atomically."""
    files.write_text(path, json.dumps(summary(records, seed), indent=2) + "\n")


def _chosen(only: Sequence[str] | None) -> list[PaperRun]:
    for name in only or ():
        if name not in ALL_BENCHMARKS:
            raise EvaluationError(
                f"no benchmark is called {name!r}",
                field="only",
                value=name,
                fix=nearest(name, ALL_BENCHMARKS),
            )
    return [run for run in PAPER_RUNS if only is None or run.benchmark in only]
