"""A person's inputs become a request, or one clear error."""

import io
import sys
from pathlib import Path

import PIL.Image
import pytest
import torch
from tests.tiny import checkers, tiny_model, tone

from omni_diffusion.conversation import Blank, Image, Message, PartialImage, Speech, Text
from omni_diffusion.engine.ask import Inputs, ask, conversation, read_mask
from omni_diffusion.engine.engine import Engine
from omni_diffusion.errors import MediaError, OmniError, SamplingError, TaskError
from omni_diffusion.media import Picture, Waveform
from omni_diffusion.tasks import catalog


@pytest.fixture
def inputs(tmp_path: Path) -> Inputs:
    """Text, a picture and a hum, from files."""
    checkers().write(tmp_path / "it.png")
    tone().write(tmp_path / "it.wav")
    return Inputs.read("what _ it?", tmp_path / "it.png", tmp_path / "it.wav")


def only(inputs: Inputs, *kinds: str) -> Inputs:
    return Inputs(**{kind: getattr(inputs, kind) for kind in kinds})


@pytest.mark.parametrize("task", [t for t in catalog.TASKS if t.answer], ids=lambda t: t.name)
def test_a_task_is_asked_with_all_that_it_takes(task: catalog.Task, inputs: Inputs) -> None:
    kinds = task.inputs or ("text",)
    (message,) = conversation(task, only(inputs, *kinds))
    given = {Text: "text", Image: "image", Speech: "speech"}
    assert message.role == "user"
    assert sorted(given[type(part)] for part in message.parts) == sorted(kinds)


def test_inpainting_is_a_picture_with_a_hole(tmp_path: Path) -> None:
    checkers().write(tmp_path / "it.png")
    asked = Inputs.read("a dog", tmp_path / "it.png", mask="2,0,8,4")
    user, answer = conversation(catalog.task("inpaint"), asked)
    assert user == Message("user", (Text("a dog"),))
    (part,) = answer.parts
    assert isinstance(part, PartialImage)
    assert part.hole[:4, 2:].all()
    assert int(part.hole.sum()) == 24


def test_a_mask_file_is_a_hole_where_it_is_bright(tmp_path: Path) -> None:
    drawn = torch.zeros(8, 8, 3, dtype=torch.uint8)
    drawn[1, 2:5] = 255
    Picture(drawn).write(tmp_path / "mask.png")
    hole = read_mask(str(tmp_path / "mask.png"), checkers())
    assert hole.nonzero().tolist() == [[1, 2], [1, 3], [1, 4]]
    with pytest.raises(TaskError, match="8 x 8, the picture 9 x 9") as error:
        read_mask(str(tmp_path / "mask.png"), checkers(9))
    assert error.value.field == "mask"
    Picture(torch.zeros(8, 8, 3, dtype=torch.uint8)).write(tmp_path / "black.png")
    with pytest.raises(TaskError, match=r"black\.png has no white part"):
        read_mask(str(tmp_path / "black.png"), checkers())


@pytest.mark.parametrize(("kind", "words"), [("image", "Describe"), ("speech", "Convert")])
def test_infill_is_about_the_media(inputs: Inputs, kind: str, words: str) -> None:
    user, answer = conversation(catalog.task("infill"), only(inputs, "text", kind))
    assert isinstance(user.parts[0], Text)
    assert user.parts[0].text.startswith(words)
    assert isinstance(user.parts[1], Image if kind == "image" else Speech)
    assert answer.parts == (Text("what"), Blank("text", 1), Text(" it?"))
    with pytest.raises(TaskError, match="not both"):
        conversation(catalog.task("infill"), inputs)


@pytest.mark.parametrize(
    ("task", "kinds", "field"),
    [
        ("caption", ("text",), "image"),
        ("asr", ("image",), "speech"),
        ("t2i", ("text", "image"), "image"),
        ("chat", ("text", "speech"), "speech"),
        ("inpaint", ("text",), "image"),
        ("inpaint", ("image",), "mask"),
        ("inpaint", ("image", "speech"), "speech"),
        ("infill", ("image",), "text"),
        ("speak", ("text",), "task"),
    ],
)
def test_what_does_not_fit_names_the_field(
    task: str, kinds: tuple[str, ...], field: str, inputs: Inputs
) -> None:
    with pytest.raises(TaskError) as error:
        ask(task, only(inputs, *kinds))
    assert error.value.field == field
    assert error.value.fix


