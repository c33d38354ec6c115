"""Partly masked parts: a hole in a picture, gaps in speech, a text with gaps (cloze).

Builds them, encodes them to partly known codes, and restores the given pixels at the end. Filling
needs no code of its own: the denoiser fills masked tokens whatever is known around them. The model
sees one square: of a picture that is not square, the square around the hole, or all of it, padded,
where the hole does not fit. What it paints is pasted back into the picture at its own size.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
import PIL.Image
import torch
import torch.nn.functional as F
from torch import Tensor

from omni_diffusion.codecs.glm_voice.codec import GlmVoice
from omni_diffusion.codecs.magvit2 import Magvit2, check_aspect
from omni_diffusion.conversation import Blank, Message, Partial, PartialImage, PartialSpeech, Text
from omni_diffusion.errors import TaskError
from omni_diffusion.io.pixels import BRIGHT
from omni_diffusion.media import Picture, Source, mask_hole

DrawnMask: TypeAlias = "Source | PIL.Image.Image | Picture | np.ndarray[Any, Any] | Tensor"


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


def drawn_hole(mask: DrawnMask, name: str = "the mask") -> Tensor:
    """The hole of a mask of any type, bool [H, W]: True where the mask is bright.

    One threshold for all: half of white, which is 128 of 255 for pictures and whole numbers, 0.5
    for floats of 0 to 1. Arrays are [H, W], also with leading dimensions of 1 or one channel last;
    whole numbers of 0 and 1 alone are taken as bool. Raises TaskError for another shape or other
    values and for a mask without a hole, MediaError for a picture that cannot be read.
    """
    if isinstance(mask, np.ndarray | Tensor):
        hole = _array_hole(torch.as_tensor(mask).cpu())
    elif isinstance(mask, Picture):
        hole = mask.pixels.float().mean(-1) >= BRIGHT
    else:
        hole = mask_hole(mask)
    if not bool(hole.any()):
        raise TaskError(
            f"{name} has no white part", field="mask", fix="paint white what is to be painted"
        )
    return hole


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
    if not bool(part.hole.any()):
        raise TaskError("the hole is empty", field="mask", fix="give at least one pixel")
    size, stride = codec.config.generation_size, codec.config.stride
    window = painted_window(part, size)
    ids = codec.encode(window.seen(part.picture), size).cpu()
    hole = part.hole[window.top : window.bottom, window.left : window.right].float()[None]
    touched = F.adaptive_max_pool2d(hole, (window.rows, window.columns))[0].bool()
    touched = F.pad(touched, (0, size - window.columns, 0, size - window.rows))
    blank = touched.unfold(0, stride, stride).unfold(1, stride, stride).flatten(2).any(-1)
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


@dataclass(frozen=True)
class PaintedWindow:
    """The part of a picture that the model sees, in its pixels, and its rows and columns there.

    Either is a square; a window that is not is padded on the right or below to `size`.
    """

    left: int
    top: int
    right: int
    bottom: int
    rows: int
    columns: int
    size: int

    def seen(self, picture: Picture) -> Picture:
        """The window of the picture; padded to a square of `size` if it is not a square."""
        cut = Picture(picture.pixels[self.top : self.bottom, self.left : self.right].contiguous())
        if cut.width == cut.height:
            return cut
        check_aspect(cut.width, cut.height)
        scaled = Picture.from_pil(
            cut.to_pil().resize((self.columns, self.rows), PIL.Image.Resampling.BICUBIC)
        )
        count = torch.arange(self.size)
        rows, columns = count.clamp(max=self.rows - 1), count.clamp(max=self.columns - 1)
        return Picture(scaled.pixels[rows][:, columns].contiguous())

    def placed(self, made: Picture) -> Tensor:
        """A generated picture [size, size] at the size of the window, uint8 [h, w, 3]."""
        image = Picture(made.pixels[: self.rows, : self.columns].contiguous()).to_pil()
        size = (self.right - self.left, self.bottom - self.top)
        if image.size != size:
            image = image.resize(size, PIL.Image.Resampling.BICUBIC)
        return Picture.from_pil(image).pixels


def painted_window(part: PartialImage, size: int) -> PaintedWindow:
    """What the model sees of a picture with a hole: a square around the hole, or all of it."""
    width, height = part.picture.width, part.picture.height
    short = min(width, height)
    left, right = _span(part.hole.any(0))
    top, bottom = _span(part.hole.any(1))
    if max(right - left, bottom - top) <= short:
        left, top = _centred(left, right, short, width), _centred(top, bottom, short, height)
        return PaintedWindow(left, top, left + short, top + short, size, size, size)
    scale = size / max(width, height)
    rows, columns = (max(1, round(side * scale)) for side in (height, width))
    return PaintedWindow(0, 0, width, height, rows, columns, size)


def composite(made: Picture, part: PartialImage) -> Picture:
    """The given picture at its own size, with the generated one [size, size] inside of the hole.

    Every pixel outside of the hole is that of the given picture.
    """
    window = painted_window(part, made.height)
    rows, columns = slice(window.top, window.bottom), slice(window.left, window.right)
    pixels = part.picture.pixels.clone()
    hole = part.hole[rows, columns, None]
    pixels[rows, columns] = torch.where(hole, window.placed(made), pixels[rows, columns])
    return Picture(pixels)


def composite_note(part: PartialImage, size: int) -> str | None:
    """What a reader should know of a painted hole; None for a picture of `size` a side."""
    window = painted_window(part, size)
    width, height = window.right - window.left, window.bottom - window.top
    if (width, height) == (size, size) == (part.picture.width, part.picture.height):
        return None
    return (
        f"the hole was painted at {window.columns} x {window.rows}, for {width} x {height} of the"
        f" picture's {part.picture.width} x {part.picture.height}; all pixels outside of it are as"
        " given"
    )


def _array_hole(mask: Tensor) -> Tensor:
    """The hole of an array, bool [H, W]; raises TaskError for another shape or other values."""
    flat = mask[..., 0] if mask.ndim > 2 and mask.shape[-1] == 1 else mask
    while flat.ndim > 2 and flat.shape[0] == 1:
        flat = flat[0]
    if flat.ndim != 2 or not flat.numel():
        raise TaskError(
            f"the mask has the shape {tuple(mask.shape)}", field="mask", fix="give [H, W]"
        )
    if flat.dtype == torch.bool:
        return flat
    if flat.is_complex():
        raise TaskError("the mask is complex", field="mask", fix="give bool, or floats of 0 to 1")
    low, high = float(flat.min()), float(flat.max())
    top = 1.0 if flat.is_floating_point() or high <= 1 else 255.0
    if not (low >= 0 and high <= top):  # also NaN
        raise TaskError(
            f"the mask has values from {low:g} to {high:g}",
            field="mask",
            value=(low, high),
            fix="give bool, floats of 0 to 1, or whole numbers of 0 to 255",
        )
    return flat >= (BRIGHT if top == 255.0 else 0.5)


def _span(touched: Tensor) -> tuple[int, int]:
    """The first and one past the last True of [n]; all of it where there is none."""
    where = touched.nonzero().flatten()
    return (int(where[0]), int(where[-1]) + 1) if len(where) else (0, len(touched))


def _centred(start: int, stop: int, short: int, side: int) -> int:
    """Where a stretch of `short` begins that has start..stop in its middle, inside of `side`."""
    return min(max((start + stop - short) // 2, 0), side - short)
