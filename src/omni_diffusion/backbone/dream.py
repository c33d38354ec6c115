"""Dream: Qwen2.5 blocks with attention in both directions, from token ids to logits.

Knows nothing of tasks, of what an id means, or of how the logits are used. Modules have the names
of the published checkpoint. Dream was trained from a left-to-right model, so its output at position
i-1 predicts the token at position i. `Dream.forward` undoes this shift; its callers never see it.

Dimensions: B batch, L positions, D hidden size, H query heads, G key-value heads, K head width,
V vocabulary size, N positions in `logits_at`.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import accumulate

import torch
from torch import Tensor, nn
from torch.nn.functional import linear, silu
from torch.utils.checkpoint import checkpoint

from omni_diffusion.backbone.adapter import SpeechAdapter, insert_slots
from omni_diffusion.backbone.attention import (
    AttentionMask,
    Packing,
    attend,
    attend_packed,
    rotary_table,
    rotate,
    segment_positions,
    segment_starts,
)
from omni_diffusion.backbone.config import DreamConfig
from omni_diffusion.canvas import FeatureSlot
from omni_diffusion.errors import ModelError

Rotary = tuple[Tensor, Tensor]


class RMSNorm(nn.Module):
    """x / rms(x) in float32, cast back, then times the weight (Zhang & Sennrich 2019)."""

    def __init__(self, size: int, eps: float) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(size))
        self.eps = eps

    def forward(self, x: Tensor) -> Tensor:
        """[..., D] -> [..., D] in the dtype of x."""
        wide = x.float()
        normed = wide * torch.rsqrt(wide.square().mean(dim=-1, keepdim=True) + self.eps)
        return self.weight * normed.to(x.dtype)


class GroupedQueryAttention(nn.Module):
    """Grouped-query attention with rotary positions; biases on q, k and v only."""

    def __init__(self, config: DreamConfig) -> None:
        super().__init__()
        queries = config.num_heads * config.head_dim
        keys = config.num_kv_heads * config.head_dim
        self.head_dim = config.head_dim
        self.q_proj = nn.Linear(config.hidden_size, queries)
        self.k_proj = nn.Linear(config.hidden_size, keys)
        self.v_proj = nn.Linear(config.hidden_size, keys)
        self.o_proj = nn.Linear(queries, config.hidden_size, bias=False)

    def forward(
        self,
        x: Tensor,
        rotary: Rotary,
        mask: AttentionMask | Packing | None,
        wanted: Tensor | None = None,
    ) -> Tensor:
        """[B, L, D] -> [B, L, D]; of a packed row only the positions `wanted` [N]: [1, N, D]."""
        cos, sin = rotary
        k = rotate(self._heads(self.k_proj(x)), cos, sin)
        v = self._heads(self.v_proj(x))
        if wanted is not None:
            x, cos, sin = x[:, wanted], cos[:, :, wanted], sin[:, :, wanted]
        q = rotate(self._heads(self.q_proj(x)), cos, sin)
        mix = attend_packed if isinstance(mask, Packing) else attend
        heads = mix(q, k, v, mask)  # type: ignore[arg-type]
        mixed: Tensor = self.o_proj(heads.transpose(1, 2).flatten(2))
        return mixed

    def _heads(self, x: Tensor) -> Tensor:
        batch, length, width = x.shape
        return x.view(batch, length, width // self.head_dim, self.head_dim).transpose(1, 2)


class SwiGluFeedForward(nn.Module):
    """down(silu(gate x) * up x) (Shazeer 2020)."""

    def __init__(self, config: DreamConfig) -> None:
        super().__init__()
        self.gate_proj = nn.Linear(config.hidden_size, config.intermediate_size, bias=False)
        self.up_proj = nn.Linear(config.hidden_size, config.intermediate_size, bias=False)
        self.down_proj = nn.Linear(config.intermediate_size, config.hidden_size, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """[B, L, D] -> [B, L, D]."""
        gate, up = self.gate_proj(x), self.up_proj(x)
        # without gradients in place: two tensors fewer, as wide as the widest of a pass
        keeps = torch.is_grad_enabled()
        mixed = silu(gate) * up if keeps else silu(gate, inplace=True).mul_(up)
        out: Tensor = self.down_proj(mixed)
        return out


class Block(nn.Module):
    """Pre-norm attention, then pre-norm feed-forward, both with a residual connection."""

    def __init__(self, config: DreamConfig) -> None:
        super().__init__()
        self.self_attn = GroupedQueryAttention(config)
        self.mlp = SwiGluFeedForward(config)
        self.input_layernorm = RMSNorm(config.hidden_size, config.rms_norm_eps)
        self.post_attention_layernorm = RMSNorm(config.hidden_size, config.rms_norm_eps)

    def forward(
        self,
        x: Tensor,
        rotary: Rotary,
        mask: AttentionMask | Packing | None,
        wanted: Tensor | None = None,
    ) -> Tensor:
        """[B, L, D] -> [B, L, D]; of a packed row only the positions `wanted` [N]: [1, N, D]."""
        mixed = self.self_attn(self.input_layernorm(x), rotary, mask, wanted)
        x = (x if wanted is None else x[:, wanted]) + mixed
        x = x + self.mlp(self.post_attention_layernorm(x))
        return x


class DreamModel(nn.Module):
    """Everything below the head; it gives the checkpoint's `model.` names."""

    def __init__(self, config: DreamConfig) -> None:
        super().__init__()
        self.config = config
        self.embed_tokens = nn.Embedding(config.vocab_size, config.hidden_size)
        self.layers = nn.ModuleList(Block(config) for _ in range(config.num_layers))
        self.norm = RMSNorm(config.hidden_size, config.rms_norm_eps)
        self.audio_projection = SpeechAdapter(config.speech_dim, config.hidden_size)
        self.checkpointing = False

    def forward(
        self, x: Tensor, positions: Tensor, mask: AttentionMask | Packing | None = None
    ) -> Tensor:
        """Embeddings [B, L, D] at positions [B or 1, L] -> normed last states [B, L, D]."""
        rotary = self._rotary(positions, x.dtype)
        for block in self.layers:
            if self.checkpointing and self.training:
                x = checkpoint(block, x, rotary, mask, use_reentrant=False)
            else:
                x = block(x, rotary, mask)
        hidden: Tensor = self.norm(x)
        return hidden

    def forward_packed(
        self, x: Tensor, positions: Tensor, packing: Packing, wanted: Tensor
    ) -> Tensor:
        """Embeddings [1, L, D] of a packed row -> normed last states [N, D] of `wanted` [N].

        Keys and values of the last block come from every position, all else in it from the wanted
        ones.
        """
        rotary = self._rotary(positions, x.dtype)
        *blocks, last = self.layers
        for block in blocks:
            x = block(x, rotary, Packing.of(packing.keys))
        hidden: Tensor = self.norm(last(x, rotary, packing, wanted))
        return hidden[0]

    def _rotary(self, positions: Tensor, dtype: torch.dtype) -> Rotary:
        cos, sin = rotary_table(positions, self.config.head_dim, self.config.rope_theta, dtype)
        return cos[:, None], sin[:, None]


