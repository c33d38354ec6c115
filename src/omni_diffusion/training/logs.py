"""Logs of a run: JSON lines, TensorBoard, Weights & Biases and an HTML page.

A resumed run continues its logs: records beyond the step that it resumes from are deleted first.
"""

from __future__ import annotations

import secrets
from collections.abc import Callable, Iterator, Mapping, Sequence
from html import escape
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from omni_diffusion.conversation import Image, Part, Speech, Text
from omni_diffusion.errors import TrainingError
from omni_diffusion.io import config, files, optional
from omni_diffusion.training.page import PageLog
from omni_diffusion.training.records import JsonLines, Log, SampleRecord

METRICS_FILE = "metrics.jsonl"
TENSORBOARD_FOLDER = "tensorboard"
WANDB_ID_FILE = "wandb-id.txt"
WANDB_PROJECT = "omni-diffusion"


class JsonLog:
    """`metrics.jsonl` in a folder: a line for each record, without samples."""

    def __init__(self, folder: Path) -> None:
        self._lines = JsonLines(folder / METRICS_FILE)

    def truncate(self, step: int) -> None:
        """See `JsonLines.truncate`."""
        self._lines.truncate(step)

    def record(self, step: int, metrics: Mapping[str, float]) -> None:
        """Append a line; values have six decimals."""
        self._lines.append(step, {name: round(value, 6) for name, value in metrics.items()})

    def samples(self, step: int, samples: Sequence[SampleRecord]) -> None:
        """Does nothing: the file holds only metrics."""

    def close(self) -> None:
        """Does nothing: every line is flushed when it is written."""


class TensorBoardLog:
    """Event files in FOLDER/tensorboard: figures, texts, pictures and sound.

    Raises MissingDependencyError where the extra `tensorboard` is not installed.
    """

    def __init__(self, folder: Path) -> None:
        optional.require("tensorboard", "tensorboard")
        files.make_folder(folder)
        self._folder = folder / TENSORBOARD_FOLDER
        self._open_writer: Any = None
        self._prompts_logged: set[str] = set()

    def truncate(self, step: int) -> None:
        """Make TensorBoard hide the records of earlier writers beyond `step`."""
        self._open(step + 1)

    def record(self, step: int, metrics: Mapping[str, float]) -> None:
        """Add a point to the curve of each metric."""
        for name, value in metrics.items():
            self._writer.add_scalar(name, value, step)
        self._writer.flush()

    def samples(self, step: int, samples: Sequence[SampleRecord]) -> None:
        """Log answers as NAME/answer/N; prompts as NAME/prompt/N, at their first step only."""
        for tag, part in _tagged(samples, self._prompts_logged):
            self._part(tag, part, step)
        self._writer.flush()

    def close(self) -> None:
        """Flush and close the event file."""
        if self._open_writer is not None:
            self._open_writer.close()

    @property
    def _writer(self) -> Any:
        if self._open_writer is None:
            self._open(None)
        return self._open_writer

    def _open(self, purge: int | None) -> None:
        from torch.utils.tensorboard import SummaryWriter

        self._open_writer = SummaryWriter(self._folder, purge_step=purge)

    def _part(self, tag: str, part: Part, step: int) -> None:
        if isinstance(part, Text):
            # preformatted, because TensorBoard reads the text as Markdown
            self._writer.add_text(tag, f"<pre>{escape(part.text)}</pre>", step)
        elif isinstance(part, Image):
            self._writer.add_image(tag, part.picture.pixels, step, dataformats="HWC")
        else:
            audio = part.waveform.mono()
            self._writer.add_audio(tag, audio.samples, step, sample_rate=audio.rate)


class WandbLog:
    """A run of Weights & Biases; WANDB_MODE=offline keeps it in the folder.

    The run id is stored in the folder, so that a resumed run continues the same one. Sent records
    cannot be deleted: a step that is trained again after a crash appears twice. Raises ModelError
    if the extra `wandb` is not installed.
    """

    def __init__(self, folder: Path) -> None:
        self._wandb = optional.require("wandb", "wandb")
        files.make_folder(folder)
        path = folder / WANDB_ID_FILE
        if not path.exists():
            files.write_text(path, secrets.token_hex(4) + "\n")
        self._run = self._wandb.init(
            project=WANDB_PROJECT,
            id=path.read_text(encoding="utf-8").strip(),
            name=folder.resolve().name,
            dir=folder,
            resume="allow",
        )
        self._run.define_metric("*", step_metric="step")
        self._prompts_logged: set[str] = set()

    def truncate(self, step: int) -> None:
        """Does nothing: sent records cannot be deleted."""

    def record(self, step: int, metrics: Mapping[str, float]) -> None:
        """Add a point to the curve of each metric."""
        self._run.log({"step": step} | dict(metrics))

    def samples(self, step: int, samples: Sequence[SampleRecord]) -> None:
        """Log answers as NAME/answer/N; prompts as NAME/prompt/N, at their first step only."""
        sent = {tag: self._part(part) for tag, part in _tagged(samples, self._prompts_logged)}
        self._run.log({"step": step} | sent)

    def close(self) -> None:
        """Send the remaining records and end the run."""
        self._run.finish()

    def _part(self, part: Part) -> Any:
        if isinstance(part, Text):
            return self._wandb.Html(f"<pre>{escape(part.text)}</pre>")
        if isinstance(part, Image):
            return self._wandb.Image(part.picture.to_pil())
        assert isinstance(part, Speech)
        audio = part.waveform.mono()
        return self._wandb.Audio(audio.samples[0].cpu().numpy(), sample_rate=audio.rate)


def _tagged(samples: Sequence[SampleRecord], known: set[str]) -> Iterator[tuple[str, Part]]:
    """All parts, each with a tag; prompts only of names that are not yet known."""
    for sample in samples:
        remarks = [Text(remark) for remark in (*sample.notes, sample.error) if remark is not None]
        kinds: dict[str, Sequence[Part]] = {"answer": (*sample.answer, *remarks)}
        if sample.name not in known:
            known.add(sample.name)
            kinds = {"prompt": sample.prompt} | kinds
        for kind, parts in kinds.items():
            for number, part in enumerate(parts):
                yield f"{sample.name}/{kind}/{number}", part


LOGS: Mapping[str, Callable[[Path], Log]] = {
    "page": PageLog,
    "tensorboard": TensorBoardLog,
    "wandb": WandbLog,
}


def open_logs(names: Sequence[str], folder: Path) -> list[Log]:
    """Open the named logs, all in one folder and in addition to `JsonLog`.

    Raises TrainingError for an unknown name, ModelError if its library is not installed.
    """
    for name in names:
        if name not in LOGS:
            raise TrainingError(
                f"there is no log {name!r}",
                field="report_to",
                value=name,
                fix=config.nearest(name, LOGS),
            )
    return [LOGS[name](folder) for name in dict.fromkeys(names)]


def default_logs() -> tuple[str, ...]:
    """Names of the default logs: the page, and TensorBoard if it is installed."""
    spec = find_spec("tensorboard")
    # a folder of that name without code is a namespace package, which has no origin
    installed = spec is not None and spec.origin is not None
    return ("page", "tensorboard") if installed else ("page",)
