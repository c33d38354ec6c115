"""Conversations to tensors, id for id as `render` lays them out, and back to text."""

from __future__ import annotations

import base64
import io
from pathlib import Path

import numpy as np
import PIL.Image
import pytest
import torch
from tests.tasks.tiny_scenes import CONVERSATIONS
from tests.tiny import checkers, tone
from transformers import AutoProcessor

from omni_diffusion.conversation import Speech, Text
from omni_diffusion.errors import MediaError, ModelError, TaskError
from omni_diffusion.integrations.transformers import OmniDiffusionModel, OmniDiffusionProcessor
from omni_diffusion.integrations.transformers.processing import waveform
from omni_diffusion.media import Waveform
from omni_diffusion.models.omni import OmniModel
from omni_diffusion.tasks import catalog
from omni_diffusion.tasks.render import render

SOUND = tone()
STEREO = torch.cat([SOUND.samples, 0.5 * SOUND.samples])


@pytest.mark.slow
def test_a_folder_of_ours_opens_as_a_processor(
    omni: OmniModel, folder: Path, tmp_path: Path
) -> None:
    processor = AutoProcessor.from_pretrained(folder)
    assert isinstance(processor, OmniDiffusionProcessor)
    assert processor.config == omni.config
    processor.save_pretrained(tmp_path)
    assert AutoProcessor.from_pretrained(tmp_path).config == omni.config
    OmniDiffusionModel.from_omni(omni).save_pretrained(tmp_path)
    assert OmniModel.from_pretrained(tmp_path).config == omni.config
    with pytest.raises(ModelError, match="give a folder"):
        OmniDiffusionProcessor.from_pretrained(tmp_path / "no where")


@pytest.mark.parametrize("task", CONVERSATIONS)
def test_ids_are_those_of_render(
    omni: OmniModel, processor: OmniDiffusionProcessor, task: str
) -> None:
    canvas = render(catalog.task(task), CONVERSATIONS[task], omni).canvas
    laid = processor.apply_chat_template(CONVERSATIONS[task], task=task, tokenize=True)
    assert torch.equal(laid["input_ids"], canvas.ids[None])
    assert torch.equal(laid["input_ids"] == omni.vocabulary.mask, canvas.blank[None])
    assert torch.equal(laid["allowed_ids"], canvas.allowed[None])
    assert laid["answer_start"].tolist() == [canvas.answer[0]]
    frames = [slot.frames for slot in canvas.slots]
    assert ("input_features" in laid) == bool(frames)
    if frames:
        torch.testing.assert_close(laid["input_features"], torch.cat(frames), rtol=0, atol=0)


def test_chat_dictionaries_are_our_messages(processor: OmniDiffusionProcessor) -> None:
    parts = [
        {"type": "text", "text": "a red apple"},
        {"type": "image", "image": checkers(20).to_pil()},
    ]
    chat = [{"role": "user", "content": parts}]
    ours = processor.apply_chat_template(CONVERSATIONS["vqa"], task="vqa", tokenize=True)
    theirs = processor.apply_chat_template(chat, task="vqa", tokenize=True)
    assert torch.equal(ours["input_ids"], theirs["input_ids"])
    called = processor(text="a red apple", images=checkers(20).to_pil(), task="vqa")
    assert torch.equal(ours["input_ids"], called["input_ids"])


def test_a_prompt_as_text(processor: OmniDiffusionProcessor) -> None:
    chat = [
        {"role": "system", "content": "be brief"},
        {"role": "user", "content": "a <|mask|> dog"},
    ]
    prompt = (
        "<|im_start|>system\nbe brief<|im_end|>\n<|im_start|>user\na <|mask|> dog<|im_end|>\n"
        "<|im_start|>assistant\n"
    )
    assert processor.apply_chat_template(chat) == prompt
    assert processor.apply_chat_template([chat, chat]) == [prompt, prompt]
    laid = processor.apply_chat_template(chat, tokenize=True, max_tokens=8)
    ids = laid["input_ids"][0]
    assert int((ids == processor.vocabulary.mask).sum()) == 8  # a user cannot write special tokens


