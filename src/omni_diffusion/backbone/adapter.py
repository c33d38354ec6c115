"""Speech frames to hidden states, which replace token embeddings of a prompt.

Dimensions: B batch, L positions, D hidden size.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn.functional import pad

from omni_diffusion.canvas import FeatureSlot, rounded
from omni_diffusion.errors import ModelError


class SpeechAdapter(nn.Module):
    """LayerNorm, Linear, GELU (erf), Linear; no pooling over time.

    Modules have the names of the published checkpoint (`model.audio_projection`).
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
        """Width of a frame (speech_dim)."""
        return int(self.pre_proj_layernorm.normalized_shape[0])

    def forward(self, frames: Tensor) -> Tensor:
        """Frames [..., speech_dim] -> hidden states [..., hidden_size]."""
        hidden: Tensor = self.mlp(self.pre_proj_layernorm(frames))
        return hidden


def insert_slots(
    embedded: Tensor, slots: Sequence[tuple[int, FeatureSlot]], adapter: SpeechAdapter
) -> Tensor:
    """Replace embeddings [B, L, D] by the projected frames of every (row, slot).

    All frames pass the adapter as one tensor. Raises ModelError if a slot is outside its row or its
    frames do not have the adapter's width.
    """
    if not slots:
        if not torch.is_grad_enabled():
            return embedded
        # the adapter takes part with zero, since all processes must reduce the same gradients
        nothing: Tensor = adapter(adapter.pre_proj_layernorm.weight.new_zeros(1, adapter.width))
        return embedded + 0 * nothing.sum().to(embedded.dtype)
    for row, slot in slots:
        _check(row, slot, embedded, adapter.width)
    weight = adapter.pre_proj_layernorm.weight
    frames = torch.cat([slot.frames.to(weight) for _, slot in slots])
    counts = torch.tensor([len(slot.frames) for _, slot in slots])
    rows = torch.tensor([row for row, _ in slots]).repeat_interleave(counts)
    positions = torch.cat([torch.arange(slot.start, slot.stop) for _, slot in slots])
    where = (rows.to(embedded.device), positions.to(embedded.device))
    count = len(frames)
    if torch.is_grad_enabled():  # in training every step has another number of frames
        frames = pad(frames, (0, 0, 0, rounded(count) - count))
    return embedded.index_put(where, adapter(frames)[:count].to(embedded.dtype))


def _check(row: int, slot: FeatureSlot, embedded: Tensor, speech_dim: int) -> None:
    batch, length, _ = embedded.shape
    if slot.frames.shape[1] != speech_dim:
        raise ModelError(
            f"frames of a slot have shape {tuple(slot.frames.shape)}",
            field="frames",
            value=tuple(slot.frames.shape),
            fix=f"give [n, {speech_dim}] (speech_dim of the model's config)",
        )
    if not 0 <= row < batch:
        raise ModelError(
            f"slot of row {row} in a batch of {batch}", value=row, fix="number rows from 0"
        )
    if slot.start < 0 or slot.stop > length:
        raise ModelError(
            f"slot covers positions {slot.start}..{slot.stop - 1} of a canvas of {length}",
            value=(slot.start, slot.stop),
            fix="keep it inside",
        )
