"""What an answer of the small world is worth: pictures are looked at, captions read by meaning.

Knows no sample and no model.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TypeAlias, TypeVar

import torch

from omni_diffusion.conversation import Image, Part, Text
from omni_diffusion.evaluation.scoring import Mark, right
from omni_diffusion.mini import scenes
from omni_diffusion.mini.scenes import Scene
from omni_diffusion.tasks.parts import PartialImage

Marks: TypeAlias = Mapping[str, Mark]
"""Of one answer, by name; "value" is what counts, the others are details."""

ATTRIBUTES = ("layout", "objects", "background", "style")
P = TypeVar("P", bound=Part)


def first(parts: Sequence[Part], kind: type[P]) -> P | None:
    """The first part of a kind."""
    return next((part for part in parts if isinstance(part, kind)), None)


def text_of(parts: Sequence[Part]) -> str:
    """The first text, without white space around; empty where there is none."""
    found = first(parts, Text)
    return "" if found is None else found.text.strip()


def described(scene: Scene, parts: Sequence[Part]) -> Marks:
    """A caption: any wording with the meaning of the scene is right."""
    return _alike(scenes.parse(text_of(parts)), scene)


def shown(scene: Scene, parts: Sequence[Part]) -> Marks:
    """A picture: every attribute of the scene has to be seen in it."""
    image = first(parts, Image)
    return _alike(None if image is None else scenes.look(image.picture), scene)


def answered(kind: str, answer: str, parts: Sequence[Part]) -> Marks:
    """An answer in text, exact; `kind` is the detail that it is told under."""
    mark = right(text_of(parts) == answer)
    return {"value": mark, kind: mark}


def restored(scene: Scene, given: PartialImage, parts: Sequence[Part]) -> Marks:
    """A picture whose hole was filled: the scene is whole, and no pixel outside was changed."""
    image = first(parts, Image)
    if image is None:
        return {"value": right(False), "kept": right(False)}
    around = ~given.hole
    kept = torch.equal(image.picture.pixels[around], given.picture.pixels[around])
    whole = scenes.look(image.picture) == scene
    return {"value": right(kept and whole), "kept": right(kept)}


def _alike(found: Scene | None, scene: Scene) -> Marks:
    """Whether all of a scene is right, and each attribute for itself."""
    each = {name: right(getattr(found, name, None) == getattr(scene, name)) for name in ATTRIBUTES}
    return {"value": right(found == scene)} | each
