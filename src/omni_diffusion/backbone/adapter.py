"""Speech frames to hidden states, so a spoken prompt can stand among embedded tokens.

Knows nothing of waveforms or of the encoder that made the frames, only their width.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from omni_diffusion.canvas import FeatureSlot
from omni_diffusion.errors import ModelError


class SpeechAdapter(nn.Module):
    """LayerNorm, Linear, GELU (erf), Linear; no pooling over time.

    The names of the parts are those of the published checkpoint (`model.audio_projection`).
    """

    def __init__(self, speech_dim: int, hidden_size: int) -> None:
        super().__init__()
        self.pre_proj_layernorm = nn.LayerNorm(speech_dim)
        self.mlp = nn.Sequential(
            nn.Linear(speech_dim, hidden_size, bias=False),
            nn.GELU(),
            nn.Linear(hidden_size, hidden_size, bias=False),
        )

    @property
    def width(self) -> int:
        """Values of a frame."""
        return int(self.pre_proj_layernorm.normalized_shape[0])

    def forward(self, frames: Tensor) -> Tensor:
        """Frames [..., speech_dim] -> hidden states [..., hidden_size]."""
        hidden: Tensor = self.mlp(self.pre_proj_layernorm(frames))
        return hidden


def insert_slots(
    embedded: Tensor, slots: Sequence[tuple[int, FeatureSlot]], adapter: SpeechAdapter
) -> Tensor:
    """Put the projected frames of every (row, slot) over the embeddings [B, L, D] they replace.

    All frames pass the adapter as one block. Raises ModelError when a slot lies outside of its
    row or its frames have another width than the adapter's.
    """
    if not slots:
        if not torch.is_grad_enabled():
            return embedded
        # the adapter takes part with nothing, since all processes reduce the same gradients
        nothing: Tensor = adapter(adapter.pre_proj_layernorm.weight.new_zeros(1, adapter.width))
        return embedded + 0 * nothing.sum().to(embedded.dtype)
    for row, slot in slots:
        _check(row, slot, embedded, adapter.width)
    weight = adapter.pre_proj_layernorm.weight
    frames = torch.cat([slot.frames.to(weight) for _, slot in slots])
    counts = torch.tensor([len(slot.frames) for _, slot in slots])
    rows = torch.tensor([row for row, _ in slots]).repeat_interleave(counts)
    places = torch.cat([torch.arange(slot.start, slot.stop) for _, slot in slots])
    where = (rows.to(embedded.device), places.to(embedded.device))
    return embedded.index_put(where, adapter(frames).to(embedded.dtype))


def _check(row: int, slot: FeatureSlot, embedded: Tensor, speech_dim: int) -> None:
    batch, length, _ = embedded.shape
    if slot.frames.shape[1] != speech_dim:
        raise ModelError(
            f"slot frames have shape {tuple(slot.frames.shape)}; this model takes"
            f" [n, {speech_dim}] (speech_dim of its config)"
        )
    if not 0 <= row < batch:
        raise ModelError(f"slot of row {row} in a batch of {batch}; number rows from 0")
    if slot.start < 0 or slot.stop > length:
        raise ModelError(
            f"slot fills places {slot.start}..{slot.stop - 1} of a canvas of {length};"
            " keep it inside"
        )
