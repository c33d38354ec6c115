"""Training groups drawn from pretokenized shards, in the ratios of a stage.

The order of a task's samples comes from an `EpochSampler` that is moved to the step. So a resumed
run draws the same samples, on any number of processes, without a saved state.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence

import torch
from torch import Tensor

from omni_diffusion.codecs.text import TextCodec
from omni_diffusion.data.defaults import MAX_BAD_FRACTION
from omni_diffusion.data.epoch_sampler import EpochSampler, SamplerState
from omni_diffusion.data.mixture import (
    DrawnCanvas,
    SampleSlot,
    TaskGroup,
    TaskShare,
    sample_slots,
)
from omni_diffusion.data.shard_store import Shards
from omni_diffusion.errors import DataError
from omni_diffusion.models.sizes import MAX_TRAINING_LENGTH
from omni_diffusion.tasks.task import AnswerKinds
from omni_diffusion.vocab import Vocabulary

ALWAYS_SKIPPED = 10  # bad samples that are skipped however few were drawn


class ShardMixture:
    """Draws the groups of a step from shards; a sample gives a canvas for each of its answers.

    shares: samples of each task a step, over all processes. shards: one folder or several, drawn
    from as if they were one. answers: by task name, what a model's answer is made of where it
    differs from the task's own. tail: most pad tokens behind an answer, drawn uniformly from 1;
    none if they do not fit. null: fraction of the pictures whose prompt is the null prompt, which
    guidance needs. max_length: most tokens of a canvas. max_bad_fraction: of the samples drawn so
    far, the fraction that may be broken or too long; ten always may. on_bad_sample: called with
    the problem of each sample that is skipped; without it the first one raises DataError.
    """

    def __init__(
        self,
        shares: Sequence[TaskShare],
        shards: Shards | Sequence[Shards],
        vocabulary: Vocabulary,
        text: TextCodec,
        *,
        answers: Mapping[str, AnswerKinds] | None = None,
        seed: int = 0,
        tail: int = 16,
        null: float = 0.1,
        max_length: int = MAX_TRAINING_LENGTH,
        max_bad_fraction: float = MAX_BAD_FRACTION,
        rank: int = 0,
        ranks: int = 1,
        on_bad_sample: Callable[[str], None] | None = None,
    ) -> None:
        self.shares, self.vocabulary, self.text = shares, vocabulary, text
        self.folders = [shards] if isinstance(shards, Shards) else list(shards)
        self.answers, self.tail, self.null = dict(answers or {}), tail, null
        self.max_length, self.max_bad_fraction = max_length, max_bad_fraction
        self.on_bad_sample, self.rank, self.ranks = on_bad_sample, rank, ranks
        self.drawn = self.bad = 0
        self.samples = _by_task(self.folders)
        for share in shares:
            if share.task not in self.samples:
                folders = ", ".join(str(shards.folder) for shards in self.folders)
                raise DataError(
                    f"{folders}: no samples of task {share.task!r}",
                    value=share.task,
                    fix=f"give one of {', '.join(self.samples) or 'none'}",
                )
        self._samplers = {
            share.task: EpochSampler(len(self.samples[share.task]), SamplerState(seed))
            for share in shares
        }

    def draw(self, step: int, generator: torch.Generator) -> list[TaskGroup]:
        """This process's groups of a step; raises DataError if too many samples are bad."""
        groups = []
        for share, weight, total, slots in sample_slots(
            self.shares, step, generator, self.rank, self.ranks
        ):
            sampler, samples = self._samplers[share.task], self.samples[share.task]
            sampler.seek(share.numbers(step).start)
            order = sampler.draw(total)
            drawn = [
                canvas
                for slot in slots
                for canvas in self._canvases(samples[order[slot.index]].tolist(), slot)
            ]
            groups.append(TaskGroup(share.task, weight, total, drawn))
        return groups

    def _canvases(self, sample: list[int], slot: SampleSlot) -> Iterator[DrawnCanvas]:
        """The canvases of a sample, given as [folder, number]."""
        self.drawn += 1
        shards = self.folders[sample[0]]
        try:
            examples = shards[sample[1]].examples(shards.manifest, self.answers)
            for at, example in enumerate(examples):
                picture = example.task.answer == ("image",)
                tail = slot.rng.randint(1, self.tail)
                null = picture and slot.rng.random() < self.null
                canvas = example.canvas(self.vocabulary, self.text, tail=tail, null=null)
                if canvas.length > self.max_length:  # without its tail it may fit
                    canvas = example.canvas(self.vocabulary, self.text, null=null)
                if canvas.length > self.max_length:
                    raise DataError(
                        f"{example.source}: the sample has {canvas.length} tokens, more than"
                        f" {self.max_length}",
                        field="max_length",
                        value=canvas.length,
                        fix="shorten or split it",
                    )
                seed = slot.rng.getrandbits(62)
                yield DrawnCanvas(canvas, seed, None if at else slot.index)
        except DataError as error:
            self._skip(error)

    def _skip(self, error: DataError) -> None:
        if self.on_bad_sample is None:
            raise error
        self.bad += 1
        self.on_bad_sample(str(error))
        if self.bad > max(ALWAYS_SKIPPED, self.max_bad_fraction * self.drawn):
            raise DataError(
                f"{self.bad} of the {self.drawn} samples drawn so far are bad, more than the"
                f" fraction {self.max_bad_fraction:.3g}; the last is {error}",
                field="max_bad_fraction",
                value=self.max_bad_fraction,
                fix="correct the data or raise the fraction",
            ) from error


def _by_task(folders: Sequence[Shards]) -> dict[str, Tensor]:
    """All samples of each task, int64 [n, 2]: folder, and number in it."""
    parts: dict[str, list[Tensor]] = {}
    for at, shards in enumerate(folders):
        for task, numbers in shards.by_task().items():
            parts.setdefault(task, []).append(
                torch.stack([torch.full_like(numbers, at), numbers], dim=1)
            )
    return {task: torch.cat(samples) for task, samples in sorted(parts.items())}


def shares_of(
    shards: Shards | Sequence[Shards],
    samples: int,
    ratios: Mapping[str, float] | None = None,
) -> tuple[TaskShare, ...]:
    """The shares of the tasks, `samples` a step in all on average; weights sum to 1.

    ratios: relative frequency by task; by default the number of its samples. Tasks without samples
    are left out. Raises DataError if none remains.
    """
    counts: dict[str, float] = {}
    for folder in [shards] if isinstance(shards, Shards) else shards:
        for task, count in folder.counts().items():
            counts[task] = counts.get(task, 0) + count
    mix = counts if ratios is None else {t: r for t, r in ratios.items() if t in counts and r > 0}
    total = sum(mix.values())
    if not total:
        raise DataError(
            f"there are samples of {', '.join(counts) or 'no task'}, the ratios are of"
            f" {', '.join(ratios or ()) or 'none'}",
            value=ratios,
            fix="give data of these tasks, or other ratios",
        )
    return tuple(
        TaskShare(task, samples * ratio / total, ratio / total)
        for task, ratio in sorted(mix.items())
    )
