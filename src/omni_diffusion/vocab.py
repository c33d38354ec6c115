"""The unified token space: text, specials, speech and image as contiguous spans of one id range.

Official layout (176,264 ids): text 0..151642 | 45 specials 151643..151687 | speech 151688..168071
| image 168072..176263. The order of the specials is that of the published tokenizer, where
`<|audio|>` directly precedes `<|audio_0|>`.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Literal, overload

import torch
from torch import Tensor

from omni_diffusion.errors import VocabularyError

Kind = Literal["text", "image", "speech"]

# In id order: those of the text model, then the multimodal ones.
SPECIAL_TOKENS: tuple[str, ...] = (
    *("<|endoftext|>", "<|im_start|>", "<|im_end|>"),
    *("<|object_ref_start|>", "<|object_ref_end|>", "<|box_start|>", "<|box_end|>"),
    *("<|quad_start|>", "<|quad_end|>", "<|vision_start|>", "<|vision_end|>"),
    *("<|vision_pad|>", "<|image_pad|>", "<|video_pad|>", "<tool_call>", "</tool_call>"),
    *("<|fim_prefix|>", "<|fim_middle|>", "<|fim_suffix|>", "<|fim_pad|>"),
    *("<|repo_name|>", "<|file_sep|>", "<|beginoftext|>", "<|mask|>"),
    *("<|begin_of_image|>", "<|end_of_image|>", "<|context_of_image|>"),
    *("<|begin_of_video|>", "<|end_of_video|>", "<|context_of_video|>"),
    *("<|begin_of_patch|>", "<|end_of_patch|>", "<|context_of_patch|>"),
    *("<|begin_of_quad|>", "<|end_of_quad|>", "<|begin_of_ref|>", "<|end_of_ref|>"),
    *("<|begin_of_box|>", "<|end_of_box|>", "<|image|>", "<|video|>"),
    *("<|begin_of_audio|>", "<|end_of_audio|>", "<|context_of_audio|>", "<|audio|>"),
)
# "mask" for "<|mask|>", "/tool_call" for "</tool_call>"
SPECIAL_NAMES = tuple(token.strip("<|>") for token in SPECIAL_TOKENS)


@dataclass(frozen=True)
class Span:
    """A contiguous range of global ids, start..stop-1."""

    name: str
    start: int
    stop: int

    def __len__(self) -> int:
        return self.stop - self.start

    def __contains__(self, id: object) -> bool:
        return isinstance(id, int) and self.start <= id < self.stop

    @overload
    def lift(self, local: int) -> int: ...
    @overload
    def lift(self, local: Tensor) -> Tensor: ...
    def lift(self, local: int | Tensor) -> int | Tensor:
        """Local ids 0..len-1 (an int, or a tensor of any shape) -> global ids.

        Raises VocabularyError for an id outside the span.
        """
        self._check(local, 0, len(self), "local")
        # codes may be int32 or smaller
        return (local.long() if isinstance(local, Tensor) else local) + self.start

    @overload
    def lower(self, id: int) -> int: ...
    @overload
    def lower(self, id: Tensor) -> Tensor: ...
    def lower(self, id: int | Tensor) -> int | Tensor:
        """Global ids -> local ids; the inverse of `lift`.

        Raises VocabularyError for an id outside the span.
        """
        self._check(id, self.start, self.stop, "global")
        return (id.long() if isinstance(id, Tensor) else id) - self.start

    def holds(self, ids: Tensor) -> Tensor:
        """Which of the global `ids` are in this span: bool of the same shape."""
        return (ids >= self.start) & (ids < self.stop)

    def _check(self, ids: int | Tensor, low: int, high: int, which: str) -> None:
        if isinstance(ids, Tensor):
            if ids.is_floating_point() or ids.is_complex() or ids.dtype == torch.bool:
                raise VocabularyError(
                    f"{self.name} ids have type {ids.dtype}", value=ids.dtype, fix="give integers"
                )
            if not ids.numel():
                return
            least, most = int(ids.min()), int(ids.max())
        else:
            least = most = ids
        for id in (least, most):
            if not low <= id < high:
                raise VocabularyError(
                    f"{which} {self.name} id {id} is out of range",
                    value=id,
                    fix=f"give {low}..{high - 1}",
                )


@dataclass(frozen=True)
class Vocabulary:
    """The numbers of text, speech and image tokens, from which every span and id follows.

    The 45 special tokens are the same in every vocabulary.
    """

    text_size: int
    speech_size: int
    image_size: int

    def __post_init__(self) -> None:
        for name in ("text_size", "speech_size", "image_size"):
            if getattr(self, name) < 0:
                raise VocabularyError(
                    f"{name} is {getattr(self, name)}",
                    field=name,
                    value=getattr(self, name),
                    fix="give 0 or more",
                )

    @classmethod
    def official(cls) -> Vocabulary:
        """The official sizes: 176,264 ids in all."""
        return cls(text_size=151_643, speech_size=16_384, image_size=8_192)

    @cached_property
    def text(self) -> Span:
        """The byte-pair tokens."""
        return Span("text", 0, self.text_size)

    @cached_property
    def specials(self) -> Span:
        """SPECIAL_TOKENS."""
        return Span("specials", self.text.stop, self.text.stop + len(SPECIAL_TOKENS))

    @cached_property
    def speech(self) -> Span:
        """`<|audio_0|>`, `<|audio_1|>`, ..."""
        return Span("speech", self.specials.stop, self.specials.stop + self.speech_size)

    @cached_property
    def image(self) -> Span:
        """`<|image_0|>`, `<|image_1|>`, ..."""
        return Span("image", self.speech.stop, self.speech.stop + self.image_size)

    @property
    def spans(self) -> tuple[Span, Span, Span, Span]:
        """All four in id order; together they cover 0..size-1."""
        return self.text, self.specials, self.speech, self.image

    @property
    def size(self) -> int:
        """The number of ids."""
        return self.image.stop

    def span(self, id: int) -> Span:
        """The span of an id; raises VocabularyError for an id outside the vocabulary."""
        for span in self.spans:
            if id in span:
                return span
        raise VocabularyError(
            f"id {id} is outside the vocabulary", value=id, fix=f"give 0..{self.size - 1}"
        )

    def span_of(self, kind: Kind) -> Span:
        """The span of a kind's own tokens, without specials."""
        return {"text": self.text, "image": self.image, "speech": self.speech}[kind]

    def range(self, kind: Literal["any", "text", "speech"]) -> tuple[int, int]:
        """The half-open id range of a position: all ids, or a kind's tokens and the specials."""
        return {
            "any": (0, self.size),
            "text": (0, self.specials.stop),
            "speech": (self.specials.start, self.speech.stop),
        }[kind]

    def id(self, name: str) -> int:
        """The id of a special token by its name without brackets: id("mask")."""
        if name not in SPECIAL_NAMES:
            raise VocabularyError(
                f"unknown special token {name!r}",
                field="name",
                value=name,
                fix=f"give one of {', '.join(SPECIAL_NAMES)}",
            )
        return self.specials.start + SPECIAL_NAMES.index(name)

    def name(self, id: int) -> str:
        """The name of a special, speech or image id: "mask", "audio_5", "image_17"."""
        return self.token(id).strip("<|>")

    def token(self, id: int) -> str:
        """The name with brackets, as in the published tokenizer: "<|audio_5|>"."""
        span = self.span(id)
        if span is self.text:
            raise VocabularyError(
                f"id {id} is text, which has no name", value=id, fix="decode it as text"
            )
        if span is self.specials:
            return SPECIAL_TOKENS[span.lower(id)]
        return f"<|{'audio' if span is self.speech else 'image'}_{span.lower(id)}|>"

    @cached_property
    def mask(self) -> int:
        """The token of a masked position."""
        return self.id("mask")

    @cached_property
    def pad(self) -> int:
        """Fills the positions after an answer; also ends it."""
        return self.id("endoftext")

    @cached_property
    def im_start(self) -> int:
        """Begins a turn, before its role."""
        return self.id("im_start")

    @cached_property
    def im_end(self) -> int:
        """Ends a turn."""
        return self.id("im_end")

    @cached_property
    def begin_of_image(self) -> int:
        """Begins image codes."""
        return self.id("begin_of_image")

    @cached_property
    def end_of_image(self) -> int:
        """Ends image codes."""
        return self.id("end_of_image")

    @cached_property
    def context_of_image(self) -> int:
        """Placeholder for image features."""
        return self.id("context_of_image")

    @cached_property
    def begin_of_audio(self) -> int:
        """Begins speech codes."""
        return self.id("begin_of_audio")

    @cached_property
    def end_of_audio(self) -> int:
        """Ends speech codes."""
        return self.id("end_of_audio")

    @cached_property
    def context_of_audio(self) -> int:
        """Placeholder for speech frames."""
        return self.id("context_of_audio")
