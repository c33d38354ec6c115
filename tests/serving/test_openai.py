"""Every route of OpenAI's API, called by OpenAI's own client, on the small model."""

import base64
import io
from typing import Any

import openai
import pytest
import soundfile
from tests.serving.conftest import INPUTS

from omni_diffusion.media import Picture

pytestmark = pytest.mark.slow
QUICK: dict[str, Any] = {"num_inference_steps": 2}
WAV_HEAD = b"RIFF"


def data_uri(name: str, kind: str) -> str:
    return f"data:{kind};base64,{encoded(name)}"


def encoded(name: str) -> str:
    return base64.b64encode((INPUTS / name).read_bytes()).decode()


def user(*parts: dict[str, Any]) -> list[Any]:
    return [{"role": "user", "content": list(parts)}]


IMAGE = {"type": "image_url", "image_url": {"url": data_uri("penguin-cow.png", "image/png")}}
SPOKEN = {
    "type": "input_audio",
    "input_audio": {"data": encoded("color-of-elephant.ogg"), "format": "wav"},
}


def test_models(client: openai.OpenAI) -> None:
    (model,) = client.models.list()
    assert model.id == "mini"
    assert client.models.retrieve("mini").object == "model"
    with pytest.raises(openai.NotFoundError) as caught:
        client.models.retrieve("other")
    assert caught.value.code == "model_not_found"


def test_a_question_is_answered_as_by_the_engine(client: openai.OpenAI) -> None:
    answer = client.chat.completions.create(
        model="mini", messages=[{"role": "user", "content": "what is a cake?"}], seed=1
    )
    (choice,) = answer.choices
    assert choice.message.content == "a cake is a food"
    assert choice.finish_reason == "stop"
    assert answer.usage is not None
    assert answer.usage.prompt_tokens == 13
    assert 5 <= answer.usage.completion_tokens <= 10


def test_the_words_come_as_they_settle(client: openai.OpenAI) -> None:
    stream = client.chat.completions.create(
        model="mini",
        messages=[{"role": "user", "content": "what is a cake?"}],
        stream=True,
        stream_options={"include_usage": True},
        extra_body={"num_inference_steps": 18},
    )
    chunks = list(stream)
    assert chunks[0].choices[0].delta.role == "assistant"
    said = [c.choices[0].delta.content or "" for c in chunks if c.choices]
    assert "".join(said) == "a cake is a food"
    assert len([piece for piece in said if piece]) > 1
    assert chunks[-2].choices[0].finish_reason == "stop"
    assert chunks[-1].usage is not None
    assert chunks[-1].choices == []


def test_a_question_about_a_picture(client: openai.OpenAI) -> None:
    text = {"type": "text", "text": "what is to the right of the penguin?"}
    answer = client.chat.completions.create(model="mini", messages=user(text, IMAGE))
    assert answer.choices[0].message.content == "a cow"


def test_a_picture_alone_is_described(client: openai.OpenAI) -> None:
    answer = client.chat.completions.create(model="mini", messages=user(IMAGE), stop=" to ")
    assert answer.choices[0].message.content == "a penguin"
    assert answer.choices[0].finish_reason == "stop"


def test_an_answer_is_cut_at_its_most_tokens(client: openai.OpenAI) -> None:
    messages: Any = [{"role": "user", "content": "what is a cake?"}]
    asked: Any = {"model": "mini", "messages": messages, "max_completion_tokens": 2}
    whole = client.chat.completions.create(**asked).choices[0]
    streamed = list(client.chat.completions.create(**asked, stream=True))
    assert whole.message.content == "a cake"
    assert whole.finish_reason == streamed[-1].choices[0].finish_reason == "length"
    assert "".join(c.choices[0].delta.content or "" for c in streamed) == "a cake"


