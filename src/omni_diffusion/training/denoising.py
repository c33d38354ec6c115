"""Training the backbone to predict masked tokens: an `Objective` for the loop.

The paper's objective on canvases whose answers are all given: draw t, mask the answer, predict what
was masked. Where the canvases come from is the mixture's concern.

Dimensions: B rows of a group (one canvas each, or several packed), L places, N masked places,
V vocabulary.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal, Protocol

import torch
from torch import Tensor, nn

from omni_diffusion.backbone.dream import Dream
from omni_diffusion.canvas import Batch, Canvas, starts_of
from omni_diffusion.data.mixture import Group
from omni_diffusion.data.packing import pack
from omni_diffusion.diffusion.loss import Weighting, masked_loss, weigh
from omni_diffusion.diffusion.masking import MaskingConfig, corrupt
from omni_diffusion.vocab import Span, Vocabulary


class Mixture(Protocol):
    """Where a step's canvases come from."""

    def draw(self, step: int, generator: torch.Generator) -> list[Group]:
        """The groups of a step, a function of the two alone."""
        ...


@dataclass(frozen=True)
class DenoisingConfig:
    """The forward process, the weight of each masked place, and what matrix products run in.

    by_task: the forward process of tasks that have one of their own. max_length: pack the canvases
    of a group into rows of so many places; None lays each in a row of its own.
    Weights, their sums and the loss stay in float32 whatever the precision.
    """

    masking: MaskingConfig = field(default_factory=MaskingConfig)
    weighting: Weighting = "plain"
    precision: Literal["float32", "bfloat16"] = "float32"
    by_task: Mapping[str, MaskingConfig] = field(default_factory=dict)
    max_length: int | None = None


class DenoisingObjective:
    """Masked cross-entropy, each task's mean weighed by its share.

    Logged per task: its loss and `right`, the share of masked places whose best token is right;
    where canvases are packed also `pads`, the share of places that is padding.
    """

    def __init__(
        self, backbone: Dream, vocabulary: Vocabulary, mixture: Mixture, config: DenoisingConfig
    ) -> None:
        self.backbone, self.vocabulary = backbone, vocabulary
        self.mixture, self.config = mixture, config

    @property
    def module(self) -> nn.Module:
        """The backbone."""
        return self.backbone

    def loss(self, step: int, generator: torch.Generator) -> tuple[Tensor, dict[str, float]]:
        """Sum over the step's groups of share * mean loss."""
        total = torch.zeros(())
        figures: dict[str, float] = {}
        for group in self.mixture.draw(step, generator):
            masking = self.config.by_task.get(group.name, self.config.masking)
            rows: Sequence[Sequence[Canvas]] = [[canvas] for canvas in group.canvases]
            if self.config.max_length is not None:
                packing = pack(group.canvases, self.config.max_length)
                rows, figures[f"{group.name}_pads"] = packing.rows, packing.pad_share
            loss, right = self._group(rows, masking, generator)
            total = total + group.share * loss
            figures[f"{group.name}_loss"] = float(loss.detach())
            figures[f"{group.name}_right"] = right
        return total, figures

    def _group(
        self, rows: Sequence[Sequence[Canvas]], masking: MaskingConfig, generator: torch.Generator
    ) -> tuple[Tensor, float]:
        sequences = None
        if self.config.max_length is None:
            batch = Batch.of([canvas for row in rows for canvas in row], self.vocabulary.pad)
        else:
            batch = Batch.packed(rows, self.vocabulary.pad)
            assert batch.segments is not None
            # padding goes with the last canvas: it is no sequence that a ratio is drawn for
            sequences = batch.segments.cummax(1).values
        maskable = answer_places(rows, batch.ids)
        pad = maskable & (batch.ids == self.vocabulary.pad)
        corruption = corrupt(
            batch.ids, maskable, pad, self.vocabulary.mask, masking, generator, segments=sequences
        )
        reduced = self.config.precision == "bfloat16"
        with torch.autocast(batch.ids.device.type, torch.bfloat16, enabled=reduced):
            logits = self.backbone(
                corruption.ids, slots=batch.slots, segments=batch.segments, rows=corruption.masked
            )
        targets = batch.ids[corruption.masked]
        weights = weigh(corruption, maskable, self.config.weighting, segments=sequences)
        right = (logits.detach().argmax(-1) == targets).float().mean()
        return masked_loss(logits, targets, weights), float(right)


def answer_places(rows: Sequence[Sequence[Canvas]], ids: Tensor) -> Tensor:
    """Bool [B, L]: the places of the answers of the canvases that lie in each row."""
    found = torch.zeros(ids.shape, dtype=torch.bool, device=ids.device)
    for number, row in enumerate(rows):
        for canvas, start in zip(row, starts_of(row), strict=True):
            found[number, start + canvas.answer[0] : start + canvas.answer[1]] = True
    return found


@torch.no_grad()
def give_geometry(
    backbone: Dream, span: Span, vectors: Tensor, *, scale: float, generator: torch.Generator
) -> None:
    """Start a span's rows of embedding and head from its codes' own vectors [len(span), d].

    Codes that decode alike then begin alike, so that what is learned of one is at once known of its
    neighbours. Vectors are centred and scaled to unit variance, then projected at random to
    the hidden size; the rows have standard deviation `scale`.
    """
    centred = vectors.float() - vectors.float().mean(0)
    width = backbone.config.hidden_size
    projection = torch.randn(centred.shape[1], width, generator=generator)
    rows = centred @ projection
    rows = rows / rows.std().clamp_min(1e-6) * scale
    places = slice(span.start, span.stop)
    backbone.model.embed_tokens.weight[places] = rows
    if not backbone.config.tie_embeddings:
        backbone.lm_head.weight[places] = rows
