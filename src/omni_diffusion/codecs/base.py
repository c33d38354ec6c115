"""The protocol of a codec: media to local token ids and back.

Local ids start at 0 for every codec. Codecs know nothing of the unified vocabulary, of tasks or of
the model that reads the ids.
"""

from __future__ import annotations

from typing import Protocol, TypeVar

from torch import Tensor

from omni_diffusion.errors import ModelError

Media = TypeVar("Media")


def finite(values: Tensor, what: str) -> Tensor:
    """The values of a part of a codec; raises ModelError unless all are finite.

    A sign, a nearest neighbour or a clamp would turn NaN into an answer that looks like one.
    """
    if not bool(values.isfinite().all()):
        raise ModelError(f"the {what} gives values that are not finite", fix="check its weights")
    return values


class TokenCodec(Protocol[Media]):
    """Text, an image or a waveform as a sequence of local ids, in both directions."""

    @property
    def vocabulary_size(self) -> int:
        """The number of local ids; every id is in `0 .. vocabulary_size - 1`."""
        ...

    def encode(self, media: Media, /) -> Tensor:
        """Local ids, int64 [n]."""
        ...

    def decode(self, ids: Tensor, /) -> Media:
        """The media of local ids [n]."""
        ...