def test_overrides_are_checked_before_any_work() -> None:
    words = Inputs("a dog")
    assert ask("t2i", words, steps=3, seed=4).params == {"steps": 3, "seed": 4}
    assert ask("t2i", words).params is None
    for name, value in (("steps", 0), ("temperature", -1.0), ("stepz", 3)):
        with pytest.raises(SamplingError, match=name):
            ask("t2i", words, **{name: value})
    with pytest.raises(OmniError) as error:
        ask("t2i", words, preset="best")
    assert (error.value.field, error.value.value) == ("preset", "best")
    mask = torch.ones(8, 8, dtype=torch.bool)
    with pytest.raises(TaskError) as error:
        ask("t2i", Inputs("a dog", mask=mask))
    assert error.value.field == "mask"


def test_silence_is_refused(tmp_path: Path) -> None:
    Waveform(torch.zeros(1, 800), 16_000).write(tmp_path / "no.wav")
    with pytest.raises(MediaError, match=r"no\.wav") as error:
        Inputs.read(speech=tmp_path / "no.wav")
    assert error.value.field == "speech"


@pytest.mark.parametrize("channels", [(0, 0), (1, -1), (0.0,)])
def test_silence_is_refused_from_every_door(channels: tuple[float, ...]) -> None:
    hum = tone().samples[0]
    wave = Waveform(torch.stack([hum * gain for gain in channels]), 16_000)
    (result,) = Engine(tiny_model()).run([ask("asr", Inputs(speech=wave))])
    assert isinstance(result.error, MediaError)
    assert result.error.field == "speech"


def test_standard_input_is_a_dash(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    checkers().write(tmp_path / "it.png")
    for given in ({"image": Path("-")}, {"image": tmp_path / "it.png", "mask": "-"}):
        with (tmp_path / "it.png").open("rb") as raw:
            monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(raw.read())))
        read = Inputs.read(**given)
        assert read.image is not None
        assert torch.equal(read.image.pixels, checkers().pixels)
    with pytest.raises(TaskError, match="stands for two inputs"):
        Inputs.read(image=Path("-"), speech=Path("-"))


def test_a_phone_photo_and_a_mask_drawn_upright_fit(tmp_path: Path) -> None:
    exif = PIL.Image.Exif()
    exif[0x0112] = 6
    PIL.Image.new("RGB", (12, 8), "red").save(tmp_path / "photo.jpg", exif=exif)
    mask = torch.zeros(12, 8, 3, dtype=torch.uint8)  # 8 wide, 12 high, as the photo looks
    mask[2:5, 1:3] = 255
    Picture(mask).write(tmp_path / "mask.png")
    read = Inputs.read(image=tmp_path / "photo.jpg", mask=str(tmp_path / "mask.png"))
    assert read.mask is not None
    assert read.mask.nonzero().tolist() == [[y, x] for y in (2, 3, 4) for x in (1, 2)]


def test_overrides_keep_what_model_and_preset_say() -> None:
    model = tiny_model()
    engine = Engine(model)
    plain, preset = engine.run(
        [
            ask("t2i", Inputs("a dog"), steps=2, seed=9),
            ask("t2i", Inputs("a dog"), steps=2, seed=9, preset="upstream"),
        ]
    )
    assert plain.params is not None
    assert preset.params is not None
    assert plain.params.position_penalty == catalog.task("t2i").params.position_penalty
    assert (plain.params.rules, preset.params.rules) == ("paper", "upstream")
    assert (plain.params.seed, preset.params.seed, preset.params.steps) == (9, 9, 2)


def test_only_pictures_that_are_cut_get_a_note() -> None:
    tall = Picture(torch.zeros(20, 10, 3, dtype=torch.uint8))
    square, cut = Engine(tiny_model()).run(
        [ask("caption", Inputs(image=picture), steps=1) for picture in (checkers(), tall)]
    )
    assert square.notes == ()
    assert cut.notes == ("the picture is 10 x 20: the model sees the 10 x 10 in its middle",)
