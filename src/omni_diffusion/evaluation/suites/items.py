"""What the benchmarks of the paper share: items of files, and how a model is asked about one."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from omni_diffusion.engine.ask import Inputs, ask
from omni_diffusion.engine.request import Request
from omni_diffusion.errors import EvaluationError
from omni_diffusion.evaluation.benchmark import Benchmark
from omni_diffusion.evaluation.clip import PictureJudge
from omni_diffusion.evaluation.speech import Transcriber
from omni_diffusion.evaluation.suites.catalog import SuiteEntry
from omni_diffusion.io import files
from omni_diffusion.media import Picture, Waveform
from omni_diffusion.tasks.catalog import CATALOG
from omni_diffusion.tasks.presets import PRESETS


@dataclass(frozen=True)
class SuiteOptions:
    """How a benchmark of the paper is run.

    data: the folder of its data. preset: of `tasks.presets`; None = the model's own sampling.
    overrides: sampling parameters over it. pace: steps for each masked token, instead of the
    task's. transcriber, pictures: open the judges of speech and of
    pictures, when first needed.
    """

    data: Path
    preset: str | None = "paper"
    overrides: Mapping[str, Any] = field(default_factory=dict)
    pace: float | None = None
    transcriber: Callable[[], Transcriber] | None = None
    pictures: Callable[[], PictureJudge] | None = None


@dataclass(frozen=True, eq=False)
class Item:
    """One sample: what the model is asked, and in `facts` what is expected.

    images: files, or the bytes of files.
    """

    facts: Mapping[str, Any]
    text: str | None = None
    images: tuple[Path | bytes, ...] = ()
    speech: Path | None = None


@dataclass(eq=False)
class FileBenchmark(Benchmark[Item]):
    """A benchmark of files on disk; subclasses score its answers."""

    entry: SuiteEntry
    options: SuiteOptions
    task: str
    items: Sequence[Item]

    def __post_init__(self) -> None:
        self.name = self.entry.name
        if not self.items:
            raise missing_data(self.entry, self.options.data, "samples")

    def samples(self) -> Sequence[Item]:
        """The items in a fixed order."""
        return self.items

    def facts(self, sample: Item) -> Mapping[str, Any]:
        """What is asked and expected."""
        return sample.facts

    def request(self, sample: Item) -> Request:
        """The sample's files, read and asked about by the preset's setting."""
        image = Picture.read(sample.images[0]) if sample.images else None
        speech = None if sample.speech is None else Waveform.read(sample.speech)
        known, pace = CATALOG[self.task], self.options.pace
        return ask(
            known if pace is None else replace(known, pace=pace),
            Inputs(sample.text, image, speech),
            preset=self.options.preset,
            setting=self.entry.setting if self.options.preset else None,
            **self.options.overrides,
        )

    def transcriber(self) -> Transcriber:
        """The judge of speech."""
        judge: Transcriber = _judge(self.options.transcriber, "whisper")
        return judge

    def pictures(self) -> PictureJudge:
        """The judge of pictures."""
        judge: PictureJudge = _judge(self.options.pictures, "clip")
        return judge


def question_tail(entry: SuiteEntry) -> str:
    """What the preset adds to a question of this benchmark."""
    return PRESETS["paper"].of(entry.setting).tail


def data_path(entry: SuiteEntry, data: Path, *names: str) -> Path:
    """The first of `names` that exists below `data`; raises EvaluationError with the source."""
    found = next((data / name for name in names if (data / name).exists()), None)
    if found is None:
        raise missing_data(entry, data, " or ".join(names))
    return found


def missing_data(entry: SuiteEntry, data: Path, looked_for: str) -> EvaluationError:
    """The error for data that is not there: what was looked for, and where to get it."""
    return EvaluationError(
        f"{entry.name}: no {looked_for} in {data}; it needs {entry.layout}",
        field="data",
        value=str(data),
        fix=f"get it at {entry.source}",
    )


def read_rows(entry: SuiteEntry, path: Path, keys: Sequence[str], rows: Any) -> list[Any]:
    """The rows of a file, each with at least `keys`; raises EvaluationError for other content."""
    whole = isinstance(rows, list) and all(
        isinstance(row, dict) and set(keys) <= set(row) for row in rows
    )
    if not whole:
        raise wrong_data(entry, path, f"a list of objects with {', '.join(keys)}")
    return list(rows)


def wrong_data(entry: SuiteEntry, path: Path, expected: str) -> EvaluationError:
    """The error for a file with other content than is distributed."""
    return EvaluationError(
        f"{entry.name}: {path} is not {expected}",
        field="data",
        value=str(path),
        fix=f"get it again at {entry.source}",
    )


def read_data_json(entry: SuiteEntry, path: Path) -> Any:
    """The content of a JSON file; raises EvaluationError for a broken one."""
    try:
        return json.loads(files.read_text(path))
    except (OSError, ValueError) as error:
        raise wrong_data(entry, path, f"JSON ({error})") from error


def _judge(opener: Callable[[], Any] | None, name: str) -> Any:
    if opener is None:
        raise EvaluationError(
            f"answers cannot be scored without the judge {name!r}", field=name, fix="give one"
        )
    return opener()
