"""Speech codes -> log-mel: the token encoder and flow matching.

Parameters have the names of GLM-4-Voice's published checkpoint.

Dimensions: B batch, N codes, M mel frames, C mel bins, L prompt frames.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal, Self

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from omni_diffusion.codecs.glm_voice.estimator import Estimator, EstimatorConfig
from omni_diffusion.codecs.glm_voice.loading import Source, fill
from omni_diffusion.codecs.glm_voice.matching import Conditions, FlowMatching
from omni_diffusion.codecs.glm_voice.mel import VOICE_HOP, VOICE_RATE
from omni_diffusion.codecs.glm_voice.token_encoder import (
    LengthRegulator,
    TokenEncoder,
    TokenEncoderConfig,
    stretch_rows,
)
from omni_diffusion.errors import SamplingError, VocabularyError
from omni_diffusion.io import config as configs
from omni_diffusion.io import weights


@dataclass(frozen=True)
class FlowConfig:
    """Sizes and parameters of the flow decoder.

    guidance: scale by which the unconditional velocity is subtracted in sampling.
    condition_dropout: fraction of training rows without conditions. temperature: scale of the noise
    that sampling starts from (Matcha-TTS); below 1 speech varies less and is clearer; 1 as
    published. steps: Euler steps of sampling by default. guided_steps: how many of the last steps
    are guided, None = all. precision: of matrix products. See docs/speed.md for the cost of fewer
    steps and lower precision.
    """

    vocab_size: int = 16384
    mel_bins: int = 80
    code_rate: float = 12.5
    speaker_size: int = 192
    encoder: TokenEncoderConfig = field(default_factory=TokenEncoderConfig)
    estimator: EstimatorConfig = field(default_factory=EstimatorConfig)
    sigma_min: float = 1e-6
    guidance: float = 0.7
    condition_dropout: float = 0.2
    temperature: float = 1.0
    steps: int = 10
    precision: Literal["float32", "bfloat16"] = "float32"
    guided_steps: int | None = None

    def __post_init__(self) -> None:
        configs.check_ranges(
            self,
            vocab_size=configs.WIDTH,
            mel_bins=(1, 1024),
            code_rate=(0.01, 1000),
            speaker_size=configs.WIDTH,
            sigma_min=(0, 1),
            guidance=(0, 100),
            condition_dropout=(0, 1),
            temperature=(0, 100),
            steps=(1, 1000),
        )
        if self.guided_steps is not None:
            configs.check_ranges(self, guided_steps=(0, 1000))

    @classmethod
    def official(cls) -> Self:
        """The official GLM-4-Voice decoder (111 M parameters)."""
        return cls()

    @classmethod
    def mini(cls) -> Self:
        """A decoder that trains on one CPU core: the official mel, 25 codes a second."""
        return cls(
            vocab_size=1024,
            code_rate=25.0,
            temperature=0.4,
            steps=4,
            encoder=TokenEncoderConfig(
                input_size=128, width=128, heads=4, ffn=256, blocks=2, block_size=20
            ),
            estimator=EstimatorConfig(channels=96, heads=4, head_dim=24, n_blocks=1, mid_blocks=3),
        )


class Flow(nn.Module):
    """Codes -> log-mel, in any size."""

    def __init__(self, config: FlowConfig) -> None:
        super().__init__()
        self.config = config
        bins = config.mel_bins
        self.input_embedding = nn.Embedding(config.vocab_size, config.encoder.input_size)
        self.spk_embed_affine_layer = nn.Linear(config.speaker_size, bins)
        self.encoder = TokenEncoder(config.encoder)
        self.encoder_proj = nn.Linear(config.encoder.width, bins)
        self.length_regulator = LengthRegulator(bins)
        self.decoder = FlowMatching(
            Estimator(config.estimator, bins), config.sigma_min, config.condition_dropout
        )

    @classmethod
    def load(cls, source: Source, config: FlowConfig | None = None) -> Self:
        """The module in eval mode, from a weight file, a folder holding one, or open tensors.

        Raises WeightsError if names or shapes do not fit `config` (default: official).
        """
        sizes = config or FlowConfig.official()
        return fill(weights.module_for(lambda: cls(sizes), source), source)

    def lengths(self, n_tokens: int) -> int:
        """The number of mel frames of `n_tokens` codes.

        Truncated in float32 as in the published code. Up to 4000 codes this differs from exact
        arithmetic only for 3392 and 3776, by one frame less.
        """
        seconds = torch.tensor(float(n_tokens)) / self.config.code_rate
        return int(seconds * VOICE_RATE / VOICE_HOP)

    def checked(self, ids: Tensor) -> Tensor:
        """Codes [n] as int64 on the decoder's device; raises VocabularyError for other ids."""
        ids = ids.to(self.input_embedding.weight.device, torch.long).reshape(-1)
        size = self.config.vocab_size
        if len(ids) and not 0 <= int(ids.min()) <= int(ids.max()) < size:
            raise VocabularyError(
                f"speech codes range from {int(ids.min())} to {int(ids.max())}, expected local "
                f"codes from 0 to {size - 1}",
                field="ids",
                fix="subtract the vocabulary's offset first",
            )
        return ids

    def noise(self, frames: int, generator: torch.Generator | None = None) -> Tensor:
        """Initial noise [1, C, frames], drawn on the CPU; with seed 42 by default.

        The published decoder seeds torch with 42 on every call; this generator draws the same
        numbers without changing the global random state.
        """
        generator = generator or torch.Generator().manual_seed(42)
        noise = torch.randn(1, self.config.mel_bins, frames, generator=generator)
        return noise * self.config.temperature

    @torch.no_grad()
    def sample(
        self,
        tokens: Tensor,
        *,
        noise: Tensor | None = None,
        steps: int | None = None,
        guidance: float | None = None,
        prompt_tokens: Tensor | None = None,
        prompt_mel: Tensor | None = None,
        speaker: Tensor | None = None,
    ) -> Tensor:
        """Log-mel [B, C, M - L] of codes [B, N]; each row is independent of the others.

        prompt_tokens [B, P] and prompt_mel [B, C, L]: the speech that the codes continue; its L
        frames are not returned. speaker: voice embedding [B, speaker_size]; None = the decoder's
        default voice. noise: [B or 1, C, M] for all M frames, prompt included; by default every row
        starts from the same `noise(M)`.
        """
        if prompt_tokens is not None:
            tokens = torch.cat([prompt_tokens, tokens], dim=1)
        frames = self.lengths(tokens.shape[1])
        cond, known = self._known(prompt_mel, len(tokens), frames)
        if known == frames:
            return cond[..., known:]
        z = (self.noise(frames) if noise is None else noise).to(cond)
        if z.shape[-1] != frames:
            raise SamplingError(
                f"noise of {z.shape[-1]} frames",
                field="noise",
                value=z.shape[-1],
                fix=f"give {frames}, as many as mel frames",
            )
        conditions = Conditions(self.means(tokens, frames), self.voice(speaker, len(tokens)), cond)
        strength = self.config.guidance if guidance is None else guidance
        steps = self.config.steps if steps is None else steps
        reduced = self.config.precision == "bfloat16"
        with torch.autocast(z.device.type, torch.bfloat16, enabled=reduced):
            mel = self.decoder.solve(
                z.expand_as(cond), conditions, steps, strength, self.config.guided_steps
            )
        return mel[..., known:]

    def loss(
        self,
        tokens: Tensor,
        mel: Tensor,
        *,
        n_tokens: Tensor | None = None,
        n_frames: Tensor | None = None,
        speaker: Tensor | None = None,
        generator: torch.Generator | None = None,
    ) -> Tensor:
        """Training loss of codes [B, N] and their log-mel [B, C, M], a scalar.

        n_tokens [B], n_frames [B]: the lengths of padded rows. Codes are stretched to the length of
        the mel. Half of the rows get a random beginning of their mel as a condition, up to 80 %; a
        fifth of the rows get no condition at all.
        """
        mask = None
        if n_frames is not None:
            real = torch.arange(mel.shape[-1], device=mel.device) < n_frames[:, None]
            mask = real[:, None].to(mel)
        mu = self.means(tokens, mel.shape[-1], n_tokens, n_frames)
        conditions = Conditions(
            mu, self.voice(speaker, len(tokens)), self._prompt(mel, n_frames, generator)
        )
        return self.decoder.loss(mel, conditions, mask, generator)

    forward = loss  # called by wrappers for parallel training

    def means(
        self,
        tokens: Tensor,
        frames: int,
        n_tokens: Tensor | None = None,
        n_frames: Tensor | None = None,
    ) -> Tensor:
        """mu [B, C, frames] from codes [B, N]; negative codes (padding) are read as 0."""
        valid = None
        if n_tokens is not None:
            valid = torch.arange(tokens.shape[1], device=tokens.device) < n_tokens[:, None]
        embedded = self.input_embedding(tokens.clamp(min=0))
        h = self.encoder_proj(self.encoder(embedded, valid)).transpose(1, 2)
        if n_tokens is None and n_frames is None:
            stretched = F.interpolate(h, size=frames, mode="nearest")
            mu: Tensor = self.length_regulator(stretched)
            return mu
        rows = len(tokens)
        codes = [tokens.shape[1]] * rows if n_tokens is None else n_tokens.tolist()
        spans = [frames] * rows if n_frames is None else n_frames.tolist()
        real = torch.arange(frames, device=h.device) < torch.tensor(spans, device=h.device)[:, None]
        stretched = stretch_rows(h, codes, spans, frames)
        mu = self.length_regulator(stretched, real[:, None].to(h))
        return mu

    def voice(self, speaker: Tensor | None, rows: int) -> Tensor:
        """Projected voice embedding [B, C]; None = the decoder's default voice."""
        weight = self.spk_embed_affine_layer.weight
        if speaker is None:
            speaker = torch.zeros(rows, self.config.speaker_size)
        out: Tensor = self.spk_embed_affine_layer(F.normalize(speaker.to(weight), dim=1))
        return out

    def _known(self, prompt_mel: Tensor | None, rows: int, frames: int) -> tuple[Tensor, int]:
        """The prompt's mel followed by zeros, [B, C, frames], and the prompt's length."""
        cond = torch.zeros(rows, self.config.mel_bins, frames).to(self.encoder_proj.weight)
        if prompt_mel is None:
            return cond, 0
        known = prompt_mel.shape[-1]
        if known > frames:
            raise SamplingError(
                f"a prompt of {known} mel frames, expected at most the {frames} of all codes",
                field="prompt_mel",
                value=known,
                fix="give the prompt's codes as prompt_tokens",
            )
        cond[..., :known] = prompt_mel
        return cond, known

    def _prompt(
        self, mel: Tensor, n_frames: Tensor | None, generator: torch.Generator | None
    ) -> Tensor:
        """For half of the rows, a random beginning of mel [B, C, M]; zeros elsewhere."""
        rows, _, frames = mel.shape
        draws = torch.rand(2, rows, generator=generator, device=mel.device)
        lengths = draws.new_full((rows,), frames) if n_frames is None else n_frames
        shown = (draws[0] < 0.5) * (0.8 * draws[1] * lengths).floor()
        return mel * (torch.arange(frames, device=mel.device) < shown[:, None])[:, None]
