"""Fewer steps: sure tokens are committed together, and Halton's order spreads them."""

from __future__ import annotations

import pytest
import torch
from tests.diffusion.test_sampler import MASK, VOCAB

from omni_diffusion.canvas import Canvas
from omni_diffusion.diffusion.parallel import halton_ranks, halton_scores, sure_count
from omni_diffusion.diffusion.sampler import Logits, SamplingParams, close, start, step
from omni_diffusion.errors import SamplingError


def masked(length: int) -> Canvas:
    ids = torch.full((length,), MASK)
    allowed = torch.tensor([[10, VOCAB]]).expand(length, 2)
    return Canvas(ids, ids == MASK, allowed, (0, length))


def peaked(sharpness: list[float]) -> Logits:
    """Logits whose position i prefers id 10 + i, the more the sharper it is."""
    logits = torch.zeros(len(sharpness), VOCAB)
    for i, sharp in enumerate(sharpness):
        logits[i, 10 + i] = sharp
    return Logits.of([logits])


def committed(params: SamplingParams, sharpness: list[float]) -> list[int]:
    [commit] = step([start(masked(len(sharpness)), params, MASK)], peaked(sharpness))
    assert commit is not None
    return commit.positions.tolist()


SHARPNESS = [9.0, 0.0, 9.0, 1.0, 9.0, 2.0]


def test_a_threshold_commits_all_that_are_sure_and_at_least_the_schedule() -> None:
    params = SamplingParams(confidence="max_probability")
    assert committed(params, SHARPNESS) == [0]
    sure = SamplingParams(confidence="max_probability", threshold=0.9)
    assert committed(sure, SHARPNESS) == [0, 2, 4]
    assert committed(sure, [0.0, 1.0]) == [1]
    few = SamplingParams(confidence="max_probability", threshold=0.9, steps=1)
    assert committed(few, SHARPNESS) == [0, 1, 2, 3, 4, 5]


def test_an_entropy_bound_holds_for_all_but_the_largest_of_the_set() -> None:
    confidences = -torch.tensor([0.1, 0.2, 0.3, 2.0])
    for bound, count in ((0.0, 1), (0.11, 2), (0.29, 2), (0.31, 3), (0.61, 4), (9.0, 4)):
        assert sure_count(confidences, SamplingParams(entropy_bound=bound)) == count
    assert sure_count(confidences, SamplingParams()) == 0
    assert committed(SamplingParams(entropy_bound=0.5), SHARPNESS)[:3] == [0, 2, 4]


def test_fewer_steps_fill_the_same_canvas() -> None:
    params = SamplingParams(confidence="max_probability", threshold=0.9)
    state = start(masked(6), params, MASK)
    steps = 0
    while not state.done:
        sharpness = [SHARPNESS[i] for i in state.query_mask.nonzero().flatten().tolist()]
        step([state], peaked(sharpness))
        steps += 1
    assert state.canvas.blanks == 0
    assert steps == state.steps_done == 4  # three at once, then one by one


@pytest.mark.parametrize(
    "changes",
    [
        {"threshold": 0.9},
        {"threshold": 1.1, "confidence": "margin"},
        {"entropy_bound": 1.0, "confidence": "margin"},
        {"entropy_bound": -1.0},
        {"entropy_bound": 1.0, "confidence_temperature": 0.5},
        {"guidance_from": 2.0},
        {"end_early": 1},
    ],
)
def test_what_does_not_fit_is_refused(changes: dict[str, object]) -> None:
    with pytest.raises(SamplingError) as caught:
        SamplingParams(**changes)  # type: ignore[arg-type]
    assert caught.value.field in changes


@pytest.mark.parametrize("side", [2, 8, 16])
def test_the_order_of_halton_visits_every_cell_and_any_beginning_is_spread(side: int) -> None:
    ranks = halton_ranks(side).view(side, side)
    assert sorted(ranks.flatten().tolist()) == list(range(side * side))
    half = side // 2
    for first in (side * side // 4, side * side // 2):
        seen = ranks < first
        quarters = [seen[a : a + half, b : b + half].sum() for a in (0, half) for b in (0, half)]
        assert max(quarters) - min(quarters) <= max(1, first // 5)


def test_pictures_are_ordered_by_halton_and_text_before_them_by_confidence() -> None:
    allowed = torch.tensor([[0, 5]] * 3 + [[5, 9]] * 16)
    confidences = torch.linspace(0.1, 0.9, 19)
    scores = halton_scores(allowed, torch.arange(19), confidences)
    assert torch.equal(scores[:3], confidences[:3])
    assert scores[3:].argsort(descending=True).tolist() == halton_ranks(4).argsort().tolist()
    assert float(scores[3:].max()) < float(scores[:3].min())
    assert committed(SamplingParams(confidence="halton", steps=4), [0.0] * 16) == sorted(
        halton_ranks(4).argsort()[:4].tolist()
    )


def test_closed_positions_take_no_step() -> None:
    state = start(masked(6), SamplingParams(block_length=2), MASK)
    close(state, torch.tensor([0, 1, 5]), 3)
    assert (state.steps_done, state.block.start) == (0, 2)
    assert state.canvas.ids.tolist() == [3, 3, MASK, MASK, MASK, 3]
    close(state, torch.tensor([2, 3, 4]), 3)
    assert state.done
