"""Where a run writes what can be seen of it: figures of steps, and answers to fixed requests.

Knows no model and no loop. A log that a killed run left is gone on with: what lies beyond the step
that training goes on from is forgotten first.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from omni_diffusion import files
from omni_diffusion.conversation import Part

FIGURES_FILE = "metrics.jsonl"


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

        Called once, before the first row.
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


class JsonLog:
    """`metrics.jsonl` in a folder: a line for each row, figures alone."""

    def __init__(self, folder: Path) -> None:
        files.make_folder(folder)
        self.path = folder / FIGURES_FILE

    def forget(self, step: int) -> None:
        """Drop the rows beyond `step`, and one that was cut off in writing."""
        if not self.path.exists():
            return
        rows = self.path.read_text(encoding="utf-8").splitlines(keepends=True)
        kept = [row for row in rows if row.endswith("\n") and json.loads(row)["step"] <= step]
        if kept != rows:
            files.write_text(self.path, "".join(kept))

    def row(self, step: int, figures: Mapping[str, float]) -> None:
        """Append a line; figures have six decimals."""
        line = {"step": step} | {name: round(value, 6) for name, value in figures.items()}
        with self.path.open("a", encoding="utf-8") as file:
            file.write(json.dumps(line) + "\n")

    def samples(self, step: int, shown: Sequence[Shown]) -> None:
        """Nothing: a line holds figures alone."""

    def close(self) -> None:
        """Nothing: every line is written at once."""
