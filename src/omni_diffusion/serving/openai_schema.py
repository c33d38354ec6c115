"""The bodies of OpenAI's routes."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, ClassVar, Literal, TypeAlias

from pydantic import Field, field_validator

from omni_diffusion.serving.parts import CONTAINERS
from omni_diffusion.serving.schema import Body, Knobs

ANY_BOOL = (None, True, False)
MOST_SIDE = 2048  # pixels of a picture that is asked for


# ------------------------------------------------------------------------------------------ chat
class TextContent(Body):
    """A piece of text."""

    type: Literal["text"]
    text: str
    prompt_cache_breakpoint: Any = None  # without effect


class Address(Body):
    """A picture as data URI; `detail` has no effect."""

    url: str
    detail: Literal["auto", "low", "high", "original"] | None = None


class ImageContent(Body):
    """A picture."""

    type: Literal["image_url"]
    image_url: Address
    prompt_cache_breakpoint: Any = None


class AudioData(Body):
    """A recording in base64; the format is told from the data itself."""

    data: str
    format: Literal["wav", "mp3", "flac", "ogg", "opus"] = "wav"


class AudioContent(Body):
    """A recording."""

    type: Literal["input_audio"]
    input_audio: AudioData
    prompt_cache_breakpoint: Any = None


class RefusalContent(Body):
    """What an assistant said instead of an answer."""

    type: Literal["refusal"]
    refusal: str


ContentPart: TypeAlias = Annotated[
    TextContent | ImageContent | AudioContent | RefusalContent, Field(discriminator="type")
]


class ChatMessage(Body):
    """A message; `name` and an empty `refusal` have no effect."""

    role: Literal["system", "developer", "user", "assistant"]
    content: str | Annotated[list[ContentPart], Field(min_length=1, max_length=64)] | None = None
    name: str | None = None
    refusal: str | None = None
    audio: None = None
    tool_calls: None = None
    function_call: None = None


class AudioOptions(Body):
    """How a spoken answer is sent."""

    voice: str | dict[str, Any]
    format: Literal["wav", "mp3", "flac", "opus", "pcm16"] = "wav"


class StreamOptions(Body):
    """include_usage: a last chunk with the usage."""

    include_usage: bool | None = None
    include_obfuscation: bool | None = None  # without effect


class ChatBody(Knobs):
    """POST /v1/chat/completions.

    max_tokens, max_completion_tokens: the answer's text is cut there. task, preset, answer_tokens,
    negative_prompt: our own; answer_tokens sets the length of the canvas.
    """

    neutral: ClassVar[Mapping[str, tuple[Any, ...]]] = {
        "tools": (None, []),
        "tool_choice": (None, "none", "auto"),
        "functions": (None, []),
        "function_call": (None, "none", "auto"),
        "parallel_tool_calls": ANY_BOOL,
        "logprobs": (None, False),
        "top_logprobs": (None, 0),
        "logit_bias": (None, {}),
        "frequency_penalty": (None, 0, 0.0),
        "presence_penalty": (None, 0, 0.0),
        "response_format": (None, {"type": "text"}),
        "prediction": (None,),
        "reasoning_effort": (None, "none"),
        "web_search_options": (None,),
    }
    model: str
    messages: Annotated[list[ChatMessage], Field(min_length=1, max_length=256)]
    modalities: list[Literal["text", "audio", "image"]] | None = None
    audio: AudioOptions | None = None
    max_tokens: Annotated[int, Field(ge=1)] | None = None
    max_completion_tokens: Annotated[int, Field(ge=1)] | None = None
    n: Annotated[int, Field(ge=1)] | None = None
    stop: str | Annotated[list[str], Field(max_length=4)] | None = None
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    task: str | None = None
    preset: str | None = None
    answer_tokens: Annotated[int, Field(ge=1)] | None = None
    negative_prompt: str | None = None

    @property
    def stops(self) -> tuple[str, ...]:
        """The texts that end an answer."""
        given = [self.stop] if isinstance(self.stop, str) else self.stop or []
        return tuple(stop for stop in given if stop)

    @property
    def most_tokens(self) -> int | None:
        """The most tokens of the answer's text."""
        given = [each for each in (self.max_tokens, self.max_completion_tokens) if each]
        return min(given, default=None)


# ---------------------------------------------------------------------------------------- images
class ImageBody(Knobs):
    """POST /v1/images/generations.

    quality and style have no effect. size: "auto" is the model's own; any other is scaled to.
    """

    neutral: ClassVar[Mapping[str, tuple[Any, ...]]] = {
        "quality": (None, "auto", "low", "medium", "high", "standard", "hd"),
        "style": (None, "vivid", "natural"),
        "background": (None, "auto", "opaque"),
        "input_fidelity": (None, "low", "high"),
    }
    prompt: str
    n: Annotated[int, Field(ge=1)] | None = None
    size: str | None = None
    response_format: Literal["url", "b64_json"] | None = None
    output_format: Literal["png", "jpeg", "webp"] | None = None
    output_compression: Annotated[int, Field(ge=0, le=100)] | None = None
    stream: bool | None = None
    partial_images: Annotated[int, Field(ge=0, le=3)] | None = None
    negative_prompt: str | None = None
    preset: str | None = None

    @field_validator("size")
    @classmethod
    def _a_size(cls, size: str | None) -> str | None:
        if size is None or size == "auto":
            return size
        width, _, height = size.partition("x")
        for side in (width, height):
            if not (side.isascii() and side.isdecimal() and 1 <= int(side[:5]) <= MOST_SIDE):
                raise ValueError(f"give 'auto' or WIDTHxHEIGHT of 1 to {MOST_SIDE} pixels")
        return size


class EditBody(ImageBody):
    """POST /v1/images/edits, without its files."""


# ----------------------------------------------------------------------------------------- audio
class SpeechBody(Knobs):
    """POST /v1/audio/speech."""

    neutral: ClassVar[Mapping[str, tuple[Any, ...]]] = {
        "instructions": (None, ""),
        "speed": (None, 1, 1.0),
    }
    model: str
    input: Annotated[str, Field(min_length=1)]
    voice: str | dict[str, Any]
    response_format: str = "mp3"
    stream_format: Literal["audio", "sse"] | None = None
    preset: str | None = None

    @field_validator("response_format")
    @classmethod
    def _a_container(cls, name: str) -> str:
        if name not in CONTAINERS:
            raise ValueError(f"give one of {', '.join(CONTAINERS)}")
        return name


class TranscriptionBody(Knobs):
    """POST /v1/audio/transcriptions, without its file; language and prompt have no effect."""

    neutral: ClassVar[Mapping[str, tuple[Any, ...]]] = {
        "include": (None, [], ""),
        "include[]": (None, []),
        "chunking_strategy": (None, "auto"),
        "timestamp_granularities": (None, [], ["segment"], "segment"),
        "timestamp_granularities[]": (None, [], ["segment"], "segment"),
    }
    model: str
    language: str | None = None
    prompt: str | None = None
    response_format: Literal["json", "text", "verbose_json", "srt", "vtt"] = "json"
    stream: bool | None = None
    preset: str | None = None
