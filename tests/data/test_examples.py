"""Training lays a manifest sample out as inference lays out the same conversation."""

from __future__ import annotations

import json
import shutil
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
import torch
from tests.data.manifest_files import CORRECTED, row, write
from tests.tiny import checkers, tiny_model, tone

from omni_diffusion.canvas import Canvas
from omni_diffusion.conversation import Blank, Codes, Image, Message, Speech, Text
from omni_diffusion.data import examples, manifest
from omni_diffusion.data.examples import TrainingExample, training_examples
from omni_diffusion.errors import DataError
from omni_diffusion.models.omni import OmniModel
from omni_diffusion.tasks.catalog import task
from omni_diffusion.tasks.defaults import GenerationConfig
from omni_diffusion.tasks.render import render


@pytest.fixture(scope="module")
def model() -> OmniModel:
    return tiny_model()


@pytest.fixture(scope="module")
def media(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the recordings and pictures of the samples."""
    folder = tmp_path_factory.mktemp("media")
    tone(0.5).write(folder / "a.wav")
    tone(0.4, hertz=330).write(folder / "b.wav")
    checkers(20).write(folder / "c.png")
    for name in {path for line in CORRECTED.values() for path in paths(json.loads(line))}:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(folder / ("c.png" if name[-3:] in ("jpg", "png") else "a.wav"), folder / name)
    return folder


def paths(row: dict[str, Any]) -> list[str]:
    return [*row.get("audios", ()), *row.get("images", ())]


def laid_out(
    model: OmniModel, media: Path, *rows: dict[str, Any], tail: int = 0
) -> list[tuple[TrainingExample, Canvas]]:
    path = write(media / "train.jsonl", *rows)
    return [
        (example, example.canvas(model.vocabulary, model.codecs.text, tail=tail))
        for sample in manifest.read_samples(path)
        for example in training_examples(sample, model)
    ]


@dataclass
class Pair:
    trained: Canvas
    asked: Canvas
    line_end: int

    def agree(self) -> None:
        """All given tokens are equal; the masked ones of inference are the answer of training."""
        given = ~self.asked.blank
        assert self.trained.answer == self.asked.answer
        assert torch.equal(self.trained.ids[given], self.asked.ids[given])
        assert self.trained.blanks == 0
        low, high = self.asked.allowed[self.asked.blank].unbind(1)
        learned = self.trained.ids[self.asked.blank]
        outside = set(learned[(learned < low) | (learned >= high)].tolist())
        assert outside <= {self.line_end}  # closes a turn of speech, where no text is allowed
        for ours, theirs in zip(self.trained.slots, self.asked.slots, strict=True):
            assert ours.start == theirs.start
            assert torch.equal(ours.frames, theirs.frames)


def training_and_inference(
    model: OmniModel, canvas: Canvas, name: str, *asked: Message, answer: tuple[Any, ...] = ()
) -> Pair:
    """The training canvas and that of inference, with an answer of the same length."""
    wanted = task(name).answering({name: answer} if answer else {})
    start, stop = canvas.answer
    return beside(model, canvas, render(wanted, asked, model, max_tokens=stop - start).canvas)


def beside(model: OmniModel, trained: Canvas, asked: Canvas) -> Pair:
    return Pair(trained, asked, int(model.codecs.text.encode("\n")))


# ------------------------------------------------------------------------- the words of the tasks
def asked_of(name: str, media: Path) -> Message:
    """The message that a user would send for each published sample."""
    row = json.loads(CORRECTED[name])
    heard = [manifest.MediaFile("speech", media / path).read() for path in row.get("audios", ())]
    seen = [manifest.MediaFile("image", media / path).read() for path in row.get("images", ())]
    words = {
        "tts": "The King",
        "t2i": "Two girls",
        "vqa": "How many triangles are there?\nA. 3\nB. 2",
    }
    given = [heard[0]] if name in ("asr", "s2i", "svqa") else []
    given += [seen[0]] if name in ("vqa", "svqa") else []
    return Message("user", (*([Text(words[name])] if name in words else []), *given))


@pytest.mark.parametrize("name", CORRECTED)
def test_a_published_sample_is_laid_out_as_at_inference(
    name: str, model: OmniModel, media: Path
) -> None:
    ((example, canvas),) = laid_out(model, media, json.loads(CORRECTED[name]), tail=5)
    assert example.task == task(name)
    training_and_inference(model, canvas, name, asked_of(name, media)).agree()
    pads = int((canvas.ids[canvas.answer[0] :] == model.vocabulary.pad).sum())
    assert pads == 0 if name in ("t2i", "s2i") else pads >= 5


def test_the_answer_is_that_of_the_line(model: OmniModel, media: Path) -> None:
    ((example, canvas),) = laid_out(model, media, json.loads(CORRECTED["svqa"]))
    said, spoken = example.turns[-1].parts
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
    line = json.loads(CORRECTED["s2i"])
    line["messages"][-1]["content"] = "a dog\n<|image|>"
    ((example, canvas),) = laid_out(own, media, line)
    assert (example.task.name, example.task.answer) == ("s2i", ("text", "image"))
    words = len(model.codecs.text.encode("a dog"))
    asked = render(task("s2i"), [asked_of("s2i", media)], own, max_tokens=words).canvas
    beside(own, canvas, asked).agree()


# ------------------------------------------------------------------------------ any conversation
def test_each_answer_of_a_conversation_is_a_training_example(model: OmniModel, media: Path) -> None:
    many = row(
        "look: <|image|>", "a dog", "and <|audio|>?", "listen:\n<|audio|>", "draw it", "<|image|>",
        images=["c.png", "c.png"], audios=["a.wav", "b.wav"],
    )  # fmt: skip
    many["messages"].insert(0, {"role": "system", "content": "Be brief."})
    found = laid_out(model, media, many)
    assert [example.task.answer for example, _ in found] == [
        ("text",), ("text", "speech"), ("image",)
    ]  # fmt: skip
    assert {example.task.name for example, _ in found} == {"chat"}
    seen, heard = Image(checkers(20)), manifest.MediaFile("speech", media / "a.wav").read()
    told = manifest.MediaFile("speech", media / "b.wav").read()
    said: list[Message] = [
        Message("system", (Text("Be brief."),)),
        Message("user", (Text("look: "), seen)),
        Message("assistant", (Text("a dog"),)),
        Message("user", (Text("and "), heard, Text("?"))),
        Message("assistant", (Text("listen:"), told)),
        Message("user", (Text("draw it"),)),
    ]
    for (example, canvas), before in zip(found, (2, 4, 6), strict=True):
        answer = example.task.answer
        training_and_inference(model, canvas, "chat", *said[:before], answer=answer).agree()


def test_an_answer_of_other_parts_is_laid_out_as_infilling(model: OmniModel, media: Path) -> None:
    mixed = row(
        "<|audio|> or <|image|>?", "<|audio|> this:\n<|image|>\nor that\n<|audio|>",
        images=["c.png", "c.png"], audios=["a.wav", "b.wav", "a.wav"],
    )  # fmt: skip
    ((example, canvas),) = laid_out(model, media, mixed)
    assert example.task is task("infill")
    heard = Speech(manifest.MediaFile("speech", media / "a.wav").read().waveform)  # type: ignore[union-attr]
    asked = Message("user", (heard, Text(" or "), Image(checkers(20)), Text("?")))
    kinds = ("speech", "text", "image", "text", "speech")
    pieces = example.turns[-1].parts
    sizes = [
        len(model.codecs.text.encode(piece.text)) if isinstance(piece, Text) else len(piece)  # type: ignore[arg-type]
        for piece in pieces
    ]
    draft = Message("assistant", tuple(map(Blank, kinds, sizes)))  # type: ignore[arg-type]
    beside(model, canvas, render(task("infill"), (asked, draft), model).canvas).agree()


def test_the_null_prompt_teaches_guidance(model: OmniModel, media: Path) -> None:
    ((example, canvas),) = laid_out(model, media, json.loads(CORRECTED["t2i"]))
    null = example.canvas(model.vocabulary, model.codecs.text, null=True)
    assert null.length < canvas.length
    answers = [each.ids[slice(*each.answer)] for each in (null, canvas)]
    assert torch.equal(*answers)


# ------------------------------------------------------------------------------------- what fails
def test_a_codec_error_names_the_line(model: OmniModel, media: Path) -> None:
    section = {"path": "a.wav", "start": 0, "stop": 0.00005}
    with pytest.raises(DataError, match=r"train\.jsonl:1: .*2 samples"):
        laid_out(model, media, row("<|audio|>", "a dog") | {"audios": [section]})


def test_media_are_encoded_once(
    model: OmniModel, media: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    counted: list[int] = []
    encode = examples.encode

    def counting(messages: list[Message], codecs: Any) -> Any:
        counted.append(len(messages))
        return encode(messages, codecs)

    monkeypatch.setattr(examples, "encode", counting)
    assert len(laid_out(model, media, row("<|image|>", "a", "b?", "b", images=["c.png"]))) == 2
    assert counted == [4]
