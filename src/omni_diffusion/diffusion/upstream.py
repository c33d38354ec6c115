"""The quirks of the published code, which `SamplingParams(rules="upstream")` reproduces.

1. Blocks: masked positions are counted where positions should be, so known ones can cost the last
   block; steps of a block are rounded down, even to none.
2. A block ends early only when the whole sequence is filled, and every step looks at all masked
   positions.
3. The commits of a step follow a time grid that ends at 0.001; they are rounded down, and the last
   step takes the rest.
4. "random" commits each masked position independently, in any block.
5. Temperature and filters come first, then penalties; confidence is that of the filtered logits.
6. The repetition penalty also counts known tokens, from the second step on, and never token 0.
7. The position penalty counts masked positions instead of positions.
8. Without `constrain`, the mask token can be chosen; the position then stays masked.

Dimensions: m masked positions, V tokens, K candidates.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from omni_diffusion.canvas import Canvas
from omni_diffusion.diffusion.filters import top_k_top_p
from omni_diffusion.diffusion.params import SamplingParams
from omni_diffusion.diffusion.penalties import HEAD, penalize, repetition
from omni_diffusion.diffusion.schedule import Block

LAST_TIME = 0.001
PAD = 0  # the id that the published code takes for padding


def plan_blocks(canvas: Canvas, span: tuple[int, int], params: SamplingParams) -> tuple[Block, ...]:
    """The blocks of a canvas whose masked positions lie within `span` (quirk 1)."""
    first, last = span
    size = last - first
    length = max(1, min(params.block_length or size, size))
    starts = range(first, last, length)[: math.ceil(canvas.blanks / length)]
    steps = min(params.steps or size, size)
    edges = [(start, min(start + length, last)) for start in starts]
    return tuple(Block(a, b, int((b - a) / size * steps)) for a, b in edges)


def commit_count(masked: int, step: int, steps: int) -> int:
    """int(masked * (1 - t[i+1] / t[i])) over t = linspace(1, 0.001) in float32 (quirk 3).

    At least 1, even where nothing is masked: another block's position is then committed. The last
    step takes all.
    """
    return max(1, masked if step == steps - 1 else int(masked * _commit_chance(step, steps)))


def random_commits(noise: Tensor, step: int, steps: int) -> Tensor:
    """The indices [k] that "random" commits, from uniform noise [m] (quirk 4)."""
    chance = 1 if step == steps - 1 else _commit_chance(step, steps)
    chosen: Tensor = (noise < chance).nonzero().flatten()
    return chosen


def repeated_ids(canvas: Canvas, span: tuple[int, int], steps_done: int, mask_id: int) -> Tensor:
    """The ids int64 [r] that the repetition penalty lowers (quirk 6)."""
    ids = canvas.ids[slice(*span)] if steps_done else canvas.ids[:0]
    repeated: Tensor = torch.unique(ids[(ids != mask_id) & (ids != PAD)])
    return repeated


def position_factor(masked: int, penalty: float) -> Tensor:
    """The factor [masked] of the position penalty, for `penalties.penalize` (quirk 7).

    1 for the first 100 masked positions, then rising linearly towards the penalty; 1 everywhere
    once no more than 100 are masked.
    """
    rank = torch.arange(masked)
    if masked <= HEAD:
        return torch.ones(masked)
    return 1 + (penalty - 1) * (rank - HEAD).clamp(min=0) / (masked - HEAD)


def candidates(
    values: Tensor, repeated: Tensor, scale: Tensor | None, params: SamplingParams
) -> tuple[Tensor, Tensor | None]:
    """Logits [m, V] -> the logits [m, K] to draw and measure from, and their ids (quirk 5).

    repeated: int64 [r], ids to penalize; scale: [m, 1], None turns the position penalty off.
    """
    if params.temperature > 0:
        values = values / params.temperature
    kept, ids = top_k_top_p(values, params.top_p, params.top_k)
    if len(repeated) and params.repetition_penalty != 1:
        marked = torch.zeros(values.shape[1], dtype=torch.bool, device=values.device)
        marked.index_fill_(0, repeated.to(values.device), True)
        marked = marked if ids is None else marked[ids]
        kept = repetition(kept, marked, params.repetition_penalty)
    if scale is not None:
        kept = penalize(kept, scale)
    return kept, ids


def _commit_chance(step: int, steps: int) -> Tensor:
    times = torch.linspace(1, LAST_TIME, steps + 1)
    return 1 - times[step + 1] / times[step]
