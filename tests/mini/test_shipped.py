"""The model that comes with the package: there, small enough, and at work on every answer."""

from collections.abc import Iterator
from dataclasses import replace

import pytest
import torch

from omni_diffusion import Engine, Image, Message, OmniModel, Request, Speech, Text
from omni_diffusion.diffusion.params import SamplingParams
from omni_diffusion.mini import scenes
from omni_diffusion.models.omni import SMALL_MODEL

MEGABYTE = 1_000_000


@pytest.fixture(scope="module")
def model() -> OmniModel:
    return OmniModel.open()


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def ask(model: OmniModel, task: str, *parts: Text | Image | Speech, steps: int = 8) -> list[object]:
    params = replace(model.generation.sampling.get(task, SamplingParams()), steps=steps)
    [result] = Engine(model).run([Request(task, (Message("user", parts),), params)])
    assert result.error is None
    return list(result.parts)


def test_it_has_a_card_and_fits_its_budget() -> None:
    assert (SMALL_MODEL / "README.md").is_file()
    sizes = [file.stat().st_size for file in SMALL_MODEL.rglob("*") if file.is_file()]
    assert max(sizes) < 16 * MEGABYTE
    assert sum(sizes) < 60 * MEGABYTE


@pytest.mark.slow
def test_it_paints_what_is_asked_for(model: OmniModel) -> None:
    """Three of four at least: the evaluation has the figure, this tells a broken model."""
    asked = [
        scenes.Scene("corners", ("dog",) * 4, "blue"),
        scenes.Scene("row", ("pineapple", "apple"), "white"),
        scenes.Scene("column", ("carrot", "camera"), "pink"),
        scenes.Scene("one", ("house",), "green"),
    ]
    painted = [ask(model, "t2i", Text(scenes.caption(scene)), steps=10) for scene in asked]
    seen = [scenes.recognize_scene(part.picture) for [part] in painted if isinstance(part, Image)]
    assert sum(one == scene for one, scene in zip(seen, asked, strict=True)) >= 3


def test_it_names_the_background_of_a_picture(model: OmniModel) -> None:
    scene = scenes.Scene("one", ("strawberry",), "yellow")
    asked = Text("what color is the background?")
    [answer] = ask(model, "vqa", asked, Image(scenes.render_scene(scene)))
    assert answer == Text("yellow")


def test_it_speaks(model: OmniModel) -> None:
    parts = ask(model, "tts", Text("it is a dog"))
    [sound] = [part for part in parts if isinstance(part, Speech)]
    assert 0.3 < sound.waveform.seconds < 4
    assert float(sound.waveform.samples.abs().max()) > 0.01
