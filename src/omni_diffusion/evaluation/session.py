"""Evaluations of one model: opens it once, runs benchmarks on it and keeps what comes of them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from functools import cache
from pathlib import Path
from typing import Any, Self

import torch

from omni_diffusion.engine.engine import Engine
from omni_diffusion.errors import EvaluationError
from omni_diffusion.evaluation.benchmark import Benchmark, S
from omni_diffusion.evaluation.clip import CLIP, ClipJudge, PictureJudge
from omni_diffusion.evaluation.predictions import PredictionStore
from omni_diffusion.evaluation.results import (
    RECORD,
    EvaluationRecord,
    EvaluationSettings,
    environment,
    kept_predictions,
    model_digest,
    read_record,
)
from omni_diffusion.evaluation.runner import (
    ReportProgress,
    RequestRunner,
    Shard,
    answer_samples,
    report_of,
)
from omni_diffusion.evaluation.speech import SHIPPED, Transcriber, WhisperJudge
from omni_diffusion.evaluation.suites.catalog import SuiteEntry
from omni_diffusion.evaluation.suites.items import SuiteOptions
from omni_diffusion.models.omni import SMALL_MODEL, OmniModel


@dataclass(frozen=True)
class Judges:
    """Which judges score the answers; opened when first needed.

    whisper: a size, a folder or a name on the hub. clip: a folder or a name on the hub.
    """

    whisper: str = SHIPPED
    clip: str = CLIP
    device: str = "cpu"

    def transcriber(self) -> Transcriber:
        """Whisper, opened once."""
        return _whisper(self.whisper, self.device)

    def pictures(self) -> PictureJudge:
        """CLIP, opened once."""
        return _clip(self.clip, self.device)

    def versions(self, names: tuple[str, ...]) -> dict[str, str]:
        """The versions of the judges of these names, which are opened for it."""
        openers: dict[str, Callable[[], Transcriber | PictureJudge]] = {
            "whisper": self.transcriber,
            "clip": self.pictures,
        }
        return {name: openers[name]().version for name in names}


@dataclass(eq=False)
class EvaluationSession:
    """A model and the folder that keeps its evaluations.

    engine: answers the requests, `batch` at a time. model: name and digest for the records. out:
    see `evaluation.results`.
    """

    engine: RequestRunner
    model: Mapping[str, str]
    out: Path
    batch: int = 8
    judges: Judges = field(default_factory=Judges)
    device: str = "cpu"
    progress: ReportProgress | None = None

    @classmethod
    def of(
        cls,
        model: OmniModel,
        folder: Path | None,
        out: Path,
        *,
        batch: int = 8,
        judges: Judges | None = None,
        progress: ReportProgress | None = None,
    ) -> Self:
        """The session of an open model; folder: where it was opened, None = the shipped one."""
        where = SMALL_MODEL if folder is None else Path(folder)
        known = {"name": model.config.name, "digest": model_digest(where)}
        if model.quantization is not None:
            known["digest"] += f"-{model.quantization}"
        engine, chosen = Engine(model, max_batch=batch), judges or Judges()
        return cls(engine, known, out, batch, chosen, str(model.device), progress)

    def finished(self, settings: EvaluationSettings) -> EvaluationRecord | None:
        """The record of a run that has its result already; only where settings name all samples."""
        record = EvaluationRecord(settings, dict(self.model), environment(self.device), self.batch)
        folder = record.folder(self.out)
        if not (folder / RECORD).is_file():
            return None
        known = read_record(folder)
        return None if known.result is None else known

    def run(
        self,
        benchmark: Benchmark[S],
        settings: EvaluationSettings,
        *,
        limit: int | None = None,
        shard: Shard | None = None,
    ) -> EvaluationRecord:
        """Answer what is not answered yet, and report; the record is written with its result.

        With several shards the result is None until the last of them is done. Raises
        EvaluationError as `runner.run_benchmark` does.
        """
        part = shard or Shard()
        record = EvaluationRecord(settings, dict(self.model), environment(self.device), self.batch)
        folder = record.folder(self.out)
        store = PredictionStore(folder, part.number)
        samples = benchmark.samples()[:limit]
        mine = part.of_samples(samples)
        answer_samples(benchmark, self.engine, mine, store, self.progress, self.batch)
        store.reload()
        if any(store.find(benchmark.facts(sample)) is None for sample in samples):
            return replace(record, samples=len(store))
        known = {str(benchmark.facts(sample)["id"]) for sample in samples}
        counted = [each for each in kept_predictions(folder) if str(each.facts["id"]) in known]
        record = record.finished(report_of(benchmark, store, samples), counted)
        record.write(folder)
        return record

    def run_suite(
        self,
        entry: SuiteEntry,
        data: Path,
        *,
        preset: str | None = "paper",
        overrides: Mapping[str, Any] | None = None,
        pace: float | None = None,
        limit: int | None = None,
        shard: Shard | None = None,
    ) -> EvaluationRecord:
        """Run one of the paper's benchmarks on its data; see `run` and `SuiteOptions`."""
        chosen = dict(overrides or {})
        options = SuiteOptions(
            data, preset, chosen, pace, self.judges.transcriber, self.judges.pictures
        )
        benchmark = entry.open(options)  # before the judges: its data may be missing
        told = {} if pace is None else {"pace": pace}
        settings = EvaluationSettings(
            entry.name, preset, chosen, self.judges.versions(entry.judges), told
        )
        return self.run(benchmark, settings, limit=limit, shard=shard)


def checked_batch(batch: int) -> int:
    """The number itself; raises EvaluationError below 1."""
    if batch < 1:
        raise EvaluationError(
            f"a batch of {batch}", field="batch", value=batch, fix="give 1 or more"
        )
    return batch


@cache
def _whisper(model: str, device: str) -> WhisperJudge:
    return WhisperJudge.open(model, torch.get_num_threads(), device)


@cache
def _clip(source: str, device: str) -> ClipJudge:
    return ClipJudge.open(source, device)
