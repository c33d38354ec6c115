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
from omni_diffusion.diffusion.parallel import halton_scores, sure_count
from omni_diffusion.diffusion.params import SamplingParams
from omni_diffusion.diffusion.penalties import position_scale
from omni_diffusion.diffusion.proposal import Logits, StepInputs, propose
from omni_diffusion.diffusion.schedule import commit_count
from omni_diffusion.diffusion.state import DenoisingState, start
from omni_diffusion.errors import SamplingError

__all__ = ["Commit", "DenoisingState", "Logits", "SamplingParams", "start", "step"]


@dataclass(frozen=True)
class Commit:
    """What one step wrote into one sequence.

    positions: int64 [k], ascending. tokens: int64 [k]. confidences: float32 [k], by which they
    were selected.
    """

    positions: Tensor
    tokens: Tensor
    confidences: Tensor


def step(states: Sequence[DenoisingState], logits: Logits) -> list[Commit | None]:
    """Commit the most confident tokens of every sequence.

    logits: of the positions of the states' `query_mask`, one state after the other. Known tokens
    never change and the mask id is never committed. Equal confidences resolve to the lowest
    position. A sequence whose logits are not finite gets None and no change. Raises SamplingError
    for another number of positions and for a state without a step left; no state changes where
    anything is raised.
    """
    if not states:
        return []
    positions = [state.query_mask.nonzero().flatten() for state in states]
    sizes = [len(where) for where in positions]
    if any(state.done for state in states):
        raise SamplingError("a sequence has no step left", fix="remove it from the batch (`done`)")
    if logits.positions != sum(sizes):
        raise SamplingError(
            f"logits of {logits.positions} positions for {sum(sizes)} masked ones",
            field="logits",
            value=logits.positions,
            fix="give one for each position of the states' `query_mask`",
        )
    before = [state.generator.get_state() for state in states]
    inputs = [_inputs(state, where) for state, where in zip(states, positions, strict=True)]
    try:
        proposed = propose(logits, inputs)
    except BaseException:  # such as too little memory: a smaller batch may be tried next
        for state, random in zip(states, before, strict=True):
            state.generator.set_state(random)
        raise
    # Both for all sequences at once, so that the device is waited for once.
    tokens, confidences = (torch.split(each.cpu(), sizes) for each in proposed)
    return [
        None if bool(part[1].isnan().any()) else _commit(state, where, *part)
        for state, where, part in zip(
            states, positions, zip(tokens, confidences, strict=True), strict=True
        )
    ]


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
    return StepInputs(params, canvas.allowed[positions], state.mask_id, repeated, scale, uniforms)


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
    elif params.confidence == "halton":
        confidences = halton_scores(state.canvas.allowed, positions, confidences)
    inside = (positions >= block.start) & (positions < block.stop)
    masked = int(inside.sum())
    if params.rules == "upstream":
        count = upstream.commit_count(masked, i, block.steps)
    else:
        count = commit_count(masked, i, block.steps, params.schedule)
    ranked = confidences.masked_fill(~inside, -torch.inf).sort(descending=True, stable=True)
    count = max(count, sure_count(ranked.values[:masked], params))
    return ranked.indices[:count].sort().values


def close(state: DenoisingState, positions: Tensor, token: int) -> None:
    """Write one token to masked positions [n] without a step: nothing more depends on them."""
    state.canvas = state.canvas.fill(positions, torch.full((len(positions),), token))
    state.advance(0)
