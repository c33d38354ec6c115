"""The paper's three training stages: corpora, learning rates and task weights.

Stage 1 aligns vision and language, stage 2 adds speech to both, stage 3 is speech-driven visual
interaction. Each starts from the weights of the one before. No stage trains the speech encoder: it
is a codec in eval mode, whose frames are computed before training.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from omni_diffusion.errors import TrainingError

BATCH_SIZE = 128
"""Samples of a step (ICML version)."""
SECONDS_PER_SAMPLE = 10
"""An estimate for the speech corpora, which the paper counts in hours."""


@dataclass(frozen=True)
class Corpus:
    """A row of the paper's table of training data: its task, its samples, and its stages."""

    name: str
    task: str
    samples: float
    stages: tuple[int, ...]


def _samples(hours: float) -> float:
    return hours * 3600 / SECONDS_PER_SAMPLE


CORPORA = (
    Corpus("Tulu-3 SFT", "chat", 670e3, (1, 2, 3)),
    Corpus("LAION-2B", "caption", 10e6, (1, 2)),
    Corpus("LLaVA-OneVision", "vqa", 820e3, (2, 3)),
    Corpus("in-house", "vqa", 2e6, (2, 3)),
    Corpus("JourneyDB", "t2i", 4e6, (1, 2, 3)),
    Corpus("LibriSpeech", "asr", _samples(100), (2, 3)),
    Corpus("Common Voice", "asr", _samples(100), (2, 3)),
    Corpus("GigaSpeech", "asr", _samples(1000), (2, 3)),
    Corpus("People's Speech", "asr", _samples(100), (2, 3)),
    Corpus("VoxPopuli", "asr", _samples(54), (2, 3)),
    Corpus("LibriTTS", "tts", _samples(58), (2, 3)),
    Corpus("GLOBE", "tts", _samples(50), (2, 3)),
    Corpus("Emilia", "tts", _samples(5000), (2, 3)),
    Corpus("VoiceAssistant", "sqa", 250e3, (2, 3)),
    Corpus("AudioQA-1.0M", "sqa", 180e3, (2, 3)),
    Corpus("SDVI, spoken VQA", "svqa", 30e3, (3,)),
    Corpus("SDVI, speech to image", "s2i", 30e3, (3,)),
)
"""The paper's Table 4. Both speech QA corpora count as questions with spoken answers."""


@dataclass(frozen=True)
class PaperStage:
    """One of the paper's stages.

    lr: peak learning rate. task_weights: relative frequency of each task, proportional to the
    samples of its corpora. The paper gives their sizes and not how they were drawn.
    """

    name: str
    lr: float
    task_weights: Mapping[str, float]


_STAGES = (
    ("visual-language pre-alignment", 1e-4),
    ("speech-vision-language joint alignment", 1e-4),
    ("speech-driven visual interaction", 1e-5),
)


def paper_stage(number: int) -> PaperStage:
    """Stage 1, 2 or 3; raises TrainingError for another number."""
    if not 1 <= number <= len(_STAGES):
        raise TrainingError(
            f"the paper has no stage {number}", field="stage", value=number, fix="give 1, 2 or 3"
        )
    task_weights: dict[str, float] = {}
    for corpus in CORPORA:
        if number in corpus.stages:
            task_weights[corpus.task] = task_weights.get(corpus.task, 0) + corpus.samples
    name, lr = _STAGES[number - 1]
    return PaperStage(name, lr, task_weights)
