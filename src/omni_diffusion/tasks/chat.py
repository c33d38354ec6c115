"""Chat messages in the shapes that clients send: those of OpenAI, of transformers, and plain text.

A message becomes a role and its parts in order. Nothing is decoded here, and nothing is fetched.
"""

from __future__ import annotations

import base64
import binascii
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, TypeAlias, get_args
from urllib.parse import unquote, unquote_to_bytes

from omni_diffusion.conversation import Role
from omni_diffusion.errors import TaskError
from omni_diffusion.io.config import nearest, shown

PartKind: TypeAlias = Literal["text", "image", "audio"]

# type of a part -> what it is, and the keys that may hold it
_TYPES: dict[str, tuple[PartKind, tuple[str, ...]]] = {
    "text": ("text", ("text",)),
    "input_text": ("text", ("text",)),
    "output_text": ("text", ("text",)),
    "refusal": ("text", ("refusal",)),
    "image": ("image", ("image", "image_url", "url", "path", "base64", "source")),
    "image_url": ("image", ("image_url", "url")),
    "input_image": ("image", ("image_url", "url")),
    "audio": ("audio", ("audio", "audio_url", "url", "path", "base64")),
    "input_audio": ("audio", ("input_audio",)),
    "audio_url": ("audio", ("audio_url", "url")),
}
_UNTYPED = ("text", "image", "image_url", "audio", "input_audio", "audio_url")  # keys that say it
_ASIDE = ("type", "sampling_rate", "detail", "format", "cache_control", "annotations", "id")
_MESSAGE_KEYS = ("role", "content", "name")
_REPLY_KEYS = (  # of an answer of OpenAI's API that is sent back; they hold nothing, or the answer
    *("refusal", "audio", "annotations", "function_call", "tool_calls", "tool_call_id"),
    *("reasoning", "reasoning_content"),
)
_ENCODED = ("data", "base64")  # keys of base64
_INNER = ("url", *_ENCODED, "bytes", "array", "path")  # keys of a medium that is an object
_ROLES: dict[Any, Role] = {role: role for role in get_args(Role)} | {"developer": "system"}


@dataclass(frozen=True, eq=False)
class ChatPart:
    """A part of a chat message.

    value: the text; or of a medium its path, the bytes of its file, or the object that was given.
    sampling_rate: of an array of samples, in Hz.
    """

    kind: PartKind
    value: Any
    sampling_rate: int | None = None


@dataclass(frozen=True, eq=False)
class ChatMessage:
    """A role and the parts of a message, in order."""

    role: Role
    parts: tuple[ChatPart, ...]


def chat_message(message: Any) -> ChatMessage:
    """A chat message from an object with "role" and "content".

    The content is text, or a list of texts and of parts such as {"type": "text", "text": ...},
    {"type": "image_url", "image_url": {"url": ...}} and {"type": "input_audio", "input_audio":
    {"data": ..., "format": ...}}. A URL is one of data: or file:, or a path. Raises TaskError for a
    shape, a role or a key that is unknown, for a user's message without content, and for http:.
    """
    if hasattr(message, "model_dump"):  # a reply as an object of OpenAI's client
        message = message.model_dump()
    if not isinstance(message, Mapping):
        raise _refused(f"a message is {shown(message)}", "give an object with role and content")
    for key in message:
        if key not in (*_MESSAGE_KEYS, *_REPLY_KEYS):
            raise _refused(
                f"a message has the unknown key {key!r}", nearest(str(key), _MESSAGE_KEYS)
            )
    for key in ("function_call", "tool_calls", "tool_call_id"):
        if message.get(key):
            raise _refused(f"a message has {key}", "omit it; the model calls no tools")
    name = message.get("role", "user")
    role = _ROLES.get(name) if isinstance(name, str) else None
    if role is None:
        raise _refused(
            f"a message has the role {shown(name)}", f"give one of {', '.join(get_args(Role))}"
        )
    parts = tuple(_parts(_content(message)))
    if role == "user" and not any(p.kind != "text" or p.value.strip() for p in parts):
        raise _refused("a message of the user is empty", "give its content: text or parts")
    return ChatMessage(role, parts)


