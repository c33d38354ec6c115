"""Pillow images of any mode as 8-bit RGB, turned upright, on white; and the holes of masks."""

from __future__ import annotations

import io
import struct
from typing import BinaryIO

import numpy as np
import PIL.Image
import PIL.ImageOps

from omni_diffusion.errors import MediaError

ORIENTATION = 0x0112  # EXIF tag; 5 to 8 exchange width and height
BITS_PER_SAMPLE, SAMPLE_FORMAT, UNSIGNED = 258, 339, 1  # TIFF tags, and a value of the second
BRIGHT = 128  # of 255; a mask's pixel of this brightness or more belongs to the hole
DEEP_GREY = ("I", "F")  # modes that Pillow would cut off at 255 instead of scaling them
COMMENTS = (b"tEXt", b"zTXt", b"iTXt", b"iCCP")  # PNG chunks that change no pixel here
PNG = b"\x89PNG\r\n\x1a\n"


def rgb(image: PIL.Image.Image) -> PIL.Image.Image:
    """The image as RGB: upright as its EXIF orientation says, transparent parts on white.

    Grey of more than 8 bits is scaled to 0..255, see `_grey`. Raises MediaError for grey that is
    negative or not finite.
    """
    upright = _upright(image)
    if upright.mode.startswith(DEEP_GREY):
        deep, clear = np.asarray(upright), image.info.get("transparency")
        upright = _grey(deep, image)
        if isinstance(clear, int):  # this grey is transparent
            upright.paste(255, mask=PIL.Image.fromarray(deep == clear))
    if not upright.has_transparency_data:
        return upright.convert("RGB")
    return _over(upright, "white")


def upright_size(image: PIL.Image.Image) -> tuple[int, int]:
    """Width and height after `rgb`, of an image whose pixels are not read yet."""
    turned = _orientation(image) in (5, 6, 7, 8)
    return (image.height, image.width) if turned else (image.width, image.height)


def white_part(image: PIL.Image.Image) -> np.ndarray[tuple[int, ...], np.dtype[np.bool_]]:
    """The hole of a drawn mask, bool [H, W]: True where its brightness is 128 of 255 or more.

    Transparent parts count as black, so white paint on a transparent layer is the hole. Raises
    MediaError if other colors are opaque beside transparent parts: some programs mean the
    transparent part then.
    """
    if not image.has_transparency_data:
        return _bright(rgb(image))
    image = _upright(image)
    bright = _bright(_over(image, "black"))
    shown = np.asarray(image.convert("RGBA").getchannel("A")) >= BRIGHT
    if not shown.all() and not np.array_equal(bright, shown):
        raise MediaError(
            "the mask has transparent parts beside parts that are not white",
            field="mask",
            fix="give it without transparency, white in the hole and black elsewhere",
        )
    return bright


def without_comments(stream: BinaryIO) -> BinaryIO:
    """A PNG without its texts and color profile, in memory; other data unchanged.

    Pillow refuses comments of more than 1 MB, which programs that generate pictures write.
    """
    stream.seek(0)
    data, kept, at = stream.read(), [PNG], len(PNG)
    while data.startswith(PNG) and at + 8 <= len(data):
        (count,) = struct.unpack_from(">I", data, at)
        if data[at + 4 : at + 8] not in COMMENTS:
            kept.append(data[at : at + 12 + count])
        at += 12 + count
    return io.BytesIO(b"".join(kept) if data.startswith(PNG) else data)


def _bright(image: PIL.Image.Image) -> np.ndarray[tuple[int, ...], np.dtype[np.bool_]]:
    bright: np.ndarray[tuple[int, ...], np.dtype[np.bool_]]
    bright = np.asarray(image).astype(np.float32).mean(-1) >= BRIGHT
    return bright


def _over(image: PIL.Image.Image, color: str) -> PIL.Image.Image:
    """An image with transparency as RGB on a ground of one color."""
    ground = PIL.Image.new("RGBA", image.size, color)
    return PIL.Image.alpha_composite(ground, image.convert("RGBA")).convert("RGB")


def _upright(image: PIL.Image.Image) -> PIL.Image.Image:
    image.load()  # the errors of broken pixels are raised here
    try:
        return PIL.ImageOps.exif_transpose(image)
    except Exception:  # an EXIF block that cannot be read says nothing; its errors have no base
        return image


def _orientation(image: PIL.Image.Image) -> int:
    """The EXIF orientation, 1 to 8, of an image whose pixels are not read yet."""
    if image.format == "TIFF":  # Pillow turns these itself
        return 1
    if image.format == "PNG" and "exif" not in image.info:  # looking further would read the pixels
        return 1
    try:
        return int(image.getexif().get(ORIENTATION, 1))
    except Exception:  # as in `_upright`
        return 1


def _grey(
    values: np.ndarray[tuple[int, ...], np.dtype[np.generic]], image: PIL.Image.Image
) -> PIL.Image.Image:
    """Grey values of 12 to 32 bits or floats, read from `image`, as 8-bit grey.

    The scale is that of the file: its bits, or 0..65535 of a PGM. A file of 32 bits or floats does
    not tell: white is the smallest of 1 (floats), 255 and 65535 that holds all values, beyond them
    the largest value.
    """
    tags = getattr(image, "tag_v2", {})
    if image.mode.startswith("I;16"):
        shift = 4 if tags.get(BITS_PER_SAMPLE) == (12,) else 8
        return PIL.Image.fromarray((values.astype(np.uint16) >> shift).astype(np.uint8))
    if image.mode == "I" and tags.get(SAMPLE_FORMAT, (0,))[0] == UNSIGNED:
        values = values.astype(np.int32).view(np.uint32)  # Pillow calls them signed
    scaled = values.astype(np.float64)
    low, high = float(scaled.min()), float(scaled.max())
    if not (np.isfinite(low) and np.isfinite(high) and low >= 0):
        raise MediaError(
            f"the grey values go from {low:g} to {high:g}",
            value=(low, high),
            fix="scale them to 0..1, or save the picture with 8 bits",
        )
    if image.format == "PPM" and image.mode == "I":
        top = 65_535.0  # Pillow scales every PGM of more than 8 bits to it
    else:
        unit = image.mode == "F" and high < 2  # 1, or a little more after filters
        top = (
            max(high, 1.0)
            if unit
            else next((top for top in (255.0, 65_535.0) if high <= top), high)
        )
    if top == 65_535.0:
        return PIL.Image.fromarray((scaled / 256).astype(np.uint8))  # as of 16-bit files
    return PIL.Image.fromarray((scaled * (255 / top) + 0.5).astype(np.uint8))
