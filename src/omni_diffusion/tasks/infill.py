"""Partly masked parts: a hole in a picture, gaps in speech, a text with gaps (cloze).

Builds them, encodes them to partly known codes, and restores the given pixels at the end. Filling
needs no code of its own: the denoiser fills masked tokens whatever is known around them.
"""

from __future__ import annotations

import re

import torch
from torch import Tensor

from omni_diffusion.codecs.glm_voice.codec import GlmVoice
from omni_diffusion.codecs.magvit2 import Magvit2, pixels_of
from omni_diffusion.conversation import Blank, Message, Partial, PartialImage, PartialSpeech, Text
from omni_diffusion.errors import TaskError
from omni_diffusion.media import Picture

BRIGHT = 128  # a mask's pixel of this brightness or more belongs to the hole


def inpainting(picture: Picture, hole: Tensor, text: str | None = None) -> tuple[Message, Message]:
    """The conversation of the task "inpaint".

    hole: bool [H, W], True where the picture is to be painted; text: a description of the result.
    """
    asked = () if text is None else (Text(text),)
    return Message("user", asked), Message("assistant", (PartialImage(picture, hole),))


def box(picture: Picture, left: int, top: int, right: int, bottom: int) -> Tensor:
    """A rectangular hole: bool [H, W], True for columns left..right-1 of rows top..bottom-1."""
    if not (0 <= left < right <= picture.width and 0 <= top < bottom <= picture.height):
        raise TaskError(
            f"the box {left},{top},{right},{bottom} does not lie in the picture of"
            f" {picture.width} x {picture.height}",
            field="mask",
            value=(left, top, right, bottom),
            fix="give left,top,right,bottom inside of it",
        )
    hole = torch.zeros(picture.height, picture.width, dtype=torch.bool)
    hole[top:bottom, left:right] = True
    return hole


def white(mask: Picture) -> Tensor:
    """The hole of a mask drawn as a picture, bool [H, W]: True where it is white."""
    return mask.pixels.float().mean(-1) >= BRIGHT


def cloze(text: str) -> tuple[Text | Blank, ...]:
    """A text with gaps: each underscore of "a __ on a table" is one masked token.

    White space before a gap belongs to it, as tokens begin with their space.
    """
    pieces: list[Text | Blank] = []
    for words in re.split(r"(\s*_+)", text):
        if words.endswith("_"):
            pieces.append(Blank("text", words.count("_")))
        elif words:
            pieces.append(Text(words))
    return tuple(pieces)


def partial_picture(part: PartialImage, codec: Magvit2) -> Partial:
    """The picture's codes at the generation size; a cell that the hole touches is masked."""
    size, stride = codec.config.generation_size, codec.config.stride
    hole = _scaled_hole(part, size)
    blank = hole.unfold(0, stride, stride).unfold(1, stride, stride).flatten(2).any(-1)
    if not bool(blank.any()):
        raise TaskError(
            "the hole touches nothing of the picture's centre square", field="mask", fix="move it"
        )
    ids = codec.encode(part.picture, size).cpu()
    return Partial("image", ids, blank.flatten(), part)


def partial_speech(part: PartialSpeech, codec: GlmVoice) -> Partial:
    """The recording's codes; a code that a gap touches is masked."""
    ids = codec.encode(part.waveform).cpu()
    starts = torch.arange(len(ids)) / codec.codes_per_second
    blank = torch.zeros(len(ids), dtype=torch.bool)
    for start, stop in part.gaps:
        if not 0 <= start < stop <= part.waveform.seconds:
            raise TaskError(
                f"the gap {start:g}..{stop:g} s does not lie in {part.waveform.seconds:.2f} s of"
                " sound",
                field="gaps",
                value=(start, stop),
                fix="give start and stop in seconds inside of it",
            )
        blank |= (starts < stop) & (starts + 1 / codec.codes_per_second > start)
    if not bool(blank.any()):
        raise TaskError(
            "the recording has no gap",
            field="gaps",
            fix="give at least one (start, stop) in seconds",
        )
    return Partial("speech", ids, blank)


def composite(made: Picture, part: PartialImage) -> Picture:
    """The generated picture [size, size] inside of the hole, the given pixels outside of it.

    A given picture of another size is scaled and cropped to the generated one first.
    """
    size = made.height
    given = ((pixels_of(part.picture, size) + 1) * 127.5).round().to(torch.uint8).permute(1, 2, 0)
    hole = _scaled_hole(part, size)[..., None]
    return Picture(torch.where(hole, made.pixels, given))


def _scaled_hole(part: PartialImage, size: int) -> Tensor:
    """The hole [size, size], scaled and cropped like the picture; a pixel it touches is inside."""
    drawn = Picture((part.hole[..., None] * 255).to(torch.uint8).expand(-1, -1, 3).contiguous())
    return pixels_of(drawn, size)[0] > -1
