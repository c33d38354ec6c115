"""One denoising step for several requests of any length, at any step, with or without guidance.

Knows no task, no conversation and no queue. Only wanted places pass the head. The unconditional
branch of a guided request is one more row of the same forward pass.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from omni_diffusion.backbone.dream import Dream
from omni_diffusion.canvas import Batch, Canvas, FeatureSlot
from omni_diffusion.diffusion import guidance, sampler
from omni_diffusion.diffusion.sampler import Commit, DenoisingState, SamplingParams
from omni_diffusion.errors import CanvasError, TaskError


class Row:
    """A canvas on its way, with its unconditional twin where it is guided.

    The twin's prompt may have another length; its answer block is the same at every step.
    """

    def __init__(
        self, canvas: Canvas, null: Canvas | None, params: SamplingParams, mask_id: int
    ) -> None:
        if params.guidance > 0 and null is None:
            raise TaskError(
                f"guidance is {params.guidance}, but the task has no unconditional prompt;"
                " set guidance to 0"
            )
        self.state: DenoisingState = sampler.start(canvas, params, mask_id)
        self.blanks = canvas.blanks  # to begin with
        self.null = null if params.guidance > 0 else None
        self.shift = 0 if self.null is None else _shift(canvas, self.null)
        self.lengths = tuple(each.length for each, _ in self.rows())

    @property
    def canvas(self) -> Canvas:
        """As filled so far."""
        return self.state.canvas

    def rows(self) -> list[tuple[Canvas, Tensor]]:
        """What goes through the model: canvases with their wanted places, bool [L]."""
        wanted = self.state.wanted
        if self.null is None:
            return [(self.canvas, wanted)]
        twin = torch.zeros_like(self.null.blank)
        start, stop = self.null.answer
        twin[start:stop] = wanted[start - self.shift : stop - self.shift]
        return [(self.canvas, wanted), (self.null, twin)]

    def follow(self, commit: Commit) -> None:
        """Give the twin the tokens that were committed."""
        if self.null is not None:
            self.null = self.null.fill(commit.places + self.shift, commit.tokens)


@dataclass(frozen=True, eq=False)
class Pass:
    """The rows of one forward pass, side by side on the model's device."""

    ids: Tensor  # [B, L] int64
    wanted: Tensor  # [B, L] bool
    segments: Tensor | None  # [B, L] int64; None where nothing is padded
    slots: tuple[tuple[int, FeatureSlot], ...]

    @classmethod
    def of(cls, rows: Sequence[tuple[Canvas, Tensor]], pad: int, device: torch.device) -> Pass:
        """Canvases [L_i] with their wanted places, padded to the longest."""
        batch = Batch.of([canvas for canvas, _ in rows], pad)
        wanted = torch.zeros_like(batch.ids, dtype=torch.bool)
        for row, (_, places) in enumerate(rows):
            wanted[row, : len(places)] = places
        segments = None if batch.segments is None else batch.segments.to(device)
        return cls(batch.ids.to(device), wanted.to(device), segments, batch.slots)


@torch.no_grad()  # not inference mode: sharded weights gathered here may next be trained
def logits(backbone: Dream, rows: Sequence[Row], pad: int) -> list[Tensor]:
    """One forward pass: [m, V] for the m wanted places of each row, guidance joined.

    Changes nothing, so it may be tried again.
    """
    flat = [(canvas, wanted) for row in rows for canvas, wanted in row.rows()]
    sheet = Pass.of(flat, pad, next(backbone.parameters()).device)
    found = backbone(sheet.ids, slots=sheet.slots, segments=sheet.segments, rows=sheet.wanted)
    parts = iter(found.split([int(wanted.sum()) for _, wanted in flat]))
    joined = []
    for row in rows:
        own = next(parts)
        if row.null is not None:
            own = guidance.join(own, next(parts), row.state.params.guidance)
        joined.append(own)
    return joined


@torch.inference_mode()
def finite(logits: Sequence[Tensor]) -> list[bool]:
    """Of each row's logits [m, V], whether all are numbers; one transfer for all rows."""
    sums = torch.stack([each.sum(dtype=torch.float32) for each in logits])
    return [bool(ok) for ok in sums.isfinite().cpu()]


def commit(rows: Sequence[Row], logits: Sequence[Tensor]) -> list[Commit]:
    """Let the sampler write each row's surest tokens, and let the twins follow."""
    made = sampler.step([row.state for row in rows], logits)
    for row, each in zip(rows, made, strict=True):
        row.follow(each)
    return made


def _shift(canvas: Canvas, null: Canvas) -> int:
    """How far the twin's answer lies from the canvas's own; raises CanvasError if they differ."""
    (first, last), (start, stop) = canvas.answer, null.answer
    alike = (
        torch.equal(canvas.ids[first:last], null.ids[start:stop])
        and torch.equal(canvas.blank[first:last], null.blank[start:stop])
        and canvas.blanks == null.blanks == int(canvas.blank[first:last].sum())
    )
    if not alike:
        raise CanvasError(
            f"the answers at {first}..{last} and, without the prompt, at {start}..{stop} differ;"
            " guidance needs the same answer block, with every blank inside of it"
        )
    return start - first
