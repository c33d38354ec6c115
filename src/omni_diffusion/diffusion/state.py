"""One row on its way from blank to filled: where it stands and what is still to come.

Knows nothing of logits. Each row has its own params, steps and generator, so it never depends on
its neighbours in a batch. Lives on the CPU.
"""

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from omni_diffusion.canvas import Canvas
from omni_diffusion.diffusion.params import SamplingParams
from omni_diffusion.diffusion.schedule import spread_steps
from omni_diffusion.errors import SamplingError


@dataclass(frozen=True)
class Block:
    """Places start..stop-1 are filled in so many steps before the next block begins."""

    start: int
    stop: int
    steps: int


@dataclass(eq=False)
class DenoisingState:
    """One row on its way; made by :func:`start`, changed by `step` alone."""

    canvas: Canvas
    params: SamplingParams
    mask_id: int
    span: tuple[int, int]
    """The answer's places, widened to blanks that may lie outside of them."""
    blocks: tuple[Block, ...]
    written: Tensor
    """Bool [L]: the places that decoding has filled so far (given ones are not among them)."""
    generator: torch.Generator
    steps_done: int = 0
    block_number: int = 0
    block_step: int = 0
    """Steps made in the current block."""

    @property
    def done(self) -> bool:
        """Whether no step is left; "upstream" rules can leave blanks, with blocks."""
        return self.block_number >= len(self.blocks)

    @property
    def steps(self) -> int:
        """The steps planned in all; the published rules may end earlier."""
        return sum(block.steps for block in self.blocks)

    @property
    def wanted(self) -> Tensor:
        """Bool [L]: the places whose logits the next step takes, in order.

        All blanks, or only the current block's; the published code looks at all of them always.
        """
        wanted = self.canvas.blank.clone()
        if self.done:
            return torch.zeros_like(wanted)
        if self.params.rules == "paper":
            wanted[: self.block.start] = False
            wanted[self.block.stop :] = False
        return wanted

    @property
    def block(self) -> Block:
        """The block being filled."""
        return self.blocks[self.block_number]

    def advance(self, made: int = 1) -> None:
        """Count steps made, then pass over blocks with no steps or no blanks left.

        The published code leaves a block before its time only when the whole canvas is filled.
        """
        self.steps_done += made
        self.block_step += made
        while not self.done:
            block, blank = self.block, self.canvas.blank
            if self.params.rules == "paper":
                blank = blank[block.start : block.stop]
            if self.block_step < block.steps and bool(blank.any()):
                return
            self.block_number += 1
            self.block_step = 0


def start(canvas: Canvas, params: SamplingParams, mask_id: int) -> DenoisingState:
    """The state before the first step. Raises SamplingError where a blank could never be filled."""
    blank, allowed = canvas.blank, canvas.allowed
    if not bool((canvas.ids[blank] == mask_id).all()):
        raise SamplingError(f"a blank place does not hold the mask id {mask_id}; erase it with it")
    only_mask = (allowed[:, 0] == mask_id) & (allowed[:, 1] == mask_id + 1)
    if params.constrain and bool((only_mask & blank).any()):
        place = int((only_mask & blank).nonzero()[0])
        raise SamplingError(f"place {place} allows the mask id alone; allow it a token")
    span = _span(canvas)
    state = DenoisingState(
        canvas=canvas,
        params=params,
        mask_id=mask_id,
        span=span,
        blocks=_plan(canvas, span, params),
        written=torch.zeros_like(blank),
        generator=torch.Generator().manual_seed(params.seed),
    )
    state.advance(0)
    return state


def _plan(canvas: Canvas, span: tuple[int, int], params: SamplingParams) -> tuple[Block, ...]:
    """Cut the span into blocks and give each its steps."""
    first, last = span
    size = last - first
    length = min(params.block_length or size, size)
    edges = [(at, min(at + length, last)) for at in range(first, last, max(length, 1))]
    if params.rules == "upstream":
        # Blanks are counted where places should be, so given places can cost the last block.
        edges = edges[: math.ceil(canvas.blanks / max(length, 1))]
        steps = min(params.steps or size, size)
        return tuple(Block(a, b, int((b - a) / size * steps)) for a, b in edges)
    blanks = [int(canvas.blank[a:b].sum()) for a, b in edges]
    shares = spread_steps(params.steps or sum(blanks), blanks)
    return tuple(Block(a, b, n) for (a, b), n in zip(edges, shares, strict=True))


def _span(canvas: Canvas) -> tuple[int, int]:
    blanks = canvas.blank.nonzero().flatten().tolist()
    first, last = canvas.answer
    return (min(first, blanks[0]), max(last, blanks[-1] + 1)) if blanks else (first, last)
