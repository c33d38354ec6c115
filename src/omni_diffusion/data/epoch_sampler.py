"""The order in which samples are drawn: a new permutation in each epoch, resumable at any point.

The order follows from (seed, epoch) alone. All processes draw the same numbers and each keeps its
part, so they share one state, and a run that resumes with another number of processes draws the
same samples at the same step.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import lru_cache
from hashlib import blake2b

import torch
from torch import Tensor

from omni_diffusion.errors import DataError


@dataclass(frozen=True)
class SamplerState:
    """The position of a run in its data; cursor: samples drawn of the epoch, by all processes."""

    seed: int = 0
    epoch: int = 0
    cursor: int = 0

    def __post_init__(self) -> None:
        for name, value in (("epoch", self.epoch), ("cursor", self.cursor)):
            if value < 0:
                raise DataError(
                    f"{self} is before the first sample",
                    field=name,
                    value=value,
                    fix=f"give a {name} of 0 or more",
                )


class EpochSampler:
    """Draws sample numbers from 0 to `size` - 1.

    `state` is where the next draw begins; pass a saved one to resume. Raises DataError if it does
    not fit `size`.
    """

    def __init__(self, size: int, state: SamplerState | None = None) -> None:
        self.size, self.state = size, state or SamplerState()
        if size < 1:
            raise DataError("no samples to draw from", field="size", value=size, fix="add samples")
        if self.state.cursor > size:
            raise DataError(
                f"the saved state has drawn {self.state.cursor} samples of an epoch of {size}",
                field="state",
                value=self.state.cursor,
                fix="resume with the data of that run",
            )
        self._order = lru_cache(maxsize=1)(permutation)

    def seek(self, drawn: int) -> None:
        """Move to where `drawn` samples have been drawn since the first epoch began."""
        epoch, cursor = divmod(drawn, self.size)
        self.state = replace(self.state, epoch=epoch, cursor=cursor)

    def draw(self, count: int) -> list[int]:
        """The next `count` numbers; continues into the next epoch."""
        numbers: list[int] = []
        seed, epoch, cursor = self.state.seed, self.state.epoch, self.state.cursor
        while len(numbers) < count:
            if cursor == self.size:
                epoch, cursor = epoch + 1, 0
            part = self._order(self.size, seed, epoch)[cursor : cursor + count - len(numbers)]
            numbers += part.tolist()
            cursor += len(part)
        self.state = SamplerState(seed, epoch, cursor)
        return numbers


def permutation(size: int, seed: int, epoch: int) -> Tensor:
    """The order of an epoch, int64 [size]; 8 bytes a sample, 800 MB for a hundred million."""
    digest = blake2b(f"{seed} {epoch}".encode(), digest_size=7).digest()
    generator = torch.Generator().manual_seed(int.from_bytes(digest, "big"))
    return torch.randperm(size, generator=generator)
