"""Where a run writes what can be seen of it: figures of steps, and answers to fixed requests.

Knows no model and no loop. A log that a killed run left is gone on with: what lies beyond the step
that training goes on from is forgotten first.
"""

from __future__ import annotations

import json
import secrets
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from html import escape
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Protocol

from omni_diffusion.conversation import Image, Part, Speech, Text
from omni_diffusion.errors import TrainingError
from omni_diffusion.io import config, files, optional

FIGURES_FILE = "metrics.jsonl"
TENSORBOARD_FOLDER = "tensorboard"
WANDB_ID_FILE = "wandb-id.txt"
WANDB_PROJECT = "omni-diffusion"


@dataclass(frozen=True)
class Shown:
    """A request, and what the model answered.

    name: tells it from the others of a step, the same at every step. notes: what a reader of the
    answer should know. fault: why there is no answer.
    """

    name: str
    asked: tuple[Part, ...]
    answer: tuple[Part, ...]
    notes: tuple[str, ...] = ()
    fault: str | None = None


class Log(Protocol):
    """Takes what a run shows of itself; steps count from 1 and ascend."""

    def forget(self, step: int) -> None:
        """Drop all that is beyond `step`, and a row that was cut off in writing.

        Called once, before anything is written.
        """
        ...

    def row(self, step: int, figures: Mapping[str, float]) -> None:
        """Figures of the steps since the last row, up to and with `step`."""
        ...

    def samples(self, step: int, shown: Sequence[Shown]) -> None:
        """What the weights after `step` answer."""
        ...

    def close(self) -> None:
        """Finish writing; nothing follows."""
        ...


class Lines:
    """A file of JSON objects, one a line, each with its step; every line is written at once."""

    def __init__(self, path: Path) -> None:
        files.make_folder(path.parent)
        self.path = path

    def append(self, step: int, values: Mapping[str, Any]) -> None:
        """Add a line."""
        with self.path.open("a", encoding="utf-8") as file:
            file.write(json.dumps({"step": step} | dict(values)) + "\n")

    def forget(self, step: int) -> None:
        """Drop the lines beyond `step`, and one that was cut off in writing."""
        if not self.path.exists():
            return
        lines = self.path.read_text(encoding="utf-8").splitlines(keepends=True)
        kept = [line for line in lines if line.endswith("\n") and json.loads(line)["step"] <= step]
        if kept != lines:
            files.write_text(self.path, "".join(kept))

    def __iter__(self) -> Iterator[dict[str, Any]]:
        if self.path.exists():
            with self.path.open(encoding="utf-8") as file:
                yield from map(json.loads, file)


class JsonLog:
    """`metrics.jsonl` in a folder: a line for each row, figures alone."""

    def __init__(self, folder: Path) -> None:
        self._lines = Lines(folder / FIGURES_FILE)

    def forget(self, step: int) -> None:
        """See `Lines.forget`."""
        self._lines.forget(step)

    def row(self, step: int, figures: Mapping[str, float]) -> None:
        """Append a line; figures have six decimals."""
        self._lines.append(step, {name: round(value, 6) for name, value in figures.items()})

    def samples(self, step: int, shown: Sequence[Shown]) -> None:
        """Nothing: a line holds figures alone."""

    def close(self) -> None:
        """Nothing: every line is written at once."""


