"""Conversations for every task of the catalog, and a stand-in for a denoiser."""

from __future__ import annotations

import torch
from tests.tiny import checkers, tone

from omni_diffusion.canvas import Canvas
from omni_diffusion.conversation import Blank, Image, Message, Part, Speech, Text
from omni_diffusion.tasks.infill import box, cloze, inpainting
from omni_diffusion.vocab import Vocabulary

SAID = Text("a red apple")
HEARD = Speech(tone())
SEEN = Image(checkers(20))


def user(*parts: Part) -> tuple[Message, ...]:
    return (Message("user", parts),)


CONVERSATIONS: dict[str, tuple[Message, ...]] = {
    "chat": user(SAID),
    "asr": user(HEARD),
    "tts": user(SAID),
    "t2i": user(SAID),
    "caption": user(SEEN),
    "vqa": user(SAID, SEEN),
    "s2i": user(HEARD),
    "svqa": user(HEARD, SEEN),
    "sqa": user(HEARD),
    "inpaint": inpainting(checkers(8), box(checkers(8), 0, 0, 3, 3), "a dog"),
    "infill": (
        Message("user", (SAID, SEEN)),
        Message("assistant", (*cloze("it is __"), Blank("image", 16), Blank("speech", 4))),
    ),
}


def filled(canvas: Canvas, seed: int = 0) -> Canvas:
    """Every blank with some id that its place allows."""
    generator = torch.Generator().manual_seed(seed)
    places = canvas.blank.nonzero().flatten()
    low, high = canvas.allowed[places].unbind(1)
    share = torch.rand(len(places), generator=generator)
    return canvas.fill(places, low + (share * (high - low)).long())


def names(ids: torch.Tensor, vocabulary: Vocabulary) -> list[str]:
    """Ids as words: specials and codes by name, text ids by number."""
    return [str(id) if id in vocabulary.text else vocabulary.name(id) for id in ids.tolist()]
