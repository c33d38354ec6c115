"""The speech synthesizer Kokoro-82M, which makes training data and is not needed at run time."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import torch

from omni_diffusion.errors import DataError, MissingDependencyError
from omni_diffusion.media import Waveform


class Kokoro:
    """Kokoro-82M as int8, run by onnxruntime; speaks at 24 kHz.

    model: the ONNX file. voices: folder of voice packs, float32 [510, 1, 256] each, indexed by the
    number of phonemes. vocabulary: JSON file of the phoneme ids. Raises MissingDependencyError
    without kokoro-onnx.
    """

    rate = 24_000

    def __init__(self, model: str | Path, voices: str | Path, vocabulary: str | Path) -> None:
        try:
            import onnxruntime
            from kokoro_onnx.tokenizer import Tokenizer
        except ImportError as error:
            raise MissingDependencyError(
                f"Kokoro needs the package {error.name or 'kokoro_onnx'}",
                value=error.name,
                fix="run: pip install kokoro-onnx",
            ) from error
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = 1
        self._session = onnxruntime.InferenceSession(str(model), options)
        self._phonemes = Tokenizer()
        loaded: dict[str, Any] = json.loads(Path(vocabulary).read_text())
        self._ids: dict[str, int] = loaded.get("vocab", loaded)
        self._voices = Path(voices)
        self._packs: dict[str, Any] = {}

    def speak(self, text: str, voice: str) -> Waveform:
        """Speak `text`: British if the voice's name begins with b, otherwise American.

        Raises DataError for a text with more phonemes than a voice pack has entries.
        """
        if voice not in self._packs:
            pack = np.fromfile(self._voices / f"{voice}.bin", dtype=np.float32)
            self._packs[voice] = pack.reshape(-1, 1, 256)
        accent = "en-gb" if voice.startswith("b") else "en-us"
        phonemes = self._phonemes.phonemize(text, accent)
        ids = [self._ids[p] for p in phonemes if p in self._ids]
        if len(ids) >= len(self._packs[voice]):
            raise DataError(
                f"{text[:40]!r}... has {len(ids)} phonemes, Kokoro speaks at most"
                f" {len(self._packs[voice]) - 1}; split the text",
                field="text",
                value=len(ids),
            )
        inputs = {
            "tokens": np.array([[0, *ids, 0]], dtype=np.int64),
            "style": self._packs[voice][len(ids)],
            "speed": np.ones(1, dtype=np.float32),
        }
        samples = self._session.run(None, inputs)[0].reshape(-1)
        return trim(Waveform(torch.from_numpy(samples.copy())[None].float(), self.rate))


def trim(wave: Waveform, *, floor: float = 0.01, margin: float = 0.06) -> Waveform:
    """Cut the silence at both ends to `margin` seconds and clip samples to [-1, 1].

    Silence is what stays below `floor` times the peak.
    """
    loud = (wave.samples.abs().amax(0) > floor * wave.samples.abs().max()).nonzero().flatten()
    if len(loud) == 0:
        return wave
    edge = int(margin * wave.rate)
    start, stop = max(0, int(loud[0]) - edge), int(loud[-1]) + 1 + edge
    return Waveform(wave.samples[:, start:stop].clamp(-1, 1), wave.rate)
