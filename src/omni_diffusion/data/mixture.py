"""What a training step draws: a share of each task, and the canvases that a process draws of it.

A mixture says how many samples of which task a step holds; the three stages differ in that.
"""

from __future__ import annotations

import math
import random
import zlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Self

import torch

from omni_diffusion.canvas import Canvas


@dataclass(frozen=True)
class Share:
    """How one task takes part in a step.

    samples: of a step, all processes together; a broken number is kept to over the steps, so that
    0.25 is one sample in every fourth. weight: what their mean loss counts, on average over steps.
    """

    task: str
    samples: float
    weight: float = 1.0

    def numbers(self, step: int) -> range:
        """Which of the task's samples a step has, counted from the first of the run."""
        # tasks of equal share do not all come in the same steps
        phase = zlib.crc32(self.task.encode()) / 2**32
        start, stop = (math.floor(self.samples * at + phase) for at in (step, step + 1))
        return range(start, stop)


@dataclass(frozen=True, eq=False)
class Drawn:
    """A sample of a step as a canvas, and what else is drawn for it follows from `seed`.

    number: its place among the group's samples of the step, over all processes; the further answers
    of one conversation have None.
    """

    canvas: Canvas
    seed: int
    number: int | None


@dataclass(frozen=True, eq=False)
class Group:
    """A process's part of a task's samples in a step.

    share: what their mean loss counts in the sum. of: how many samples all processes have.
    """

    name: str
    share: float
    of: int
    drawn: Sequence[Drawn]

    @classmethod
    def alone(cls, name: str, share: float, canvases: Sequence[Canvas], seed: int = 0) -> Self:
        """All canvases of a group, in a process that is alone."""
        rng = random.Random(seed)
        drawn = [Drawn(canvas, rng.getrandbits(62), at) for at, canvas in enumerate(canvases)]
        return cls(name, share, len(drawn), drawn)

    @property
    def canvases(self) -> list[Canvas]:
        """Of this process."""
        return [drawn.canvas for drawn in self.drawn]


@dataclass(frozen=True, eq=False)
class Slot:
    """A sample that a process is to draw: which of its task in the step, and its randomness."""

    at: int
    rng: random.Random


def slots(
    shares: Sequence[Share], step: int, generator: torch.Generator, rank: int, ranks: int
) -> Iterator[tuple[Share, float, int, list[Slot]]]:
    """By task what a process draws in a step, with the group's share and size over all processes.

    Every `ranks`-th sample of the step is its own, counted over all tasks, so that processes have
    equally much to do. What is drawn for a sample does not depend on how many processes there are.
    """
    base = int(torch.randint(2**62, (), generator=generator))
    before = 0
    for share in shares:
        numbers = share.numbers(step)
        if not numbers:
            continue
        own = [
            Slot(at, random.Random(f"{base} {share.task} {number}"))
            for at, number in enumerate(numbers)
            if (before + at) % ranks == rank
        ]
        before += len(numbers)
        yield share, share.weight * (len(numbers) / share.samples), len(numbers), own
