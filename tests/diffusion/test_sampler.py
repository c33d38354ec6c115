from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from omni_diffusion.canvas import Canvas
from omni_diffusion.diffusion.sampler import DenoisingState, Logits, SamplingParams, start, step
from omni_diffusion.errors import SamplingError

VOCAB, MASK = 40, 7
RANGES = torch.tensor([[0, 40], [0, 10], [10, 25], [25, 40]])


def denoiser(ids: Tensor, query_mask: Tensor) -> Tensor:
    """A made-up model: logits of a place depend on the place and on the whole canvas."""
    places = torch.arange(1.0, len(ids) + 1)
    state = (ids * places).sum() % 1009
    table = torch.outer(places, torch.arange(1.0, VOCAB + 1))
    return (torch.sin(table * (1 + state / 300)) * 3)[query_mask]


def denoise(canvas: Canvas, params: SamplingParams) -> Canvas:
    """Fill one canvas by itself."""
    state = start(canvas, params, MASK)
    while not state.done:
        step([state], Logits.of([denoiser(state.canvas.ids, state.query_mask)]))
    return state.canvas


def canvas(length: int, seed: int = 0, share: float = 0.7) -> Canvas:
    """Random given tokens and ranges; about a share of the places blank."""
    generator = torch.Generator().manual_seed(seed)
    blank = torch.rand(length, generator=generator) < share
    ids = torch.randint(8, VOCAB, (length,), generator=generator)
    allowed = RANGES[torch.randint(0, len(RANGES), (length,), generator=generator)]
    return Canvas(torch.where(blank, MASK, ids), blank, allowed, (0, length))


settings_of_rows = st.builds(
    SamplingParams,
    steps=st.sampled_from([None, 1, 3, 7, 500]),
    confidence=st.sampled_from(["entropy", "margin", "max_probability", "random"]),
    temperature=st.sampled_from([0.0, 0.8]),
    top_p=st.sampled_from([None, 0.9]),
    top_k=st.sampled_from([None, 5]),
    repetition_penalty=st.sampled_from([1.0, 1.3]),
    position_penalty=st.sampled_from([1.0, 2.0]),
    block_length=st.sampled_from([None, 1, 8]),
    confidence_temperature=st.sampled_from([0.0, 0.5]),
    schedule=st.sampled_from(["even", "cosine"]),
    rules=st.sampled_from(["paper", "paper", "upstream"]),
    seed=st.integers(0, 5),
)


@settings(max_examples=120, deadline=None)
@given(params=settings_of_rows, length=st.integers(1, 130), seed=st.integers(0, 50))
@pytest.mark.slow
def test_every_row_ends_full_and_within_its_bounds(params, length, seed) -> None:
    told = canvas(length, seed)
    state = start(told, params, MASK)
    planned, seen = state.steps, torch.zeros(length, dtype=torch.bool)
    while not state.done:
        (commit,) = step([state], Logits.of([denoiser(state.canvas.ids, state.query_mask)]))
        assert not seen[commit.positions].any()
        seen[commit.positions] = True
        assert (commit.positions.diff() > 0).all()
        assert torch.equal(state.canvas.ids[commit.positions], commit.tokens)
        assert params.rules == "upstream" or len(commit.positions) > 0
    ids, given_places = state.canvas.ids, ~told.blank
    assert torch.equal(ids[given_places], told.ids[given_places])
    assert torch.equal(state.written, seen)
    filled = ids[seen]
    assert (filled != MASK).all()
    assert ((filled >= told.allowed[seen, 0]) & (filled < told.allowed[seen, 1])).all()
    if params.rules == "paper":
        assert state.canvas.blanks == 0
        assert state.steps_done == planned
    elif params.block_length is None:
        assert state.canvas.blanks == 0


@settings(max_examples=25, deadline=None)
@given(rows=st.lists(st.tuples(settings_of_rows, st.integers(1, 40)), min_size=2, max_size=5))
@pytest.mark.slow
def test_a_batch_equals_its_rows_alone(rows) -> None:
    told = [canvas(length, i) for i, (_, length) in enumerate(rows)]
    states = [start(c, params, MASK) for c, (params, _) in zip(told, rows, strict=True)]
    while running := [state for state in states if not state.done]:
        logits = [denoiser(state.canvas.ids, state.query_mask) for state in running]
        step(running, Logits.of(logits))
    for state, c, (params, _) in zip(states, told, rows, strict=True):
        assert torch.equal(state.canvas.ids, denoise(c, params).ids)


@pytest.mark.parametrize(
    "chance", [{"temperature": 1.0}, {"confidence_temperature": 1.0}, {"confidence": "random"}]
)
def test_the_seed_decides_and_nothing_else(chance) -> None:
    told = canvas(60)
    params = SamplingParams(steps=12, **chance)
    torch.manual_seed(1)
    first = denoise(told, params).ids
    torch.manual_seed(2)
    assert torch.equal(denoise(told, params).ids, first)
    assert not torch.equal(denoise(told, replace(params, seed=1)).ids, first)


