"""One denoising step for several canvases of any length, at any step, with or without guidance.

Only queried positions pass the head. The unconditional branch of a guided canvas is one more row of
the same forward pass.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from omni_diffusion.backbone.dream import Dream
from omni_diffusion.canvas import Batch, Canvas, FeatureSlot
from omni_diffusion.diffusion import guidance, sampler
from omni_diffusion.diffusion.params import SamplingParams
from omni_diffusion.diffusion.sampler import Commit
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
        self.lengths = tuple(row.length for row, _ in self.rows())

    @property
    def canvas(self) -> Canvas:
        """As filled so far."""
        return self.state.canvas

    def rows(self) -> list[tuple[Canvas, Tensor]]:
        """What goes through the model: canvases with their query masks, bool [L]."""
        query_mask = self.state.query_mask
        if self.uncond is None:
            return [(self.canvas, query_mask)]
        shifted = torch.zeros_like(self.uncond.blank)
        start, stop = self.uncond.answer
        shifted[start:stop] = query_mask[start - self.shift : stop - self.shift]
        return [(self.canvas, query_mask), (self.uncond, shifted)]

    def follow(self, commit: Commit) -> None:
        """Write the committed tokens into the unconditional branch."""
        if self.uncond is not None:
            self.uncond = self.uncond.fill(commit.positions + self.shift, commit.tokens)


@dataclass(frozen=True, eq=False)
class Pass:
    """The rows of one forward pass, on the model's device."""

    ids: Tensor  # [B, L] int64
    query_mask: Tensor  # [B, L] bool
    segments: Tensor | None  # [B, L] int64; None where nothing is padded
    slots: tuple[tuple[int, FeatureSlot], ...]

    @classmethod
    def of(cls, rows: Sequence[tuple[Canvas, Tensor]], pad: int, device: torch.device) -> Pass:
        """Canvases [L_i] with their query masks, padded to the longest."""
        batch = Batch.of([canvas for canvas, _ in rows], pad)
        query_mask = torch.zeros_like(batch.ids, dtype=torch.bool)
        for row, (_, queried) in enumerate(rows):
            query_mask[row, : len(queried)] = queried
        segments = None if batch.segments is None else batch.segments.to(device)
        return cls(batch.ids.to(device), query_mask.to(device), segments, batch.slots)


@torch.no_grad()  # not inference mode: sharded weights gathered here may be trained next
def logits(backbone: Dream, canvases: Sequence[GuidedCanvas], pad: int) -> list[Tensor]:
    """One forward pass: [m, V] for the m queried positions of each canvas, guidance joined.

    Changes nothing, so it may be repeated.
    """
    rows = [row for guided in canvases for row in guided.rows()]
    batch = Pass.of(rows, pad, next(backbone.parameters()).device)
    flat = backbone(
        batch.ids, slots=batch.slots, segments=batch.segments, logits_at=batch.query_mask
    )
    parts = iter(flat.split([int(query_mask.sum()) for _, query_mask in rows]))
    joined = []
    for guided in canvases:
        conditional = next(parts)
        if guided.uncond is not None:
            scale = guided.state.params.guidance
            conditional = guidance.join(conditional, next(parts), scale)
        joined.append(conditional)
    return joined


@torch.inference_mode()
def finite(logits: Sequence[Tensor]) -> list[bool]:
    """Whether all logits [m, V] of each canvas are finite; one transfer for all of them."""
    sums = torch.stack([each.sum(dtype=torch.float32) for each in logits])
    return [bool(ok) for ok in sums.isfinite().cpu()]


def commit(canvases: Sequence[GuidedCanvas], logits: Sequence[Tensor]) -> list[Commit]:
    """Let the sampler write each canvas's most confident tokens, in both branches."""
    commits = sampler.step([guided.state for guided in canvases], logits)
    for guided, made in zip(canvases, commits, strict=True):
        guided.follow(made)
    return commits


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
