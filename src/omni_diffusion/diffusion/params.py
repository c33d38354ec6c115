"""Sampling parameters of one request."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal, get_args

from omni_diffusion.diffusion.confidence import Measure
from omni_diffusion.diffusion.schedule import Schedule
from omni_diffusion.errors import SamplingError

Rules = Literal["paper", "upstream"]


@dataclass(frozen=True)
class SamplingParams:
    """How one sequence is denoised. Use `dataclasses.replace` for a changed copy.

    steps: forward passes; None = one per masked token, which is also the most.
    confidence: which tokens are committed first; "random" takes them in random order.
    temperature, top_p, top_k: how a token is drawn; temperature 0 takes the likeliest.
    repetition_penalty: lowers the logits of tokens already written; 1 = off.
    position_penalty: delays the far end of a long answer early on; 2 halves its last logits;
    1 = off.
    guidance: scale of classifier-free guidance; 0 = off. The sampler gets guided logits.
    block_length: fill blocks of so many tokens from left to right; None = one block.
    confidence_temperature: above 0 the order of commits is drawn instead of sorted.
    constrain: a position takes only ids of its allowed range.
    schedule: commits per step: "even", or "cosine", few at first and many at the end.
    rules: "paper", or "upstream" for the behaviour of the published code, see
    `diffusion.upstream`; its schedule then replaces `schedule`.
    seed: of this sequence; the result does not depend on the rest of the batch.

    Raises SamplingError for a value outside its range.
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
    schedule: Schedule = "even"
    rules: Rules = "paper"
    seed: int = 0

    def __post_init__(self) -> None:
        for name, options in (("confidence", Measure), ("schedule", Schedule), ("rules", Rules)):
            if getattr(self, name) not in get_args(options):
                self._refuse(name, f"one of {', '.join(get_args(options))}")
        for name in ("steps", "top_k", "block_length"):
            value = getattr(self, name)
            if value is not None and not value >= 1:
                self._refuse(name, "1 or more, or None")
        if self.top_p is not None and not 0 < self.top_p <= 1:
            self._refuse("top_p", "a fraction above 0 and up to 1, or None")
        for name in ("temperature", "guidance", "confidence_temperature"):
            if not 0 <= getattr(self, name) < math.inf:
                self._refuse(name, "0 (off) or more")
        if not 0 < self.repetition_penalty < math.inf:
            self._refuse("repetition_penalty", "above 0 (1 is off)")
        if not 1 <= self.position_penalty < math.inf:
            self._refuse("position_penalty", "1 (off) or more")
        if not 0 <= self.seed < 2**63:
            self._refuse("seed", "an integer from 0 to 2**63 - 1")

    def _refuse(self, name: str, expected: str) -> None:
        value = getattr(self, name)
        raise SamplingError(f"{name} is {value!r}", field=name, value=value, fix=f"give {expected}")
