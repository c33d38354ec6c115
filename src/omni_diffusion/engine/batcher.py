"""Which requests take part in the next step, and which share a forward pass.

Works on sizes and turns only. A row that is padded to a longer neighbour costs that length.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol, TypeVar


class Schedulable(Protocol):
    """What the batcher has to know of a request."""

    @property
    def lengths(self) -> tuple[int, ...]:
        """Tokens of each of its rows; guidance makes two rows."""
        ...

    @property
    def last_step(self) -> int:
        """The step that it last took part in; a lower number has waited longer."""
        ...


R = TypeVar("R", bound=Schedulable)


@dataclass(frozen=True)
class Budget:
    """What one step may hold.

    tokens: of all rows of a step; a larger request runs alone. pass_overhead: a further forward
    pass costs as much as so many tokens; rows are padded to a common length where that is cheaper.
    """

    tokens: int
    pass_overhead: int


def select(requests: Sequence[R], budget: Budget) -> list[R]:
    """The requests of the next step, those that have waited longest first.

    A request that does not fit is passed over by smaller ones but keeps its turn, while they go to
    the end of the line: no request starves and none holds up the others.
    """
    selected: list[R] = []
    free = budget.tokens
    for request in sorted(requests, key=lambda request: request.last_step):
        cost = sum(request.lengths)
        if cost <= free or not selected:
            selected.append(request)
            free -= cost
    return selected


def group_passes(requests: Sequence[R], budget: Budget) -> list[list[R]]:
    """Split the requests into forward passes so that padding and pass overhead cost least.

    Sorted by length, the best groups are neighbours (dynamic programming over the cuts); a pass of
    more than `budget.tokens` holds one request.
    """
    ordered = sorted(requests, key=lambda request: max(request.lengths))
    best: list[tuple[float, int]] = [(0.0, 0)]  # for the first i requests: cost, last cut
    for stop in range(1, len(ordered) + 1):
        longest = max(ordered[stop - 1].lengths)
        choices, rows = [], 0
        for start in range(stop - 1, -1, -1):
            rows += len(ordered[start].lengths)
            if rows * longest > budget.tokens and stop - start > 1:
                break
            choices.append((best[start][0] + rows * longest + budget.pass_overhead, start))
        best.append(min(choices))
    passes: list[list[R]] = []
    stop = len(ordered)
    while stop:
        start = best[stop][1]
        passes.append(ordered[start:stop])
        stop = start
    return passes[::-1]
