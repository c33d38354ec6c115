"""Which canvases share a row, so that little of a batch is padding.

Knows nothing of what is on a canvas but its length. How a packed row is laid is `canvas.Batch`'s
concern, who sees whom in it is `backbone.attention`'s.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol, TypeVar

from omni_diffusion.errors import DataError

MAX_LENGTH = 3072  # places of a row in the paper's training


class Long(Protocol):
    """A canvas, or what is laid like one."""

    @property
    def length(self) -> int:
        """How many places it takes."""
        ...


L = TypeVar("L", bound=Long)


def pack(canvases: Sequence[L], max_length: int = MAX_LENGTH) -> list[list[L]]:
    """Put canvases together into rows of at most `max_length` places.

    Longest first, each into the first row that has room for it (first fit decreasing, which takes
    at most 11/9 of the fewest rows there can be, and one more). Raises DataError for a canvas that
    is longer than a row.
    """
    rows: list[list[L]] = []
    room: list[int] = []
    for canvas in sorted(canvases, key=lambda canvas: -canvas.length):
        if canvas.length > max_length:
            raise DataError(
                f"a sample takes {canvas.length} places, a row has {max_length}; shorten it or"
                " give longer rows"
            )
        at = next((i for i, left in enumerate(room) if left >= canvas.length), len(rows))
        if at == len(rows):
            rows.append([])
            room.append(max_length)
        rows[at].append(canvas)
        room[at] -= canvas.length
    return rows
