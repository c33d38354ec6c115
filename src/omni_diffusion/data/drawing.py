"""Training groups from pretokenized shards, in the ratios of a stage.

The rows of a task are drawn in the order of a `Loader` that is sought by the step, so a run that
goes on draws what the unbroken one would, on any number of ranks, and there is no state to save.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator, Mapping, Sequence

import torch

from omni_diffusion.canvas import Canvas
from omni_diffusion.codecs.text import TextCodec
from omni_diffusion.data.loader import Loader, State
from omni_diffusion.data.mixture import Group, Share
from omni_diffusion.data.packing import MAX_LENGTH
from omni_diffusion.data.shards import Shards
from omni_diffusion.errors import DataError
from omni_diffusion.tasks.task import Answer
from omni_diffusion.vocab import Vocabulary


class ShardMixture:
    """Draws the groups of a step from shards; a row gives a canvas for each of its answers.

    shares: rows of each task in a step, over all ranks together. answers: what a model's answers
    are made of where it differs from the tasks' own. tail: most pads behind an answer (drawn evenly
    from 1), none where they have no room. null: share of the pictures that are asked for with the
    null prompt, which guidance needs. max_length: places of the longest canvas; a longer one is
    told to `report` and left out, without `report` it raises DataError.
    """

    def __init__(
        self,
        shares: Sequence[Share],
        shards: Shards,
        vocabulary: Vocabulary,
        text: TextCodec,
        *,
        answers: Mapping[str, Answer] | None = None,
        seed: int = 0,
        tail: int = 16,
        null: float = 0.1,
        max_length: int = MAX_LENGTH,
        rank: int = 0,
        ranks: int = 1,
        report: Callable[[str], None] | None = None,
    ) -> None:
        self.shares, self.shards, self.vocabulary, self.text = shares, shards, vocabulary, text
        self.answers, self.tail, self.null = dict(answers or {}), tail, null
        self.max_length, self.report = max_length, report
        self.rows = shards.by_task()
        for share in shares:
            if share.task not in self.rows:
                raise DataError(
                    f"{shards.folder} has no samples of task {share.task!r}; it has those of"
                    f" {', '.join(self.rows) or 'none'}"
                )
            if share.samples % ranks:
                raise DataError(
                    f"{share.samples} samples of task {share.task!r} a step do not part evenly"
                    f" among {ranks} ranks; give a multiple"
                )
        self._loaders = [
            Loader(len(self.rows[share.task]), State(seed), rank=rank, ranks=ranks)
            for share in shares
        ]

    def draw(self, step: int, generator: torch.Generator) -> list[Group]:
        """This rank's groups of a step; raises DataError when no sample of a task's fits a row."""
        groups = []
        for share, loader in zip(self.shares, self._loaders, strict=True):
            base = int(torch.randint(2**62, (), generator=generator))
            loader.seek(step * share.samples)
            canvases: list[Canvas] = []
            for at, number in enumerate(loader.draw(share.samples)):
                # by the place in the step, which does not depend on how many ranks there are
                rng = random.Random(base + loader.rank + at * loader.ranks)
                canvases += self._canvases(int(self.rows[share.task][number]), rng)
            if not canvases:
                raise DataError(
                    f"none of the {share.task} samples of step {step} has at most"
                    f" {self.max_length} places; give longer rows or more samples a step"
                )
            groups.append(Group(share.task, share.weight, canvases))
        return groups

    def _canvases(self, row: int, rng: random.Random) -> Iterator[Canvas]:
        for exercise in self.shards[row].exercises(self.shards.manifest, self.answers):
            picture = exercise.task.answer == ("image",)
            tail, null = rng.randint(1, self.tail), picture and rng.random() < self.null
            canvas = exercise.canvas(self.vocabulary, self.text, tail=tail, null=null)
            if canvas.length > self.max_length:  # its tail may be what is too much
                canvas = exercise.canvas(self.vocabulary, self.text, null=null)
            if canvas.length <= self.max_length:
                yield canvas
                continue
            told = (
                f"{exercise.place}: the sample takes {canvas.length} places, a row has"
                f" {self.max_length}; shorten or part it"
            )
            if self.report is None:
                raise DataError(told)
            self.report(told)


def shares_of(shards: Shards, samples: int, ranks: int = 1) -> tuple[Share, ...]:
    """Shares of every task by how many rows it has, about `samples` a step in all.

    A task gets one sample for each rank at least, and its mean loss counts by its samples.
    """
    counts = shards.counts()
    rounded = {
        task: max(1, round(samples * count / len(shards) / ranks)) * ranks
        for task, count in counts.items()
    }
    total = sum(rounded.values())
    return tuple(Share(task, number, number / total) for task, number in rounded.items())
