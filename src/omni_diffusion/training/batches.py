"""Masks the canvases of a step and lays them into micro-batches; needs no weights.

Every canvas is masked by its own generator. Its masks therefore do not depend on the canvases that
share its row, its micro-batch or its process. Lengths of rows and numbers of logits are rounded up
(`canvas.rounded`), so that few shapes recur in all steps.

Dimensions: B rows, L tokens, N masked tokens, G groups.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Self, get_args

import torch
from torch import Tensor

from omni_diffusion.canvas import Batch, Canvas, rounded
from omni_diffusion.data.mixture import DrawnCanvas
from omni_diffusion.data.packing import pack
from omni_diffusion.diffusion.loss import Weighting, weigh
from omni_diffusion.diffusion.masking import MaskingConfig, corrupt, ratios
from omni_diffusion.vocab import Kind, Vocabulary

TOKEN_KINDS = ("text", "speech", "image", "special", "pad")
"""Kinds of masked tokens, for metrics."""
BUCKETS = ("0_25", "25_50", "50_75", "75_100")
"""Ranges, in per cent, of the masked part of an answer without its padding, for metrics."""


@dataclass(frozen=True, eq=False)
class MaskedExample:
    """A canvas with part of its answer masked, with targets and loss weights.

    canvas: holds the mask id where `masked` is true. targets, weights, kind: one entry for each
    masked token. normaliser: the loss is sum(weights * losses) divided by the sum of `normaliser`
    over all examples of the mean. group: index of the task's group in the step. kind: index in
    TOKEN_KINDS. bucket: index in BUCKETS.
    """

    canvas: Canvas
    masked: Tensor  # bool [L]
    targets: Tensor  # int64 [N]
    weights: Tensor  # float32 [N]
    normaliser: float
    group: int
    kind: Tensor  # int64 [N]
    bucket: int

    @property
    def length(self) -> int:
        """Tokens of the canvas."""
        return self.canvas.length


def mask_answer(
    drawn: DrawnCanvas,
    group: int,
    t: Tensor | None,
    masking: MaskingConfig,
    weighting: Weighting,
    vocabulary: Vocabulary,
) -> MaskedExample:
    """Mask the answer of a canvas.

    t: mask ratios of the group, float [samples]. The canvas takes the one of its number. A further
    answer of a conversation has no number and draws its own ratio, as does every canvas if `t` is
    None.
    """
    canvas = drawn.canvas
    generator = torch.Generator().manual_seed(drawn.seed)
    if t is None or drawn.number is None:
        ratio = ratios(masking, 1, generator)
    else:
        ratio = t[drawn.number : drawn.number + 1]
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
        t=None if masking.variant == "per_token" else ratio,
    )
    weights = weigh(corruption, maskable, weighting)
    masked = corruption.masked[0]
    targets = canvas.ids[masked]
    real = maskable & ~pad
    masked_fraction = float((corruption.masked & real).sum()) / max(1, int(real.sum()))
    return MaskedExample(
        replace(canvas, ids=corruption.ids[0]),
        masked,
        targets,
        weights.per_token,
        float(weights.normaliser),
        group,
        _kinds(targets, vocabulary),
        min(int(masked_fraction * len(BUCKETS)), len(BUCKETS) - 1),
    )


def _kinds(ids: Tensor, vocabulary: Vocabulary) -> Tensor:
    """Indices in TOKEN_KINDS of token ids [N], int64 [N]."""
    kinds = torch.full_like(ids, TOKEN_KINDS.index("special"))
    for kind in get_args(Kind):
        kinds[vocabulary.span_of(kind).holds(ids)] = TOKEN_KINDS.index(kind)
    kinds[ids == vocabulary.pad] = TOKEN_KINDS.index("pad")
    return kinds


@dataclass(frozen=True, eq=False)
class MicroBatch:
    """Rows that pass the backbone together.

    queried: positions whose logits are computed: the masked ones, and some others, which only fill
    up their number. targets, weights, group, kind, bucket: one entry for each masked token, in
    row-major order; the last three are indices as in `MaskedExample`.
    """

    batch: Batch
    masked: Tensor  # bool [B, L]
    queried: Tensor  # bool [B, L]
    targets: Tensor  # int64 [N]
    weights: Tensor  # float32 [N]
    group: Tensor  # int64 [N]
    kind: Tensor  # int64 [N]
    bucket: Tensor  # int64 [N]

    @classmethod
    def of(
        cls, rows: Sequence[Sequence[MaskedExample]], pad: int, max_length: int | None = None
    ) -> Self:
        """Lay the examples of each row one behind the other; `pad` fills the rows.

        max_length: tokens that rounding does not exceed.
        """
        length = _row_length(max(map(_tokens, rows)), max_length)
        unpacked = all(len(row) == 1 for row in rows)
        canvases = [[example.canvas for example in row] for row in rows]
        if unpacked:
            batch = Batch.of([row[0] for row in canvases], pad, length)
        else:
            batch = Batch.packed(canvases, pad, length)
        masked = torch.zeros(batch.ids.shape, dtype=torch.bool)
        for number, row in enumerate(rows):
            row_mask = torch.cat([example.masked for example in row])
            masked[number, : len(row_mask)] = row_mask
        examples = [example for row in rows for example in row]
        counts = torch.tensor([len(example.targets) for example in examples])
        return cls(
            batch,
            masked,
            _filled_up(masked),
            torch.cat([example.targets for example in examples]),
            torch.cat([example.weights for example in examples]),
            torch.tensor([example.group for example in examples]).repeat_interleave(counts),
            torch.cat([example.kind for example in examples]),
            torch.tensor([example.bucket for example in examples]).repeat_interleave(counts),
        )

    @classmethod
    def empty(cls, pad: int) -> Self:
        """A row without masked tokens, for a process with fewer micro-batches than the others."""
        ids, none = torch.full((1, 2), pad), torch.zeros(0, dtype=torch.int64)
        nowhere = torch.zeros(1, 2, dtype=torch.bool)
        return cls(
            Batch(ids, None, ()),
            nowhere,
            nowhere,
            none,
            none.float(),
            *[none] * 3,
        )

    def to(self, device: torch.device) -> Self:
        """The micro-batch on another device."""
        if device.type == "cpu":
            return self
        names = ("masked", "queried", "targets", "weights", "group", "kind", "bucket")
        moved = {name: getattr(self, name).to(device, non_blocking=True) for name in names}
        return replace(self, batch=self.batch.to(device), **moved)


def micro_batches(
    examples: Sequence[MaskedExample], pad: int, *, max_length: int | None, max_tokens: int | None
) -> Iterator[MicroBatch]:
    """Lay examples into micro-batches.

    max_length: pack examples of all groups into rows of at most this many tokens. None gives each
    example its own row and does not mix groups. max_tokens: size of a micro-batch with its padding;
    a longer row is a micro-batch by itself. None lays all packed rows, or all rows of a group,
    together.
    """
    if max_length is None:
        groups: dict[int, list[list[MaskedExample]]] = {}
        for example in examples:
            groups.setdefault(example.group, []).append([example])
        together = list(groups.values())
    else:
        together = [[list(row) for row in pack(examples, max_length)]] if examples else []
    for rows in together:
        for part in _split(rows, max_tokens, max_length):
            yield MicroBatch.of(part, pad, max_length)


def _split(
    rows: list[list[MaskedExample]], max_tokens: int | None, max_length: int | None
) -> Iterator[list[list[MaskedExample]]]:
    """Split rows into runs of at most `max_tokens`, padded to the longest row of the run."""
    run: list[list[MaskedExample]] = []
    longest = 0
    for row in rows:
        length = _tokens(row)
        padded = _row_length(max(longest, length), max_length) * (len(run) + 1)
        if run and max_tokens is not None and padded > max_tokens:
            yield run
            run, longest = [], 0
        run.append(row)
        longest = max(longest, length)
    if run:
        yield run


def _tokens(row: Sequence[MaskedExample]) -> int:
    return sum(example.length for example in row)


def _row_length(longest: int, max_length: int | None) -> int:
    """Tokens of the rows of a micro-batch, rounded, but at most `max_length`."""
    return rounded(longest) if max_length is None else min(rounded(longest), max_length)


def _filled_up(masked: Tensor) -> Tensor:
    """`masked` [B, L] and the first other positions, as many as rounding needs."""
    count = int(masked.sum())
    free = (~masked).flatten().nonzero()[: rounded(count) - count, 0]
    queried = masked.flatten().clone()
    queried[free] = True
    return queried.view_as(masked)
