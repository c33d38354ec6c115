"""The record of one evaluation: what was run on what, and what came of it.

    OUT/BENCHMARK/KEY/record.json           settings, model, hardware, result
                      predictions-0.jsonl   every answer of process 0
                      media/                pictures and recordings of the answers

KEY is a digest of the model's files and of the settings, so another model or another setting never
meets these predictions.
"""

from __future__ import annotations

import json
import os
import platform
import subprocess
from collections.abc import Iterable
from dataclasses import asdict, dataclass, field, replace
from functools import cache
from hashlib import blake2b, file_digest
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch

from omni_diffusion.errors import EvaluationError
from omni_diffusion.evaluation.predictions import PREDICTIONS, Prediction, read_predictions
from omni_diffusion.evaluation.scoring import BenchmarkResult
from omni_diffusion.io import files

RECORD = "record.json"
DIGEST_BYTES = 8


@dataclass(frozen=True)
class EvaluationSettings:
    """What decides the answers and their scores, beside the model and the samples.

    overrides: sampling parameters over those of the preset, or over the model's own without one.
    judges: name and version of each judge. options: what the benchmark was told.
    """

    benchmark: str
    preset: str | None = None
    overrides: dict[str, Any] = field(default_factory=dict)
    judges: dict[str, str] = field(default_factory=dict)
    options: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class ItemCosts:
    """What the answers of a benchmark cost, on average.

    forward_passes: of one answer. latency: seconds from a request's first work to its answer,
    beside `batch` others. seconds: wall time of an answer, batches shared out evenly. real_time:
    these over the seconds of speech made; None where none was made.
    """

    n: int
    forward_passes: float
    latency: float
    seconds: float
    real_time: float | None = None


@dataclass(frozen=True)
class EvaluationRecord:
    """One benchmark of one model: the contents of record.json.

    model: its name, folder and digest. environment: see `environment`. batch: requests answered at
    once. result, costs: None until all samples are answered.
    """

    settings: EvaluationSettings
    model: dict[str, str]
    environment: dict[str, str]
    batch: int
    samples: int = 0
    result: BenchmarkResult | None = None
    costs: ItemCosts | None = None

    @property
    def key(self) -> str:
        """The digest of model and settings, in hex."""
        decisive = {"settings": asdict(self.settings), "model": self.model["digest"]}
        text = json.dumps(decisive, sort_keys=True)
        return blake2b(text.encode(), digest_size=DIGEST_BYTES).hexdigest()

    def folder(self, out: Path) -> Path:
        """Where this evaluation lies below `out`."""
        return out / self.settings.benchmark / self.key

    def finished(
        self, result: BenchmarkResult, predictions: Iterable[Prediction]
    ) -> EvaluationRecord:
        """The record with its result and what the answers cost."""
        costs = item_costs(predictions)
        return replace(self, result=result, samples=costs.n, costs=costs)

    def write(self, folder: Path) -> None:
        """Write record.json into `folder`, atomically."""
        text = json.dumps(asdict(self), indent=2, ensure_ascii=False)
        files.write_text(folder / RECORD, text + "\n")


def item_costs(predictions: Iterable[Prediction]) -> ItemCosts:
    """The mean costs of answers; raises EvaluationError without any."""
    known = list(predictions)
    if not known:
        raise EvaluationError("no prediction to average", value=0, fix="add samples")
    n, seconds = len(known), sum(each.share for each in known)
    spoken = sum(each.speech_seconds for each in known)
    return ItemCosts(
        n,
        sum(each.steps for each in known) / n,
        sum(each.seconds for each in known) / n,
        seconds / n,
        seconds / spoken if spoken else None,
    )


def read_record(path: Path) -> EvaluationRecord:
    """The record of a folder, or of a file like record.json; raises EvaluationError for another."""
    path = path / RECORD if path.is_dir() else path
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
        settings, costs = EvaluationSettings(**data.pop("settings")), data.pop("costs")
        return EvaluationRecord(settings, costs=costs and ItemCosts(**costs), **data)
    except (OSError, ValueError, TypeError, KeyError) as error:
        raise EvaluationError(
            f"{path} is not the record of an evaluation ({error})",
            value=str(path),
            fix="give a folder that `omni-diffusion eval` wrote",
        ) from error


def find_records(roots: Iterable[Path]) -> dict[Path, EvaluationRecord]:
    """All finished evaluations at or below `roots`, by folder, in the order of their paths.

    Those of one benchmark stand in the order of their steps, the default first.
    """
    found = {path.parent for root in roots for path in Path(root).rglob(RECORD)}
    records = [(folder, read_record(folder)) for folder in sorted(found)]

    def place(item: tuple[Path, EvaluationRecord]) -> tuple[Path, str, int]:
        folder, record = item
        settings = record.settings
        return folder.parent, settings.benchmark, int(settings.overrides.get("steps") or 0)

    return {folder: each for folder, each in sorted(records, key=place) if each.result is not None}


def kept_predictions(folder: Path) -> list[Prediction]:
    """All predictions of an evaluation, in the order of the samples that they answer."""
    if not any(folder.glob(PREDICTIONS)):
        return []
    return sorted(read_predictions(folder), key=lambda each: _natural(str(each.facts["id"])))


def _natural(name: str) -> tuple[int, str]:
    return (int(name), "") if name.isdecimal() else (-1, name)


@cache
def model_digest(folder: Path) -> str:
    """A digest of all files of a model's folder, pages for readers aside; reads them once."""
    digest = blake2b(digest_size=DIGEST_BYTES)
    for path in sorted(folder.rglob("*")):
        name = path.relative_to(folder).as_posix()
        if not path.is_file() or path.suffix == ".md" or name.startswith("bank/"):
            continue
        with path.open("rb") as file:
            content = file_digest(file, lambda: blake2b(digest_size=DIGEST_BYTES))
        digest.update(f"{name} {content.hexdigest()}\n".encode())
    return digest.hexdigest()


def environment(device: str) -> dict[str, str]:
    """Commit, versions and hardware, for the record; nothing that names a person or a machine."""
    found = {
        "omni-diffusion": _version("omni-diffusion"),
        "commit": _commit(),
        "python": platform.python_version(),
        "torch": torch.__version__,
        "device": device,
        "cpu": f"{_cpu_name()}, {os.cpu_count()} cores, {torch.get_num_threads()} threads",
    }
    if device.startswith("cuda"):
        found["gpu"] = torch.cuda.get_device_name(device)
    return found


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return "not installed"


def _commit() -> str:
    """The commit of the source tree, "+" if it is changed; "unknown" outside of a checkout."""

    def git(*words: str) -> str:
        where = ["git", "-C", str(Path(__file__).parent), *words]
        return subprocess.run(where, capture_output=True, text=True, check=True).stdout.strip()

    try:
        changed = git("status", "--porcelain", "--untracked-files=no", "--", ":/src")
        return git("rev-parse", "--short=12", "HEAD") + ("+" if changed else "")
    except (OSError, subprocess.CalledProcessError):
        return "unknown"


def _cpu_name() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
        return next(line.partition(":")[2].strip() for line in lines if "model name" in line)
    except (OSError, StopIteration):
        return platform.processor() or platform.machine()
