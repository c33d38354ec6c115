"""Logits of several sequences -> a token for each masked position, and its confidence.

Computes in float32 whatever the dtype of the logits, and only the ids that a position may take.
Positions of all sequences that are sampled alike are computed together. A large vocabulary passes
by in parts, so its logits are never held as a whole where the likeliest token is taken.

Dimensions: M positions of all sequences, m of some, V ids of a range, K candidates.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from omni_diffusion.diffusion import upstream
from omni_diffusion.diffusion.confidence import Measure, RunningConfidence, confidence
from omni_diffusion.diffusion.filters import DROPPED, draw, top_k_top_p
from omni_diffusion.diffusion.params import SamplingParams
from omni_diffusion.diffusion.penalties import repetition_columns
from omni_diffusion.errors import SamplingError

# Ids that are computed at once: their logits stay in the cache of a CPU. The image codes of the
# published vocabulary are as many.
PART = 8192


@dataclass(frozen=True)
class Logits:
    """Logits of M positions, computed where they are needed.

    compute: (rows int64 [m], low, high) -> a new tensor [m, high - low] on `device`, which the
    sampler may change. size: number of ids. positions: M.
    """

    compute: Callable[[Tensor, int, int], Tensor]
    positions: int
    size: int
    device: torch.device

    @classmethod
    def of(cls, tensors: Sequence[Tensor]) -> Logits:
        """From the logits [m, V] of each sequence."""
        whole = torch.cat(list(tensors))

        def compute(rows: Tensor, low: int, high: int) -> Tensor:
            return whole[rows.to(whole.device), low:high]

        return cls(compute, len(whole), whole.shape[1], whole.device)


@dataclass(frozen=True)
class StepInputs:
    """What one step of a sequence takes beside its logits; all tensors on the CPU.

    allowed: int64 [m, 2], half-open range of the ids that a position may take.
    repeated: int64 [r], ids that the repetition penalty lowers.
    scale: float32 [m], factor of the position penalty (its use depends on the rules).
    uniforms: float64 [m] in [0, 1) to draw tokens with; None at temperature 0.
    """

    params: SamplingParams
    allowed: Tensor
    mask_id: int
    repeated: Tensor
    scale: Tensor | None = None
    uniforms: Tensor | None = None


class _Way(NamedTuple):
    """What positions that are computed together have in common.

    sequence: None where positions of any sequence may join.
    """

    low: int
    high: int
    mask_id: int
    measure: Measure
    sequence: int | None


class _Member(NamedTuple):
    """The positions of one sequence in a group: their numbers in it, and among all M."""

    inputs: StepInputs
    own: Tensor
    rows: Tensor


def propose(logits: Logits, sequences: Sequence[StepInputs]) -> tuple[Tensor, Tensor]:
    """Tokens int64 [M] and their confidences float32 [M], on the device of the logits.

    The positions of the sequences follow one another. Where logits are not finite, the confidence
    is NaN. Raises SamplingError if a range is outside the logits.
    """
    device = logits.device
    tokens = torch.zeros(logits.positions, dtype=torch.int64, device=device)
    confidences = torch.full((logits.positions,), torch.nan, device=device)
    for way, members in _groups(sequences, logits.size).items():
        if way.sequence is None:
            chosen, measured = _likeliest(logits, way, members)
        else:
            chosen, measured = _drawn(logits, way, members[0])
        here = torch.cat([member.rows for member in members]).to(device)
        tokens[here] = chosen + way.low
        confidences[here] = measured
    return tokens, confidences


def _groups(sequences: Sequence[StepInputs], size: int) -> dict[_Way, list[_Member]]:
    groups: dict[_Way, list[_Member]] = {}
    first = 0
    for number, inputs in enumerate(sequences):
        params = inputs.params
        alone = None if params.rules == "paper" and inputs.uniforms is None else number
        for own, low, high in _ranges(inputs.allowed, size, params.constrain):
            way = _Way(low, high, inputs.mask_id, params.confidence, alone)
            groups.setdefault(way, []).append(_Member(inputs, own, own + first))
        first += len(inputs.allowed)
    return groups


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


def _likeliest(logits: Logits, way: _Way, members: Sequence[_Member]) -> tuple[Tensor, Tensor]:
    """The paper's rules at temperature 0: penalties change the logits z, the likeliest token is
    taken, its confidence is that of softmax(z)."""
    rows = torch.cat([member.rows for member in members])
    scale = _scales(members, logits.device)
    if way.high - way.low <= PART:
        values = _penalized(logits, way, members, rows, scale, way.low, way.high)
        chosen = values.argmax(dim=1)
        return chosen, confidence(way.measure, values.log_softmax(dim=1), chosen)
    running = RunningConfidence(way.measure, len(rows), logits.device)
    for low in range(way.low, way.high, PART):
        high = min(low + PART, way.high)
        values = _penalized(logits, way, members, rows, scale, low, high)
        running.add(values, low - way.low)
    return running.chosen, running.value


def _penalized(
    logits: Logits,
    way: _Way,
    members: Sequence[_Member],
    rows: Tensor,
    scale: Tensor | None,
    low: int,
    high: int,
) -> Tensor:
    """z [m, high - low] in float32, without the mask token."""
    values = _values(logits, rows, low, high, way.mask_id)
    first = 0
    for inputs, own, _ in members:
        part = values[first : first + len(own)]
        repetition_columns(part, _inside(inputs, low, high), inputs.params.repetition_penalty)
        first += len(own)
    return values if scale is None else values.mul_(scale[:, None])


def _drawn(logits: Logits, way: _Way, member: _Member) -> tuple[Tensor, Tensor]:
    """The published code's rules, or a draw by the paper's, whose filters serve the draw alone."""
    (inputs, own, rows), (low, high) = member, (way.low, way.high)
    params = inputs.params
    drops_mask = params.constrain or params.rules == "paper"
    values = logits.compute(rows, low, high).float()
    if not bool(values.sum().isfinite()):
        unknown = torch.full((len(own),), torch.nan, device=values.device)
        return torch.zeros(len(own), dtype=torch.int64, device=values.device), unknown
    if drops_mask:
        _drop(values, inputs.mask_id - low)
    repeated = _inside(inputs, low, high)
    scale = None if inputs.scale is None else inputs.scale[own].to(values.device)[:, None]
    uniforms = None if inputs.uniforms is None else inputs.uniforms[own]
    if params.rules == "upstream":
        kept, ids = upstream.candidates(values, repeated, scale, params)
        chosen = kept.argmax(dim=1) if uniforms is None else draw(kept, uniforms)
        measured = confidence(params.confidence, kept.log_softmax(dim=1), chosen)
        return _lookup(chosen, ids), measured
    assert uniforms is not None
    repetition_columns(values, repeated, params.repetition_penalty)
    if scale is not None:
        values.mul_(scale)
    kept, ids = top_k_top_p(values / params.temperature, params.top_p, params.top_k)
    chosen = _lookup(draw(kept, uniforms), ids)
    return chosen, confidence(params.confidence, values.log_softmax(dim=1), chosen)


def _values(logits: Logits, rows: Tensor, low: int, high: int, mask_id: int) -> Tensor:
    values = logits.compute(rows, low, high).float()
    _drop(values, mask_id - low)
    return values


def _drop(values: Tensor, id: int) -> None:
    if 0 <= id < values.shape[1]:
        values[:, id] = DROPPED


def _inside(inputs: StepInputs, low: int, high: int) -> Tensor:
    """The repeated ids within low..high-1, counted from `low`."""
    repeated = inputs.repeated
    return repeated[(repeated >= low) & (repeated < high)] - low


def _scales(members: Sequence[_Member], device: torch.device) -> Tensor | None:
    """The position penalty's factors [m]; None if all are 1."""
    if all(member.inputs.scale is None for member in members):
        return None
    parts = [
        torch.ones(len(own)) if inputs.scale is None else inputs.scale[own]
        for inputs, own, _ in members
    ]
    scale = torch.cat(parts)
    return None if bool((scale == 1).all()) else scale.to(device)


def _lookup(chosen: Tensor, ids: Tensor | None) -> Tensor:
    """Ids [m] of the chosen candidates [m]; `ids` [m, K] is None for all ids."""
    return chosen if ids is None else ids.gather(1, chosen[:, None])[:, 0]