def test_equal_confidences_go_to_the_lowest_places() -> None:
    told = canvas(20, share=1.0)
    state = start(told, SamplingParams(steps=4), MASK)
    logits = torch.zeros(20, VOCAB)
    logits[:, [8, 12, 30]] = 100.0  # a tie in each range
    state.canvas.allowed[:] = RANGES[2]
    (commit,) = step([state], Logits.of([logits]))
    assert commit.positions.tolist() == [0, 1, 2, 3, 4]
    assert commit.tokens.tolist() == [12] * 5


def test_the_surest_places_go_first_with_their_confidence() -> None:
    told = replace(canvas(4, share=1.0), allowed=torch.tensor([[8, 40]]).repeat(4, 1))
    logits = torch.zeros(4, VOCAB)
    logits[torch.arange(4), torch.tensor([20, 21, 22, 23])] = torch.tensor([1.0, 9.0, 5.0, 8.0])
    state = start(told, SamplingParams(steps=2, confidence="max_probability"), MASK)
    (commit,) = step([state], Logits.of([logits]))
    assert commit.positions.tolist() == [1, 3]
    assert commit.tokens.tolist() == [21, 23]
    torch.testing.assert_close(commit.confidences, logits[[1, 3], 8:].softmax(-1).max(-1).values)


def test_blocks_fill_from_left_to_right() -> None:
    state = start(canvas(30, share=1.0), SamplingParams(block_length=10), MASK)
    order = []
    while not state.done:
        (commit,) = step([state], Logits.of([denoiser(state.canvas.ids, state.query_mask)]))
        order += commit.positions.tolist()
    assert [place // 10 for place in order] == [0] * 10 + [1] * 10 + [2] * 10


def test_paper_repetition_counts_written_tokens_and_not_given_ones() -> None:
    told = replace(canvas(6, share=1.0), allowed=torch.tensor([[8, 40]]).repeat(6, 1))
    told = told.fill([0], [30])
    state = start(told, SamplingParams(repetition_penalty=10.0), MASK)
    logits = torch.zeros(5, VOCAB)
    logits[:, 30], logits[:, 31] = 9.0, 8.0
    tokens = []
    while not state.done:
        (commit,) = step([state], Logits.of([logits[: int(state.query_mask.sum())]]))
        tokens += commit.tokens.tolist()
    assert tokens[:2] == [30, 31]


def test_upstream_may_choose_the_mask_which_is_never_written() -> None:
    params = SamplingParams(steps=2, rules="upstream", constrain=False)
    state = start(canvas(4, share=1.0), params, MASK)
    logits = torch.zeros(4, VOCAB)
    logits[:, MASK] = 50.0
    while not state.done:
        (commit,) = step([state], Logits.of([logits]))
        assert commit.positions.numel() == 0
    assert state.canvas.blanks == 4


def test_wrong_logits_are_refused_and_leave_the_sequences_alone() -> None:
    state = start(canvas(12, share=1.0), SamplingParams(), MASK)
    with pytest.raises(SamplingError, match="3 positions for 12 "):
        step([state], Logits.of([torch.zeros(3, VOCAB)]))
    assert state.steps_done == 0


@pytest.mark.parametrize("options", [{}, {"temperature": 1.0}, {"rules": "upstream"}])
@pytest.mark.parametrize("bad", [torch.nan, torch.inf])
def test_logits_that_are_not_finite_cost_their_sequence_alone(options, bad) -> None:
    states = [start(canvas(12, share=1.0), SamplingParams(**options), MASK) for _ in range(2)]
    broken = denoiser(states[0].canvas.ids, states[0].query_mask)
    sound = broken.clone()
    broken[3, 8:] = bad
    first, second = step(states, Logits.of([broken, sound]))
    assert first is None
    assert second is not None
    assert [state.steps_done for state in states] == [0, 1]


def test_a_step_that_fails_draws_the_same_numbers_again() -> None:
    def of_state() -> DenoisingState:
        return start(canvas(30), SamplingParams(temperature=1.0, steps=3), MASK)

    def fail(rows: Tensor, low: int, high: int) -> Tensor:
        raise MemoryError

    state, other = of_state(), of_state()
    values = Logits.of([denoiser(state.canvas.ids, state.query_mask)])
    with pytest.raises(MemoryError):
        step([state], replace(values, compute=fail))
    step([state], values)
    step([other], values)
    assert torch.equal(state.canvas.ids, other.canvas.ids)


def test_a_finished_row_is_refused_and_no_rows_are_no_work() -> None:
    state = start(canvas(4, share=0.0), SamplingParams(), MASK)
    with pytest.raises(SamplingError, match="no step left"):
        step([state], Logits.of([torch.zeros(0, VOCAB)]))
    assert step([], Logits.of([torch.zeros(0, VOCAB)])) == []