class Dream(nn.Module):
    """The whole transformer, from token ids to logits."""

    def __init__(self, config: DreamConfig) -> None:
        super().__init__()
        self.config = config
        self.model = DreamModel(config)
        if not config.tie_embeddings:
            self.lm_head = nn.Linear(config.hidden_size, config.vocab_size, bias=False)
        self.apply(self._init_weights)
        if config.scale_residuals:
            self._scale_residuals()

    def forward(
        self,
        ids: Tensor,
        *,
        slots: Sequence[tuple[int, FeatureSlot]] = (),
        positions: Tensor | None = None,
        segments: Tensor | None = None,
        logits_at: Tensor | None = None,
        lengths: Sequence[int] | None = None,
    ) -> Tensor:
        """Logits of the token at each position, whether it is known or masked.

        ids: int64 [B, L]. slots: (row, slot) whose speech frames replace embeddings.
        positions: int64 [B, L]; by default 0.. along each row, restarted at every segment.
        segments: int64 [B, L]; positions with equal numbers attend to one another, 0 is padding
        that nothing attends to. None = all attend to all, which is the fastest.
        logits_at: bool [B, L], the positions to compute logits for; None = all.
        lengths: the other way to give several sequences, one after the other in a row [1, L]; see
        `predicting_states`, which is then returned. `head` makes logits of these states.

        Returns [B, L, V], or [N, V] in row-major order of `logits_at`. The first position of a row
        or segment has no left neighbour and is predicted from its own state. Raises ModelError for
        shapes that do not fit.
        """
        if lengths is not None:
            return self.predicting_states(ids, lengths, logits_at, slots)
        hidden = self.hidden(ids, slots=slots, positions=positions, segments=segments)
        source = _source(ids, segments)
        if logits_at is None:
            return self.head(hidden.gather(1, source[..., None].expand_as(hidden)))
        _same_shape("logits_at", logits_at, ids)
        row, position = logits_at.nonzero(as_tuple=True)
        return self.head(hidden[row, source[row, position]])

    def predicting_states(
        self,
        ids: Tensor,
        lengths: Sequence[int],
        logits_at: Tensor | None,
        slots: Sequence[tuple[int, FeatureSlot]] = (),
    ) -> Tensor:
        """Normed states [N, D] that predict the positions `logits_at` (bool [1, L]) of sequences.

        lengths: of the sequences, one after the other in ids [1, L]; the speech frames of a slot
        count from the start of the row. Nothing is padded, and the last block computes only what
        is asked for. Raises ModelError for shapes that do not fit.
        """
        if logits_at is None or ids.shape != (1, sum(lengths)):
            raise ModelError(
                f"ids of shape {tuple(ids.shape)} for sequences of {sum(lengths)} tokens",
                field="lengths",
                value=tuple(lengths),
                fix="give one row [1, L] of all sequences, and logits_at",
            )
        _same_shape("logits_at", logits_at, ids)
        starts = torch.zeros(ids.shape[1], dtype=torch.bool)
        starts[[*accumulate(lengths[:-1], initial=0)]] = True
        wanted = logits_at.cpu()[0]
        queries = tuple(int(part.sum()) for part in torch.split(wanted, list(lengths)))
        at = wanted.nonzero()[:, 0]
        source = torch.where(starts[at], at, at - 1).to(ids.device)
        positions = torch.cat([torch.arange(length) for length in lengths]).to(ids.device)
        packing = Packing(tuple(lengths), queries)
        return self.model.forward_packed(self.embed(ids, slots), positions[None], packing, source)

    def embed(self, ids: Tensor, slots: Sequence[tuple[int, FeatureSlot]] = ()) -> Tensor:
        """ids [B, L] -> embeddings [B, L, D], with the frames of slots inserted."""
        return insert_slots(self.model.embed_tokens(ids), slots, self.model.audio_projection)

    def hidden(
        self,
        ids: Tensor,
        *,
        slots: Sequence[tuple[int, FeatureSlot]] = (),
        positions: Tensor | None = None,
        segments: Tensor | None = None,
    ) -> Tensor:
        """Normed last states [B, L, D], without the shift of `forward`; its parameters."""
        for name, tensor in (("positions", positions), ("segments", segments)):
            if tensor is not None:
                _same_shape(name, tensor, ids)
        if positions is None:
            positions = _default_positions(ids, segments)
        mask = None if segments is None else AttentionMask.of_segments(segments)
        states: Tensor = self.model(self.embed(ids, slots), positions, mask)
        return states

    def head(self, hidden: Tensor, low: int = 0, high: int | None = None) -> Tensor:
        """States [..., D] -> logits [..., V], or those of ids low..high-1, [..., high - low]."""
        if self.config.tie_embeddings:
            return linear(hidden, self.model.embed_tokens.weight[low:high])
        if high is not None and type(self.lm_head) is nn.Linear:
            return linear(hidden, self.lm_head.weight[low:high])
        logits: Tensor = self.lm_head(hidden)  # whole, as is what a library puts in its place
        return logits if high is None else logits[..., low:high]

    def checkpointing(self, on: bool) -> None:
        """Switch gradient checkpointing: in training keep only each block's input, recompute the
        rest in the backward pass."""
        self.model.checkpointing = on

    def _init_weights(self, module: nn.Module) -> None:
        if isinstance(module, nn.Linear | nn.Embedding):
            nn.init.normal_(module.weight, std=self.config.initializer_range)
        if isinstance(module, nn.Linear) and module.bias is not None:
            nn.init.zeros_(module.bias)

    def _scale_residuals(self) -> None:
        scale = 1 / math.sqrt(2 * self.config.num_layers)
        with torch.no_grad():
            for name, weight in self.named_parameters():
                if name.endswith(("o_proj.weight", "down_proj.weight")):
                    weight.mul_(scale)