def _content(message: Mapping[str, Any]) -> Any:
    """The content; of a reply without one its refusal, or the transcript of its audio."""
    content = message.get("content")
    if content is None:
        audio = message.get("audio")
        spoken = audio.get("transcript") if isinstance(audio, Mapping) else None
        content = message.get("refusal") or spoken
    if content is None and message.get("role") == "assistant":
        return ""
    return content


def _parts(content: Any) -> list[ChatPart]:
    if isinstance(content, str):
        return [ChatPart("text", content)]
    if isinstance(content, Mapping):
        return [_part(content)]
    if isinstance(content, Sequence) and not isinstance(content, bytes):
        return [_part(each) for each in content]
    raise _refused(f"the content of a message is {shown(content)}", "give text or a list of parts")


def _part(part: Any) -> ChatPart:
    if isinstance(part, str):
        return ChatPart("text", part)
    if not isinstance(part, Mapping):
        raise _refused(f"a part of a message is {shown(part)}", "give text, or an object with type")
    kind, key = _kind_and_key(part)
    value = part[key]
    if kind == "text":
        if not isinstance(value, str):
            raise _refused(f"the {key} of a part is {shown(value)}", "give text")
        return ChatPart(kind, value)
    medium, rate = _medium(value, key)
    return ChatPart(kind, medium, part.get("sampling_rate", rate))


def _kind_and_key(part: Mapping[str, Any]) -> tuple[PartKind, str]:
    """What a part is, and the key that holds it."""
    name = part.get("type")
    if name is None:
        name = next((key for key in _UNTYPED if key in part), None)
    known = _TYPES.get(name) if isinstance(name, str) else None
    if known is None:
        raise _refused(
            f"a part of a message has the type {shown(name)} and the keys {sorted(map(str, part))}",
            f"give one of the types {', '.join(_TYPES)}",
        )
    kind, keys = known
    held = [key for key in part if key not in _ASIDE and part[key] is not None]
    if len(held) != 1 or held[0] not in keys:
        raise _refused(
            f"a part of type {name!r} has {' and '.join(map(repr, held)) or 'nothing'}",
            f"give {' or '.join(keys)}, and a part for each",
        )
    return kind, held[0]


def _medium(value: Any, key: str) -> tuple[Any, int | None]:
    """A medium as `ChatPart.value`, and its rate where an object states it."""
    if isinstance(value, Mapping):
        for inner in _INNER:
            if value.get(inner) is not None:
                return _medium(value[inner], inner)[0], value.get("sampling_rate")
        raise _refused(
            f"{key!r} has the keys {sorted(map(str, value))}", f"give one of {', '.join(_INNER)}"
        )
    if not isinstance(value, str):
        return value, None
    if value.startswith("data:"):
        header, comma, data = value.partition(",")
        if not comma:
            raise _refused(f"{shown(value)} is not a data URL", "give data:TYPE;base64,DATA")
        return (_decoded(data) if header.endswith(";base64") else unquote_to_bytes(data)), None
    if key in _ENCODED:
        return _decoded(value), None
    if value.startswith(("http://", "https://")):
        raise _refused(f"{shown(value)} is not fetched", "give a path or a data URL")
    return (unquote(value.removeprefix("file://")) if value.startswith("file:") else value), None


def _decoded(text: str) -> bytes:
    """Base64, with the usual or the URL-safe letters, as bytes."""
    try:
        letters = "".join(text.split()).replace("-", "+").replace("_", "/").rstrip("=")
        return base64.b64decode(letters + "=" * (-len(letters) % 4), validate=True)
    except (binascii.Error, ValueError) as error:
        raise _refused(f"{shown(text)} is not base64 ({error})", "encode the whole file") from error


def _refused(problem: str, fix: str) -> TaskError:
    return TaskError(problem, field="conversation", fix=fix)
