"""Training groups from pretokenized shards, in the ratios of a stage.

The rows of a task are drawn in the order of a `Loader` that is sought by the step, so a run that
goes on draws what the unbroken one would, on any number of processes, and there is no state to
save.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence

import torch
from torch import Tensor

from omni_diffusion.codecs.text import TextCodec
from omni_diffusion.data.epoch_sampler import Loader, State
from omni_diffusion.data.mixture import Drawn, Group, Share, Slot, slots
from omni_diffusion.data.packing import MAX_LENGTH
from omni_diffusion.data.shard_store import Shards
from omni_diffusion.errors import DataError
from omni_diffusion.tasks.task import Answer
from omni_diffusion.vocab import Vocabulary

SPARE = 10  # bad rows that are passed over however few were drawn


class ShardMixture:
    """Draws the groups of a step from shards; a row gives a canvas for each of its answers.

    shares: rows of each task in a step, over all processes together. shards: one folder or several,
    whose rows are drawn as if they were one. answers: what a model's answers are made of where it
    differs from the tasks' own. tail: most pads behind an answer (drawn evenly from 1), none where
    they have no room. null: share of the pictures that are asked for with the null prompt, which
    guidance needs. max_length: places of the longest canvas.
    A row that cannot be read or is too long is told to `report` and left out, until more than
    `most_bad` of those drawn (and ten) were; without `report` the first raises DataError.
    """

    def __init__(
        self,
        shares: Sequence[Share],
        shards: Shards | Sequence[Shards],
        vocabulary: Vocabulary,
        text: TextCodec,
        *,
        answers: Mapping[str, Answer] | None = None,
        seed: int = 0,
        tail: int = 16,
        null: float = 0.1,
        max_length: int = MAX_LENGTH,
        most_bad: float = 0.01,
        rank: int = 0,
        ranks: int = 1,
        report: Callable[[str], None] | None = None,
    ) -> None:
        self.shares, self.vocabulary, self.text = shares, vocabulary, text
        self.folders = [shards] if isinstance(shards, Shards) else list(shards)
        self.answers, self.tail, self.null = dict(answers or {}), tail, null
        self.max_length, self.most_bad, self.report = max_length, most_bad, report
        self.rank, self.ranks = rank, ranks
        self.drawn = self.bad = 0
        self.rows = _by_task(self.folders)
        for share in shares:
            if share.task not in self.rows:
                raise DataError(
                    f"{', '.join(str(each.folder) for each in self.folders)}: no samples of task"
                    f" {share.task!r}; there are those of {', '.join(self.rows) or 'none'}"
                )
        self._loaders = {
            share.task: Loader(len(self.rows[share.task]), State(seed)) for share in shares
        }

    def draw(self, step: int, generator: torch.Generator) -> list[Group]:
        """This process's groups of a step; raises DataError when too many rows are bad."""
        groups = []
        for share, weight, of, own in slots(self.shares, step, generator, self.rank, self.ranks):
            loader, rows = self._loaders[share.task], self.rows[share.task]
            loader.seek(share.numbers(step).start)
            order = loader.draw(of)
            drawn = [
                each for slot in own for each in self._drawn(rows[order[slot.at]].tolist(), slot)
            ]
            groups.append(Group(share.task, weight, of, drawn))
        return groups

    def _drawn(self, row: list[int], slot: Slot) -> Iterator[Drawn]:
        """The canvases of a row, which is (folder, number)."""
        self.drawn += 1
        shards = self.folders[row[0]]
        try:
            exercises = shards[row[1]].exercises(shards.manifest, self.answers)
            for at, exercise in enumerate(exercises):
                picture = exercise.task.answer == ("image",)
                tail = slot.rng.randint(1, self.tail)
                null = picture and slot.rng.random() < self.null
                canvas = exercise.canvas(self.vocabulary, self.text, tail=tail, null=null)
                if canvas.length > self.max_length:  # its tail may be what is too much
                    canvas = exercise.canvas(self.vocabulary, self.text, null=null)
                if canvas.length > self.max_length:
                    raise DataError(
                        f"{exercise.place}: the sample takes {canvas.length} places, a row has"
                        f" {self.max_length}; shorten or part it"
                    )
                yield Drawn(canvas, slot.rng.getrandbits(62), None if at else slot.at)
        except DataError as error:
            self._leave_out(str(error))

    def _leave_out(self, told: str) -> None:
        if self.report is None:
            raise DataError(told)
        self.bad += 1
        self.report(told)
        if self.bad > max(SPARE, self.most_bad * self.drawn):
            raise DataError(
                f"{self.bad} of the {self.drawn} rows drawn so far are bad, at most"
                f" {self.most_bad:.3g} of them may be; mend the data or raise --most-bad;"
                f" the last is {told}"
            )


def _by_task(folders: Sequence[Shards]) -> dict[str, Tensor]:
    """By task all rows of all folders, int64 [n, 2]: folder and number in it."""
    found: dict[str, list[Tensor]] = {}
    for at, shards in enumerate(folders):
        for task, numbers in shards.by_task().items():
            found.setdefault(task, []).append(
                torch.stack([torch.full_like(numbers, at), numbers], dim=1)
            )
    return {task: torch.cat(parts) for task, parts in sorted(found.items())}


def shares_of(
    shards: Shards | Sequence[Shards],
    samples: int,
    ratios: Mapping[str, float] | None = None,
) -> tuple[Share, ...]:
    """Shares of tasks, `samples` a step in all on average, whose mean losses count by them.

    ratios: by task how often it comes, relative to the others; by default by its number of rows.
    Tasks without samples are left out. Raises DataError when none is left.
    """
    counts: dict[str, float] = {}
    for each in [shards] if isinstance(shards, Shards) else shards:
        for task, rows in each.counts().items():
            counts[task] = counts.get(task, 0) + rows
    wanted = (
        counts if ratios is None else {t: r for t, r in ratios.items() if t in counts and r > 0}
    )
    total = sum(wanted.values())
    if not total:
        raise DataError(
            f"there are samples of {', '.join(counts) or 'no task'}, and the mix is of"
            f" {', '.join(ratios or ()) or 'none'}; give data of its tasks or another mix"
        )
    return tuple(
        Share(task, samples * ratio / total, ratio / total)
        for task, ratio in sorted(wanted.items())
    )
