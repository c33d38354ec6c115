"""Parts of which something is to be made anew: a hole in a picture, a gap in speech, a cloze text.

Makes them, turns them into partly known codes, and puts the given pixels back at the end. Filling
itself is no matter of its own: a blank is a blank, whatever is known around it.
"""

from __future__ import annotations

import re

import torch
from torch import Tensor

from omni_diffusion.codecs.glm_voice.codec import GlmVoice
from omni_diffusion.codecs.magvit2 import Magvit2, pixels_of
from omni_diffusion.conversation import Text
from omni_diffusion.errors import TaskError
from omni_diffusion.media import Picture
from omni_diffusion.tasks.parts import Blank, Draft, Partial, PartialImage, PartialSpeech

BRIGHT = 128  # a mask's pixel from here on belongs to the hole


def inpainting(picture: Picture, hole: Tensor, text: str | None = None) -> tuple[Draft, Draft]:
    """The conversation of the task "inpaint".

    hole: bool [H, W], True where the picture is to be painted anew; text: what it shall show.
    """
    asked = () if text is None else (Text(text),)
    return Draft("user", asked), Draft("assistant", (PartialImage(picture, hole),))


def box(picture: Picture, left: int, top: int, right: int, bottom: int) -> Tensor:
    """A rectangular hole: bool [H, W], True for columns left..right-1 of rows top..bottom-1."""
    if not (0 <= left < right <= picture.width and 0 <= top < bottom <= picture.height):
        raise TaskError(
            f"the box {left},{top},{right},{bottom} does not lie in the picture of"
            f" {picture.width} x {picture.height}; give left,top,right,bottom inside of it"
        )
    hole = torch.zeros(picture.height, picture.width, dtype=torch.bool)
    hole[top:bottom, left:right] = True
    return hole


def white(mask: Picture) -> Tensor:
    """A drawn mask's hole, bool [H, W]: True where it is white."""
    return mask.pixels.float().mean(-1) >= BRIGHT


def cloze(text: str) -> tuple[Text | Blank, ...]:
    """A text with gaps: each underscore of "a __ on a table" is one unknown token.

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
    """The picture's codes at the generation size; a cell that the hole touches is unknown."""
    size, stride = codec.config.generation_size, codec.config.stride
    hole = _scaled_hole(part, size)
    blank = hole.unfold(0, stride, stride).unfold(1, stride, stride).flatten(2).any(-1)
    if not bool(blank.any()):
        raise TaskError("the hole touches nothing of the picture's centre square; move it")
    ids = codec.encode(part.picture, size).cpu()
    return Partial("image", ids, blank.flatten(), part)


def partial_speech(part: PartialSpeech, codec: GlmVoice) -> Partial:
    """The recording's codes; one that a gap touches is unknown."""
    ids = codec.encode(part.waveform).cpu()
    starts = torch.arange(len(ids)) / codec.codes_per_second
    blank = torch.zeros(len(ids), dtype=torch.bool)
    for start, stop in part.gaps:
        if not 0 <= start < stop <= part.waveform.seconds:
            raise TaskError(
                f"the gap {start:g}..{stop:g} s does not lie in {part.waveform.seconds:.2f} s of"
                " sound; give start and stop in seconds inside of it"
            )
        blank |= (starts < stop) & (starts + 1 / codec.codes_per_second > start)
    if not bool(blank.any()):
        raise TaskError("the recording has no gap; give at least one (start, stop) in seconds")
    return Partial("speech", ids, blank)


def composite(made: Picture, part: PartialImage) -> Picture:
    """The made picture [size, size] inside of the hole, the given pixels exactly outside of it.

    The given picture is scaled and cropped to the made one's size first, if it has another.
    """
    size = made.height
    given = ((pixels_of(part.picture, size) + 1) * 127.5).round().to(torch.uint8).permute(1, 2, 0)
    hole = _scaled_hole(part, size)[..., None]
    return Picture(torch.where(hole, made.pixels, given))


def _scaled_hole(part: PartialImage, size: int) -> Tensor:
    """The hole [size, size], scaled and cropped as the picture is; what it touches is in it."""
    drawn = Picture((part.hole[..., None] * 255).to(torch.uint8).expand(-1, -1, 3).contiguous())
    return pixels_of(drawn, size)[0] > -1