def _default_positions(ids: Tensor, segments: Tensor | None) -> Tensor:
    if segments is None:
        return torch.arange(ids.shape[1], device=ids.device)[None]
    return segment_positions(segments)


def _source(ids: Tensor, segments: Tensor | None) -> Tensor:
    """Index of the state that predicts each position, [B, L]: the left neighbour in the segment,
    or the position itself where there is none."""
    index = torch.arange(ids.shape[1], device=ids.device).expand_as(ids)
    if segments is None:
        return (index - 1).clamp(min=0)
    return torch.where(segment_starts(segments), index, index - 1)


def _same_shape(name: str, tensor: Tensor, ids: Tensor) -> None:
    if tensor.shape != ids.shape:
        raise ModelError(
            f"{name} has shape {tuple(tensor.shape)}, ids have {tuple(ids.shape)}",
            field=name,
            value=tuple(tensor.shape),
            fix="make them equal",
        )


def dream_name(name: str) -> str | None:
    """Published checkpoint name -> name in Dream; None for tensors that Dream does not have.

    Dream's own names stay. `model.audio_model.*` is the SenseVoice encoder, which its codec reads.
    Some exporters store rotary tables, which Dream computes.
    """
    elsewhere = name.startswith("model.audio_model.") or name.endswith("rotary_emb.inv_freq")
    return None if elsewhere else name