def test_choices_differ_by_their_seed(client: openai.OpenAI) -> None:
    asked: Any = {
        "model": "mini",
        "messages": [{"role": "user", "content": "what is a cake?"}],
        "temperature": 2,
        "n": 2,
        "extra_body": QUICK,
    }
    once = [c.message.content for c in client.chat.completions.create(**asked, seed=3).choices]
    again = [c.message.content for c in client.chat.completions.create(**asked, seed=4).choices]
    assert once[0] != once[1] == again[0]


def test_a_spoken_question_is_answered_in_sound(client: openai.OpenAI) -> None:
    answer = client.chat.completions.create(
        model="mini",
        messages=user(SPOKEN),
        modalities=["text", "audio"],
        audio={"voice": "alloy", "format": "wav"},
        extra_body=QUICK,
    )
    message = answer.choices[0].message
    assert message.content is None
    assert message.audio is not None
    assert message.audio.transcript
    assert base64.b64decode(message.audio.data).startswith(WAV_HEAD)


def test_a_written_question_is_answered_in_sound_too(client: openai.OpenAI) -> None:
    stream = client.chat.completions.create(
        model="mini",
        messages=[{"role": "user", "content": "what is a cake?"}],
        modalities=["text", "audio"],
        audio={"voice": "alloy", "format": "pcm16"},
        stream=True,
    )
    said, sound = "", b""
    for chunk in stream:
        audio = chunk.choices[0].delta.audio
        if audio is not None:
            said += audio.transcript or ""
            sound += base64.b64decode(audio.data or "")
    assert said == "a cake is a food"
    assert 0.3 < len(sound) / 2 / 24_000 < 5


def test_a_chat_can_draw(client: openai.OpenAI) -> None:
    asked: Any = {
        "model": "mini",
        "messages": [{"role": "user", "content": "a red ball"}],
        "modalities": ["text", "image"],
        "extra_body": QUICK,
    }
    message = client.chat.completions.create(**asked).choices[0].message
    (image,) = message.images  # type: ignore[attr-defined]
    head, _, data = image["image_url"]["url"].partition(",")
    assert head == "data:image/png;base64"
    assert Picture.read(base64.b64decode(data)).width == 64
    streamed = list(client.chat.completions.create(**asked, stream=True))
    shown = [c.choices[0].delta.images for c in streamed if hasattr(c.choices[0].delta, "images")]
    assert shown == [message.images]  # type: ignore[attr-defined]


def test_a_conversation_goes_on(client: openai.OpenAI) -> None:
    messages: Any = [
        {"role": "system", "content": "Answer in one word."},
        {"role": "user", "content": "what is a cake?"},
        {"role": "assistant", "content": "a food"},
        {"role": "user", "content": [{"type": "text", "text": "what is a bus?"}]},
    ]
    answer = client.chat.completions.create(model="mini", messages=messages, extra_body=QUICK)
    assert answer.usage is not None
    assert answer.usage.prompt_tokens > 30
    assert answer.choices[0].message.content is not None


# ---------------------------------------------------------------------------------------- images
def test_pictures_are_drawn(client: openai.OpenAI) -> None:
    answer = client.images.generate(
        model="mini",
        prompt="a red ball",
        n=2,
        size="128x96",
        output_format="webp",
        extra_body={**QUICK, "guidance_scale": 0, "seed": 5},
    )
    assert answer.data is not None
    pictures = [Picture.read(base64.b64decode(each.b64_json or "")) for each in answer.data]
    assert [(p.width, p.height) for p in pictures] == [(128, 96)] * 2
    assert answer.usage is not None
    assert answer.usage.output_tokens > 120


def test_a_picture_forms_in_view(client: openai.OpenAI) -> None:
    events = list(
        client.images.generate(
            model="mini",
            prompt="a red ball",
            stream=True,
            partial_images=2,
            extra_body={"num_inference_steps": 4, "negative_prompt": "a cow"},
        )
    )
    kinds = [event.type for event in events]
    partial = "image_generation.partial_image"
    assert kinds == [partial, partial, "image_generation.completed"]
    assert [event.partial_image_index for event in events[:2]] == [0, 1]  # type: ignore[union-attr]
    shown = [Picture.read(base64.b64decode(event.b64_json)) for event in events]
    assert {(picture.width, picture.height) for picture in shown} == {(64, 64)}
    assert events[-1].usage.total_tokens > 64  # type: ignore[union-attr]