class TensorBoardLog:
    """Event files in FOLDER/tensorboard: figures, texts, pictures and sound.

    Raises ModelError where the extra `tensorboard` is not installed.
    """

    def __init__(self, folder: Path) -> None:
        optional.need("tensorboard", "tensorboard")
        files.make_folder(folder)
        self._folder = folder / TENSORBOARD_FOLDER
        self._opened: Any = None
        self._asked: set[str] = set()

    def forget(self, step: int) -> None:
        """TensorBoard shows nothing of earlier writers beyond `step` any more."""
        self._open(step + 1)

    def row(self, step: int, figures: Mapping[str, float]) -> None:
        """A point on the curve of each figure."""
        for name, value in figures.items():
            self._writer.add_scalar(name, value, step)
        self._writer.flush()

    def samples(self, step: int, shown: Sequence[Shown]) -> None:
        """Every part under NAME/answer; what was asked only once, under NAME/asked."""
        for tag, part in _tagged(shown, self._asked):
            self._part(tag, part, step)
        self._writer.flush()

    def close(self) -> None:
        """Write what is left."""
        if self._opened is not None:
            self._opened.close()

    @property
    def _writer(self) -> Any:
        if self._opened is None:
            self._open(None)
        return self._opened

    def _open(self, purge: int | None) -> None:
        from torch.utils.tensorboard import SummaryWriter

        self._opened = SummaryWriter(self._folder, purge_step=purge)

    def _part(self, tag: str, part: Part, step: int) -> None:
        if isinstance(part, Text):
            # as it stands: TensorBoard reads Markdown, in which four spaces begin a quotation
            self._writer.add_text(tag, f"<pre>{escape(part.text)}</pre>", step)
        elif isinstance(part, Image):
            self._writer.add_image(tag, part.picture.pixels, step, dataformats="HWC")
        else:
            sound = part.waveform.mono()
            self._writer.add_audio(tag, sound.samples, step, sample_rate=sound.rate)


class WandbLog:
    """A run of Weights & Biases; WANDB_MODE=offline keeps it in the folder.

    Its id is kept in the folder, so that a resumed run is the same one. A row that was sent cannot
    be taken back: one that is written anew stands twice at its step. Raises ModelError where the
    extra `wandb` is not installed.
    """

    def __init__(self, folder: Path) -> None:
        self._wandb = optional.need("wandb", "wandb")
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
        self._asked: set[str] = set()

    def forget(self, step: int) -> None:
        """Nothing: what was sent stays."""

    def row(self, step: int, figures: Mapping[str, float]) -> None:
        """A point on the curve of each figure."""
        self._run.log({"step": step} | dict(figures))

    def samples(self, step: int, shown: Sequence[Shown]) -> None:
        """Every part under NAME/answer; what was asked only once, under NAME/asked."""
        sent = {tag: self._part(part) for tag, part in _tagged(shown, self._asked)}
        self._run.log({"step": step} | sent)

    def close(self) -> None:
        """Send what is left."""
        self._run.finish()

    def _part(self, part: Part) -> Any:
        if isinstance(part, Text):
            return self._wandb.Html(f"<pre>{escape(part.text)}</pre>")
        if isinstance(part, Image):
            return self._wandb.Image(part.picture.to_pil())
        assert isinstance(part, Speech)
        sound = part.waveform.mono()
        return self._wandb.Audio(sound.samples[0].cpu().numpy(), sample_rate=sound.rate)


def _tagged(shown: Sequence[Shown], known: set[str]) -> Iterator[tuple[str, Part]]:
    """All parts with a tag each; what was asked only where its name is not among the known."""
    for one in shown:
        told = [Text(said) for said in (*one.notes, one.fault) if said is not None]
        kinds: dict[str, Sequence[Part]] = {"answer": (*one.answer, *told)}
        if one.name not in known:
            known.add(one.name)
            kinds = {"asked": one.asked} | kinds
        for kind, parts in kinds.items():
            for number, part in enumerate(parts):
                yield f"{one.name}/{kind}/{number}", part


def _page(folder: Path) -> Log:
    from omni_diffusion.training.page import PageLog

    return PageLog(folder)


LOGS: Mapping[str, Callable[[Path], Log]] = {
    "page": _page,
    "tensorboard": TensorBoardLog,
    "wandb": WandbLog,
}


def logs_of(names: Sequence[str], folder: Path) -> list[Log]:
    """The logs of those names, each once, all writing to one folder; besides `JsonLog`.

    Raises TrainingError for an unknown name, ModelError where its library is not installed.
    """
    for name in names:
        if name not in LOGS:
            raise TrainingError(f"no log is called {name!r}; {config.nearest(name, LOGS)}")
    return [LOGS[name](folder) for name in dict.fromkeys(names)]


def usual() -> tuple[str, ...]:
    """What is written where nobody chose: the page, and TensorBoard where it is installed."""
    found = find_spec("tensorboard")
    there = found is not None and found.origin is not None  # a mere folder of that name has none
    return ("page", "tensorboard") if there else ("page",)
