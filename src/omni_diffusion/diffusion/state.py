"""The denoising state of one sequence: what is filled so far and which steps remain.

Each sequence has its own parameters, steps and generator, so it does not depend on the rest of its
batch. The state lives on the CPU.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from omni_diffusion.canvas import Canvas
from omni_diffusion.diffusion import upstream
from omni_diffusion.diffusion.params import SamplingParams
from omni_diffusion.diffusion.schedule import Block, spread_steps
from omni_diffusion.errors import SamplingError


@dataclass(eq=False)
class DenoisingState:
    """One sequence during denoising; made by `start`, changed only by `sampler.step`.

    span: positions of the answer, extended to masked positions outside of it.
    written: bool [L], positions that denoising has filled (known ones are not among them).
    block_number, block_step: the current block and the steps made in it.
    """

    canvas: Canvas
    params: SamplingParams
    mask_id: int
    span: tuple[int, int]
    blocks: tuple[Block, ...]
    written: Tensor
    generator: torch.Generator
    steps_done: int = 0
    block_number: int = 0
    block_step: int = 0

    @property
    def done(self) -> bool:
        """Whether no step is left; rules "upstream" with blocks can end with masked positions."""
        return self.block_number >= len(self.blocks)

    @property
    def steps(self) -> int:
        """Steps planned in all; rules "upstream" may end earlier."""
        return sum(block.steps for block in self.blocks)

    @property
    def query_mask(self) -> Tensor:
        """Bool [L]: the positions whose logits the next step takes, in order.

        The masked ones of the current block; with rules "upstream" all masked ones.
        """
        blank = self.canvas.blank.clone()
        if self.done:
            return torch.zeros_like(blank)
        if self.params.rules == "paper":
            blank[: self.block.start] = False
            blank[self.block.stop :] = False
        return blank

    @property
    def block(self) -> Block:
        """The block being filled."""
        return self.blocks[self.block_number]

    def advance(self, made: int = 1) -> None:
        """Count `made` steps, then skip blocks that are out of steps or have nothing to query."""
        self.steps_done += made
        self.block_step += made
        while not self.done:
            if self.block_step < self.block.steps and bool(self.query_mask.any()):
                return
            self.block_number += 1
            self.block_step = 0


def start(canvas: Canvas, params: SamplingParams, mask_id: int) -> DenoisingState:
    """The state before the first step.

    Raises SamplingError if a masked position could never be filled.
    """
    blank, allowed = canvas.blank, canvas.allowed
    if not bool((canvas.ids[blank] == mask_id).all()):
        raise SamplingError(
            f"a masked position does not hold the mask id {mask_id}",
            field="mask_id",
            value=mask_id,
            fix="erase it with that id",
        )
    only_mask = (allowed[:, 0] == mask_id) & (allowed[:, 1] == mask_id + 1)
    if params.constrain and bool((only_mask & blank).any()):
        position = int((only_mask & blank).nonzero()[0])
        raise SamplingError(
            f"position {position} allows only the mask id {mask_id}",
            value=position,
            fix="allow it a token",
        )
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
    """The blocks of a span, with their steps."""
    if params.rules == "upstream":
        return upstream.plan_blocks(canvas, span, params)
    first, last = span
    length = max(1, min(params.block_length or last - first, last - first))
    edges = [(at, min(at + length, last)) for at in range(first, last, length)]
    masked = [int(canvas.blank[a:b].sum()) for a, b in edges]
    steps = spread_steps(params.steps or sum(masked), masked)
    return tuple(Block(a, b, n) for (a, b), n in zip(edges, steps, strict=True))


def _span(canvas: Canvas) -> tuple[int, int]:
    masked = canvas.blank.nonzero().flatten().tolist()
    first, last = canvas.answer
    return (min(first, masked[0]), max(last, masked[-1] + 1)) if masked else (first, last)
