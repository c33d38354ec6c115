"""Pack canvases into rows of a batch with little padding.

Only lengths matter here. `canvas.Batch` lays a packed row out, `backbone.attention` keeps the
canvases of a row apart.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol, TypeVar

from omni_diffusion.errors import DataError
from omni_diffusion.models.sizes import MAX_TRAINING_LENGTH


class HasLength(Protocol):
    """A canvas, or anything that holds one."""

    @property
    def length(self) -> int:
        """Tokens of the canvas."""
        ...


CanvasT = TypeVar("CanvasT", bound=HasLength)


def pack(canvases: Sequence[CanvasT], max_length: int = MAX_TRAINING_LENGTH) -> list[list[CanvasT]]:
    """Put canvases together into rows of at most `max_length` tokens.

    First fit decreasing: longest first, each into the first row with room for it; that needs at
    most 11/9 of the optimal number of rows, plus one. Raises DataError for a canvas longer than a
    row.
    """
    rows: list[list[CanvasT]] = []
    room: list[int] = []
    for canvas in sorted(canvases, key=lambda canvas: -canvas.length):
        if canvas.length > max_length:
            raise DataError(
                f"a sample has {canvas.length} tokens, a row has {max_length}",
                field="max_length",
                value=canvas.length,
                fix="shorten it or raise max_length",
            )
        at = next((i for i, free in enumerate(room) if free >= canvas.length), len(rows))
        if at == len(rows):
            rows.append([])
            room.append(max_length)
        rows[at].append(canvas)
        room[at] -= canvas.length
    return rows
