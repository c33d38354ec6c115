"""One row of ids, some given, some blank: the noun that every task and every sampler shares.

Knows nothing of what ids mean. A canvas never changes: place, fill and erase return a new one.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import accumulate
from typing import Self

import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from omni_diffusion.errors import CanvasError


@dataclass(frozen=True, eq=False)
class FeatureSlot:
    """Frames [n, dim] that replace the embeddings of places start..start+n-1."""

    start: int
    frames: Tensor

    def __post_init__(self) -> None:
        if self.frames.ndim != 2:
            raise CanvasError(
                f"frames of a slot have shape {tuple(self.frames.shape)}; give [n, dim]"
            )

    @property
    def stop(self) -> int:
        """The first place after the slot."""
        return self.start + len(self.frames)


@dataclass(frozen=True, eq=False)
class Canvas:
    """One row to be filled. L is its length.

    Raises CanvasError when the parts do not fit one another.
    """

    ids: Tensor  # [L] int64; the mask id where blank
    blank: Tensor  # [L] bool; True = to be filled
    allowed: Tensor  # [L, 2] int64; half-open id range that a place may take
    answer: tuple[int, int]  # half-open place range of the answer
    slots: tuple[FeatureSlot, ...] = ()

    def __post_init__(self) -> None:
        _shape("ids", self.ids, torch.int64, (self.length,))
        _shape("blank", self.blank, torch.bool, (self.length,))
        _shape("allowed", self.allowed, torch.int64, (self.length, 2))
        low, high = self.allowed.unbind(1)
        if bool(((low < 0) | (low >= high)).any()):
            place = int(((low < 0) | (low >= high)).nonzero()[0])
            raise CanvasError(
                f"place {place} allows ids {self.allowed[place].tolist()}; give [low, high) with"
                " 0 <= low < high"
            )
        start, stop = self.answer
        if not 0 <= start <= stop <= self.length:
            raise CanvasError(f"answer is {start}..{stop} on a canvas of {self.length} places")
        for slot in self.slots:
            self._check_slot(slot)

    @property
    def length(self) -> int:
        """How many places there are."""
        return self.ids.numel()

    @property
    def blanks(self) -> int:
        """How many places are still to be filled."""
        return int(self.blank.sum())

    def place(self, at: int, token: int) -> Canvas:
        """Give one blank place its token beforehand."""
        return self.fill([at], [token])

    def fill(self, places: Tensor | list[int], tokens: Tensor | list[int]) -> Canvas:
        """Give blank places [n] their tokens [n]; raises CanvasError if one is not blank.

        Given tokens never change. Whether a token is allowed is the sampler's concern.
        """
        where, what = self._places(places), torch.as_tensor(tokens, dtype=torch.int64)
        if what.shape != where.shape:
            raise CanvasError(f"{what.numel()} tokens for {where.numel()} places; give one each")
        if not bool(self.blank[where].all()):
            given = int(where[~self.blank[where]][0])
            raise CanvasError(f"place {given} is not blank; erase it before filling it anew")
        ids, blank = self.ids.clone(), self.blank.clone()
        ids[where], blank[where] = what.to(ids.device), False
        return replace(self, ids=ids, blank=blank)

    def erase(self, places: Tensor | list[int], mask_id: int) -> Canvas:
        """Make places [n] blank."""
        where = self._places(places)
        ids, blank = self.ids.clone(), self.blank.clone()
        ids[where], blank[where] = mask_id, True
        return replace(self, ids=ids, blank=blank)

    def _places(self, places: Tensor | list[int]) -> Tensor:
        where = torch.as_tensor(places, dtype=torch.int64, device=self.ids.device)
        outside = (where < 0) | (where >= self.length)
        if where.ndim != 1 or bool(outside.any()):
            raise CanvasError(f"places {where.tolist()} on a canvas of {self.length}; stay inside")
        if len(set(where.tolist())) != len(where):
            raise CanvasError(f"places {where.tolist()} name one place twice; name each once")
        return where

    def _check_slot(self, slot: FeatureSlot) -> None:
        if slot.start < 0 or slot.stop > self.length:
            raise CanvasError(
                f"slot {slot.start}..{slot.stop} leaves the canvas of {self.length} places"
            )
        if bool(self.blank[slot.start : slot.stop].any()):
            raise CanvasError(
                f"slot {slot.start}..{slot.stop} covers blank places; features are always given"
            )


@dataclass(frozen=True, eq=False)
class Batch:
    """Rows of one canvas or more, padded on the right to the longest; B rows of L places."""

    ids: Tensor  # [B, L] int64
    segments: Tensor | None  # [B, L] int64: 1.. = canvas, 0 = padding; None when a row is a canvas
    slots: tuple[tuple[int, FeatureSlot], ...]  # (row, slot)

    @classmethod
    def of(cls, canvases: Sequence[Canvas], pad: int) -> Batch:
        """Lay canvases into one batch; `pad` is the id that fills up the short rows."""
        if not canvases:
            raise CanvasError("a batch of no canvases; give at least one")
        ids = pad_sequence([c.ids for c in canvases], batch_first=True, padding_value=pad)
        slots = tuple((row, slot) for row, c in enumerate(canvases) for slot in c.slots)
        lengths = torch.tensor([c.length for c in canvases], device=ids.device)
        if bool((lengths == ids.shape[1]).all()):
            return cls(ids, None, slots)
        places = torch.arange(ids.shape[1], device=ids.device)
        return cls(ids, (places < lengths[:, None]).long(), slots)

    @classmethod
    def packed(cls, rows: Sequence[Sequence[Canvas]], pad: int) -> Batch:
        """Lay several canvases into each row, one behind the other; segments tell them apart."""
        if not rows or not all(rows):
            raise CanvasError("a batch has a row of no canvases; give at least one in each")
        ids = [torch.cat([canvas.ids for canvas in row]) for row in rows]
        lengths = [torch.tensor([canvas.length for canvas in row]) for row in rows]
        numbers = [torch.arange(1, len(each) + 1).repeat_interleave(each) for each in lengths]
        slots = tuple(
            (number, replace(slot, start=slot.start + start))
            for number, row in enumerate(rows)
            for canvas, start in zip(row, starts_of(row), strict=True)
            for slot in canvas.slots
        )
        laid = pad_sequence(ids, batch_first=True, padding_value=pad)
        return cls(laid, pad_sequence(numbers, batch_first=True).to(laid.device), slots)

    def to(self, device: torch.device) -> Self:
        """The same on another device; frames stay, the backbone fetches them."""
        segments = None if self.segments is None else self.segments.to(device, non_blocking=True)
        return replace(self, ids=self.ids.to(device, non_blocking=True), segments=segments)


def starts_of(row: Sequence[Canvas]) -> list[int]:
    """Where each canvas of a packed row begins."""
    return [0, *accumulate(canvas.length for canvas in row[:-1])]


def _shape(name: str, tensor: Tensor, dtype: torch.dtype, shape: tuple[int, ...]) -> None:
    if tensor.dtype != dtype or tuple(tensor.shape) != shape:
        raise CanvasError(f"{name} is {tensor.dtype} {tuple(tensor.shape)}; give {dtype} {shape}")
