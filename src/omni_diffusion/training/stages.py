"""The paper's progressive stages as data: what each trains on, how long, how fast.

Stage 1 aligns vision and language, stage 2 joins speech to both, stage 3 is speech-driven visual
interaction. Each starts from the weights of the last. The encoder of heard speech belongs to none
of them: it is a codec, in eval mode, whose frames are made before training begins.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace

from omni_diffusion.data.mixture import Share
from omni_diffusion.diffusion.masking import MaskingConfig
from omni_diffusion.errors import TrainingError
from omni_diffusion.training.denoising import DenoisingConfig
from omni_diffusion.training.optim import OptimConfig
from omni_diffusion.training.trainer import LoopConfig

SPOKEN = ("tts", "sqa", "svqa")
"""Tasks whose answer holds speech."""
BLOCK = 24
"""Places of a block in their training."""


@dataclass(frozen=True)
class Stage:
    """One stage: its name, the tasks of each step, the run and the forward process."""

    name: str
    shares: tuple[Share, ...]
    loop: LoopConfig
    denoising: DenoisingConfig = field(default_factory=DenoisingConfig)


def stage(
    name: str,
    shares: tuple[Share, ...],
    *,
    steps: int,
    lr: float,
    seed: int,
    warmup: int = 100,
    floor: float = 0.05,
) -> Stage:
    """A stage of the small model.

    t is biased towards high ratios (MaskGIT's cosine), and half of the answers are masked whole:
    with t drawn evenly most of a picture is visible most of the time, its neighbours give every
    cell away, and words are learned last. Answers that hold speech are mostly learned in blocks,
    from left to right: where a sound goes follows from the one before it far sooner than from the
    text alone.
    """
    masking = MaskingConfig(variant="cosine", full=0.5)
    spoken = replace(masking, blocks=0.8, block_length=BLOCK)
    return Stage(
        name,
        shares,
        LoopConfig(steps=steps, seed=seed, optim=OptimConfig(lr=lr, warmup=warmup, floor=floor)),
        DenoisingConfig(masking, precision="bfloat16", by_task=dict.fromkeys(SPOKEN, spoken)),
    )


# --------------------------------------------------------------------------------- the paper's own
BATCH = 128
"""Samples of a step (ICML version)."""
SECONDS_A_SAMPLE = 10
"""Of the speech corpora, which the paper counts in hours; an estimate, the paper gives none."""


@dataclass(frozen=True)
class Corpus:
    """A row of the paper's table of training data: what it teaches, how much, in which stages."""

    name: str
    task: str
    samples: float
    stages: tuple[int, ...]


def _hours(hours: float) -> float:
    return hours * 3600 / SECONDS_A_SAMPLE


CORPORA = (
    Corpus("Tulu-3 SFT", "chat", 670e3, (1, 2, 3)),
    Corpus("LAION-2B", "caption", 10e6, (1, 2)),
    Corpus("LLaVA-OneVision", "vqa", 820e3, (2, 3)),
    Corpus("in-house", "vqa", 2e6, (2, 3)),
    Corpus("JourneyDB", "t2i", 4e6, (1, 2, 3)),
    Corpus("LibriSpeech", "asr", _hours(100), (2, 3)),
    Corpus("Common Voice", "asr", _hours(100), (2, 3)),
    Corpus("GigaSpeech", "asr", _hours(1000), (2, 3)),
    Corpus("People's Speech", "asr", _hours(100), (2, 3)),
    Corpus("VoxPopuli", "asr", _hours(54), (2, 3)),
    Corpus("LibriTTS", "tts", _hours(58), (2, 3)),
    Corpus("GLOBE", "tts", _hours(50), (2, 3)),
    Corpus("Emilia", "tts", _hours(5000), (2, 3)),
    Corpus("VoiceAssistant", "sqa", 250e3, (2, 3)),
    Corpus("AudioQA-1.0M", "sqa", 180e3, (2, 3)),
    Corpus("SDVI, spoken VQA", "svqa", 30e3, (3,)),
    Corpus("SDVI, speech to image", "s2i", 30e3, (3,)),
)
"""The paper's Table 4; both sources of speech QA are counted as questions with spoken answers."""


@dataclass(frozen=True)
class PaperStage:
    """One of the paper's stages: its name, its learning rate, and how often each task comes.

    mix: by task, relative; in proportion to the samples of the corpora, since the paper says how
    many there are and not how they were drawn.
    """

    name: str
    lr: float
    mix: Mapping[str, float]


_STAGES = (
    ("visual-language pre-alignment", 1e-4),
    ("speech-vision-language joint alignment", 1e-4),
    ("speech-driven visual interaction", 1e-5),
)


def paper(number: int) -> PaperStage:
    """Stage 1, 2 or 3; raises TrainingError for another."""
    if not 1 <= number <= len(_STAGES):
        raise TrainingError(f"the paper has no stage {number}; give 1, 2 or 3")
    mix: dict[str, float] = {}
    for corpus in CORPORA:
        if number in corpus.stages:
            mix[corpus.task] = mix.get(corpus.task, 0) + corpus.samples
    name, lr = _STAGES[number - 1]
    return PaperStage(name, lr, mix)
