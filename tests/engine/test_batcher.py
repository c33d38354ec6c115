"""Who rides in a step and in which pass: bounds, fairness, least cost by brute force."""

from __future__ import annotations

from dataclasses import dataclass

from hypothesis import given
from hypothesis import strategies as st

from omni_diffusion.engine.batcher import Budget, group_passes, select


@dataclass(eq=False)
class Ride:
    lengths: tuple[int, ...]
    last_step: int = 0


def cost(passes: list[list[Ride]], pass_overhead: int) -> int:
    total = 0
    for riders in passes:
        lengths = [length for rider in riders for length in rider.lengths]
        total += len(lengths) * max(lengths) + pass_overhead
    return total


def partitions(riders: list[Ride]) -> list[list[list[Ride]]]:
    """Every way to cut riders into groups, neighbours or not."""
    if not riders:
        return [[]]
    found = []
    for rest in partitions(riders[1:]):
        found.append([[riders[0]], *rest])
        for i, group in enumerate(rest):
            found.append([*rest[:i], [riders[0], *group], *rest[i + 1 :]])
    return found


lengths = st.one_of(
    st.integers(1, 60).map(lambda n: (n,)), st.tuples(st.integers(1, 60), st.integers(1, 60))
)


@given(st.lists(lengths.map(Ride), min_size=1, max_size=6), st.integers(0, 100))
def test_everyone_rides_once(riders: list[Ride], pass_overhead: int) -> None:
    passes = group_passes(riders, Budget(120, pass_overhead))
    assert sorted(id(r) for group in passes for r in group) == sorted(map(id, riders))
    for group in passes:
        rows = [length for rider in group for length in rider.lengths]
        assert len(rows) * max(rows) <= 120 or len(group) == 1


@given(st.lists(st.integers(1, 60), min_size=1, max_size=6), st.integers(0, 100))
def test_padding_and_launches_cost_least(sizes: list[int], pass_overhead: int) -> None:
    riders = [Ride((size,)) for size in sizes]
    best = min(cost(passes, pass_overhead) for passes in partitions(riders))
    assert cost(group_passes(riders, Budget(10_000, pass_overhead)), pass_overhead) == best


def test_equal_lengths_share_a_pass_and_far_ones_do_not() -> None:
    a, b, c = Ride((50,)), Ride((300,)), Ride((50,))
    assert group_passes([a, b, c], Budget(10_000, 24)) == [[a, c], [b]]
    assert group_passes([], Budget(10, 24)) == []


def test_both_branches_of_guidance_stay_together() -> None:
    guided, plain = Ride((40, 90)), Ride((40,))
    assert group_passes([guided, plain], Budget(10_000, 0)) == [[plain], [guided]]


def test_a_step_holds_its_budget_and_the_longest_waiting_first() -> None:
    a, b, c, d = (
        Ride((60,), last_step=5),
        Ride((30, 30), last_step=4),
        Ride((40,), last_step=5),
        Ride((9,), 5),
    )
    assert select([a, b, c, d], Budget(100, 0)) == [b, c]
    assert select([a], Budget(10, 0)) == [a]  # larger than any step: alone
    assert select([], Budget(10, 0)) == []


@given(st.lists(st.integers(1, 50), min_size=1, max_size=8), st.integers(1, 60))
def test_nobody_starves(sizes: list[int], places: int) -> None:
    riders = [Ride((size,)) for size in sizes]
    rode = dict.fromkeys(map(id, riders), 0)
    for step in range(1, 3 * len(riders) + 1):
        for rider in select(riders, Budget(places, 0)):
            rider.last_step = step
            rode[id(rider)] += 1
    assert min(rode.values()) >= 3
