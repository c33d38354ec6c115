"""What a run logs: metrics of steps, and answers to a fixed list of requests."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from omni_diffusion.conversation import Part
from omni_diffusion.io import files


@dataclass(frozen=True)
class SampleRecord:
    """A request and the model's answer.

    name: identifies the request; the same at every step. notes: remarks about the answer. error:
    why there is no answer.
    """

    name: str
    prompt: tuple[Part, ...]
    answer: tuple[Part, ...]
    notes: tuple[str, ...] = ()
    error: str | None = None


class Log(Protocol):
    """Receives the metrics and samples of a run; steps count from 1 and ascend."""

    def truncate(self, step: int) -> None:
        """Delete all records beyond `step`, and a record that is cut off.

        Called once, before anything is written.
        """
        ...

    def record(self, step: int, metrics: Mapping[str, float]) -> None:
        """Log the mean metrics of the steps since the last record, up to and including `step`."""
        ...

    def samples(self, step: int, samples: Sequence[SampleRecord]) -> None:
        """Log the answers of the weights after `step`."""
        ...

    def close(self) -> None:
        """Finish writing; called last."""
        ...


class JsonLines:
    """A file with one JSON object a line, each with its step; every line is flushed at once."""

    def __init__(self, path: Path) -> None:
        files.make_folder(path.parent)
        self.path = path

    def append(self, step: int, values: Mapping[str, Any]) -> None:
        """Add a line."""
        with self.path.open("a", encoding="utf-8") as file:
            file.write(json.dumps({"step": step} | dict(values)) + "\n")

    def truncate(self, step: int) -> None:
        """Delete the lines beyond `step`, and a line that is cut off."""
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
