"""No row is lost or drawn twice in an epoch, whoever stops and goes on."""

import re

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from omni_diffusion.data.epoch_sampler import Loader, State, permutation
from omni_diffusion.errors import DataError

SIZES = st.integers(1, 40)
COUNTS = st.lists(st.integers(0, 30), max_size=12)


def together(loader: Loader, counts: list[int]) -> list[int]:
    return [row for count in counts for row in loader.draw(count)]


@given(rows=SIZES, seed=st.integers(0, 9), counts=COUNTS)
def test_an_epoch_has_every_row_once(rows: int, seed: int, counts: list[int]) -> None:
    loader = Loader(rows, State(seed))
    drawn = together(loader, counts)
    assert len(drawn) == sum(counts) == loader.state.epoch * rows + loader.state.cursor
    for start in range(0, len(drawn), rows):
        epoch = drawn[start : start + rows]
        assert epoch == permutation(rows, seed, start // rows)[: len(epoch)].tolist()
        assert len(set(epoch)) == len(epoch)


@given(rows=SIZES, first=COUNTS, second=COUNTS)
def test_going_on_draws_what_an_unbroken_run_draws(
    rows: int, first: list[int], second: list[int]
) -> None:
    one, whole = Loader(rows, State(3)), Loader(rows, State(3))
    start = together(one, first)
    rest = together(Loader(rows, one.state), second)
    assert start + rest == together(whole, first + second)


@given(rows=SIZES, drawn=st.integers(0, 200), count=st.integers(0, 30))
def test_seeking_is_the_same_as_drawing(rows: int, drawn: int, count: int) -> None:
    one, other = Loader(rows), Loader(rows)
    one.draw(drawn)
    other.seek(drawn)
    assert one.draw(count) == other.draw(count)


def test_orders_differ_by_epoch_and_seed_and_are_even() -> None:
    orders = {tuple(permutation(50, s, e).tolist()) for s in range(3) for e in range(3)}
    assert len(orders) == 9
    first = torch.stack([permutation(10, 0, epoch) for epoch in range(2000)])[:, 0]
    assert first.bincount(minlength=10).float().std() < 40  # about 14 were it chance


@pytest.mark.parametrize(
    ("rows", "state", "told"),
    [
        (0, State(), "there are no rows to draw from"),
        (5, State(cursor=6), "drawn 6 rows of an epoch of 5; go on with the data"),
    ],
)
def test_what_does_not_fit(rows: int, state: State, told: str) -> None:
    with pytest.raises(DataError, match=re.escape(told)):
        Loader(rows, state)


def test_a_state_before_the_first_row() -> None:
    with pytest.raises(DataError, match="before the first row"):
        State(cursor=-1)
