"""Media that a client sends: data URIs, base64 and files, checked before they are decoded.

No address is ever fetched.
"""

from __future__ import annotations

import base64
import binascii
import io
import re
from collections.abc import Callable
from typing import TypeVar

import PIL.Image
import torch
from torch import Tensor

from omni_diffusion.engine.ask import fitting_hole, read_box
from omni_diffusion.errors import MediaError, OmniError
from omni_diffusion.media import READABLE_PICTURES, Picture, Waveform, picture_size
from omni_diffusion.serving.faults import ApiError, api_error
from omni_diffusion.serving.limits import Limits
from omni_diffusion.tasks.infill import drawn_hole

DATA_URI = re.compile(r"data:[\w.+/-]*(?:;[\w.+-]+=[^;,]*)*;base64,", re.ASCII)
TRANSPARENT = 128  # alpha below it belongs to the hole
Decoded = TypeVar("Decoded")


def content(text: str, param: str) -> bytes:
    """The bytes of a data URI or of plain base64; raises ApiError for anything else."""
    match = DATA_URI.match(text)
    if match is None and re.match(r"[a-zA-Z][\w+.-]*:", text):
        scheme = text.partition(":")[0]
        raise ApiError(
            400,
            f"'{param}' is an address of scheme {scheme!r}; this server fetches nothing: send"
            " the file itself as data:...;base64,...",
            param=param,
            code="invalid_value",
        )
    encoded = text[match.end() :] if match else text
    try:
        data = base64.b64decode(encoded, validate=True)
    except (binascii.Error, ValueError) as error:
        raise ApiError(
            400, f"'{param}' is not valid base64", param=param, code="invalid_value"
        ) from error
    if not data:
        raise ApiError(400, f"'{param}' is empty", param=param, code="invalid_value")
    return data


def read_picture(data: bytes, limits: Limits, param: str) -> Picture:
    """A picture; raises ApiError for one that is broken or too large."""
    return _named(param, lambda: Picture.read(data, max_pixels=limits.pixels))


def read_sound(data: bytes, limits: Limits, param: str) -> Waveform:
    """A recording; raises ApiError for one that is broken, too long or silent."""

    def read() -> Waveform:
        waveform = Waveform.read(data, max_seconds=limits.audio_seconds)
        waveform.check_heard()
        return waveform

    return _named(param, read)


def hole(data: bytes, of: Picture, limits: Limits, param: str) -> Tensor:
    """The hole of a mask, bool [H, W]: its transparent part, or, without one, its white part."""

    def read() -> Tensor:
        picture_size(data, max_pixels=limits.pixels)
        alpha = _alpha(data)
        found = drawn_hole(data) if alpha is None else alpha < TRANSPARENT
        return fitting_hole(found, of, "mask")

    return _named(param, read)


def box_or_hole(text: str, of: Picture, limits: Limits, param: str) -> Tensor:
    """The hole of "left,top,right,bottom" in pixels, or of a mask as data URI."""
    found = _named(param, lambda: read_box(text, of))
    return hole(content(text, param), of, limits, param) if found is None else found


def _alpha(data: bytes) -> Tensor | None:
    """The alpha [H, W] of a picture that is transparent somewhere, else None."""
    try:
        with PIL.Image.open(io.BytesIO(data), formats=READABLE_PICTURES) as image:
            if not image.has_transparency_data:
                return None
            rows = bytearray(image.convert("RGBA").getchannel("A").tobytes())
            alpha = torch.frombuffer(rows, dtype=torch.uint8).view(image.height, image.width)
    except (OSError, ValueError, SyntaxError) as error:
        raise MediaError("the mask is not a readable picture", fix="give a PNG") from error
    return alpha if bool((alpha < TRANSPARENT).any()) else None


def _named(param: str, read: Callable[[], Decoded]) -> Decoded:
    """What `read` gives; its error names the parameter of the request."""
    try:
        return read()
    except OmniError as error:
        found = api_error(error)
        found.param = param
        raise found from error
