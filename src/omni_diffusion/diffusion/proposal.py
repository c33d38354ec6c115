"""One row's logits -> the token that each blank place would take, and how sure that is.

Knows nothing of steps or canvases, and chooses no places. Works in float32 whatever the logits
are, and without a Python loop over tokens. Letters: m places, V tokens of a place's allowed range.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from omni_diffusion.diffusion.confidence import confidence
from omni_diffusion.diffusion.filters import DROPPED, draw, keep
from omni_diffusion.diffusion.params import SamplingParams
from omni_diffusion.diffusion.penalties import bend, repetition
from omni_diffusion.errors import SamplingError


@dataclass(frozen=True)
class Question:
    """What is asked of a row's logits; every tensor on the CPU, one entry for each of m places."""

    allowed: Tensor
    """LongTensor [m, 2]: half-open range of the ids that a place may take."""
    mask_id: int
    repeated: Tensor
    """LongTensor [r]: the ids that the repetition penalty bends."""
    scale: Tensor | None = None
    """Float32 [m]: the position penalty's factor (its meaning depends on the rules)."""
    uniforms: Tensor | None = None
    """Float64 [m] in [0, 1): what is drawn with; None at temperature 0."""

    def part(self, rows: Tensor, low: int, high: int) -> "Question":
        """The same question about some of the places, their ids counted from ``low``."""
        inside = (self.repeated >= low) & (self.repeated < high)
        return Question(
            self.allowed[rows] - low,
            self.mask_id - low,
            self.repeated[inside] - low,
            None if self.scale is None else self.scale[rows],
            None if self.uniforms is None else self.uniforms[rows],
        )


def propose(logits: Tensor, question: Question, params: SamplingParams) -> tuple[Tensor, Tensor]:
    """Tokens int64 [m] and their confidences float32 [m], on the device of logits [m, V].

    Places of one range are handled together on that slice of the vocabulary alone.
    """
    device = logits.device
    tokens = torch.empty(len(logits), dtype=torch.int64, device=device)
    sure = torch.empty(len(logits), device=device)
    answer = _published if params.rules == "upstream" else _paper
    for rows, low, high in _ranges(question.allowed, logits.shape[1], params.constrain):
        here = rows.to(device)
        values = logits[:, low:high]
        if len(rows) < len(logits):
            values = values.index_select(0, here)
        part = question.part(rows, low, high)
        if (params.constrain or params.rules == "paper") and 0 <= part.mask_id < high - low:
            drop = torch.tensor([part.mask_id], device=device)
            values = values.index_fill(1, drop, DROPPED)
        chosen, confident = answer(values.float(), part, params)
        tokens[here] = chosen + low
        sure[here] = confident
    return tokens, sure


def _ranges(allowed: Tensor, size: int, constrain: bool) -> Iterator[tuple[Tensor, int, int]]:
    """The places (row numbers) of each range of ids among them."""
    if not constrain:
        yield torch.arange(len(allowed)), 0, size
        return
    ranges, which = torch.unique(allowed, dim=0, return_inverse=True)
    for i, (low, high) in enumerate(ranges.tolist()):
        if high > size:
            raise SamplingError(
                f"a place allows ids up to {high - 1}, the model knows {size}; use the vocabulary"
                " that belongs to the model"
            )
        yield (which == i).nonzero().flatten(), low, high


def _paper(values: Tensor, part: Question, params: SamplingParams) -> tuple[Tensor, Tensor]:
    """Penalties bend the logits z; confidence is that of softmax(z); filters serve the draw."""
    if len(part.repeated) and params.repetition_penalty != 1:
        values = repetition(values, _marked(part, values), params.repetition_penalty)
    if part.scale is not None:
        values = values * part.scale.to(values.device)[:, None]
    if part.uniforms is None:
        chosen = values.argmax(dim=1)
    else:
        kept, ids = keep(values / params.temperature, params.top_p, params.top_k)
        chosen = _names(draw(kept, part.uniforms), ids)
    return chosen, confidence(params.confidence, values.log_softmax(dim=1), chosen)


def _published(values: Tensor, part: Question, params: SamplingParams) -> tuple[Tensor, Tensor]:
    """Temperature, top-p, top-k, repetition, position, in this order; then token and confidence."""
    if part.uniforms is not None:
        values = values / params.temperature
    kept, ids = keep(values, params.top_p, params.top_k)
    if len(part.repeated) and params.repetition_penalty != 1:
        marked = _marked(part, values)
        kept = repetition(kept, marked if ids is None else marked[ids], params.repetition_penalty)
    if part.scale is not None:
        kept = bend(kept, part.scale.to(kept.device)[:, None])
    chosen = kept.argmax(dim=1) if part.uniforms is None else draw(kept, part.uniforms)
    return _names(chosen, ids), confidence(params.confidence, kept.log_softmax(dim=1), chosen)


def _marked(part: Question, values: Tensor) -> Tensor:
    """Bool [V]: the repeated ids."""
    marked = torch.zeros(values.shape[1], dtype=torch.bool, device=values.device)
    return marked.index_fill_(0, part.repeated.to(values.device), True)


def _names(chosen: Tensor, ids: Tensor | None) -> Tensor:
    """Ids [m] of the chosen among the candidates."""
    return chosen if ids is None else ids.gather(1, chosen[:, None])[:, 0]