def test_sound_comes_as_an_array_a_waveform_or_a_file(
    processor: OmniDiffusionProcessor, tmp_path: Path
) -> None:
    array = SOUND.samples[0].numpy()
    SOUND.write(tmp_path / "hum.wav")
    part = {"type": "audio", "path": str(tmp_path / "hum.wav")}
    ways = [
        processor(audio=array, sampling_rate=SOUND.rate, task="asr"),
        processor(audio=SOUND, task="asr"),
        processor(audio=tmp_path / "hum.wav", task="asr"),
        processor.apply_chat_template([{"content": [part]}], task="asr", tokenize=True),
    ]
    first = ways[0]["input_features"]
    for way in ways:
        torch.testing.assert_close(way["input_features"], first, atol=0.02, rtol=0.02)
    with pytest.raises(MediaError, match="sampling_rate"):
        processor(audio=array, task="asr")


def test_decoded_ids_name_what_is_no_text(processor: OmniDiffusionProcessor) -> None:
    vocabulary = processor.vocabulary
    ids = [
        vocabulary.im_start,
        *vocabulary.text.lift(processor.codecs.text.encode("a dog")).tolist(),
        vocabulary.speech.lift(5),
        vocabulary.image.lift(3),
    ]
    assert processor.decode(ids) == "<|im_start|>a dog<|audio_5|><|image_3|>"
    assert processor.batch_decode([ids], skip_special_tokens=True) == ["a dog"]


def test_spoken_answers_are_decoded(
    model: OmniDiffusionModel, processor: OmniDiffusionProcessor
) -> None:
    inputs = processor(audio=SOUND, task="sqa", max_tokens=32)
    (answer,) = processor.post_process(model.generate(**inputs), inputs)
    kinds = [type(part) for part in answer.parts]
    assert kinds[0] is Text
    assert set(kinds) <= {Text, Speech}


def test_what_cannot_be_laid_out_is_one_line(processor: OmniDiffusionProcessor) -> None:
    for call, words in (
        (lambda: processor(text=["a", "b"], images=checkers(), task="vqa"), r"\[1, 2\]"),
        (lambda: processor(text="a", task="vqq"), "did you mean vqa"),
        (lambda: processor(text="a", task="vqa"), "needs image"),
        (lambda: processor.apply_chat_template([], tokenize=True), "conversation"),
        (lambda: processor.apply_chat_template([{"content": [{"type": "film"}]}]), "'film'"),
        (lambda: processor.apply_chat_template([{"role": "me", "content": "a"}]), "role 'me'"),
    ):
        with pytest.raises(TaskError, match=words):
            call()
    with pytest.raises(MediaError, match="not an image"):
        processor(images=np.zeros(3), task="caption")
    with pytest.raises(MediaError, match="int is not audio"):
        processor(audio=3, task="asr")


def test_media_of_openai_are_those_of_a_call(processor: OmniDiffusionProcessor) -> None:
    image = base64.b64encode(checkers(20).png_bytes()).decode()
    sound = base64.b64encode(SOUND.wav_bytes()).decode()
    url = {"type": "image_url", "image_url": {"url": f"data:image/png;base64,{image}"}}
    audio = {"type": "input_audio", "input_audio": {"data": sound, "format": "wav"}}
    text = {"type": "text", "text": "a red apple"}
    chat = [{"role": "user", "content": [text, url]}]
    theirs = processor.apply_chat_template(chat, task="vqa", tokenize=True)
    ours = processor(text="a red apple", images=checkers(20), task="vqa")
    assert torch.equal(theirs["input_ids"], ours["input_ids"])
    theirs = processor.apply_chat_template([{"content": [audio]}], task="asr", tokenize=True)
    ours = processor(audio=SOUND, task="asr")
    torch.testing.assert_close(
        theirs["input_features"], ours["input_features"], atol=0.02, rtol=0.02
    )


