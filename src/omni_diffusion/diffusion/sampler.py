"""The denoising loop's one turn: logits of blank places in, the surest tokens committed.

Knows nothing of models, tasks or tokens' names, and runs no forward pass of its own. Rows stand at
any step of theirs; logits may lie on any device, from where all rows' guesses come back together.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from omni_diffusion.canvas import Canvas
from omni_diffusion.diffusion.params import SamplingParams
from omni_diffusion.diffusion.penalties import position_scale, published_position_factor
from omni_diffusion.diffusion.proposal import Question, propose
from omni_diffusion.diffusion.schedule import LAST_TIME, commit_count
from omni_diffusion.diffusion.state import DenoisingState, start
from omni_diffusion.errors import SamplingError

__all__ = ["Commit", "DenoisingState", "SamplingParams", "denoise", "start", "step"]


@dataclass(frozen=True)
class Commit:
    """What one step wrote into one row: places int64 [k] ascending, with their tokens int64 [k]
    and the confidences float32 [k] that they were chosen by."""

    places: Tensor
    tokens: Tensor
    confidences: Tensor


def step(states: Sequence[DenoisingState], logits: Sequence[Tensor]) -> list[Commit]:
    """Commit the surest places of every row.

    logits: for each row [m, V], the m places of its ``wanted`` in order. Given tokens never change
    and the mask id is never committed. Equal confidences: the lowest place first.
    """
    if not states:
        return []
    places = [state.wanted.nonzero().flatten() for state in states]
    for state, row, where in zip(states, logits, places, strict=True):
        _check(state, row, where)
    guesses = [
        propose(row, _question(state, where), state.params)
        for state, row, where in zip(states, logits, places, strict=True)
    ]
    # Joined first, so that the device is waited for once and not once per row.
    tokens = torch.cat([tokens for tokens, _ in guesses]).cpu()
    sure = torch.cat([sure for _, sure in guesses]).cpu()
    if bool(sure.isnan().any()):
        raise SamplingError("logits hold values that are not numbers; check weights and dtype")
    sizes = [len(where) for where in places]
    parts = zip(torch.split(tokens, sizes), torch.split(sure, sizes), strict=True)
    return [
        _commit(state, where, *part)
        for state, where, part in zip(states, places, parts, strict=True)
    ]


def denoise(
    canvas: Canvas,
    params: SamplingParams,
    mask_id: int,
    denoiser: Callable[[Tensor, Tensor], Tensor],
) -> Canvas:
    """Fill one canvas: denoiser(ids [L], wanted bool [L]) -> logits [m, V] of the wanted places."""
    state = start(canvas, params, mask_id)
    while not state.done:
        step([state], [denoiser(state.canvas.ids, state.wanted)])
    return state.canvas


def _check(state: DenoisingState, logits: Tensor, places: Tensor) -> None:
    if state.done:
        raise SamplingError("a row has no step left; leave it out of the next one (see `done`)")
    if logits.ndim != 2 or len(logits) != len(places):
        raise SamplingError(
            f"logits have shape {tuple(logits.shape)} for {len(places)} places; give [m, V], one"
            " row for each of the state's `wanted` places"
        )


def _question(state: DenoisingState, places: Tensor) -> Question:
    params, canvas = state.params, state.canvas
    first, last = state.span
    upstream = params.rules == "upstream"
    if upstream:
        ids = canvas.ids[first:last] if state.steps_done else canvas.ids[:0]
        repeated = torch.unique(ids[(ids != state.mask_id) & (ids != 0)])
    else:
        repeated = torch.unique(canvas.ids[state.written])
    scale = None
    if params.position_penalty != 1:
        blanks, penalty = canvas.blanks, params.position_penalty
        scale = (
            published_position_factor(blanks, penalty)
            if upstream
            else position_scale(places - first, last - first, blanks, penalty)
        )
    uniforms = None
    if params.temperature > 0:
        uniforms = torch.rand(len(places), dtype=torch.float64, generator=state.generator)
    return Question(canvas.allowed[places], state.mask_id, repeated, scale, uniforms)


def _commit(state: DenoisingState, places: Tensor, tokens: Tensor, sure: Tensor) -> Commit:
    chosen = _choose(state, places, sure)
    # Without the constraint the published code may pick the mask id: the place then stays blank.
    chosen = chosen[tokens[chosen] != state.mask_id]
    commit = Commit(places[chosen], tokens[chosen], sure[chosen])
    state.canvas = state.canvas.fill(commit.places, commit.tokens)
    state.written[commit.places] = True
    state.advance()
    return commit


def _choose(state: DenoisingState, places: Tensor, sure: Tensor) -> Tensor:
    """Which of the places [m] to commit: their numbers [k], ascending."""
    params, block, i = state.params, state.block, state.block_step
    upstream = params.rules == "upstream"
    noise = torch.empty(0)
    if params.confidence == "random" or params.confidence_temperature > 0:
        noise = torch.rand(len(places), dtype=torch.float64, generator=state.generator)
    if upstream and params.confidence == "random":
        # Each blank of the whole canvas by itself, whatever the block.
        times = torch.linspace(1, LAST_TIME, block.steps + 1)
        chance = 1 if i == block.steps - 1 else 1 - times[i + 1] / times[i]
        return (noise < chance).nonzero().flatten()
    if params.confidence == "random":
        sure = noise
    elif params.confidence_temperature > 0:
        # Gumbel noise: the k greatest are a draw without replacement from softmax(sure / T).
        sure = sure / params.confidence_temperature - (-noise.log()).log()
    inside = (places >= block.start) & (places < block.stop)
    left = int(inside.sum())
    if upstream:
        # At least one, even from another block when this one is full.
        count = max(1, commit_count(left, i, block.steps, "published"))
    else:
        count = commit_count(left, i, block.steps, params.schedule)
    order = sure.masked_fill(~inside, -torch.inf).sort(descending=True, stable=True).indices
    return order[:count].sort().values
