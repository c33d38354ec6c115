"""One denoising step for several canvases of any length, at any step, with or without guidance.

All of them are one packed row of one forward pass, the unconditional branch of a guided canvas too.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from itertools import accumulate

import torch
from torch import Tensor

from omni_diffusion.backbone.dream import Dream
from omni_diffusion.canvas import Canvas
from omni_diffusion.diffusion import guidance, sampler
from omni_diffusion.diffusion.params import SamplingParams
from omni_diffusion.diffusion.sampler import Commit, Logits
from omni_diffusion.diffusion.state import DenoisingState
from omni_diffusion.errors import CanvasError, TaskError


class GuidedCanvas:
    """A canvas that is being denoised, with its unconditional branch where it is guided.

    The prompt of that branch may have another length; its answer block is the same at every step.
    """

    def __init__(
        self, canvas: Canvas, uncond: Canvas | None, params: SamplingParams, mask_id: int
    ) -> None:
        if params.guidance > 0 and uncond is None:
            raise TaskError(
                f"guidance is {params.guidance}, but the task has no unconditional prompt",
                field="guidance",
                value=params.guidance,
                fix="set guidance to 0",
            )
        self.state: DenoisingState = sampler.start(canvas, params, mask_id)
        self.blanks = canvas.blanks  # masked tokens at the start
        self.uncond = uncond if params.guidance > 0 else None
        self.shift = 0 if self.uncond is None else _shift(canvas, self.uncond)

    @property
    def canvas(self) -> Canvas:
        """As filled so far."""
        return self.state.canvas

    @property
    def guides(self) -> bool:
        """Whether the next step runs the unconditional branch too."""
        if self.uncond is None:
            return False
        params, committed = self.state.params, 1 - self.canvas.blanks / self.blanks
        return params.guidance_from <= committed < params.guidance_until

    @property
    def lengths(self) -> tuple[int, ...]:
        """Tokens of each branch that the next step runs."""
        branches = [self.canvas, *([self.uncond] if self.uncond and self.guides else [])]
        return tuple(branch.length for branch in branches)

    def row(self) -> tuple[Canvas, Tensor]:
        """The canvas and the positions whose logits are queried, bool [L]."""
        return self.canvas, self.state.query_mask

    def uncond_row(self) -> tuple[Canvas, Tensor]:
        """The same of the unconditional branch; only where there is guidance."""
        assert self.uncond is not None
        shifted = torch.zeros_like(self.uncond.blank)
        start, stop = self.uncond.answer
        shifted[start:stop] = self.state.query_mask[start - self.shift : stop - self.shift]
        return self.uncond, shifted

    def follow(self, commit: Commit) -> None:
        """Write the committed tokens into the unconditional branch."""
        if self.uncond is not None:
            self.uncond = self.uncond.fill(commit.positions + self.shift, commit.tokens)

    def close(self, positions: Tensor, token: int) -> None:
        """Write one token to masked positions [n] that nothing depends on, in both branches."""
        sampler.close(self.state, positions, token)
        if self.uncond is not None:
            tokens = torch.full((len(positions),), token)
            self.uncond = self.uncond.fill(positions + self.shift, tokens)


@torch.no_grad()  # not inference mode: sharded weights gathered here may be trained next
def logits(backbone: Dream, canvases: Sequence[GuidedCanvas]) -> Logits:
    """One forward pass: the logits of the queried positions of all canvases, guidance joined.

    All canvases and the unconditional branches of the guided ones are one row without padding. The
    head is left for the sampler, which knows the ids that it needs. Changes nothing, so it may be
    repeated.
    """
    rows = [guided.row() for guided in canvases]
    rows += [guided.uncond_row() for guided in canvases if guided.guides]
    device = next(backbone.parameters()).device
    lengths = [canvas.length for canvas, _ in rows]
    starts = accumulate(lengths, initial=0)
    slots = [
        (0, replace(slot, start=slot.start + start))
        for (canvas, _), start in zip(rows, starts, strict=False)
        for slot in canvas.slots
    ]
    states = backbone(
        torch.cat([canvas.ids for canvas, _ in rows])[None].to(device),
        slots=slots,
        lengths=lengths,
        logits_at=torch.cat([query_mask for _, query_mask in rows])[None],
    )
    joined = _joined(canvases, states.split([int(query_mask.sum()) for _, query_mask in rows]))

    @torch.no_grad()
    def compute(positions: Tensor, low: int, high: int) -> Tensor:
        chosen = joined
        if len(positions) < len(joined):
            chosen = joined[positions.to(device)]
        return backbone.head(chosen, low, high)

    return Logits(compute, len(joined), backbone.config.vocab_size, device)


def commit(canvases: Sequence[GuidedCanvas], logits: Logits) -> list[Commit | None]:
    """Let the sampler write each canvas's most confident tokens, in both branches.

    None for a canvas whose logits are not finite; it does not change.
    """
    commits = sampler.step([guided.state for guided in canvases], logits)
    for guided, made in zip(canvases, commits, strict=True):
        if made is not None:
            guided.follow(made)
    return commits


def _joined(canvases: Sequence[GuidedCanvas], states: Sequence[Tensor]) -> Tensor:
    """The states [M, D] of all canvases from those of each row, unconditional branches last.

    Guidance is linear and so is the head: joined states give joined logits, for half of the work.
    """
    unconditional = iter(states[len(canvases) :])
    joined = []
    for guided, conditional in zip(canvases, states, strict=False):
        if guided.guides:
            scale = guided.state.params.guidance
            both = conditional.float(), next(unconditional).float()
            conditional = guidance.join(*both, scale).to(conditional.dtype)
        joined.append(conditional)
    return joined[0] if len(joined) == 1 else torch.cat(joined)


def _shift(canvas: Canvas, uncond: Canvas) -> int:
    """The offset between the answers of both branches; raises CanvasError where these differ."""
    (first, last), (start, stop) = canvas.answer, uncond.answer
    equal = (
        torch.equal(canvas.ids[first:last], uncond.ids[start:stop])
        and torch.equal(canvas.blank[first:last], uncond.blank[start:stop])
        and canvas.blanks == uncond.blanks == int(canvas.blank[first:last].sum())
    )
    if not equal:
        raise CanvasError(
            f"the answers at {first}..{last} and, without the prompt, at {start}..{stop} differ;"
            " guidance needs the same answer block, with every masked token inside of it"
        )
    return start - first
