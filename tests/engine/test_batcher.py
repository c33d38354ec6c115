"""Who takes part in a step: bounds and fairness."""

from __future__ import annotations

from dataclasses import dataclass

from hypothesis import given
from hypothesis import strategies as st

from omni_diffusion.engine.batcher import select


@dataclass(eq=False)
class Ride:
    lengths: tuple[int, ...]
    last_step: int = 0


def test_a_step_holds_its_budget_and_the_longest_waiting_first() -> None:
    a, b, c, d = (
        Ride((60,), last_step=5),
        Ride((30, 30), last_step=4),
        Ride((40,), last_step=5),
        Ride((9,), 5),
    )
    assert select([a, b, c, d], 100) == [b, c]
    assert select([a], 10) == [a]  # larger than any step: alone
    assert select([], 10) == []


@given(st.lists(st.integers(1, 50), min_size=1, max_size=8), st.integers(1, 60))
def test_nobody_starves(sizes: list[int], places: int) -> None:
    riders = [Ride((size,)) for size in sizes]
    rode = dict.fromkeys(map(id, riders), 0)
    for step in range(1, 3 * len(riders) + 1):
        for rider in select(riders, places):
            rider.last_step = step
            rode[id(rider)] += 1
    assert min(rode.values()) >= 3
