"""In which order rows are drawn: a new permutation in every epoch, exact whoever goes on with it.

The order follows from (seed, epoch) alone. All processes draw in step and each keeps its own part,
so the state is the same in all of them, and a run that goes on with another number of processes
draws the same rows at the same step. Knows nothing of what a row holds.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import lru_cache
from hashlib import blake2b

import torch
from torch import Tensor

from omni_diffusion.errors import DataError


@dataclass(frozen=True)
class State:
    """Where a run is in its data: so many rows of an epoch are drawn, by all processes together."""

    seed: int = 0
    epoch: int = 0
    cursor: int = 0

    def __post_init__(self) -> None:
        if self.epoch < 0 or self.cursor < 0:
            raise DataError(f"{self} is before the first row; give an epoch and a cursor from 0")


class Loader:
    """Draws the numbers of `rows` rows.

    `state` is where the next draw begins; save it, and give it back to go on. Raises DataError when
    it does not fit the rows.
    """

    def __init__(self, rows: int, state: State | None = None) -> None:
        self.rows, self.state = rows, state or State()
        if rows < 1:
            raise DataError("there are no rows to draw from; add samples")
        if self.state.cursor > rows:
            raise DataError(
                f"the saved state has drawn {self.state.cursor} rows of an epoch of {rows};"
                " go on with the data of that run"
            )
        self._order = lru_cache(maxsize=1)(permutation)

    def seek(self, drawn: int) -> None:
        """Go to where `drawn` rows have been drawn since the first epoch began."""
        epoch, cursor = divmod(drawn, self.rows)
        self.state = replace(self.state, epoch=epoch, cursor=cursor)

    def draw(self, count: int) -> list[int]:
        """The next `count` rows; goes on into the next epoch where one ends."""
        found: list[int] = []
        seed, epoch, cursor = self.state.seed, self.state.epoch, self.state.cursor
        while len(found) < count:
            if cursor == self.rows:
                epoch, cursor = epoch + 1, 0
            some = self._order(self.rows, seed, epoch)[cursor : cursor + count - len(found)]
            found += some.tolist()
            cursor += len(some)
        self.state = State(seed, epoch, cursor)
        return found


def permutation(rows: int, seed: int, epoch: int) -> Tensor:
    """The order of an epoch, int64 [rows]: 8 bytes a row, so a hundred million rows are 800 MB."""
    digest = blake2b(f"{seed} {epoch}".encode(), digest_size=7).digest()
    generator = torch.Generator().manual_seed(int.from_bytes(digest, "big"))
    return torch.randperm(rows, generator=generator)
