"""Logits of one sequence -> a token for each masked position, and its confidence.

Computes in float32 whatever the dtype of the logits, without a Python loop over tokens.

Dimensions: m positions, V ids of a position's allowed range.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from omni_diffusion.diffusion import upstream
from omni_diffusion.diffusion.confidence import confidence
from omni_diffusion.diffusion.filters import DROPPED, draw, top_k_top_p
from omni_diffusion.diffusion.params import SamplingParams
from omni_diffusion.diffusion.penalties import repetition
from omni_diffusion.errors import SamplingError


@dataclass(frozen=True)
class StepInputs:
    """What one step takes beside the logits of a sequence; all tensors on the CPU.

    allowed: int64 [m, 2], half-open range of the ids that a position may take.
    repeated: int64 [r], ids that the repetition penalty lowers.
    scale: float32 [m], factor of the position penalty (its use depends on the rules).
    uniforms: float64 [m] in [0, 1) to draw tokens with; None at temperature 0.
    """

    allowed: Tensor
    mask_id: int
    repeated: Tensor
    scale: Tensor | None = None
    uniforms: Tensor | None = None

    def part(self, rows: Tensor, low: int, high: int) -> StepInputs:
        """The inputs of some of the positions, with ids low..high-1 counted from `low`."""
        inside = (self.repeated >= low) & (self.repeated < high)
        return StepInputs(
            self.allowed[rows] - low,
            self.mask_id - low,
            self.repeated[inside] - low,
            None if self.scale is None else self.scale[rows],
            None if self.uniforms is None else self.uniforms[rows],
        )


def propose(logits: Tensor, inputs: StepInputs, params: SamplingParams) -> tuple[Tensor, Tensor]:
    """Tokens int64 [m] and their confidences float32 [m], on the device of logits [m, V].

    Positions with the same range are computed together, on that slice of the vocabulary. Raises
    SamplingError if a range is outside the logits.
    """
    device = logits.device
    tokens = torch.empty(len(logits), dtype=torch.int64, device=device)
    confidences = torch.empty(len(logits), device=device)
    choose = _upstream if params.rules == "upstream" else _paper
    drops_mask = params.constrain or params.rules == "paper"
    for rows, low, high in _ranges(inputs.allowed, logits.shape[1], params.constrain):
        here = rows.to(device)
        values = logits[:, low:high]
        if len(rows) < len(logits):
            values = values.index_select(0, here)
        part = inputs.part(rows, low, high)
        if drops_mask and 0 <= part.mask_id < high - low:
            drop = torch.tensor([part.mask_id], device=device)
            values = values.index_fill(1, drop, DROPPED)
        chosen, measured = choose(values.float(), part, params)
        tokens[here] = chosen + low
        confidences[here] = measured
    return tokens, confidences


def _ranges(allowed: Tensor, size: int, constrain: bool) -> Iterator[tuple[Tensor, int, int]]:
    """Each range of ids among `allowed`, with the rows [k] of its positions."""
    if not constrain:
        yield torch.arange(len(allowed)), 0, size
        return
    ranges, which = torch.unique(allowed, dim=0, return_inverse=True)
    for i, (low, high) in enumerate(ranges.tolist()):
        if high > size:
            raise SamplingError(
                f"a position allows ids up to {high - 1}, the logits have {size}",
                value=high - 1,
                fix="use the vocabulary that belongs to the model",
            )
        yield (which == i).nonzero().flatten(), low, high


def _paper(values: Tensor, part: StepInputs, params: SamplingParams) -> tuple[Tensor, Tensor]:
    """Penalties change the logits z; confidence is that of softmax(z); filters serve the draw."""
    repeated = _repeated(part, values, params)
    if repeated is not None:
        values = repetition(values, repeated, params.repetition_penalty)
    if part.scale is not None:
        values = values * part.scale.to(values.device)[:, None]
    if part.uniforms is None:
        chosen = values.argmax(dim=1)
    else:
        kept, ids = top_k_top_p(values / params.temperature, params.top_p, params.top_k)
        chosen = _lookup(draw(kept, part.uniforms), ids)
    return chosen, confidence(params.confidence, values.log_softmax(dim=1), chosen)


def _upstream(values: Tensor, part: StepInputs, params: SamplingParams) -> tuple[Tensor, Tensor]:
    repeated = _repeated(part, values, params)
    kept, ids = upstream.candidates(values, repeated, part.scale, params)
    chosen = kept.argmax(dim=1) if part.uniforms is None else draw(kept, part.uniforms)
    return _lookup(chosen, ids), confidence(params.confidence, kept.log_softmax(dim=1), chosen)


def _repeated(part: StepInputs, values: Tensor, params: SamplingParams) -> Tensor | None:
    """Bool [V]: the ids that the repetition penalty lowers; None if it changes nothing."""
    if not len(part.repeated) or params.repetition_penalty == 1:
        return None
    repeated = torch.zeros(values.shape[1], dtype=torch.bool, device=values.device)
    return repeated.index_fill_(0, part.repeated.to(values.device), True)


def _lookup(chosen: Tensor, ids: Tensor | None) -> Tensor:
    """Ids [m] of the chosen candidates [m]; `ids` [m, K] is None for all ids."""
    return chosen if ids is None else ids.gather(1, chosen[:, None])[:, 0]
