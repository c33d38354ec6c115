"""Chat messages in every shape that clients send."""

from __future__ import annotations

import base64
import re
from types import SimpleNamespace
from typing import Any

import pytest

from omni_diffusion.errors import TaskError
from omni_diffusion.tasks.chat import chat_message

DATA = b"\x89PNG of some bytes\xff\xfe"
ENCODED = base64.b64encode(DATA).decode()
URL = f"data:image/png;base64,{ENCODED}"


def parts(content: Any, **more: Any) -> list[tuple[str, Any]]:
    """The kind and value of each part of a user's message."""
    message = chat_message({"role": "user", "content": content, **more})
    assert message.role == "user"
    return [(part.kind, part.value) for part in message.parts]


@pytest.mark.parametrize(
    "content",
    [
        "a dog",
        ["a dog"],
        [{"type": "text", "text": "a dog"}],
        ({"type": "input_text", "text": "a dog"},),
        {"type": "text", "text": "a dog"},
        [{"text": "a dog"}],
        [{"type": "text", "text": "a dog", "cache_control": {"type": "ephemeral"}}],
    ],
)
def test_texts(content: Any) -> None:
    assert parts(content) == [("text", "a dog")]
    assert parts(content, name="Ann") == [("text", "a dog")]


@pytest.mark.parametrize(
    "part",
    [
        {"type": "image_url", "image_url": {"url": URL, "detail": "low"}},
        {"type": "image_url", "image_url": URL},
        {"type": "image_url", "image_url": {"url": URL.replace("+", "-").replace("/", "_")}}
        if "_" not in URL
        else {"image_url": URL},
        {"type": "input_image", "image_url": URL, "detail": "auto"},
        {"type": "image", "url": URL},
        {"type": "image", "base64": ENCODED},
        {"type": "image", "base64": ENCODED.rstrip("=")},
        {"type": "image", "image": {"bytes": DATA, "path": "a.png"}},
        {"type": "image", "image": DATA},
        {"type": "image", "source": {"type": "base64", "data": ENCODED, "media_type": "image/png"}},
    ],
)
def test_images_arrive_as_the_bytes_of_their_file(part: dict[str, Any]) -> None:
    assert parts(["what?", part]) == [("text", "what?"), ("image", DATA)]


@pytest.mark.parametrize(
    ("part", "value"),
    [
        ({"type": "input_audio", "input_audio": {"data": ENCODED, "format": "wav"}}, DATA),
        ({"type": "audio", "audio": {"data": ENCODED, "format": "mp3"}}, DATA),
        ({"type": "audio_url", "audio_url": {"url": f"data:audio/wav;base64,{ENCODED}"}}, DATA),
        ({"type": "audio", "path": "a b.wav"}, "a b.wav"),
        ({"type": "audio", "url": "file:///tmp/a%20b.wav"}, "/tmp/a b.wav"),
        ({"type": "audio", "audio": "a.wav"}, "a.wav"),
        ({"type": "audio", "url": "data:,a%20b"}, b"a b"),
    ],
)
def test_audio_arrives_as_bytes_or_a_path(part: dict[str, Any], value: Any) -> None:
    assert parts([part]) == [("audio", value)]


def test_arrays_keep_their_rate() -> None:
    for part in (
        {"type": "audio", "audio": [0.0], "sampling_rate": 8000},
        {"type": "audio", "audio": {"array": [0.0], "sampling_rate": 8000}},
    ):
        (found,) = chat_message({"content": [part]}).parts
        assert (found.value, found.sampling_rate) == ([0.0], 8000)


@pytest.mark.parametrize(
    ("message", "text"),
    [
        ({"content": "yes", "refusal": None, "tool_calls": None, "annotations": []}, "yes"),
        ({"content": None, "refusal": "no"}, "no"),
        ({"content": None, "audio": {"id": "a", "transcript": "spoken"}}, "spoken"),
        ({"content": [{"type": "refusal", "refusal": "no"}]}, "no"),
        ({"content": [{"type": "output_text", "text": "yes", "annotations": []}]}, "yes"),
        ({"content": None}, ""),
    ],
)
def test_replies_that_are_sent_back(message: dict[str, Any], text: str) -> None:
    whole = {"role": "assistant", **message}
    for given in (whole, SimpleNamespace(model_dump=lambda: whole)):
        found = chat_message(given)
        assert found.role == "assistant"
        assert [part.value for part in found.parts] == [text]


def test_developers_are_the_system() -> None:
    assert chat_message({"role": "developer", "content": "be brief"}).role == "system"


@pytest.mark.parametrize(
    ("message", "words"),
    [
        ("hi", "a message is 'hi'; give an object"),
        (None, "a message is None"),
        ({"role": "user", "content": None}, "content of a message is None; give text or a list"),
        ({"role": "user"}, "content of a message is None"),
        ({"role": "user", "content": 3}, "content of a message is 3"),
        ({"role": "user", "content": b"hi"}, "content of a message is b'hi'"),
        ({"role": "user", "contents": "hi"}, "unknown key 'contents'; did you mean content?"),
        ({"role": "user", "text": "hi"}, "unknown key 'text'; give one of role, content"),
        ({"role": "user", "content": " \n"}, "message of the user is empty"),
        ({"role": "user", "content": []}, "message of the user is empty"),
        ({"role": "user", "content": [""]}, "message of the user is empty"),
        ({"role": "user", "content": [{"type": "text"}]}, "type 'text' has nothing; give text"),
        ({"content": [{"type": "text", "txt": "hi"}]}, "type 'text' has 'txt'; give text"),
        ({"content": [{"type": "text", "text": None}]}, "type 'text' has nothing"),
        ({"content": [{"type": "text", "text": 3}]}, "text of a part is 3; give text"),
        ({"content": [None]}, "a part of a message is None"),
        ({"content": [{"type": "film", "film": "a.mp4"}]}, "type 'film' and the keys"),
        ({"content": [{"type": ["text"], "text": "a"}]}, "give one of the types text"),
        ({"content": [{"type": "image", "image": DATA, "text": "what?"}]}, "and a part for each"),
        ({"content": [{"type": "image_url", "image_url": {"uri": URL}}]}, "keys ['uri']"),
        ({"content": [{"image_url": "https://a.b/c.png"}]}, "is not fetched; give a path or a"),
        ({"content": [{"image_url": "data:image/png;base64"}]}, "is not a data URL"),
        ({"content": [{"type": "image", "base64": "###"}]}, "is not base64"),
        ({"content": [{"input_audio": {"data": "a", "format": "wav"}}]}, "is not base64"),
        ({"role": "tool", "content": "4"}, "role 'tool'; give one of system, user, assistant"),
        ({"role": None, "content": "4"}, "role None"),
        ({"role": "assistant", "content": "a", "tool_calls": [{}]}, "the model calls no tools"),
    ],
)
def test_every_other_shape_is_one_line(message: Any, words: str) -> None:
    with pytest.raises(TaskError, match=re.escape(words)) as caught:
        chat_message(message)
    assert "\n" not in str(caught.value)
    assert caught.value.field == "conversation"
