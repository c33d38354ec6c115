"""The paper's progressive stages as data: what each trains on, how long, how fast.

Stage 1 aligns vision and language, stage 2 joins speech to both, stage 3 is speech-driven visual
interaction. Each starts from the weights of the last.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace

from omni_diffusion.data.mixture import Share
from omni_diffusion.diffusion.masking import MaskingConfig
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
