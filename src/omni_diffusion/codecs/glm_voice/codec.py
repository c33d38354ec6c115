"""The speech codec: a waveform to codes, and codes to a waveform.

Joins tokenizer, flow decoder and vocoder, and stores them in one folder.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal, Self

import torch
from torch import Tensor, nn

from omni_diffusion.codecs.base import finite
from omni_diffusion.codecs.glm_voice.flow import Flow, FlowConfig
from omni_diffusion.codecs.glm_voice.griffin_lim import GriffinLim
from omni_diffusion.codecs.glm_voice.stream import VoiceStream
from omni_diffusion.codecs.glm_voice.tokenizer import SpeechTokenizer, SpeechTokenizerConfig
from omni_diffusion.codecs.glm_voice.vocoder import HiFT, HiFTConfig, Vocoder
from omni_diffusion.errors import ConfigError
from omni_diffusion.io import config as configs
from omni_diffusion.io import weights
from omni_diffusion.media import Waveform

CONFIG_FILE = "config.json"
TOKENIZER_FILE = "tokenizer.safetensors"
FLOW_FILE = "flow.safetensors"
VOCODER_FILE = "vocoder.safetensors"


@dataclass(frozen=True)
class GlmVoiceConfig:
    """Configs of the three parts; GriffinLim is its own config and has no weights."""

    tokenizer: SpeechTokenizerConfig
    flow: FlowConfig
    vocoder: HiFTConfig | GriffinLim

    def __post_init__(self) -> None:
        if self.tokenizer.codebook_size != self.flow.vocab_size:
            raise ConfigError(
                f"the tokenizer has {self.tokenizer.codebook_size} codes, the flow decoder "
                f"{self.flow.vocab_size}",
                field="codebook_size",
                value=self.tokenizer.codebook_size,
                fix="make them equal",
            )
        if self.tokenizer.code_rate != self.flow.code_rate:
            raise ConfigError(
                f"the tokenizer gives {self.tokenizer.code_rate:g} codes a second, the flow "
                f"decoder takes {self.flow.code_rate:g}",
                field="code_rate",
                value=self.flow.code_rate,
                fix="change the tokenizer's pool or the flow decoder's code_rate",
            )

    @classmethod
    def official(cls) -> Self:
        """The official sizes, those of GLM-4-Voice."""
        return cls(SpeechTokenizerConfig.official(), FlowConfig.official(), HiFTConfig.official())

    @classmethod
    def mini(cls) -> Self:
        """The small codec, with Griffin-Lim as vocoder."""
        return cls(SpeechTokenizerConfig.mini(), FlowConfig.mini(), GriffinLim())


class GlmVoice(nn.Module):
    """Waveform to speech codes and back."""

    def __init__(self, tokenizer: SpeechTokenizer, flow: Flow, vocoder: Vocoder) -> None:
        super().__init__()
        self.tokenizer = tokenizer
        self.flow = flow
        self.vocoder: Vocoder = vocoder

    @classmethod
    def load(cls, folder: str | Path) -> Self:
        """Read a folder of `save`; raises ConfigError or WeightsError for files that do not fit."""
        folder = Path(folder)
        config = configs.load(GlmVoiceConfig, folder / CONFIG_FILE)
        vocoder: Vocoder
        if isinstance(config.vocoder, GriffinLim):
            vocoder = config.vocoder
        else:
            vocoder = HiFT.load(folder / VOCODER_FILE, config.vocoder)
        return cls(
            SpeechTokenizer.load(folder / TOKENIZER_FILE, config.tokenizer),
            Flow.load(folder / FLOW_FILE, config.flow),
            vocoder,
        ).eval()

    def save(self, folder: str | Path, dtype: torch.dtype | None = None) -> None:
        """Write config and weights, each atomically; `dtype`: stored type of the weights."""
        folder = Path(folder)
        folder.mkdir(parents=True, exist_ok=True)
        weights.write_tensors(self.tokenizer.state_dict(), folder / TOKENIZER_FILE, dtype=dtype)
        weights.write_tensors(self.flow.state_dict(), folder / FLOW_FILE, dtype=dtype)
        if isinstance(self.vocoder, HiFT):
            weights.write_tensors(self.vocoder.state_dict(), folder / VOCODER_FILE, dtype=dtype)
        configs.save(self.config, folder / CONFIG_FILE)

    @property
    def config(self) -> GlmVoiceConfig:
        """Configs of the three parts."""
        vocoder = self.vocoder
        if not isinstance(vocoder, HiFT | GriffinLim):
            raise ConfigError(
                f"{type(vocoder).__name__} has no config",
                field="vocoder",
                value=vocoder,
                fix="use HiFT or GriffinLim",
            )
        sizes = vocoder.config if isinstance(vocoder, HiFT) else vocoder
        return GlmVoiceConfig(self.tokenizer.config, self.flow.config, sizes)

    def set_speed(
        self,
        steps: int | None = None,
        guided_steps: int | None = None,
        precision: Literal["float32", "bfloat16"] | None = None,
    ) -> None:
        """Change how `decode` samples where a value is given; see `FlowConfig` and docs/speed.md.

        Raises ConfigError for a value out of its range.
        """
        given = {"steps": steps, "guided_steps": guided_steps, "precision": precision}
        changes: dict[str, Any] = {name: v for name, v in given.items() if v is not None}
        self.flow.config = replace(self.flow.config, **changes)

    @property
    def vocabulary_size(self) -> int:
        """The number of local codes."""
        return self.flow.config.vocab_size

    @property
    def codes_per_second(self) -> float:
        """Codes per second: 12.5 official, 25 in the small codec."""
        return self.flow.config.code_rate

    def encode(self, waveform: Waveform) -> Tensor:
        """Local codes int64 [n] of any waveform; only channel 0 is encoded, as published."""
        return self.tokenizer.encode(waveform)

    @torch.no_grad()
    def decode(self, ids: Tensor, steps: int | None = None, seed: int = 42) -> Waveform:
        """Waveform at 22,050 Hz of local codes [n]; empty for no codes.

        steps: Euler steps of the flow decoder, to which the time is proportional; None = those of
        its config. The result depends only on codes, steps and seed; 42 is the published seed.
        Raises ModelError for samples that are not finite.
        """
        ids = self.flow.checked(ids)
        generator = torch.Generator().manual_seed(seed)
        noise = self.flow.noise(self.flow.lengths(len(ids)), generator)
        mel = self.flow.sample(ids[None], noise=noise, steps=steps)
        wave = self.vocoder.decode(mel[0], generator)
        finite(wave.samples, "speech decoder")
        return wave

    def decode_stream(
        self, blocks: Iterable[Tensor], steps: int | None = None, seed: int = 42
    ) -> Iterator[Waveform]:
        """Waveforms, one for each block of codes [n_i] and a last one; some may be empty.

        Their concatenation is as long as `decode` of all codes.
        """
        stream = VoiceStream(self.flow, self.vocoder, steps=steps, seed=seed)
        for block in blocks:
            yield stream.push(block)
        yield stream.finish()
