"""Codes -> waveform while codes arrive: overlapping blocks, cross-faded in the mel.

Each block continues the mel of the blocks before. Its last 34 frames are held back, drawn again by
the next block, and cross-faded with it. Source: GLM-4-Voice's published streaming decoder.

Dimensions: C mel bins, M frames.
"""

from __future__ import annotations

import torch
from torch import Tensor

from omni_diffusion.codecs.base import finite
from omni_diffusion.codecs.glm_voice.flow import Flow
from omni_diffusion.codecs.glm_voice.mel import VOICE_HOP, VOICE_RATE
from omni_diffusion.codecs.glm_voice.vocoder import Vocoder
from omni_diffusion.errors import ModelError
from omni_diffusion.media import Waveform

OVERLAP_CODES = 5


class VoiceStream:
    """The decoding state of one answer.

    upstream: reproduce a flaw of the published code. The frame that a block repeats for the vocoder
    is also passed to the next block as mel, which shortens the audio by one frame for each block
    after the second.
    """

    def __init__(
        self,
        flow: Flow,
        vocoder: Vocoder,
        *,
        steps: int | None = None,
        seed: int = 42,
        upstream: bool = False,
    ) -> None:
        self.flow = flow
        self.vocoder = vocoder
        self.steps = steps
        self.seed = seed
        self.upstream = upstream
        self._codes = torch.empty(0, dtype=torch.long, device=flow.input_embedding.weight.device)
        self._decoded = 0  # number of codes decoded to mel
        # mel that later blocks continue, [C, M]
        self._emitted = torch.empty(flow.config.mel_bins, 0, device=self._codes.device)
        self._held: Tensor | None = None  # mel of the overlap, not emitted yet
        self._last: Tensor | None = None  # the last frame passed to the vocoder, [C, 1]
        self._tail: Tensor | None = None  # state of the vocoder, for a seamless continuation
        self._finished = False

    def push(self, ids: Tensor) -> Waveform:
        """Add codes [n] and return the audio that is now final, possibly empty."""
        return self._push(ids, last=False)

    def finish(self, ids: Tensor | None = None) -> Waveform:
        """Add the last codes, if any, and return the rest of the audio."""
        return self._push(self._codes[:0] if ids is None else ids, last=True)

    @torch.no_grad()
    def _push(self, ids: Tensor, last: bool) -> Waveform:
        if self._finished:
            raise ModelError("the stream is finished", fix="open a new one for more codes")
        self._finished = last
        ids = self.flow.checked(ids)
        self._codes = torch.cat([self._codes, ids])
        overlap = self.flow.lengths(OVERLAP_CODES)
        fresh = self.flow.lengths(len(self._codes)) - self._emitted.shape[1]
        # Fewer than two frames beyond the overlap cannot be emitted yet.
        if not last and fresh < overlap + 2:
            return Waveform(torch.zeros(1, 0), VOICE_RATE)
        generator = torch.Generator().manual_seed(self.seed)
        mel = self._draw(generator)
        if not last:
            self._held, mel = mel[:, -overlap:], mel[:, :-overlap]
        return self._voice(mel, last, generator)

    def _draw(self, generator: torch.Generator) -> Tensor:
        """Mel after the emitted one, up to the last code, cross-faded with the held overlap."""
        if self._decoded == len(self._codes):
            return self._emitted[:, :0] if self._held is None else self._held
        noise = self.flow.noise(self.flow.lengths(len(self._codes)), generator)
        mel = self.flow.sample(
            self._codes[None], prompt_mel=self._emitted[None], noise=noise, steps=self.steps
        )[0]
        self._decoded = len(self._codes)
        if self._held is not None:
            size = self._held.shape[1]
            fade = torch.hamming_window(2 * size, periodic=False, dtype=torch.float64).to(mel)
            mel[:, :size] = mel[:, :size] * fade[:size] + self._held * fade[size:]
        return mel

    def _voice(self, mel: Tensor, last: bool, generator: torch.Generator) -> Waveform:
        frames = mel if self._last is None else torch.cat([self._last, mel], dim=1)
        self._emitted = torch.cat([self._emitted, frames if self.upstream else mel], dim=1)
        if frames.shape[1] == 0:
            return Waveform(torch.zeros(1, 0), VOICE_RATE)
        self._last = frames[:, -1:]
        wave, self._tail = self.vocoder.decode_after(self._tail, frames, generator)
        finite(wave.samples, "speech decoder")
        samples = wave.samples if last else wave.samples[:, :-VOICE_HOP]
        return Waveform(samples, VOICE_RATE)
