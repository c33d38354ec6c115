import random

import pytest
import torch

from omni_diffusion.conversation import Image, Part, Text
from omni_diffusion.media import Picture
from omni_diffusion.mini import judge, scenes
from omni_diffusion.mini.scenes import Scene
from omni_diffusion.tasks.infill import box
from omni_diffusion.tasks.parts import PartialImage

PAIR = Scene("row", ("dog", "car"), "pink")


def amounts(marks: judge.Marks) -> dict[str, int]:
    assert {mark.of for mark in marks.values()} == {1}
    return {name: mark.amount for name, mark in marks.items()}


def test_every_wording_of_a_scene_is_right() -> None:
    rng = random.Random(0)
    for _ in range(50):
        scene = scenes.sample_scene(rng, split="test")
        for wording in scenes.captions(scene):
            said = (Text(f" {wording}.\n"),)
            assert set(amounts(judge.described(scene, said)).values()) == {1}


@pytest.mark.parametrize(
    ("said", "wrong"),
    [
        ("a car to the left of a dog on a pink background", {"objects"}),
        ("a dog above a car on a pink background", {"layout"}),
        ("a dog left of a car on a blue background", {"background"}),
        ("a dog left of a car on a pink background in flat style", {"style"}),
        ("a dog dog", {"layout", "objects", "background", "style"}),
        ("", {"layout", "objects", "background", "style"}),
    ],
)
def test_a_wrong_caption_says_what_is_wrong(said: str, wrong: set[str]) -> None:
    found = amounts(judge.described(PAIR, (Text(said),)))
    assert {name for name, amount in found.items() if not amount} == wrong | {"value"}


def test_a_picture_is_looked_at() -> None:
    other = Scene("row", ("dog", "bus"), "pink")
    assert amounts(judge.shown(PAIR, (Image(scenes.render(PAIR)),)))["value"] == 1
    found = amounts(judge.shown(PAIR, (Text("here"), Image(scenes.render(other)))))
    assert found == {"value": 0, "layout": 1, "objects": 0, "background": 1, "style": 1}
    assert not any(amounts(judge.shown(PAIR, (Text("none"),))).values())


@pytest.mark.parametrize(
    ("parts", "amount"),
    [((Text(" two\n"),), 1), ((Text("three"),), 0), ((Text("two dogs"),), 0), ((), 0)],
)
def test_answers_are_exact(parts: tuple[Part, ...], amount: int) -> None:
    marks = judge.answered("count", "two", parts)
    assert amounts(marks) == {"value": amount, "count": amount}


def test_a_restored_picture_keeps_every_pixel_around_its_hole() -> None:
    picture = scenes.render(PAIR)
    given = PartialImage(picture, box(picture, 0, 16, 32, 48))

    def judged(pixels: torch.Tensor) -> dict[str, int]:
        return amounts(judge.restored(PAIR, given, (Image(Picture(pixels)),)))

    assert judged(picture.pixels) == {"value": 1, "kept": 1}
    touched = picture.pixels.clone()
    touched[0, 0, 0] += 1  # nobody would see it
    assert judged(touched) == {"value": 0, "kept": 0}
    cat = scenes.render(Scene("row", ("cat", "car"), "pink"))
    assert judged(cat.pixels) == {"value": 0, "kept": 1}
    assert not any(amounts(judge.restored(PAIR, given, ())).values())
