"""No sample is lost or drawn twice in an epoch, also across a resume."""

from __future__ import annotations

import re

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from omni_diffusion.data.epoch_sampler import EpochSampler, SamplerState, permutation
from omni_diffusion.errors import DataError

SIZES = st.integers(1, 40)
COUNTS = st.lists(st.integers(0, 30), max_size=12)


def draw_all(sampler: EpochSampler, counts: list[int]) -> list[int]:
    return [row for count in counts for row in sampler.draw(count)]


@given(size=SIZES, seed=st.integers(0, 9), counts=COUNTS)
def test_an_epoch_has_every_sample_once(size: int, seed: int, counts: list[int]) -> None:
    sampler = EpochSampler(size, SamplerState(seed))
    drawn = draw_all(sampler, counts)
    assert len(drawn) == sum(counts) == sampler.state.epoch * size + sampler.state.cursor
    for start in range(0, len(drawn), size):
        epoch = drawn[start : start + size]
        assert epoch == permutation(size, seed, start // size)[: len(epoch)].tolist()
        assert len(set(epoch)) == len(epoch)


@given(size=SIZES, first=COUNTS, second=COUNTS)
def test_a_resumed_run_draws_what_an_unbroken_one_draws(
    size: int, first: list[int], second: list[int]
) -> None:
    one, whole = EpochSampler(size, SamplerState(3)), EpochSampler(size, SamplerState(3))
    start = draw_all(one, first)
    rest = draw_all(EpochSampler(size, one.state), second)
    assert start + rest == draw_all(whole, first + second)


@given(size=SIZES, drawn=st.integers(0, 200), count=st.integers(0, 30))
def test_seeking_is_the_same_as_drawing(size: int, drawn: int, count: int) -> None:
    one, other = EpochSampler(size), EpochSampler(size)
    one.draw(drawn)
    other.seek(drawn)
    assert one.draw(count) == other.draw(count)


def test_orders_differ_by_epoch_and_seed_and_are_even() -> None:
    orders = {tuple(permutation(50, s, e).tolist()) for s in range(3) for e in range(3)}
    assert len(orders) == 9
    first = torch.stack([permutation(10, 0, epoch) for epoch in range(2000)])[:, 0]
    assert first.bincount(minlength=10).float().std() < 40  # about 14 were it chance


@pytest.mark.parametrize(
    ("size", "state", "message"),
    [
        (0, SamplerState(), "no samples to draw from"),
        (5, SamplerState(cursor=6), "drawn 6 samples of an epoch of 5; resume with the data"),
    ],
)
def test_a_state_that_does_not_fit(size: int, state: SamplerState, message: str) -> None:
    with pytest.raises(DataError, match=re.escape(message)):
        EpochSampler(size, state)


def test_a_state_before_the_first_sample() -> None:
    with pytest.raises(DataError, match="before the first sample"):
        SamplerState(cursor=-1)