def test_options_of_other_processors(processor: OmniDiffusionProcessor) -> None:
    plain = processor(text=["a", "a red apple"], task="t2i")
    same = processor(text=["a", "a red apple"], task="t2i", return_tensors="pt", padding=True)
    assert torch.equal(plain["input_ids"], same["input_ids"])
    chat = [{"role": "user", "content": "a"}]
    for words, call in (
        ("return_tensors is 'np'", lambda: processor(text="a", task="t2i", return_tensors="np")),
        ("padding is 'max_length'", lambda: processor(text="a", task="t2i", padding="max_length")),
        ("truncation is True", lambda: processor(text="a", task="t2i", truncation=True)),
        ("no option 'videos'", lambda: processor(text="a", task="t2i", videos=[1])),
        ("is 'np'", lambda: processor.apply_chat_template(chat, return_tensors="np")),
        ("conversation is 'hi'", lambda: processor.apply_chat_template("hi")),
        ("conversation is", lambda: processor.apply_chat_template([chat[0], "hi"])),
        ("conversation is", lambda: processor.apply_chat_template(None)),
    ):
        with pytest.raises(TaskError, match=words):
            call()


@pytest.mark.parametrize(
    "values",
    [
        STEREO.numpy(),
        STEREO.T.numpy(),
        STEREO.T.double().numpy(),
        (STEREO.T * 32_768).short().numpy(),
        (STEREO * 32_768).short(),
        (STEREO.T.double() * 2**31).to(torch.int64).int().numpy(),
    ],
    ids=["[channels, n]", "[n, channels]", "float64", "int16 array", "int16 tensor", "int32"],
)
def test_arrays_of_every_layout_and_type_are_heard_alike(
    processor: OmniDiffusionProcessor, values: np.ndarray | torch.Tensor
) -> None:
    heard = processor(audio=values, sampling_rate=16_000, task="asr")["input_features"]
    wanted = processor.codecs.hearing.encode(Waveform(STEREO, 16_000))
    torch.testing.assert_close(heard, wanted, atol=0.1, rtol=0)
    part = {"type": "audio", "audio": values, "sampling_rate": np.int64(16_000)}
    chat = [{"role": "user", "content": [part]}]
    laid = processor.apply_chat_template(chat, task="asr", tokenize=True)
    assert torch.equal(laid["input_features"], heard)


def test_bytes_of_8_bit_sound_have_their_zero_in_the_middle() -> None:
    values = (STEREO.T * 128 + 128).round().clamp(0, 255).to(torch.uint8).numpy()
    assert (waveform(values, 16_000).samples - STEREO).abs().max() < 0.01


@pytest.mark.parametrize(
    ("values", "told"),
    [
        (np.zeros(16_000, dtype=np.float32), "is silent"),
        (np.stack([SOUND.samples[0], -SOUND.samples[0]]), "cancel each other"),
        (np.full(16_000, 0.5), "constant value"),
        ((SOUND.samples[0] * 32_768).numpy(), "scale them to"),
        (SOUND.samples[0].numpy() * 1j, "complex64"),
        (np.arange(16_000), "int64"),
        (np.full(16_000, np.nan), "not all finite"),
        (np.zeros((99, 99)), "at most 32 channels"),
    ],
)
def test_arrays_that_say_nothing_are_refused(
    processor: OmniDiffusionProcessor, values: np.ndarray, told: str
) -> None:
    with pytest.raises(MediaError, match=told):
        processor(audio=values, sampling_rate=16_000, task="asr")


def test_images_of_every_mode_are_seen_as_a_person_sees_them(
    processor: OmniDiffusionProcessor,
) -> None:
    grey = np.arange(0, 252, 7, dtype=np.uint8).reshape(6, 6).repeat(2, 0).repeat(2, 1)
    exif = PIL.Image.Exif()
    exif[0x0112] = 3
    turned = PIL.Image.fromarray(np.ascontiguousarray(grey[::-1, ::-1]))
    out = io.BytesIO()
    turned.save(out, "PNG", exif=exif)
    images = [
        PIL.Image.fromarray(grey),
        PIL.Image.fromarray(grey.astype(np.uint16) * 257),
        PIL.Image.fromarray(grey.astype(np.int32) * 257),
        PIL.Image.fromarray((grey / 255).astype(np.float32)),
        PIL.Image.open(io.BytesIO(out.getvalue())),
        PIL.Image.fromarray(np.stack([grey * 0, grey * 0, grey * 0, 255 - grey], -1), "RGBA"),
    ]
    ids = processor(images=images, task="caption")["input_ids"]
    assert all(torch.equal(row, ids[0]) for row in ids)
