import pytest
import torch

from omni_diffusion.canvas import Canvas
from omni_diffusion.diffusion.params import SamplingParams
from omni_diffusion.diffusion.schedule import Block, spread_steps
from omni_diffusion.diffusion.state import start
from omni_diffusion.errors import SamplingError

MASK = 9


def canvas(length: int, answer: int, given: tuple[int, ...] = ()) -> Canvas:
    """All of answer..length blank, but for the given places."""
    blank = torch.arange(length) >= answer
    blank[list(given)] = False
    ids = torch.where(blank, MASK, 1)
    return Canvas(ids, blank, torch.tensor([[0, 9]]).repeat(length, 1), (answer, length))


def test_steps_default_to_one_for_each_blank_and_are_cut_to_that() -> None:
    assert start(canvas(12, 4, (5,)), SamplingParams(), MASK).steps == 7
    assert start(canvas(12, 4, (5,)), SamplingParams(steps=99), MASK).steps == 7
    assert start(canvas(12, 4), SamplingParams(steps=3), MASK).steps == 3


def test_paper_blocks_share_the_steps_by_their_blanks() -> None:
    state = start(canvas(14, 4, (8, 9, 10)), SamplingParams(steps=4, block_length=4), MASK)
    assert state.blocks == (Block(4, 8, 2), Block(8, 12, 1), Block(12, 14, 1))
    assert state.query_mask.nonzero().flatten().tolist() == [4, 5, 6, 7]


def test_full_blocks_get_no_steps_and_are_passed_over() -> None:
    state = start(canvas(12, 4, (4, 5, 6, 7)), SamplingParams(block_length=4), MASK)
    assert [block.steps for block in state.blocks] == [0, 4]
    assert state.query_mask.nonzero().flatten().tolist() == [8, 9, 10, 11]


def test_upstream_blocks_round_their_steps_down_to_none() -> None:
    params = SamplingParams(steps=2, block_length=8, rules="upstream")
    state = start(canvas(24, 0), params, MASK)
    assert state.done
    assert state.steps == 0


def test_blanks_outside_of_the_answer_are_filled_too() -> None:
    before = canvas(12, 6).erase([2], MASK)
    state = start(before, SamplingParams(), MASK)
    assert state.span == (2, 12)
    assert state.steps == 7


def test_nothing_to_fill_is_done_at_once() -> None:
    for rules in ("paper", "upstream"):
        state = start(canvas(6, 6), SamplingParams(rules=rules), MASK)
        assert state.done
        assert not state.query_mask.any()


def test_spread_steps_adds_up() -> None:
    for blanks in ([5], [8, 8, 2], [0, 3, 0, 7], [1] * 9, [100, 1, 1]):
        for steps in range(1, 130):
            shares = spread_steps(steps, blanks)
            assert all(min(n, 1) <= share <= n for n, share in zip(blanks, shares, strict=True))
            least = sum(n > 0 for n in blanks)
            assert sum(shares) == max(least, min(steps, sum(blanks)))


def test_blank_without_the_mask_id_is_refused() -> None:
    with pytest.raises(SamplingError, match="mask id 8"):
        start(canvas(6, 3), SamplingParams(), 8)


def test_place_that_allows_the_mask_alone_is_refused() -> None:
    told = canvas(6, 3)
    told.allowed[4] = torch.tensor([MASK, MASK + 1])
    with pytest.raises(SamplingError, match="position 4 allows only the mask id 9"):
        start(told, SamplingParams(), MASK)
