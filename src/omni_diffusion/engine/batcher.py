"""Who takes part in the next step, and who shares a forward pass.

Knows sizes and turns only: no canvas, no model. A place is one position of one row; a row that is
padded to its neighbour's length costs that length.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol, TypeVar


class Rider(Protocol):
    """What has to be known of a request on its way."""

    @property
    def lengths(self) -> tuple[int, ...]:
        """Places of each of its rows; guidance makes two rows."""
        ...

    @property
    def turn(self) -> int:
        """The step that it last took part in; lower = has waited longer."""
        ...


R = TypeVar("R", bound=Rider)


@dataclass(frozen=True)
class Budget:
    """What one step may hold.

    places: at most so many in one step; a request larger than that rides alone.
    launch: a further forward pass costs as much as so many places; rows are padded to a common
    length where that is cheaper.
    """

    places: int
    launch: int


def join(riders: Sequence[R], budget: Budget) -> list[R]:
    """Those who take part in the next step, longest waiting first.

    Whoever does not fit is passed over by smaller ones, but stays where it is in the line while
    they go to its end: nobody starves and nobody holds up the others.
    """
    joined: list[R] = []
    left = budget.places
    for rider in sorted(riders, key=lambda rider: rider.turn):
        cost = sum(rider.lengths)
        if cost <= left or not joined:
            joined.append(rider)
            left -= cost
    return joined


def share_passes(riders: Sequence[R], budget: Budget) -> list[list[R]]:
    """Cut the riders into forward passes so that padding plus launches cost least.

    Sorted by length, a best partition is one of neighbours (dynamic programming over its cuts);
    a pass of more than `budget.places` holds one rider.
    """
    ordered = sorted(riders, key=lambda rider: max(rider.lengths))
    best: list[tuple[float, int]] = [(0.0, 0)]  # for the first i riders: cost, last cut
    for stop in range(1, len(ordered) + 1):
        longest = max(ordered[stop - 1].lengths)
        choices, rows = [], 0
        for start in range(stop - 1, -1, -1):
            rows += len(ordered[start].lengths)
            if rows * longest > budget.places and stop - start > 1:
                break
            choices.append((best[start][0] + rows * longest + budget.launch, start))
        best.append(min(choices))
    passes: list[list[R]] = []
    stop = len(ordered)
    while stop:
        start = best[stop][1]
        passes.append(ordered[start:stop])
        stop = start
    return passes[::-1]
