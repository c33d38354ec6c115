"""What a benchmark has to provide; `evaluation.runner` answers and scores it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol, TypeVar

from omni_diffusion.conversation import Part
from omni_diffusion.engine.request import Request
from omni_diffusion.evaluation.scoring import Score, Scores

S = TypeVar("S")


class Benchmark(Protocol[S]):
    """A set of samples, how to ask a model about each, and how to score its answer.

    name: the name under which results are reported. ceiling: scores that a perfect model would
    get through the same codecs and the same judge.
    """

    @property
    def name(self) -> str:
        """The name."""
        ...

    @property
    def ceiling(self) -> Sequence[Score]:
        """The scores of a perfect model."""
        ...

    def samples(self) -> Sequence[S]:
        """All samples, in a fixed order."""
        ...

    def request(self, sample: S) -> Request:
        """The request that a model has to answer."""
        ...

    def score(self, sample: S, answer: Sequence[Part]) -> Scores:
        """The scores of an answer; `answer` is empty if the request failed."""
        ...
