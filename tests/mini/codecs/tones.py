"""A spoken world in miniature: a word is a tone, a voice is a level of hiss."""

from __future__ import annotations

import random

import torch

from omni_diffusion.media import Waveform
from omni_diffusion.mini.speech_plan import ANSWER_VOICE, Utterance

PITCHES = {"low": 300.0, "mid": 900.0, "high": 2400.0}
RATE = 16_000


def sound(text: str, seed: int = 0) -> Waveform:
    """Every word a quarter of a second of its tone, quiet between; a little hiss."""
    generator = torch.Generator().manual_seed(seed)
    time = torch.arange(RATE // 4) / RATE
    quiet = torch.zeros(RATE // 10)
    pieces = [quiet]
    for word in text.split():
        pieces += [0.5 * torch.sin(2 * torch.pi * PITCHES[word] * time), quiet]
    samples = torch.cat(pieces)
    return Waveform((samples + 0.003 * torch.randn(samples.shape, generator=generator))[None], RATE)


def recorded(count: int = 12, seed: int = 0) -> list[tuple[Utterance, Waveform]]:
    """Sentences of two to four words; every second one in the answer voice."""
    rng = random.Random(seed)
    lines = []
    for i in range(count):
        text = " ".join(rng.choice(sorted(PITCHES)) for _ in range(rng.randint(2, 4)))
        voice = ANSWER_VOICE if i % 2 else "am_adam"
        lines.append((Utterance(i, "caption", "train", voice, text), sound(text, i)))
    return lines
