"""How many places an answer gets before its first token is known (adaptive token length).

The paper: speech gets 3.5 times the text's tokens, a transcript 0.2 times the heard frames. Other
answers have a fixed room. Knows no canvas.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from omni_diffusion.errors import TaskError

LEAST = 8  # a word or two with its closing tokens, however short the input


@dataclass(frozen=True)
class Length:
    """floor(factor * counted) + extra places, at least 8.

    of: what is counted: tokens of the user's text, frames of the speech heard, or nothing.
    """

    factor: float = 0.0
    extra: int = 0
    of: Literal["text", "speech", "nothing"] = "nothing"

    def __post_init__(self) -> None:
        if not 0 <= self.factor < 1000 or self.extra < 0:
            raise TaskError(
                f"a length of {self.factor} times the input and {self.extra}; give a factor from 0"
                " and an extra of 0 or more"
            )

    def places(self, counts: Mapping[str, int]) -> int:
        """The places for an input of `counts` "text" tokens and "speech" frames."""
        return max(LEAST, int(self.factor * counts.get(self.of, 0)) + self.extra)
