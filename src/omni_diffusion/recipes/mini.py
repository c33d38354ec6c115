"""The small model from nothing: every size, seed and number of steps.

`train` repeats the whole in order; every part resumes where it was stopped and is skipped once it
is done. Parts are files of `out`, so that a later part can be trained alone.
"""

from __future__ import annotations

from omni_diffusion.backbone.config import DreamConfig
from omni_diffusion.data.mixture import Share
from omni_diffusion.training.stages import Stage, stage
from omni_diffusion.vocab import Vocabulary

TEXT_TOKENS = 1024  # at most; the world's sentences need fewer
SPEECH_CODES = 1024
IMAGE_BITS = 10


def vocabulary(text_tokens: int) -> Vocabulary:
    """Text as learned, 1,024 speech and 1,024 image codes."""
    return Vocabulary.build(text=text_tokens, speech=SPEECH_CODES, image=2**IMAGE_BITS)


def backbone(vocabulary: Vocabulary, speech_dim: int) -> DreamConfig:
    """256 wide, 6 layers: about 6 million parameters."""
    return DreamConfig.mini(vocabulary.size, speech_dim)


def stages() -> tuple[Stage, Stage, Stage]:
    """The three stages: pictures and text; and speech; and speech-driven visual interaction."""
    pictures = (Share("t2i", 16), Share("caption", 6, 0.5), Share("chat", 4, 0.1))
    joint = (
        *(Share("t2i", 10), Share("caption", 4, 0.5), Share("vqa", 8, 0.5), Share("chat", 2, 0.1)),
        *(Share("asr", 8, 0.5), Share("tts", 8, 0.7)),
    )
    interaction = (
        *(Share("t2i", 6), Share("caption", 4, 0.5), Share("vqa", 6, 0.5), Share("chat", 2, 0.1)),
        *(Share("asr", 6, 0.5), Share("tts", 6, 0.7)),
        *(Share("s2i", 6), Share("sqa", 3, 0.3), Share("svqa", 6, 0.7)),
    )
    return (
        stage("pictures", pictures, steps=2500, lr=1e-3, seed=1, floor=0.3),
        stage("joint", joint, steps=2500, lr=8e-4, seed=2, floor=0.3),
        stage("interaction", interaction, steps=2500, lr=5e-4, seed=3),
    )
