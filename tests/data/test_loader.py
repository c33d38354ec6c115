"""No row is lost or drawn twice in an epoch, whoever draws, stops and goes on."""

import re

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from omni_diffusion.data.loader import Loader, State, permutation
from omni_diffusion.errors import DataError

SIZES = st.integers(1, 40)
COUNTS = st.lists(st.integers(0, 30), max_size=12)
RANKS = st.integers(1, 5)


def together(rows: int, state: State, ranks: int, counts: list[int]) -> tuple[list[int], State]:
    """What all ranks draw, put back in order, and the state that each of them is in."""
    loaders = [Loader(rows, state, rank=rank, ranks=ranks) for rank in range(ranks)]
    found: list[int] = []
    for count in counts:
        parts = [loader.draw(count) for loader in loaders]
        joined: list[int] = [-1] * count
        for rank, part in enumerate(parts):
            joined[rank::ranks] = part
        found += joined
    states = {loader.state for loader in loaders}
    assert len(states) == 1
    return found, states.pop()


@given(rows=SIZES, seed=st.integers(0, 9), ranks=RANKS, counts=COUNTS)
def test_an_epoch_has_every_row_once_whatever_the_ranks(
    rows: int, seed: int, ranks: int, counts: list[int]
) -> None:
    drawn, state = together(rows, State(seed), ranks, counts)
    assert len(drawn) == sum(counts) == state.epoch * rows + state.cursor
    for start in range(0, len(drawn), rows):
        epoch = drawn[start : start + rows]
        assert epoch == permutation(rows, seed, start // rows)[: len(epoch)].tolist()
        assert len(set(epoch)) == len(epoch)


@given(rows=SIZES, before=RANKS, after=RANKS, first=COUNTS, second=COUNTS)
def test_going_on_with_other_ranks_draws_what_an_unbroken_run_draws(
    rows: int, before: int, after: int, first: list[int], second: list[int]
) -> None:
    start, state = together(rows, State(3), before, first)
    rest, end = together(rows, state, after, second)
    assert (start + rest, end) == together(rows, State(3), 1, first + second)


@given(rows=SIZES, drawn=st.integers(0, 200), count=st.integers(0, 30))
def test_seeking_is_the_same_as_drawing(rows: int, drawn: int, count: int) -> None:
    one, other = Loader(rows), Loader(rows)
    one.draw(drawn)
    other.seek(drawn)
    assert one.draw(count) == other.draw(count)


@given(rows=SIZES, ranks=RANKS, each=st.integers(1, 6))
def test_ranks_get_equally_many_of_a_multiple(rows: int, ranks: int, each: int) -> None:
    parts = [Loader(rows, rank=rank, ranks=ranks).draw(each * ranks) for rank in range(ranks)]
    assert {len(part) for part in parts} == {each}


def test_orders_differ_by_epoch_and_seed_and_are_even() -> None:
    orders = {tuple(permutation(50, s, e).tolist()) for s in range(3) for e in range(3)}
    assert len(orders) == 9
    first = torch.stack([permutation(10, 0, epoch) for epoch in range(2000)])[:, 0]
    assert first.bincount(minlength=10).float().std() < 40  # about 14 were it chance


@pytest.mark.parametrize(
    ("rows", "state", "rank", "ranks", "told"),
    [
        (0, State(), 0, 1, "there are no rows to draw from"),
        (5, State(), 2, 2, "rank 2 of 2; give 0 to 1"),
        (5, State(cursor=6), 0, 1, "drawn 6 rows of an epoch of 5; go on with the data"),
    ],
)
def test_what_does_not_fit(rows: int, state: State, rank: int, ranks: int, told: str) -> None:
    with pytest.raises(DataError, match=re.escape(told)):
        Loader(rows, state, rank=rank, ranks=ranks)


def test_a_state_before_the_first_row() -> None:
    with pytest.raises(DataError, match="before the first row"):
        State(cursor=-1)
