"""From the canvases of a step to masked micro-batches: all that can be made before the weights are.

Every canvas is masked alone, by a generator of its own, so that nothing of it depends on which
others share its row, its micro-batch or its process.

Dimensions: B rows, L places, N masked places, G groups.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Self

import torch
from torch import Tensor

from omni_diffusion.canvas import Batch, Canvas
from omni_diffusion.data.mixture import Drawn
from omni_diffusion.data.packing import pack
from omni_diffusion.diffusion.loss import Weighting, weigh
from omni_diffusion.diffusion.masking import MaskingConfig, corrupt, ratios
from omni_diffusion.vocab import Vocabulary

KINDS = ("text", "speech", "image", "special", "pad")
"""What a masked token is."""
BUCKETS = ("0_25", "25_50", "50_75", "75_100")
"""Per cent of an answer's real places that are masked."""


@dataclass(frozen=True, eq=False)
class Example:
    """A canvas with part of its answer masked, and what its masked places are and count.

    weights are to be divided by the sum of `normaliser` over all examples that they are averaged
    with. kind, bucket: of each masked place, by number in KINDS and BUCKETS.
    """

    canvas: Canvas  # [L], the mask id where masked
    masked: Tensor  # bool [L]
    targets: Tensor  # int64 [N]
    weights: Tensor  # float32 [N]
    normaliser: float
    group: int
    kind: Tensor  # int64 [N]
    bucket: int

    @property
    def length(self) -> int:
        """Places of the canvas."""
        return self.canvas.length


def mask(
    drawn: Drawn,
    group: int,
    t: Tensor | None,
    masking: MaskingConfig,
    weighting: Weighting,
    vocabulary: Vocabulary,
) -> Example:
    """Mask a canvas; `t` are the ratios of its group, of which it takes that of its number.

    A further answer of a conversation draws a ratio of its own.
    """
    canvas = drawn.canvas
    generator = torch.Generator().manual_seed(drawn.seed)
    if t is None or drawn.number is None:
        own = ratios(masking, 1, generator)
    else:
        own = t[drawn.number : drawn.number + 1]
    ids = canvas.ids[None]
    maskable = torch.zeros_like(ids, dtype=torch.bool)
    maskable[:, canvas.answer[0] : canvas.answer[1]] = True
    pad = maskable & (ids == vocabulary.pad)
    corruption = corrupt(
        ids,
        maskable,
        pad,
        vocabulary.mask,
        masking,
        generator,
        t=None if masking.variant == "per_token" else own,
    )
    weights = weigh(corruption, maskable, weighting)
    masked = corruption.masked[0]
    targets = canvas.ids[masked]
    real = maskable & ~pad
    hidden = float((corruption.masked & real).sum()) / max(1, int(real.sum()))
    return Example(
        replace(canvas, ids=corruption.ids[0]),
        masked,
        targets,
        weights.places,
        float(weights.normaliser),
        group,
        _kinds(targets, vocabulary),
        min(int(hidden * len(BUCKETS)), len(BUCKETS) - 1),
    )


def _kinds(ids: Tensor, vocabulary: Vocabulary) -> Tensor:
    """Numbers in KINDS."""
    found = torch.full_like(ids, KINDS.index("special"))
    for kind, span in (
        ("text", vocabulary.text),
        ("speech", vocabulary.speech),
        ("image", vocabulary.image),
    ):
        found[(ids >= span.start) & (ids < span.stop)] = KINDS.index(kind)
    found[ids == vocabulary.pad] = KINDS.index("pad")
    return found


@dataclass(frozen=True, eq=False)
class MicroBatch:
    """Rows that pass the backbone together; what is of masked places is in row-major order."""

    batch: Batch
    masked: Tensor  # bool [B, L]
    targets: Tensor  # int64 [N]
    weights: Tensor  # float32 [N]
    group: Tensor  # int64 [N]
    kind: Tensor  # int64 [N]
    bucket: Tensor  # int64 [N]

    @classmethod
    def of(cls, rows: Sequence[Sequence[Example]], pad: int) -> Self:
        """Lay examples into rows, one behind the other."""
        alone = all(len(row) == 1 for row in rows)
        canvases = [[example.canvas for example in row] for row in rows]
        laid = Batch.of([row[0] for row in canvases], pad) if alone else Batch.packed(canvases, pad)
        masked = torch.zeros(laid.ids.shape, dtype=torch.bool)
        for number, row in enumerate(rows):
            found = torch.cat([example.masked for example in row])
            masked[number, : len(found)] = found
        examples = [example for row in rows for example in row]
        counts = torch.tensor([len(example.targets) for example in examples])
        return cls(
            laid,
            masked,
            torch.cat([example.targets for example in examples]),
            torch.cat([example.weights for example in examples]),
            torch.tensor([example.group for example in examples]).repeat_interleave(counts),
            torch.cat([example.kind for example in examples]),
            torch.tensor([example.bucket for example in examples]).repeat_interleave(counts),
        )

    @classmethod
    def empty(cls, pad: int) -> Self:
        """A row in which nothing is masked, for a process that has fewer than the others."""
        ids, none = torch.full((1, 2), pad), torch.zeros(0, dtype=torch.int64)
        return cls(
            Batch(ids, None, ()),
            torch.zeros(1, 2, dtype=torch.bool),
            none,
            none.float(),
            *[none] * 3,
        )

    def to(self, device: torch.device) -> Self:
        """The same on another device."""
        if device.type == "cpu":
            return self
        names = ("masked", "targets", "weights", "group", "kind", "bucket")
        moved = {name: getattr(self, name).to(device, non_blocking=True) for name in names}
        return replace(self, batch=self.batch.to(device), **moved)


def micro_batches(
    examples: Sequence[Example], pad: int, *, max_length: int | None, places: int | None
) -> Iterator[MicroBatch]:
    """Lay examples into micro-batches of at most `places` places each, one row at least.

    max_length: pack them into rows of so many places, whatever their group; None gives each a row
    of its own, among those of its group. places: None lays all packed rows, or a group, together.
    """
    if max_length is None:
        groups: dict[int, list[list[Example]]] = {}
        for example in examples:
            groups.setdefault(example.group, []).append([example])
        together = list(groups.values())
    else:
        together = [[list(row) for row in pack(examples, max_length)]] if examples else []
    for rows in together:
        yield from (MicroBatch.of(some, pad) for some in _parts(rows, places))


def _parts(rows: list[list[Example]], places: int | None) -> Iterator[list[list[Example]]]:
    """Cut rows into runs that take at most so many places when laid as long as their longest."""
    run: list[list[Example]] = []
    longest = 0
    for row in rows:
        length = sum(example.length for example in row)
        if run and places is not None and max(longest, length) * (len(run) + 1) > places:
            yield run
            run, longest = [], 0
        run.append(row)
        longest = max(longest, length)
    if run:
        yield run
