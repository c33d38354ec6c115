"""Every canvas lies in one row, no row is too long, and little of a row is left over."""

import re

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from omni_diffusion.canvas import Canvas
from omni_diffusion.data.packing import MAX_LENGTH, pack
from omni_diffusion.errors import DataError


def canvas(length: int) -> Canvas:
    ids = torch.zeros(length, dtype=torch.int64)
    return Canvas(ids, ids.bool(), torch.tensor([[0, 1]]).expand(length, 2), (0, length))


@given(st.lists(st.integers(1, 40), max_size=30))
def test_every_canvas_lies_in_one_row(lengths: list[int]) -> None:
    given = [canvas(length) for length in lengths]
    rows = pack(given, 40)
    assert sorted(map(id, (one for row in rows for one in row))) == sorted(map(id, given))
    taken = [sum(one.length for one in row) for row in rows]
    assert all(0 < each <= 40 for each in taken)
    assert all(a + b > 40 for i, a in enumerate(taken) for b in taken[:i])  # none can be joined


def test_the_longest_come_first_and_the_same_is_packed_the_same() -> None:
    given = [canvas(length) for length in (3, 7, 3, 5, 2)]
    rows = pack(given, 10)
    assert [[given.index(one) for one in row] for row in rows] == [[1, 0], [3, 2, 4]]


def test_nothing_makes_no_rows() -> None:
    assert pack([]) == []


def test_mixed_lengths_leave_little_padding() -> None:
    generator = torch.Generator().manual_seed(0)
    lengths = torch.randint(40, 1500, (200,), generator=generator).tolist()
    given = [canvas(length) for length in lengths]
    taken = [sum(one.length for one in row) for row in pack(given)]
    assert 1 - sum(taken) / (len(taken) * max(taken)) < 0.03
    assert 1 - sum(lengths) / (len(lengths) * max(lengths)) > 0.4  # one in a row


def test_what_is_too_long_is_told() -> None:
    pack([canvas(MAX_LENGTH)])
    with pytest.raises(DataError, match=re.escape("a sample takes 3073 places, a row has 3072")):
        pack([canvas(2), canvas(MAX_LENGTH + 1)])
