"""What a request may ask of the sampler; numbers and named options only."""

import math
from dataclasses import dataclass
from typing import Literal, get_args

from omni_diffusion.diffusion.confidence import Measure
from omni_diffusion.errors import SamplingError

Rules = Literal["paper", "upstream"]
Pace = Literal["even", "cosine"]


@dataclass(frozen=True)
class SamplingParams:
    """How one row is denoised. ``dataclasses.replace`` makes a changed copy.

    steps: forward passes; None = one per blank, more are cut to that.
    confidence: which places are committed first; "random" takes them in random order.
    temperature, top_p, top_k: how a token is drawn; temperature 0 takes the likeliest.
    repetition_penalty: bends the logits of tokens already written; 1 = off, as all penalties.
    position_penalty: holds back the far end of a long answer early on; 2 halves its last logits.
    guidance: weight of classifier-free guidance; 0 = off. Logits come to the sampler joined.
    block_length: fill blocks of so many places from left to right; None = the whole at once.
    confidence_temperature: above 0 the order of commits is drawn, not sorted.
    constrain: a place takes only ids of its allowed range.
    schedule: how many commits a step: "even", or "cosine", few at first and many at the end.
    rules: "paper", or "upstream" for the published code's behaviour, quirk by quirk (its grid of
    commits then replaces ``schedule``, and filters come before penalties and confidence).
    seed: of this row alone; the same seed gives the same row whatever is batched beside it.
    """

    steps: int | None = None
    confidence: Measure = "entropy"
    temperature: float = 0.0
    top_p: float | None = None
    top_k: int | None = None
    repetition_penalty: float = 1.0
    position_penalty: float = 1.0
    guidance: float = 0.0
    block_length: int | None = None
    confidence_temperature: float = 0.0
    constrain: bool = True
    schedule: Pace = "even"
    rules: Rules = "paper"
    seed: int = 0

    def __post_init__(self) -> None:
        for name, options in (("confidence", Measure), ("schedule", Pace), ("rules", Rules)):
            if getattr(self, name) not in get_args(options):
                self._refuse(name, f"one of {', '.join(get_args(options))}")
        for name in ("steps", "top_k", "block_length"):
            value = getattr(self, name)
            if value is not None and not value >= 1:
                self._refuse(name, "1 or more, or None")
        if self.top_p is not None and not 0 < self.top_p <= 1:
            self._refuse("top_p", "a share above 0 and up to 1, or None")
        for name in ("temperature", "guidance", "confidence_temperature"):
            if not 0 <= getattr(self, name) < math.inf:
                self._refuse(name, "0 (off) or more")
        if not 0 < self.repetition_penalty < math.inf:
            self._refuse("repetition_penalty", "above 0 (1 is off)")
        if not 1 <= self.position_penalty < math.inf:
            self._refuse("position_penalty", "1 (off) or more")
        if not 0 <= self.seed < 2**63:
            self._refuse("seed", "a whole number from 0 to 2**63 - 1")

    def _refuse(self, name: str, expected: str) -> None:
        raise SamplingError(f"{name} is {getattr(self, name)!r}; give {expected}")
