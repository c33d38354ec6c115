"""Every canvas is in one row, no row is too long, and padding is small."""

from __future__ import annotations

import re

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from omni_diffusion.canvas import Canvas
from omni_diffusion.data.packing import pack
from omni_diffusion.errors import DataError
from omni_diffusion.models.sizes import MAX_TRAINING_LENGTH


def canvas(length: int) -> Canvas:
    ids = torch.zeros(length, dtype=torch.int64)
    return Canvas(ids, ids.bool(), torch.tensor([[0, 1]]).expand(length, 2), (0, length))


@given(st.lists(st.integers(1, 40), max_size=30))
def test_every_canvas_is_in_one_row(lengths: list[int]) -> None:
    canvases = [canvas(length) for length in lengths]
    rows = pack(canvases, 40)
    assert sorted(map(id, (one for row in rows for one in row))) == sorted(map(id, canvases))
    lengths_used = [sum(one.length for one in row) for row in rows]
    assert all(0 < each <= 40 for each in lengths_used)
    assert all(
        a + b > 40 for i, a in enumerate(lengths_used) for b in lengths_used[:i]
    )  # none can be joined


def test_longest_first_and_deterministic() -> None:
    canvases = [canvas(length) for length in (3, 7, 3, 5, 2)]
    rows = pack(canvases, 10)
    assert [[canvases.index(one) for one in row] for row in rows] == [[1, 0], [3, 2, 4]]


def test_no_canvases_give_no_rows() -> None:
    assert pack([]) == []


def test_mixed_lengths_leave_little_padding() -> None:
    generator = torch.Generator().manual_seed(0)
    lengths = torch.randint(40, 1500, (200,), generator=generator).tolist()
    canvases = [canvas(length) for length in lengths]
    lengths_used = [sum(one.length for one in row) for row in pack(canvases)]
    assert 1 - sum(lengths_used) / (len(lengths_used) * max(lengths_used)) < 0.03
    assert 1 - sum(lengths) / (len(lengths) * max(lengths)) > 0.4  # one in a row


def test_a_canvas_longer_than_a_row_is_an_error() -> None:
    pack([canvas(MAX_TRAINING_LENGTH)])
    with pytest.raises(DataError, match=re.escape("a sample has 3073 tokens, a row has 3072")):
        pack([canvas(2), canvas(MAX_TRAINING_LENGTH + 1)])
