"""One denoising step: logits of masked positions in, the most confident tokens committed.

Runs no forward pass. The sequences of a batch may be at different steps, and logits may be on any
device.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from omni_diffusion.diffusion import upstream
from omni_diffusion.diffusion.params import SamplingParams
from omni_diffusion.diffusion.penalties import position_scale
from omni_diffusion.diffusion.proposal import StepInputs, propose
from omni_diffusion.diffusion.schedule import commit_count
from omni_diffusion.diffusion.state import DenoisingState, start
from omni_diffusion.errors import SamplingError

__all__ = ["Commit", "DenoisingState", "SamplingParams", "start", "step"]


@dataclass(frozen=True)
class Commit:
    """What one step wrote into one sequence.

    positions: int64 [k], ascending. tokens: int64 [k]. confidences: float32 [k], by which they
    were selected.
    """

    positions: Tensor
    tokens: Tensor
    confidences: Tensor


def step(states: Sequence[DenoisingState], logits: Sequence[Tensor]) -> list[Commit]:
    """Commit the most confident tokens of every sequence.

    logits: for each sequence [m, V], in the order of the m positions of its `query_mask`. Known
    tokens never change and the mask id is never committed. Equal confidences resolve to the lowest
    position. Raises SamplingError for logits of another shape or with NaN, and for a state without
    a step left; the states are then unchanged.
    """
    if not states:
        return []
    positions = [state.query_mask.nonzero().flatten() for state in states]
    for state, values, where in zip(states, logits, positions, strict=True):
        _check(state, values, where)
    proposals = [
        propose(values, _inputs(state, where), state.params)
        for state, values, where in zip(states, logits, positions, strict=True)
    ]
    # Concatenated before the copy, so that the device is waited for once and not once per sequence.
    tokens = torch.cat([tokens for tokens, _ in proposals]).cpu()
    confidences = torch.cat([confidences for _, confidences in proposals]).cpu()
    if bool(confidences.isnan().any()):
        raise SamplingError("logits contain NaN", fix="check weights and dtype")
    sizes = [len(where) for where in positions]
    parts = zip(torch.split(tokens, sizes), torch.split(confidences, sizes), strict=True)
    return [
        _commit(state, where, *part)
        for state, where, part in zip(states, positions, parts, strict=True)
    ]


def _check(state: DenoisingState, logits: Tensor, positions: Tensor) -> None:
    if state.done:
        raise SamplingError("a sequence has no step left", fix="remove it from the batch (`done`)")
    if logits.ndim != 2 or len(logits) != len(positions):
        raise SamplingError(
            f"logits have shape {tuple(logits.shape)} for {len(positions)} positions",
            field="logits",
            value=tuple(logits.shape),
            fix="give [m, V], one row for each position of the state's `query_mask`",
        )


def _inputs(state: DenoisingState, positions: Tensor) -> StepInputs:
    params, canvas, masked = state.params, state.canvas, state.canvas.blanks
    first, last = state.span
    if params.rules == "upstream":
        repeated = upstream.repeated_ids(canvas, state.span, state.steps_done, state.mask_id)
    else:
        repeated = torch.unique(canvas.ids[state.written])
    scale = None
    if params.position_penalty != 1 and params.rules == "upstream":
        scale = upstream.position_factor(masked, params.position_penalty)
    elif params.position_penalty != 1:
        scale = position_scale(positions - first, last - first, masked, params.position_penalty)
    uniforms = None
    if params.temperature > 0:
        uniforms = torch.rand(len(positions), dtype=torch.float64, generator=state.generator)
    return StepInputs(canvas.allowed[positions], state.mask_id, repeated, scale, uniforms)


def _commit(
    state: DenoisingState, positions: Tensor, tokens: Tensor, confidences: Tensor
) -> Commit:
    chosen = _choose(state, positions, confidences)
    # Without `constrain`, rules "upstream" may choose the mask id: the position stays masked.
    chosen = chosen[tokens[chosen] != state.mask_id]
    commit = Commit(positions[chosen], tokens[chosen], confidences[chosen])
    state.canvas = state.canvas.fill(commit.positions, commit.tokens)
    state.written[commit.positions] = True
    state.advance()
    return commit


def _choose(state: DenoisingState, positions: Tensor, confidences: Tensor) -> Tensor:
    """Which of the positions [m] to commit: indices [k], ascending."""
    params, block, i = state.params, state.block, state.block_step
    noise = torch.empty(0)
    if params.confidence == "random" or params.confidence_temperature > 0:
        noise = torch.rand(len(positions), dtype=torch.float64, generator=state.generator)
    if params.rules == "upstream" and params.confidence == "random":
        return upstream.random_commits(noise, i, block.steps)
    if params.confidence == "random":
        confidences = noise
    elif params.confidence_temperature > 0:
        # With Gumbel noise the k greatest are k draws without replacement from
        # softmax(confidences / temperature).
        confidences = confidences / params.confidence_temperature - (-noise.log()).log()
    inside = (positions >= block.start) & (positions < block.stop)
    masked = int(inside.sum())
    if params.rules == "upstream":
        count = upstream.commit_count(masked, i, block.steps)
    else:
        count = commit_count(masked, i, block.steps, params.schedule)
    order = confidences.masked_fill(~inside, -torch.inf).sort(descending=True, stable=True).indices
    return order[:count].sort().values
