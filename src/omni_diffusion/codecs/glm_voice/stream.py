"""Codes -> sound while the codes are still arriving: overlapping blocks, cross-faded in the mel.

Each block continues the mel spoken so far; its last 34 frames are held back, drawn again by the
next block and faded into it. Knows flow and vocoder by their faces only. Source: GLM-4-Voice's
published streaming decoder. Dimension key: C mel bins, M frames.
"""

import torch
from torch import Tensor

from omni_diffusion.codecs.glm_voice.flow import Flow
from omni_diffusion.codecs.glm_voice.mel import SPEAK_HOP, SPEAK_RATE
from omni_diffusion.codecs.glm_voice.vocoder import Vocoder
from omni_diffusion.errors import ModelError
from omni_diffusion.media import Waveform

OVERLAP_CODES = 5


class VoiceStream:
    """The state of one spoken answer.

    `upstream` repeats a flaw of the published code: the frame that each block repeats for the
    vocoder's sake is also handed to the next block as if it were spoken, which shortens the
    sound by a frame for each block after the second.
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
        self._drawn = 0
        """How many of the codes have been drawn as mel."""
        self._spoken = torch.empty(flow.config.mel_bins, 0, device=self._codes.device)
        """Mel that later blocks continue [C, M]."""
        self._held: Tensor | None = None
        """Mel of the overlap, drawn but not yet given away."""
        self._last: Tensor | None = None
        """The last frame given to the vocoder [C, 1]."""
        self._tail: Tensor | None = None
        """What the vocoder needs to go on without a click."""
        self._over = False

    def push(self, ids: Tensor) -> Waveform:
        """Take codes [n] and give the sound that is now sure, perhaps none."""
        return self._give(ids, last=False)

    def finish(self, ids: Tensor | None = None) -> Waveform:
        """Take the last codes, if any, and give all the sound that is left."""
        return self._give(self._codes[:0] if ids is None else ids, last=True)

    @torch.no_grad()
    def _give(self, ids: Tensor, last: bool) -> Waveform:
        if self._over:
            raise ModelError("this stream is finished: open a new one for more codes")
        self._over = last
        ids = self.flow.checked(ids)
        self._codes = torch.cat([self._codes, ids])
        overlap = self.flow.lengths(OVERLAP_CODES)
        fresh = self.flow.lengths(len(self._codes)) - self._spoken.shape[1]
        # Without two frames beyond the overlap there is nothing to give away yet.
        if not last and fresh < overlap + 2:
            return Waveform(torch.zeros(1, 0), SPEAK_RATE)
        generator = torch.Generator().manual_seed(self.seed)
        mel = self._draw(generator)
        if not last:
            self._held, mel = mel[:, -overlap:], mel[:, :-overlap]
        return self._voice(mel, last, generator)

    def _draw(self, generator: torch.Generator) -> Tensor:
        """Mel after what was spoken, up to the last code, the held overlap faded into it."""
        if self._drawn == len(self._codes):
            return self._spoken[:, :0] if self._held is None else self._held
        noise = self.flow.noise(self.flow.lengths(len(self._codes)), generator)
        mel = self.flow.sample(
            self._codes[None], prompt_mel=self._spoken[None], noise=noise, steps=self.steps
        )[0]
        self._drawn = len(self._codes)
        if self._held is not None:
            size = self._held.shape[1]
            fade = torch.hamming_window(2 * size, periodic=False, dtype=torch.float64).to(mel)
            mel[:, :size] = mel[:, :size] * fade[:size] + self._held * fade[size:]
        return mel

    def _voice(self, mel: Tensor, last: bool, generator: torch.Generator) -> Waveform:
        given = mel if self._last is None else torch.cat([self._last, mel], dim=1)
        self._spoken = torch.cat([self._spoken, given if self.upstream else mel], dim=1)
        if given.shape[1] == 0:
            return Waveform(torch.zeros(1, 0), SPEAK_RATE)
        self._last = given[:, -1:]
        wave, self._tail = self.vocoder.decode_after(self._tail, given, generator)
        samples = wave.samples if last else wave.samples[:, :-SPEAK_HOP]
        return Waveform(samples, SPEAK_RATE)
