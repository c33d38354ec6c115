"""What a training step draws: samples of each task, as canvases, split over the processes.

A mixture says how many samples of each task a step has; the three stages differ in that.
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
class TaskShare:
    """The part of one task in a step.

    samples: a step, over all processes; may be fractional: 0.25 means one sample every fourth step.
    weight: factor of their mean loss, on average over the steps.
    """

    task: str
    samples: float
    weight: float = 1.0

    def numbers(self, step: int) -> range:
        """The task's samples in a step, counted from the start of the run."""
        # a phase by name, so that tasks of equal share do not all come in the same steps
        phase = zlib.crc32(self.task.encode()) / 2**32
        start, stop = (math.floor(self.samples * at + phase) for at in (step, step + 1))
        return range(start, stop)


@dataclass(frozen=True, eq=False)
class DrawnCanvas:
    """A sample of a step as a canvas.

    seed: decides whatever else is random about the sample. number: its index among the group's
    samples of the step, over all processes; None for the further answers of one conversation.
    """

    canvas: Canvas
    seed: int
    number: int | None


@dataclass(frozen=True, eq=False)
class TaskGroup:
    """One process's samples of a task in a step.

    weight: factor of their mean loss in the sum. total: samples of all processes together.
    """

    name: str
    weight: float
    total: int
    drawn: Sequence[DrawnCanvas]

    @classmethod
    def of(cls, name: str, weight: float, canvases: Sequence[Canvas], seed: int = 0) -> Self:
        """A group whose canvases are all in this process."""
        rng = random.Random(seed)
        drawn = [DrawnCanvas(canvas, rng.getrandbits(62), at) for at, canvas in enumerate(canvases)]
        return cls(name, weight, len(drawn), drawn)

    @property
    def canvases(self) -> list[Canvas]:
        """The canvases of this process."""
        return [drawn.canvas for drawn in self.drawn]


@dataclass(frozen=True, eq=False)
class SampleSlot:
    """A sample that this process draws: its index among the task's in the step, and its RNG."""

    index: int
    rng: random.Random


def sample_slots(
    shares: Sequence[TaskShare], step: int, generator: torch.Generator, rank: int, ranks: int
) -> Iterator[tuple[TaskShare, float, int, list[SampleSlot]]]:
    """What a process draws in a step, by task: (share, group weight, group total, slots).

    A process takes every `ranks`-th sample of the step, counted over all tasks, so that all
    processes have the same amount of work. A sample's RNG does not depend on the number of
    processes.
    """
    base = int(torch.randint(2**62, (), generator=generator))
    before = 0
    for share in shares:
        numbers = share.numbers(step)
        if not numbers:
            continue
        slots = [
            SampleSlot(index, random.Random(f"{base} {share.task} {number}"))
            for index, number in enumerate(numbers)
            if (before + index) % ranks == rank
        ]
        before += len(numbers)
        yield share, share.weight * (len(numbers) / share.samples), len(numbers), slots
