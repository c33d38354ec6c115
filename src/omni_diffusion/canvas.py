"""A canvas: one sequence of token ids, some known, some masked. Also batches of canvases.

A canvas never changes: `fill` and `erase` return a new one.

Dimensions: L positions, B rows of a batch.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import accumulate
from typing import Self

import torch
from torch import Tensor
from torch.nn.functional import pad as pad_tensor
from torch.nn.utils.rnn import pad_sequence

from omni_diffusion.errors import CanvasError


@dataclass(frozen=True, eq=False)
class FeatureSlot:
    """Frames [n, dim] that replace the embeddings of positions start..start+n-1."""

    start: int
    frames: Tensor

    def __post_init__(self) -> None:
        if self.frames.ndim != 2:
            raise CanvasError(
                f"frames of a slot have shape {tuple(self.frames.shape)}",
                field="frames",
                value=tuple(self.frames.shape),
                fix="give [n, dim]",
            )

    @property
    def stop(self) -> int:
        """The first position after the slot."""
        return self.start + len(self.frames)


@dataclass(frozen=True, eq=False)
class Canvas:
    """One sequence of L token ids to be filled.

    ids: int64 [L], the mask id where masked. blank: bool [L], True = masked, to be filled.
    allowed: int64 [L, 2], half-open id range that a position may take. answer: half-open range of
    the answer's positions. slots: frames in place of embeddings.
    Raises CanvasError if these do not fit one another.
    """

    ids: Tensor
    blank: Tensor
    allowed: Tensor
    answer: tuple[int, int]
    slots: tuple[FeatureSlot, ...] = ()

    def __post_init__(self) -> None:
        _shape("ids", self.ids, torch.int64, (self.length,))
        _shape("blank", self.blank, torch.bool, (self.length,))
        _shape("allowed", self.allowed, torch.int64, (self.length, 2))
        low, high = self.allowed.unbind(1)
        if bool(((low < 0) | (low >= high)).any()):
            position = int(((low < 0) | (low >= high)).nonzero()[0])
            raise CanvasError(
                f"position {position} allows ids {self.allowed[position].tolist()}",
                field="allowed",
                value=self.allowed[position].tolist(),
                fix="give [low, high) with 0 <= low < high",
            )
        start, stop = self.answer
        if not 0 <= start <= stop <= self.length:
            raise CanvasError(
                f"answer is {start}..{stop} on a canvas of {self.length}",
                field="answer",
                value=self.answer,
                fix="keep it inside",
            )
        for slot in self.slots:
            self._check_slot(slot)

    @property
    def length(self) -> int:
        """The number of positions."""
        return self.ids.numel()

    @property
    def blanks(self) -> int:
        """The number of masked positions."""
        return int(self.blank.sum())

    def fill(self, positions: Tensor | list[int], tokens: Tensor | list[int]) -> Canvas:
        """Write tokens [n] to masked positions [n].

        Does not check `allowed`. Raises CanvasError for a position that is not masked.
        """
        where, what = self._positions(positions), torch.as_tensor(tokens, dtype=torch.int64)
        if what.shape != where.shape:
            raise CanvasError(
                f"{what.numel()} tokens for {where.numel()} positions",
                field="tokens",
                value=what.numel(),
                fix="give one for each",
            )
        if not bool(self.blank[where].all()):
            known = int(where[~self.blank[where]][0])
            raise CanvasError(
                f"position {known} is not masked",
                field="positions",
                value=known,
                fix="erase it before filling it again",
            )
        ids, blank = self.ids.clone(), self.blank.clone()
        ids[where], blank[where] = what.to(ids.device), False
        return replace(self, ids=ids, blank=blank)

    def erase(self, positions: Tensor | list[int], mask_id: int) -> Canvas:
        """Mask positions [n]."""
        where = self._positions(positions)
        ids, blank = self.ids.clone(), self.blank.clone()
        ids[where], blank[where] = mask_id, True
        return replace(self, ids=ids, blank=blank)

    def _positions(self, positions: Tensor | list[int]) -> Tensor:
        where = torch.as_tensor(positions, dtype=torch.int64, device=self.ids.device)
        outside = (where < 0) | (where >= self.length)
        if where.ndim != 1 or bool(outside.any()):
            raise CanvasError(
                f"positions {where.tolist()} on a canvas of {self.length}",
                field="positions",
                value=where.tolist(),
                fix=f"give 0..{self.length - 1}",
            )
        if len(set(where.tolist())) != len(where):
            raise CanvasError(
                f"positions {where.tolist()} have a duplicate",
                field="positions",
                value=where.tolist(),
                fix="give each once",
            )
        return where

    def _check_slot(self, slot: FeatureSlot) -> None:
        if slot.start < 0 or slot.stop > self.length:
            raise CanvasError(
                f"slot {slot.start}..{slot.stop} exceeds the canvas of {self.length}",
                field="slots",
                value=(slot.start, slot.stop),
                fix="keep it inside",
            )
        if bool(self.blank[slot.start : slot.stop].any()):
            raise CanvasError(
                f"slot {slot.start}..{slot.stop} covers masked positions",
                field="slots",
                value=(slot.start, slot.stop),
                fix="lay it over known positions",
            )


@dataclass(frozen=True, eq=False)
class Batch:
    """Rows of one or more canvases, padded on the right to the longest row.

    ids: int64 [B, L]. segments: int64 [B, L], the number 1.. of the canvas in its row, 0 = padding;
    None if every row is one canvas without padding. slots: (row, slot).
    """

    ids: Tensor
    segments: Tensor | None
    slots: tuple[tuple[int, FeatureSlot], ...]

    @classmethod
    def of(cls, canvases: Sequence[Canvas], pad: int, length: int = 0) -> Batch:
        """A batch with one canvas in each row; `pad` is the id of padding.

        length: tokens of a row, where that is more than the longest row has.
        """
        if not canvases:
            raise CanvasError("a batch of no canvases", field="canvases", fix="give at least one")
        ids = _padded([c.ids for c in canvases], pad, length)
        slots = tuple((row, slot) for row, c in enumerate(canvases) for slot in c.slots)
        lengths = torch.tensor([c.length for c in canvases], device=ids.device)
        if bool((lengths == ids.shape[1]).all()):
            return cls(ids, None, slots)
        index = torch.arange(ids.shape[1], device=ids.device)
        return cls(ids, (index < lengths[:, None]).long(), slots)

    @classmethod
    def packed(cls, rows: Sequence[Sequence[Canvas]], pad: int, length: int = 0) -> Batch:
        """A batch with several canvases in each row, one after the other, numbered by segments.

        length: as in `of`.
        """
        if not rows or not all(rows):
            raise CanvasError("a row of no canvases", field="rows", fix="give at least one in each")
        ids = [torch.cat([canvas.ids for canvas in row]) for row in rows]
        lengths = [torch.tensor([canvas.length for canvas in row]) for row in rows]
        numbers = [torch.arange(1, len(sizes) + 1).repeat_interleave(sizes) for sizes in lengths]
        slots = tuple(
            (number, replace(slot, start=slot.start + start))
            for number, row in enumerate(rows)
            for canvas, start in zip(row, starts_of(row), strict=True)
            for slot in canvas.slots
        )
        padded = _padded(ids, pad, length)
        return cls(padded, _padded(numbers, 0, length).to(padded.device), slots)

    def to(self, device: torch.device) -> Self:
        """The batch on another device; frames stay where they are, the backbone moves them."""
        segments = None if self.segments is None else self.segments.to(device, non_blocking=True)
        return replace(self, ids=self.ids.to(device, non_blocking=True), segments=segments)


def starts_of(row: Sequence[Canvas]) -> list[int]:
    """The first position of each canvas in a packed row."""
    return [0, *accumulate(canvas.length for canvas in row[:-1])]


def rounded(size: int) -> int:
    """`size`, rounded up to a number of at most four leading binary digits.

    That is an eighth more at most. Sizes of tensors that were rounded recur, so that memory which
    one step frees fits the next, and kernels that are compiled for a shape serve again.
    """
    step = 1 << max(0, size.bit_length() - 4)
    return -(-size // step) * step


def _padded(rows: Sequence[Tensor], value: int, length: int) -> Tensor:
    """Rows [n] of several lengths -> [B, L], L at least `length`."""
    whole = pad_sequence(list(rows), batch_first=True, padding_value=value)
    return pad_tensor(whole, (0, max(0, length - whole.shape[1])), value=value)


def _shape(name: str, tensor: Tensor, dtype: torch.dtype, shape: tuple[int, ...]) -> None:
    if tensor.dtype != dtype or tuple(tensor.shape) != shape:
        raise CanvasError(
            f"{name} is {tensor.dtype} {tuple(tensor.shape)}",
            field=name,
            fix=f"give {dtype} {shape}",
        )
