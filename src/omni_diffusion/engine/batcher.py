"""Which requests take part in the next step. Works on sizes and turns only."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol, TypeVar


class Schedulable(Protocol):
    """What the batcher has to know of a request."""

    @property
    def lengths(self) -> tuple[int, ...]:
        """Tokens of each of its branches; guidance makes two."""
        ...

    @property
    def last_step(self) -> int:
        """The step that it last took part in; a lower number has waited longer."""
        ...


R = TypeVar("R", bound=Schedulable)


def select(requests: Sequence[R], tokens: int) -> list[R]:
    """The requests of the next step: at most `tokens` together, the longest waiting first.

    A request larger than that runs alone. One that does not fit is passed over by smaller ones but
    keeps its turn, while they go to the end of the line: no request starves and none holds up the
    others.
    """
    selected: list[R] = []
    free = tokens
    for request in sorted(requests, key=lambda request: request.last_step):
        cost = sum(request.lengths)
        if cost <= free or not selected:
            selected.append(request)
            free -= cost
    return selected