def edit(client: openai.OpenAI, mask: bytes, **more: Any) -> Any:
    image = ("houses.png", (INPUTS / "houses.png").read_bytes(), "image/png")
    return client.images.edit(
        model="mini", image=image, mask=("mask.png", mask, "image/png"), prompt="four houses",
        extra_body=QUICK, **more,
    )  # fmt: skip


def transparent(box: tuple[int, int, int, int]) -> bytes:
    import PIL.Image

    mask = PIL.Image.new("RGBA", (64, 64), (0, 0, 0, 255))
    mask.paste((0, 0, 0, 0), box)
    out = io.BytesIO()
    mask.save(out, "PNG")
    return out.getvalue()


def test_what_the_mask_leaves_open_is_repainted(client: openai.OpenAI) -> None:
    answer = edit(client, transparent((32, 32, 64, 64)))
    picture = Picture.read(base64.b64decode(answer.data[0].b64_json))
    given = Picture.read(INPUTS / "houses.png")
    same = (picture.pixels.int() - given.pixels.int()).abs().amax(-1) <= 2
    assert bool(same[:32].all())
    assert not bool(same[32:, 32:].all())
    events = list(edit(client, transparent((32, 32, 64, 64)), stream=True, partial_images=1))
    assert [event.type for event in events][-1] == "image_edit.completed"


def test_a_mask_without_a_hole_is_refused(client: openai.OpenAI) -> None:
    with pytest.raises(openai.BadRequestError) as caught:
        edit(client, transparent((0, 0, 0, 0)))
    assert caught.value.param == "mask"


# ----------------------------------------------------------------------------------------- audio
@pytest.mark.parametrize("name", ["mp3", "opus", "flac", "wav", "pcm"])
def test_a_text_is_spoken_in_every_container(client: openai.OpenAI, name: Any) -> None:
    answer = client.audio.speech.create(
        model="mini", voice="alloy", input="a dog", response_format=name, extra_body=QUICK
    )
    data = answer.content
    if name == "pcm":
        seconds = len(data) / 2 / 24_000
    else:
        samples, rate = soundfile.read(io.BytesIO(data))
        seconds = len(samples) / rate
    assert 0.2 < seconds < 5


def test_speech_comes_as_events(client: openai.OpenAI) -> None:
    with client.audio.speech.with_streaming_response.create(
        model="mini", voice="alloy", input="a picture of two apples", response_format="wav",
        stream_format="sse", extra_body={"num_inference_steps": 6},
    ) as answer:  # fmt: skip
        lines = [line for line in answer.iter_lines() if line.startswith("event: ")]
    assert set(lines) == {"event: speech.audio.delta", "event: speech.audio.done"}
    assert lines[-1] == "event: speech.audio.done"


def transcribe(client: openai.OpenAI, **more: Any) -> Any:
    return client.audio.transcriptions.create(
        model="mini", file=("dog.ogg", (INPUTS / "dog.ogg").read_bytes()), **more
    )


def test_speech_is_written_down(client: openai.OpenAI) -> None:
    text = transcribe(client).text
    assert text.startswith("a ")
    assert text.endswith("on a white background")
    verbose = transcribe(client, response_format="verbose_json")
    assert verbose.text == verbose.segments[0].text == text
    assert verbose.duration > 1
    assert transcribe(client, response_format="text").strip() == text
    assert " --> 00:00:0" in transcribe(client, response_format="srt")
    assert transcribe(client, response_format="vtt").startswith("WEBVTT\n\n00:00:00.000 --> ")
    events = list(transcribe(client, stream=True))
    assert events[-1].type == "transcript.text.done"
    assert events[-1].text == text == "".join(event.delta for event in events[:-1])
