"""OpenAI's client on a tiny model: shapes of answers and streams, and the errors it understands."""

import base64
import io
from typing import Any

import openai
import pytest
import soundfile
from tests.tiny import checkers, tone

from omni_diffusion.media import Picture

HELLO: Any = [{"role": "user", "content": "two dogs"}]
PNG = checkers(12).png_bytes()


def user(*parts: dict[str, Any]) -> list[Any]:
    return [{"role": "user", "content": list(parts)}]


def test_models(tiny_client: openai.OpenAI) -> None:
    (model,) = tiny_client.models.list()
    assert model.id == "mini"
    assert tiny_client.models.retrieve("mini").object == "model"
    with pytest.raises(openai.NotFoundError) as caught:
        tiny_client.models.retrieve("other")
    assert caught.value.code == "model_not_found"


def test_a_stream_says_what_the_whole_answer_says(tiny_client: openai.OpenAI) -> None:
    asked: Any = {"model": "mini", "messages": HELLO, "extra_body": {"answer_tokens": 12}}
    whole = tiny_client.chat.completions.create(**asked)
    chunks = list(
        tiny_client.chat.completions.create(
            **asked, stream=True, stream_options={"include_usage": True}
        )
    )
    assert chunks[0].choices[0].delta.role == "assistant"
    said = "".join(c.choices[0].delta.content or "" for c in chunks if c.choices)
    assert said == whole.choices[0].message.content
    assert chunks[-2].choices[0].finish_reason == "stop"
    assert chunks[-1].choices == []
    assert chunks[-1].usage == whole.usage


def test_pictures_and_sound_may_be_given(tiny_client: openai.OpenAI) -> None:
    image = {"url": "data:image/png;base64," + base64.b64encode(PNG).decode()}
    sound = {"data": base64.b64encode(tone().wav_bytes()).decode(), "format": "wav"}
    parts = [
        {"type": "image_url", "image_url": image},
        {"type": "input_audio", "input_audio": sound},
    ]
    answer = tiny_client.chat.completions.create(
        model="mini", messages=user(*parts), modalities=["text", "audio"],
        audio={"voice": "alloy", "format": "wav"},
        extra_body={"num_inference_steps": 1, "answer_tokens": 24},
    )  # fmt: skip
    audio = answer.choices[0].message.audio
    assert audio is None or base64.b64decode(audio.data).startswith(b"RIFF")


def test_a_picture_comes_whole_and_in_parts(tiny_client: openai.OpenAI) -> None:
    asked: Any = {
        "model": "mini", "prompt": "a red apple", "size": "16x12",
        "extra_body": {"num_inference_steps": 8, "seed": 3},
    }  # fmt: skip
    (whole,) = tiny_client.images.generate(**asked).data or ()
    events = list(tiny_client.images.generate(**asked, stream=True, partial_images=1))
    assert events[-1].type == "image_generation.completed"
    assert events[-1].b64_json == whole.b64_json
    assert {event.type for event in events[:-1]} <= {"image_generation.partial_image"}
    picture = Picture.read(base64.b64decode(whole.b64_json or ""))
    assert (picture.width, picture.height) == (16, 12)


def test_an_edit_needs_a_mask_of_the_same_size(tiny_client: openai.OpenAI) -> None:
    asked: Any = {"model": "mini", "image": ("a.png", PNG), "prompt": "a tree"}
    with pytest.raises(openai.BadRequestError) as caught:
        tiny_client.images.edit(**asked)
    assert caught.value.param == "mask"
    with pytest.raises(openai.BadRequestError, match="same size"):
        tiny_client.images.edit(**asked, mask=("m.png", checkers(8).png_bytes()))


@pytest.mark.parametrize("name", ["mp3", "opus", "flac", "wav", "pcm"])
def test_a_text_is_spoken(tiny_client: openai.OpenAI, name: Any) -> None:
    asked: Any = {
        "model": "mini", "voice": "alloy", "input": "two dogs", "response_format": name,
        "extra_body": {"num_inference_steps": 1, "seed": 4, "temperature": 1.5},
    }  # fmt: skip
    data = tiny_client.audio.speech.create(**asked).content
    if name != "pcm":
        samples, _ = soundfile.read(io.BytesIO(data))
        assert len(samples)


def test_speech_is_written_down(tiny_client: openai.OpenAI) -> None:
    asked: Any = {"model": "mini", "file": ("a.wav", tone(1.0).wav_bytes())}
    text = tiny_client.audio.transcriptions.create(**asked).text
    verbose: Any = tiny_client.audio.transcriptions.create(**asked, response_format="verbose_json")
    assert verbose.text == text
    assert verbose.duration == 1.0
    assert tiny_client.audio.transcriptions.create(**asked, response_format="text") == text + "\n"
    events: Any = list(tiny_client.audio.transcriptions.create(**asked, stream=True))
    assert events[-1].text == text == "".join(event.delta for event in events[:-1])


def test_voices_are_listed(tiny_client: openai.OpenAI) -> None:
    voices: Any = tiny_client.get("/audio/voices", cast_to=object)
    assert {"id": "alloy", "name": "alloy"} in voices["voices"]
    with pytest.raises(openai.BadRequestError) as caught:
        tiny_client.audio.speech.create(model="mini", voice="nobody", input="two dogs")
    assert caught.value.param == "voice"


@pytest.mark.parametrize(
    ("fields", "param", "code"),
    [
        ({"extra_body": {"top_nonsense": 1}}, "top_nonsense", "unknown_parameter"),
        ({"tools": [{"type": "function"}]}, "tools", "unsupported_parameter"),
        ({"model": "gpt"}, "model", "model_not_found"),
        ({"temperature": 3}, "temperature", "invalid_value"),
        ({"messages": []}, "messages", "invalid_value"),
        ({"messages": [{"role": "user", "content": " "}]}, "messages", "invalid_value"),
        ({"messages": user({"type": "text"})}, "messages[0].content[0].text", None),
        ({"modalities": ["audio"]}, "audio", "missing_required_parameter"),
        ({"n": 99}, "n", "integer_above_max_value"),
        ({"extra_body": {"answer_tokens": 10**6}}, "answer_tokens", "invalid_value"),
        (
            {"messages": user({"type": "image_url", "image_url": {"url": "http://a/b.png"}})},
            "messages[0].content[0].image_url.url",
            "invalid_value",
        ),
    ],
)
def test_a_wrong_parameter_is_named(
    tiny_client: openai.OpenAI, fields: dict[str, Any], param: str, code: str | None
) -> None:
    asked = {"model": "mini", "messages": [{"role": "user", "content": "what is a cake?"}]}
    with pytest.raises(openai.APIStatusError) as caught:
        tiny_client.chat.completions.create(**{**asked, **fields})
    assert caught.value.param == param
    assert code in (None, caught.value.code)
    assert caught.value.type == "invalid_request_error"


def test_what_changes_no_answer_is_accepted(tiny_client: openai.OpenAI) -> None:
    answer = tiny_client.chat.completions.create(
        model="mini",
        messages=[{"role": "user", "content": "what is a cake?"}],
        user="someone",
        presence_penalty=0,
        tool_choice="none",
        logprobs=False,
        extra_body={"num_inference_steps": 2},
    )
    assert answer.choices


def test_the_key_is_asked_for(tiny_client: openai.OpenAI) -> None:
    with pytest.raises(openai.AuthenticationError) as caught:
        tiny_client.with_options(api_key="another").models.list()
    assert caught.value.code == "invalid_api_key"
