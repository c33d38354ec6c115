"""Which waiting request is admitted next, so that costly answers do not starve cheap ones.

Requests wait in lanes, one for each medium of the answer. Lanes share admissions by stride
scheduling: each admission advances the lane by the weight of its medium, and the lane that is least
advanced goes first. Costlier lanes leave a slot of the batch to each cheaper one: pictures that
fill the batch keep neither a sentence to speak nor a text waiting, and speech keeps no text
waiting.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable
from typing import Generic, Protocol, TypeVar

from omni_diffusion.vocab import Kind

LANE_WEIGHTS: dict[Kind, float] = {"text": 1.0, "speech": 2.0, "image": 4.0}


def lane_of(answer: Iterable[Kind]) -> Kind:
    """The lane of an answer: its costliest medium."""
    return max(answer, key=LANE_WEIGHTS.__getitem__, default="text")


class Waiting(Protocol):
    """What admission knows of a request."""

    @property
    def lane(self) -> Kind:
        """The costliest medium of its answer."""
        ...


W = TypeVar("W", bound=Waiting)


class Admission(Generic[W]):
    """The requests that wait, and those that hold one of `slots`."""

    def __init__(self, slots: int) -> None:
        self.slots = slots
        self._lanes: dict[Kind, deque[W]] = {kind: deque() for kind in LANE_WEIGHTS}
        self._advanced = dict.fromkeys(LANE_WEIGHTS, 0.0)
        self._held = dict.fromkeys(LANE_WEIGHTS, 0)

    def __len__(self) -> int:
        return sum(map(len, self._lanes.values()))

    def waiting(self, lane: Kind) -> int:
        """The number of requests that wait in a lane."""
        return len(self._lanes[lane])

    def add(self, request: W, *, first: bool = False) -> None:
        """Let a request wait; `first`: ahead of its lane."""
        lane = request.lane
        if not self._lanes[lane] and not self._held[lane]:
            # A lane that was idle gains no credit for it.
            busy = [k for k in LANE_WEIGHTS if k != lane and (self._lanes[k] or self._held[k])]
            floor = min((self._advanced[k] for k in busy), default=0.0)
            self._advanced[lane] = max(self._advanced[lane], floor)
        if first:
            self._lanes[lane].appendleft(request)
        else:
            self._lanes[lane].append(request)

    def take(self) -> W | None:
        """The request to admit now, which then holds a slot; None if none may be."""
        if sum(self._held.values()) >= self.slots:
            return None
        ready = [lane for lane in LANE_WEIGHTS if self._lanes[lane] and self._has_room(lane)]
        if not ready:
            return None
        lane = min(ready, key=self._advanced.__getitem__)
        self._advanced[lane] += LANE_WEIGHTS[lane]
        self._held[lane] += 1
        return self._lanes[lane].popleft()

    def _has_room(self, lane: Kind) -> bool:
        """Whether this lane and those above it leave a slot to each lane below."""
        weight = LANE_WEIGHTS[lane]
        below = sum(other < weight for other in LANE_WEIGHTS.values())
        held = sum(n for kind, n in self._held.items() if LANE_WEIGHTS[kind] >= weight)
        return held < max(1, self.slots - below)

    def release(self, request: W) -> None:
        """Free the slot of an admitted request."""
        self._held[request.lane] -= 1

    def drop(self, request: W) -> bool:
        """Forget a request that waits; False if it does not."""
        try:
            self._lanes[request.lane].remove(request)
        except ValueError:
            return False
        return True
