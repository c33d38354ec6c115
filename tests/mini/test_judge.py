import random

import pytest
import torch

from omni_diffusion.conversation import Image, Part, PartialImage, Text
from omni_diffusion.evaluation.scoring import Scores
from omni_diffusion.media import Picture
from omni_diffusion.mini import judge, scenes
from omni_diffusion.mini.scenes import Scene
from omni_diffusion.tasks.infill import box

PAIR = Scene("row", ("dog", "car"), "pink")


def amounts(scores: Scores) -> dict[str, int]:
    assert {score.of for score in scores.values()} == {1}
    return {name: score.amount for name, score in scores.items()}


def test_every_wording_of_a_scene_is_right() -> None:
    rng = random.Random(0)
    for _ in range(50):
        scene = scenes.sample_scene(rng, split="test")
        for wording in scenes.captions(scene):
            said = (Text(f" {wording}.\n"),)
            assert set(amounts(judge.score_caption(scene, said)).values()) == {1}


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
    result = amounts(judge.score_caption(PAIR, (Text(said),)))
    assert {name for name, amount in result.items() if not amount} == wrong | {"value"}


def test_a_picture_is_looked_at() -> None:
    other = Scene("row", ("dog", "bus"), "pink")
    assert amounts(judge.score_image(PAIR, (Image(scenes.render_scene(PAIR)),)))["value"] == 1
    result = amounts(judge.score_image(PAIR, (Text("here"), Image(scenes.render_scene(other)))))
    assert result == {"value": 0, "layout": 1, "objects": 0, "background": 1, "style": 1}
    assert not any(amounts(judge.score_image(PAIR, (Text("none"),))).values())


@pytest.mark.parametrize(
    ("parts", "amount"),
    [((Text(" two\n"),), 1), ((Text("three"),), 0), ((Text("two dogs"),), 0), ((), 0)],
)
def test_answers_are_exact(parts: tuple[Part, ...], amount: int) -> None:
    scores = judge.score_text("count", "two", parts)
    assert amounts(scores) == {"value": amount, "count": amount}


def test_a_restored_picture_keeps_every_pixel_around_its_hole() -> None:
    picture = scenes.render_scene(PAIR)
    given = PartialImage(picture, box(picture, 0, 16, 32, 48))

    def judged(pixels: torch.Tensor) -> dict[str, int]:
        return amounts(judge.score_inpainting(PAIR, given, (Image(Picture(pixels)),)))

    assert judged(picture.pixels) == {"value": 1, "kept": 1}
    touched = picture.pixels.clone()
    touched[0, 0, 0] += 1  # nobody would see it
    assert judged(touched) == {"value": 0, "kept": 0}
    cat = scenes.render_scene(Scene("row", ("cat", "car"), "pink"))
    assert judged(cat.pixels) == {"value": 0, "kept": 1}
    assert not any(amounts(judge.score_inpainting(PAIR, given, ())).values())
