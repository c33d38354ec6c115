from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from omni_diffusion.canvas import Batch, Canvas, FeatureSlot
from omni_diffusion.errors import CanvasError

MASK = 9


def make(**changes: Any) -> Canvas:
    """Two given places, then four blank ones."""
    parts: dict[str, Any] = {
        "ids": torch.tensor([1, 2, MASK, MASK, MASK, MASK]),
        "blank": torch.tensor([False, False, True, True, True, True]),
        "allowed": torch.tensor([[0, 20]]).repeat(6, 1),
        "answer": (2, 6),
    }
    return Canvas(**(parts | changes))


def test_a_canvas_is_filled_step_by_step_and_the_old_one_stays() -> None:
    empty = make()
    begun = empty.fill([3], [7])
    full = begun.fill(torch.tensor([5, 2, 4]), torch.tensor([15, 12, 14]))
    assert (empty.blanks, begun.blanks, full.blanks) == (4, 3, 0)
    assert empty.ids.tolist() == [1, 2, MASK, MASK, MASK, MASK]
    assert full.ids.tolist() == [1, 2, 12, 7, 14, 15]
    again = full.erase([0, 5], MASK)
    assert again.ids.tolist() == [MASK, 2, 12, 7, 14, MASK]
    assert again.blank.nonzero().flatten().tolist() == [0, 5]


@given(st.permutations([2, 3, 4, 5]), st.integers(0, 4))
def test_order_of_filling_does_not_matter_and_erasing_undoes_it(order: list[int], cut: int) -> None:
    first, rest = order[:cut], order[cut:]
    canvas = make().fill(first, [10 + p for p in first]).fill(rest, [10 + p for p in rest])
    assert canvas.ids.tolist() == [1, 2, 12, 13, 14, 15]
    empty = canvas.erase(order, MASK)
    assert torch.equal(empty.ids, make().ids)
    assert torch.equal(empty.blank, make().blank)


@pytest.mark.parametrize(
    ("places", "tokens", "message"),
    [
        ([1], [5], "position 1 is not masked; erase it"),
        ([6], [5], r"give 0\.\.5"),
        ([-1], [5], r"give 0\.\.5"),
        ([2, 2], [5, 6], "give each once"),
        ([2, 3], [5], "1 tokens for 2 positions"),
    ],
)
def test_given_places_and_places_outside_are_refused(
    places: list[int], tokens: list[int], message: str
) -> None:
    with pytest.raises(CanvasError, match=message):
        make().fill(places, tokens)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"ids": torch.zeros(6)}, "ids is torch.float32"),
        ({"ids": torch.zeros(1, 6, dtype=torch.long)}, r"give torch.int64 \(6,\)"),
        ({"blank": torch.zeros(5, dtype=torch.bool)}, "blank is"),
        ({"allowed": torch.zeros(6, dtype=torch.long)}, r"allowed is .*\(6, 2\)"),
        ({"allowed": torch.tensor([[0, 20]] * 5 + [[7, 7]])}, r"position 5 allows ids \[7, 7\]"),
        ({"allowed": torch.tensor([[-1, 20]] * 6)}, "position 0 allows"),
        ({"answer": (4, 7)}, r"answer is 4\.\.7"),
        ({"answer": (4, 3)}, r"answer is 4\.\.3"),
        ({"slots": (FeatureSlot(5, torch.zeros(2, 4)),)}, r"slot 5\.\.7 exceeds"),
        ({"slots": (FeatureSlot(1, torch.zeros(2, 4)),)}, r"slot 1\.\.3 covers masked"),
    ],
)
def test_parts_that_do_not_fit(change: dict[str, Any], message: str) -> None:
    with pytest.raises(CanvasError, match=message):
        make(**change)


def test_slots_are_kept_and_cannot_be_blanked() -> None:
    slot = FeatureSlot(0, torch.zeros(2, 4))
    canvas = make(slots=(slot,)).fill([2], [3])
    assert canvas.slots == (slot,)
    assert slot.stop == 2
    with pytest.raises(CanvasError, match="covers masked positions"):
        canvas.erase([1], MASK)
    with pytest.raises(CanvasError, match=r"give \[n, dim\]"):
        FeatureSlot(0, torch.zeros(3))


def test_an_empty_canvas_is_a_canvas() -> None:
    none = torch.zeros(0, dtype=torch.long)
    canvas = Canvas(none, none.bool(), none.view(0, 2), (0, 0))
    assert (canvas.length, canvas.blanks) == (0, 0)
    assert canvas.fill([], []).length == 0


def test_a_batch_pads_the_short_rows_and_numbers_the_slots() -> None:
    slot = FeatureSlot(0, torch.zeros(2, 4))
    short = make(slots=(slot,))
    long = Canvas(torch.arange(8), torch.zeros(8).bool(), torch.tensor([[0, 20]] * 8), (0, 0))
    batch = Batch.of([long, short], pad=19)
    assert batch.ids.tolist() == [list(range(8)), [1, 2, MASK, MASK, MASK, MASK, 19, 19]]
    assert batch.segments is not None
    assert batch.segments.tolist() == [[1] * 8, [1] * 6 + [0] * 2]
    assert batch.slots == ((1, slot),)
    assert Batch.of([short, short], pad=19).segments is None
    with pytest.raises(CanvasError, match="no canvases"):
        Batch.of([], pad=19)


def test_packed_rows_tell_their_canvases_apart() -> None:
    slot = FeatureSlot(0, torch.zeros(2, 4))
    short = make(slots=(slot,))
    long = Canvas(torch.arange(8), torch.zeros(8).bool(), torch.tensor([[0, 20]] * 8), (0, 0))
    batch = Batch.packed([[long, short], [short]], pad=19)
    assert batch.ids.tolist() == [[*range(8), *short.ids.tolist()], short.ids.tolist() + [19] * 8]
    assert batch.segments is not None
    assert batch.segments.tolist() == [[1] * 8 + [2] * 6, [1] * 6 + [0] * 8]
    assert [(row, moved.start) for row, moved in batch.slots] == [(0, 8), (1, 0)]
    assert all(moved.frames is slot.frames for _, moved in batch.slots)
    for rows in ([], [[long], []]):
        with pytest.raises(CanvasError, match="a row of no canvases"):
            Batch.packed(rows, pad=19)
