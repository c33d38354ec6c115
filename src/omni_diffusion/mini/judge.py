"""Scores of answers about scenes: images are recognized, captions are compared by meaning."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypeVar

import torch

from omni_diffusion.conversation import Image, Part, PartialImage, text_of
from omni_diffusion.evaluation.scoring import Scores, correct
from omni_diffusion.mini import scenes
from omni_diffusion.mini.scenes import Scene

ATTRIBUTES = ("layout", "objects", "background", "style")
P = TypeVar("P", bound=Part)


def first_part(parts: Sequence[Part], kind: type[P]) -> P | None:
    """The first part of a kind, or None."""
    return next((part for part in parts if isinstance(part, kind)), None)


def score_caption(scene: Scene, answer: Sequence[Part]) -> Scores:
    """Any wording of a caption with the meaning of the scene is correct."""
    return _compare(scenes.parse(text_of(answer)), scene)


def score_image(scene: Scene, answer: Sequence[Part]) -> Scores:
    """An image is correct if every attribute of the scene is recognized in it."""
    image = first_part(answer, Image)
    return _compare(None if image is None else scenes.recognize_scene(image.picture), scene)


def score_text(kind: str, expected: str, answer: Sequence[Part]) -> Scores:
    """The text has to equal `expected`; `kind` of the question is the name of the detail."""
    score = correct(text_of(answer) == expected)
    return {"value": score, kind: score}


def score_inpainting(scene: Scene, given: PartialImage, answer: Sequence[Part]) -> Scores:
    """The scene has to be recognized, and no pixel outside the hole may differ."""
    image = first_part(answer, Image)
    if image is None:
        return {"value": correct(False), "kept": correct(False)}
    known = ~given.hole
    kept = torch.equal(image.picture.pixels[known], given.picture.pixels[known])
    recognized = scenes.recognize_scene(image.picture) == scene
    return {"value": correct(kept and recognized), "kept": correct(kept)}


def _compare(answer: Scene | None, scene: Scene) -> Scores:
    """Whether the whole scene is correct, and each attribute."""
    attributes = {
        name: correct(getattr(answer, name, None) == getattr(scene, name)) for name in ATTRIBUTES
    }
    return {"value": correct(answer == scene)} | attributes
