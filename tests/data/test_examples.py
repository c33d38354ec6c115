"""What training lays of a manifest is what inference lays of the same conversation."""

from __future__ import annotations

import json
import shutil
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
import torch
from tests.data.test_manifest import MENDED
from tests.tiny import checkers, tiny_model, tone

from omni_diffusion.canvas import Canvas
from omni_diffusion.conversation import Image, Message, Speech, Text
from omni_diffusion.data import examples, manifest
from omni_diffusion.data.examples import Exercise, canvases
from omni_diffusion.errors import DataError
from omni_diffusion.models.omni import GenerationConfig, OmniModel
from omni_diffusion.tasks.catalog import task
from omni_diffusion.tasks.encode import Spoken
from omni_diffusion.tasks.parts import Blank, Codes, Draft
from omni_diffusion.tasks.render import render


@pytest.fixture(scope="module")
def model() -> OmniModel:
    return tiny_model()


@pytest.fixture(scope="module")
def media(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the sounds and pictures that samples name."""
    folder = tmp_path_factory.mktemp("media")
    tone(0.5).write(folder / "a.wav")
    tone(0.4, hertz=330).write(folder / "b.wav")
    checkers(20).write(folder / "c.png")
    for name in {path for line in MENDED.values() for path in paths(json.loads(line))}:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(folder / ("c.png" if name[-3:] in ("jpg", "png") else "a.wav"), folder / name)
    return folder


def paths(row: dict[str, Any]) -> list[str]:
    return [*row.get("audios", ()), *row.get("images", ())]


def row(*contents: str, **media: list[str]) -> dict[str, Any]:
    roles = ("user", "assistant") * len(contents)
    messages = [
        {"role": role, "content": content} for role, content in zip(roles, contents, strict=False)
    ]
    return {"messages": messages, **media}


def laid(
    model: OmniModel, media: Path, *rows: dict[str, Any], **options: Any
) -> list[tuple[Exercise, Canvas]]:
    path = media / "train.jsonl"
    path.write_text("".join(json.dumps(each) + "\n" for each in rows), encoding="utf-8")
    return list(canvases(path, model, **options))


@dataclass
class Both:
    trained: Canvas
    asked: Canvas
    line_end: int

    def agree(self) -> None:
        """All that inference is given, training has in the same places; the rest is the answer."""
        given = ~self.asked.blank
        assert self.trained.answer == self.asked.answer
        assert torch.equal(self.trained.ids[given], self.asked.ids[given])
        assert self.trained.blanks == 0
        low, high = self.asked.allowed[self.asked.blank].unbind(1)
        learned = self.trained.ids[self.asked.blank]
        outside = set(learned[(learned < low) | (learned >= high)].tolist())
        assert outside <= {self.line_end}  # closes a turn of speech, whose places take no text
        for ours, theirs in zip(self.trained.slots, self.asked.slots, strict=True):
            assert ours.start == theirs.start
            assert torch.equal(ours.frames, theirs.frames)


def both(
    model: OmniModel, canvas: Canvas, name: str, *asked: Spoken, answer: tuple[Any, ...] = ()
) -> Both:
    """The trained canvas beside the one of inference, whose answer has as many places."""
    wanted = task(name).answering({name: answer} if answer else {})
    start, stop = canvas.answer
    return beside(model, canvas, render(wanted, asked, model, length=stop - start).canvas)


def beside(model: OmniModel, trained: Canvas, asked: Canvas) -> Both:
    return Both(trained, asked, int(model.codecs.text.encode("\n")))


# ------------------------------------------------------------------------- the words of the tasks
def asked_of(name: str, media: Path) -> Message:
    """What a person would give to inference for each published sample."""
    row = json.loads(MENDED[name])
    heard = [manifest.Medium("speech", media / path).read() for path in row.get("audios", ())]
    seen = [manifest.Medium("image", media / path).read() for path in row.get("images", ())]
    words = {
        "tts": "The King",
        "t2i": "Two girls",
        "vqa": "How many triangles are there?\nA. 3\nB. 2",
    }
    given = [heard[0]] if name in ("asr", "s2i", "svqa") else []
    given += [seen[0]] if name in ("vqa", "svqa") else []
    return Message("user", (*([Text(words[name])] if name in words else []), *given))


@pytest.mark.parametrize("name", MENDED)
def test_a_published_sample_is_laid_as_inference_asks(
    name: str, model: OmniModel, media: Path
) -> None:
    ((exercise, canvas),) = laid(model, media, json.loads(MENDED[name]), tails=iter([5]))
    assert exercise.task == task(name)
    both(model, canvas, name, asked_of(name, media)).agree()
    pads = int((canvas.ids[canvas.answer[0] :] == model.vocabulary.pad).sum())
    assert pads == 0 if name in ("t2i", "s2i") else pads >= 5


def test_the_answer_is_what_the_line_says(model: OmniModel, media: Path) -> None:
    ((exercise, canvas),) = laid(model, media, json.loads(MENDED["svqa"]))
    said, spoken = exercise.turns[-1].parts
    assert said == Text("He is angling himself.")  # without the line end before its tag
    assert isinstance(spoken, Codes)
    vocabulary = model.vocabulary
    answer = canvas.ids[slice(*canvas.answer)]
    words = model.codecs.text.encode("He is angling himself.")
    assert torch.equal(answer[: len(words)], vocabulary.text.lift(words))
    codes = answer[vocabulary.speech.holds(answer)]
    assert torch.equal(codes, vocabulary.speech.lift(model.codecs.speech.encode(tone(0.5))))


def test_a_model_may_answer_with_other_parts(model: OmniModel, media: Path) -> None:
    answers = {"s2i": ("text", "image")}
    generation = GenerationConfig(answers=answers, lengths={"s2i": (0.0, 8)})  # type: ignore[arg-type]
    own = OmniModel(replace(model.config, generation=generation), model.codecs, model.backbone)
    line = json.loads(MENDED["s2i"])
    line["messages"][-1]["content"] = "a dog\n<|image|>"
    ((exercise, canvas),) = laid(own, media, line)
    assert (exercise.task.name, exercise.task.answer) == ("s2i", ("text", "image"))
    words = len(model.codecs.text.encode("a dog"))
    asked = render(task("s2i"), [asked_of("s2i", media)], own, length=words).canvas
    beside(own, canvas, asked).agree()


# ------------------------------------------------------------------------------ any conversation
def test_each_answer_of_a_conversation_is_an_exercise(model: OmniModel, media: Path) -> None:
    many = row(
        "look: <|image|>", "a dog", "and <|audio|>?", "listen:\n<|audio|>", "draw it", "<|image|>",
        images=["c.png", "c.png"], audios=["a.wav", "b.wav"],
    )  # fmt: skip
    many["messages"].insert(0, {"role": "system", "content": "Be brief."})
    found = laid(model, media, many)
    assert [exercise.task.answer for exercise, _ in found] == [
        ("text",), ("text", "speech"), ("image",)
    ]  # fmt: skip
    assert {exercise.task.name for exercise, _ in found} == {"chat"}
    seen, heard = Image(checkers(20)), manifest.Medium("speech", media / "a.wav").read()
    told = manifest.Medium("speech", media / "b.wav").read()
    said: list[Message] = [
        Message("system", (Text("Be brief."),)),
        Message("user", (Text("look: "), seen)),
        Message("assistant", (Text("a dog"),)),
        Message("user", (Text("and "), heard, Text("?"))),
        Message("assistant", (Text("listen:"), told)),
        Message("user", (Text("draw it"),)),
    ]
    for (exercise, canvas), before in zip(found, (2, 4, 6), strict=True):
        answer = exercise.task.answer
        both(model, canvas, "chat", *said[:before], answer=answer).agree()


def test_an_answer_of_any_parts_is_laid_as_an_infilling(model: OmniModel, media: Path) -> None:
    mixed = row(
        "<|audio|> or <|image|>?", "<|audio|> this:\n<|image|>\nor that\n<|audio|>",
        images=["c.png", "c.png"], audios=["a.wav", "b.wav", "a.wav"],
    )  # fmt: skip
    ((exercise, canvas),) = laid(model, media, mixed)
    assert exercise.task is task("infill")
    heard = Speech(manifest.Medium("speech", media / "a.wav").read().waveform)  # type: ignore[union-attr]
    asked = Message("user", (heard, Text(" or "), Image(checkers(20)), Text("?")))
    kinds = ("speech", "text", "image", "text", "speech")
    pieces = exercise.turns[-1].parts
    sizes = [
        len(model.codecs.text.encode(piece.text)) if isinstance(piece, Text) else len(piece)  # type: ignore[arg-type]
        for piece in pieces
    ]
    draft = Draft("assistant", tuple(map(Blank, kinds, sizes)))  # type: ignore[arg-type]
    beside(model, canvas, render(task("infill"), (asked, draft), model).canvas).agree()


def test_the_null_prompt_teaches_guidance(model: OmniModel, media: Path) -> None:
    ((exercise, canvas),) = laid(model, media, json.loads(MENDED["t2i"]))
    null = exercise.canvas(model.vocabulary, model.codecs.text, null=True)
    assert null.length < canvas.length
    answers = [each.ids[slice(*each.answer)] for each in (null, canvas)]
    assert torch.equal(*answers)


# ------------------------------------------------------------------------------------- what fails
def test_what_is_too_long_or_broken_is_told_by_line_and_the_rest_goes_on(
    model: OmniModel, media: Path
) -> None:
    rows = [
        row("hello", "hi"),
        row("hello", "word " * 2000),
        row("<|image|>", "a dog", images=["none.png"]),
        row("<|image|>", "a dog"),
        row("bye", "bye"),
    ]
    told: list[str] = []
    found = laid(model, media, *rows, report=told.append)
    assert [exercise.place.line for exercise, _ in found] == [1, 5]
    path = media / "train.jsonl"
    assert [line.partition(": ")[0] for line in told] == [f"{path}:{n}" for n in (2, 3, 4)]
    assert "places, the model has 1024; shorten or part it" in told[0]
    assert "cannot read" in told[1]
    assert "'images' has 0 paths" in told[2]
    with pytest.raises(DataError, match=r"train\.jsonl:2: the sample takes \d+ places"):
        laid(model, media, *rows)


def test_what_a_codec_refuses_names_the_line(model: OmniModel, media: Path) -> None:
    path = media / "short.jsonl"
    section = {"path": "a.wav", "start": 0, "stop": 0.00005}
    path.write_text(json.dumps(row("<|audio|>", "a dog") | {"audios": [section]}))
    with pytest.raises(DataError, match=r"short\.jsonl:1: .*2 samples"):
        list(canvases(path, model))


def test_media_are_encoded_once(
    model: OmniModel, media: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    counted: list[int] = []
    encode = examples.encode

    def counting(messages: list[Message], codecs: Any) -> Any:
        counted.append(len(messages))
        return encode(messages, codecs)

    monkeypatch.setattr(examples, "encode", counting)
    assert len(laid(model, media, row("<|image|>", "a", "b?", "b", images=["c.png"]))) == 2
    assert counted == [4]
