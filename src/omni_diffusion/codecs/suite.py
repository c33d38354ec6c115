"""The four codecs of one model, and the folder they are stored in.

Files: tokenizer.json, image.safetensors, hearing.safetensors with am.mvn, and the folder speech/
of the speech codec.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Self

import torch

from omni_diffusion.codecs import fbank
from omni_diffusion.codecs.glm_voice.codec import GlmVoice
from omni_diffusion.codecs.magvit2 import Magvit2, Magvit2Config
from omni_diffusion.codecs.sensevoice import CMVN_FILE, SenseVoice, SenseVoiceConfig
from omni_diffusion.codecs.text import TextCodec
from omni_diffusion.io import weights

TEXT_FILE = "tokenizer.json"
IMAGE_FILE = "image.safetensors"
HEARING_FILE = "hearing.safetensors"
SPEECH_FOLDER = "speech"


@dataclass(frozen=True)
class SuiteConfig:
    """Sizes of image codec and speech encoder; text and speech store theirs in their files."""

    image: Magvit2Config
    hearing: SenseVoiceConfig

    @classmethod
    def official(cls) -> Self:
        """The official sizes."""
        return cls(Magvit2Config.official(), SenseVoiceConfig.official())

    @classmethod
    def mini(cls) -> Self:
        """The small model's sizes."""
        return cls(Magvit2Config.mini(), SenseVoiceConfig.mini())


@dataclass(frozen=True, eq=False)
class CodecSuite:
    """Text, image and speech to codes and back, and hearing: speech to frames."""

    text: TextCodec
    image: Magvit2
    hearing: SenseVoice
    speech: GlmVoice

    @classmethod
    def open(cls, folder: Path, config: SuiteConfig, device: torch.device) -> Self:
        """Read a folder of `save`, in float32; raises ModelError, ConfigError or WeightsError."""
        folder = Path(folder)
        return cls(
            text=TextCodec.load(folder / TEXT_FILE),
            image=Magvit2.load(folder / IMAGE_FILE, config.image).to(device),
            hearing=SenseVoice.load(folder / HEARING_FILE, config.hearing).to(device),
            speech=GlmVoice.load(folder / SPEECH_FOLDER).to(device),
        )

    @property
    def config(self) -> SuiteConfig:
        """The config for `open`."""
        return SuiteConfig(self.image.config, self.hearing.config)

    def save(self, folder: Path, dtype: torch.dtype | None = None) -> None:
        """Write all files, each atomically; `dtype`: stored type of the weights."""
        folder = Path(folder)
        self.text.save(folder / TEXT_FILE)
        weights.write_tensors(self.image.state_dict(), folder / IMAGE_FILE, dtype=dtype)
        weights.write_tensors(self.hearing.state_dict(), folder / HEARING_FILE, dtype=dtype)
        if self.hearing.cmvn is not None:
            fbank.write_cmvn(self.hearing.cmvn, folder / CMVN_FILE)
        self.speech.save(folder / SPEECH_FOLDER, dtype)

    def stored_bytes(self, dtype: torch.dtype | None = None) -> int:
        """Bytes of the weights that `save` writes."""
        modules = (self.image, self.hearing, self.speech)
        return sum(weights.stored_bytes(module.state_dict(), dtype) for module in modules)
