"""Training the backbone to predict masked tokens: an `Objective` for the loop.

The paper's objective on canvases whose answers are all given: draw t, mask the answer, predict what
was masked. Where the canvases come from is the mixture's concern.

Dimensions: B canvases of a group, L places, N masked places, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal, Protocol

import torch
from torch import Tensor, nn

from omni_diffusion.backbone.dream import Dream
from omni_diffusion.canvas import Batch, Canvas
from omni_diffusion.data.mixture import Group
from omni_diffusion.diffusion.loss import Weighting, masked_loss, weigh
from omni_diffusion.diffusion.masking import MaskingConfig, corrupt
from omni_diffusion.vocab import Span, Vocabulary


class Mixture(Protocol):
    """Where a step's canvases come from."""

    def draw(self, generator: torch.Generator) -> list[Group]:
        """The groups of one step, a function of the generator alone."""
        ...


@dataclass(frozen=True)
class DenoisingConfig:
    """The forward process, the weight of each masked place, and what matrix products run in.

    by_task: the forward process of tasks that have one of their own.
    Weights, their sums and the loss stay in float32 whatever the precision.
    """

    masking: MaskingConfig = field(default_factory=MaskingConfig)
    weighting: Weighting = "plain"
    precision: Literal["float32", "bfloat16"] = "float32"
    by_task: Mapping[str, MaskingConfig] = field(default_factory=dict)


class DenoisingObjective:
    """Masked cross-entropy, each task's mean weighed by its share.

    Logged per task: its loss and `right`, the share of masked places whose best token is right.
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
        for group in self.mixture.draw(generator):
            masking = self.config.by_task.get(group.name, self.config.masking)
            loss, right = self._group(group.canvases, masking, generator)
            total = total + group.share * loss
            figures[f"{group.name}_loss"] = float(loss.detach())
            figures[f"{group.name}_right"] = right
        return total, figures

    def _group(
        self, canvases: Sequence[Canvas], masking: MaskingConfig, generator: torch.Generator
    ) -> tuple[Tensor, float]:
        batch = Batch.of(canvases, self.vocabulary.pad)
        maskable = answer_places(canvases, batch.ids)
        pad = maskable & (batch.ids == self.vocabulary.pad)
        corruption = corrupt(batch.ids, maskable, pad, self.vocabulary.mask, masking, generator)
        reduced = self.config.precision == "bfloat16"
        with torch.autocast(batch.ids.device.type, torch.bfloat16, enabled=reduced):
            logits = self.backbone(
                corruption.ids, slots=batch.slots, segments=batch.segments, rows=corruption.masked
            )
        targets = batch.ids[corruption.masked]
        weights = weigh(corruption, maskable, self.config.weighting)
        right = (logits.detach().argmax(-1) == targets).float().mean()
        return masked_loss(logits, targets, weights), float(right)


def answer_places(canvases: Sequence[Canvas], ids: Tensor) -> Tensor:
    """Bool [B, L]: the places of each canvas's answer."""
    places = torch.arange(ids.shape[1])
    spans = torch.tensor([c.answer for c in canvases])
    return (places >= spans[:, :1]) & (places < spans[:, 1:])


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
