"""Sampling parameters of one request."""

from __future__ import annotations

from dataclasses import dataclass, replace
from numbers import Real
from typing import Any, Literal, Self, get_args

from omni_diffusion.diffusion.confidence import Measure
from omni_diffusion.diffusion.schedule import Schedule
from omni_diffusion.errors import SamplingError
from omni_diffusion.io.config import shown

BOUNDS: dict[str, tuple[float, float, float]] = {  # off, least and most
    "temperature": (0.0, 1e-6, 1e6),
    "confidence_temperature": (0.0, 1e-6, 1e6),
    "guidance": (0.0, 0.0, 100.0),
    "repetition_penalty": (1.0, 0.1, 10.0),
    "position_penalty": (1.0, 1.0, 100.0),
    "guidance_from": (0.0, 0.0, 1.0),
    "guidance_until": (1.0, 0.0, 1.0),
}
"""Values beyond them would overflow float32, or float16 logits, or leave nothing of the logits."""

Rules = Literal["paper", "upstream"]


@dataclass(frozen=True)
class SamplingParams:
    """How one sequence is denoised. Use `dataclasses.replace` for a changed copy.

    steps: forward passes; None = one per masked token, which is also the most.
    confidence: which tokens are committed first; "random" takes them in random order, "halton"
    spreads the cells of a picture evenly (see `parallel.halton_scores`).
    temperature, top_p, top_k: how a token is drawn; temperature 0 takes the likeliest.
    repetition_penalty: lowers the logits of tokens already written; 1 = off.
    position_penalty: delays the far end of a long answer early on; 2 halves its last logits;
    1 = off.
    guidance: scale of classifier-free guidance; 0 = off. The sampler gets guided logits.
    guidance_from, guidance_until: guide only while the committed fraction of the masked tokens is
    in this range; other steps run one branch, which takes half of the time.
    threshold: commit, beside those that the schedule commits, every token whose confidence is at
    least this, from 0 to 1; needs confidence "max_probability" or "margin".
    entropy_bound: the same for the most confident tokens whose entropies, without the largest, sum
    to at most so many nats; needs confidence "entropy".
    end_early: end a text or speech once all of it before its end is committed; what stands behind
    the end is never read.
    block_length: fill blocks of so many tokens from left to right; None = one block.
    confidence_temperature: above 0 the order of commits is drawn instead of sorted.
    constrain: a position takes only ids of its allowed range.
    schedule: commits per step: "even", or "cosine", few at first and many at the end.
    rules: "paper", or "upstream" for the behaviour of the published code, see
    `diffusion.upstream`; its schedule then replaces `schedule`.
    seed: of this sequence; the result does not depend on the rest of the batch.

    Numbers may be of numpy or torch, and become Python's. `BOUNDS` has the ranges. Raises
    SamplingError for a value of another type or outside its range.
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
    guidance_from: float = 0.0
    guidance_until: float = 1.0
    threshold: float | None = None
    entropy_bound: float | None = None
    end_early: bool = False

    def __post_init__(self) -> None:
        for name, options in (("confidence", Measure), ("schedule", Schedule), ("rules", Rules)):
            if getattr(self, name) not in get_args(options):
                self._refuse(name, f"one of {', '.join(get_args(options))}")
        for name in ("constrain", "end_early"):
            if not isinstance(getattr(self, name), bool):
                self._refuse(name, "True or False")
        for name in ("steps", "top_k", "block_length"):
            if getattr(self, name) is not None and not self._whole(name) >= 1:
                self._refuse(name, "a whole number, 1 or more, or None")
        if self.top_p is not None and not 0 < self._real("top_p") <= 1:
            self._refuse("top_p", "a fraction above 0 and up to 1, or None")
        for name, (off, least, most) in BOUNDS.items():
            value = self._real(name)
            if value != off and not least <= value <= most:
                self._refuse(name, f"{least:g} to {most:g}, or {off:g} (off)")
        if not 0 <= self._whole("seed") < 2**63:
            self._refuse("seed", "a whole number from 0 to 2**63 - 1")
        self._check_parallel()

    def scheduled(self) -> Self:
        """The same without a threshold or bound: a step commits what its schedule says, no more."""
        return replace(self, threshold=None, entropy_bound=None)

    def _check_parallel(self) -> None:
        """Check what commits more tokens than the schedule does."""
        if self.threshold is not None and not 0 < self._real("threshold") <= 1:
            self._refuse("threshold", "above 0 and up to 1, or None")
        if self.entropy_bound is not None and not 0 <= self._real("entropy_bound") <= 1e6:
            self._refuse("entropy_bound", "0 nats or more, or None")
        measures: dict[str, tuple[Measure, ...]] = {
            "threshold": ("max_probability", "margin"),
            "entropy_bound": ("entropy",),
        }
        for name, suitable in measures.items():
            if getattr(self, name) is None:
                continue
            if self.confidence not in suitable:
                self._refuse(name, f"it with confidence {' or '.join(suitable)}")
            if self.confidence_temperature > 0:
                self._refuse(name, "it without confidence_temperature")

    def _whole(self, name: str) -> int:
        """The field, made a Python int; -1 if it is not a whole number."""
        value = _plain(getattr(self, name))
        if isinstance(value, bool) or not isinstance(value, int):
            return -1
        object.__setattr__(self, name, int(value))
        return int(value)

    def _real(self, name: str) -> float:
        """The field, made a Python float; NaN if it is not a number."""
        value = _plain(getattr(self, name))
        if isinstance(value, bool) or not isinstance(value, Real):
            return float("nan")
        try:
            number = float(value)
        except OverflowError:
            return float("nan")
        object.__setattr__(self, name, number)
        return number

    def _refuse(self, name: str, expected: str) -> None:
        value = getattr(self, name)
        raise SamplingError(
            f"{name} is {shown(value)}", field=name, value=value, fix=f"give {expected}"
        )


def _plain(value: Any) -> Any:
    """A scalar of numpy or torch as Python's; anything else as it is."""
    try:
        return value.item() if hasattr(value, "item") else value
    except (ValueError, RuntimeError):  # several values
        return value
