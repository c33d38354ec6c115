"""What a task takes where nothing else is asked: the length of its answer, and how it is sampled.

Adaptive token length (the paper): speech gets 3.5 times the tokens of the text, a transcript 0.2
times the speech frames. Other answers have a fixed length.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from typing import Any, Literal, TypeAlias

from omni_diffusion.codecs.text import TextCodec
from omni_diffusion.conversation import Frames, Text, Turn
from omni_diffusion.diffusion.params import SamplingParams
from omni_diffusion.errors import SamplingError, TaskError
from omni_diffusion.io.config import check_ranges, nearest
from omni_diffusion.vocab import Kind

MIN_TOKENS = 8  # a word or two with its closing tokens, however short the input
MAX_FACTOR, MAX_EXTRA = 1000, 1_000_000  # of an answer's length
FIELDS = tuple(each.name for each in fields(SamplingParams))
# A threshold or bound was measured with these, and holds for no others.
SCHEDULE = ("steps", "confidence", "confidence_temperature", "rules")

Overrides: TypeAlias = SamplingParams | Mapping[str, Any] | None
"""All sampling parameters, or some fields of them by name, or nothing."""


@dataclass(frozen=True)
class Length:
    """floor(factor * count) + extra tokens, at least 8.

    of: what is counted: tokens of the user's text, frames of the user's speech, or nothing.
    """

    factor: float = 0.0
    extra: int = 0
    of: Literal["text", "speech", "nothing"] = "nothing"

    def __post_init__(self) -> None:
        if not 0 <= self.factor < MAX_FACTOR or not 0 <= self.extra <= MAX_EXTRA:
            raise TaskError(
                f"a length of {self.factor} times the input and {self.extra}",
                field="length",
                value=(self.factor, self.extra),
                fix=f"give a factor from 0 to {MAX_FACTOR} and an extra from 0 to {MAX_EXTRA:,}",
            )

    def tokens(self, counts: Mapping[str, int]) -> int:
        """The length for an input of `counts` "text" tokens and "speech" frames."""
        return max(MIN_TOKENS, int(self.factor * counts.get(self.of, 0)) + self.extra)


@dataclass(frozen=True)
class GenerationConfig:
    """Where a model departs from the tasks' defaults; the contents of generation_config.json.

    lengths: by task name, the (factor, extra) of an answer's length. sampling: by task name, the
    sampling parameters. answers: by task name, the kinds of the answer's parts. longest: tokens of
    the longest canvas with speech in training, if known; longer texts are spoken in chunks. Raises
    TaskError or ConfigError for numbers out of range.
    """

    lengths: dict[str, tuple[float, int]] = field(default_factory=dict)
    sampling: dict[str, SamplingParams] = field(default_factory=dict)
    answers: dict[str, tuple[Kind, ...]] = field(default_factory=dict)
    longest: int | None = None

    def __post_init__(self) -> None:
        for length in self.lengths.values():
            Length(*length)
        if self.longest is not None:
            check_ranges(self, longest=(1, 2**31))


def answer_length(
    rule: Length, turns: Sequence[Turn], text: TextCodec, model: tuple[float, int] | None = None
) -> int:
    """Tokens of a text or speech answer to `turns`, by a task's rule.

    model: factor and extra of a model whose answers need another length.
    """
    if model is not None:
        rule = Length(*model, rule.of)
    parts = [part for turn in turns if turn.role == "user" for part in turn.parts]
    texts = [part.text for part in parts if isinstance(part, Text)] if rule.of == "text" else []
    return rule.tokens(
        {
            "text": sum(len(text.encode(each)) for each in texts),
            "speech": sum(len(part.frames) for part in parts if isinstance(part, Frames)),
        }
    )


def override(params: SamplingParams, overrides: Overrides) -> SamplingParams:
    """`params` with the fields that `overrides` names; a whole SamplingParams replaces them.

    A threshold or entropy bound of `params` belongs to their own schedule: where `overrides` names
    one of `SCHEDULE` it is dropped, so that 64 steps are 64 steps. Raises SamplingError for a name
    that is no field, or a value out of its range.
    """
    if overrides is None:
        return params
    if isinstance(overrides, SamplingParams):
        return overrides
    for name in overrides:
        if name not in FIELDS:
            raise SamplingError(
                f"no sampling parameter is called {name!r}",
                field=name,
                value=overrides[name],
                fix=nearest(name, FIELDS),
            )
    if any(overrides.get(name) is not None for name in SCHEDULE):
        params = params.scheduled()
    return replace(params, **overrides)
