"""What a codec is: media turned into local token ids and back, or into frames.

Ids are *local*: they start at 0 for every codec. Where they lie in the unified vocabulary, which
task asks and what model reads them is not known here.
"""

from typing import Protocol, TypeVar

from torch import Tensor

Media = TypeVar("Media")
MediaIn = TypeVar("MediaIn", contravariant=True)


class TokenCodec(Protocol[Media]):
    """Discrete both ways: text, a picture or a waveform as a row of local ids."""

    @property
    def vocabulary_size(self) -> int:
        """How many local ids exist: every id lies in ``0 .. vocabulary_size - 1``."""
        ...

    def encode(self, media: Media, /) -> Tensor:
        """Local ids, int64 [n]."""
        ...

    def decode(self, ids: Tensor, /) -> Media:
        """The media that the local ids [n] stand for."""
        ...


class FeatureEncoder(Protocol[MediaIn]):
    """Continuous and one way: a waveform as frames for the backbone's adapter."""

    @property
    def dim(self) -> int:
        """Width of one frame."""
        ...

    def encode(self, media: MediaIn, /) -> Tensor:
        """Frames, float [frames, dim]."""
        ...
