"""Pictures of every mode as a person sees them: deep grey, rotation, transparency, big comments."""

import io
import struct
import zlib
from typing import Any

import numpy as np
import PIL.Image
import PIL.PngImagePlugin
import pytest

from omni_diffusion.errors import MediaError
from omni_diffusion.io.pixels import (
    ORIENTATION,
    rgb,
    upright_size,
    white_part,
    without_comments,
)

GREY = np.arange(256, dtype=np.uint8).reshape(16, 16)


def opened(image: PIL.Image.Image, kind: str, **options: Any) -> PIL.Image.Image:
    """The image after a file."""
    out = io.BytesIO()
    image.save(out, kind, **options)
    return PIL.Image.open(io.BytesIO(out.getvalue()))


def chunk(kind: bytes, body: bytes) -> bytes:
    return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))


def png(width: int, height: int, bits: int, color: int, rows: bytes, *more: bytes) -> bytes:
    header = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, bits, color, 0, 0, 0))
    data = chunk(b"IDAT", zlib.compress(rows))
    return b"\x89PNG\r\n\x1a\n" + header + b"".join(more) + data + chunk(b"IEND", b"")


def pgm(top: int, values: np.ndarray[Any, Any]) -> PIL.Image.Image:
    body = values.astype(">u2").tobytes()
    return PIL.Image.open(io.BytesIO(f"P5 16 16 {top}\n".encode() + body))


def twelve_bits() -> PIL.Image.Image:
    """A TIFF of 12 bits, grey values 16 times those of GREY, written by hand."""
    values = (GREY.astype(np.uint16) * 16).reshape(-1, 2)
    a, b = values[:, 0], values[:, 1]
    packed = np.stack([a >> 4, (a & 15) << 4 | b >> 8, b & 255], 1).astype(np.uint8).tobytes()
    tags = [(256, 16), (257, 16), (258, 12), (259, 1), (262, 1), (273, 8), (277, 1), (278, 16),
            (279, len(packed))]  # fmt: skip
    entries = b"".join(struct.pack("<HHII", tag, 4 if tag == 279 else 3, 1, v) for tag, v in tags)
    directory = struct.pack("<H", len(tags)) + entries + bytes(4)
    data = b"II*\0" + struct.pack("<I", 8 + len(packed)) + packed + directory
    return PIL.Image.open(io.BytesIO(data))


def deep(values: np.ndarray[Any, Any]) -> PIL.Image.Image:
    return PIL.Image.fromarray(values)


DEEP = {
    "16-bit PNG": lambda: opened(deep(GREY.astype(np.uint16) * 257), "PNG"),
    "16-bit TIFF": lambda: opened(deep(GREY.astype(np.uint16) * 257), "TIFF"),
    "12-bit TIFF": twelve_bits,
    "16-bit PGM": lambda: pgm(65_535, GREY.astype(np.uint16) * 257),
    "12-bit PGM": lambda: pgm(4_095, GREY.astype(np.uint16) * 16 + GREY // 16),
    "10-bit PGM": lambda: pgm(1_023, np.ceil(GREY * (1_023 / 255))),
    "32-bit TIFF of 16 bits": lambda: opened(deep(GREY.astype(np.int32) * 257), "TIFF"),
    "32-bit TIFF of 8 bits": lambda: opened(deep(GREY.astype(np.int32)), "TIFF"),
    "32-bit TIFF of 32 bits": lambda: opened(deep(GREY.astype(np.int32) * 2**23), "TIFF"),
    "float TIFF of 0..1": lambda: opened(deep(GREY.astype(np.float32) / 255), "TIFF"),
    "float TIFF of 0..255": lambda: opened(deep(GREY.astype(np.float32)), "TIFF"),
    "float TIFF of 0..65535": lambda: opened(deep(GREY.astype(np.float32) * 257), "TIFF"),
    "float TIFF of 0..1000000": lambda: opened(deep(GREY.astype(np.float32) * 4000), "TIFF"),
    "mode I;16B": lambda: deep((GREY.astype(">u2") * 257).astype(">u2")),
    "mode I": lambda: deep(GREY.astype(np.int32) * 257),
    "mode F": lambda: deep(GREY.astype(np.float32) / 255),
}  # fmt: skip


@pytest.mark.parametrize("name", DEEP)
def test_grey_of_many_bits_is_scaled(name: str) -> None:
    pixels = np.asarray(rgb(DEEP[name]()))
    assert pixels.shape == (16, 16, 3)
    assert (pixels == GREY[..., None]).all()


@pytest.mark.parametrize(
    "values",
    [
        np.array([[-1.0, 1.0]], dtype=np.float32),
        np.array([[np.nan, 1.0]], dtype=np.float32),
        np.array([[np.inf, 1.0]], dtype=np.float32),
        np.array([[-5, 5]], dtype=np.int32),
    ],
)
def test_grey_without_a_scale_is_refused(values: np.ndarray[Any, Any]) -> None:
    with pytest.raises(MediaError, match=r"grey values go from .* save the picture with 8 bits"):
        rgb(deep(values))


UPRIGHT = np.arange(24, dtype=np.uint8).reshape(2, 4, 3) * 10
TURNED = {  # how a camera stores what is upright
    1: UPRIGHT, 2: UPRIGHT[:, ::-1], 3: UPRIGHT[::-1, ::-1], 4: UPRIGHT[::-1],
    5: UPRIGHT.transpose(1, 0, 2), 6: np.rot90(UPRIGHT), 7: np.rot90(UPRIGHT)[::-1, ::-1].copy(),
    8: np.rot90(UPRIGHT, -1),
}  # fmt: skip
TURNED[7] = UPRIGHT[::-1, ::-1].transpose(1, 0, 2)


@pytest.mark.parametrize("kind", ["PNG", "WEBP", "TIFF"])
@pytest.mark.parametrize("turn", TURNED)
def test_pictures_and_masks_are_turned_upright(kind: str, turn: int) -> None:
    exif = PIL.Image.Exif()
    exif[ORIENTATION] = turn
    lossless = {"lossless": True} if kind == "WEBP" else {}
    image = deep(np.ascontiguousarray(TURNED[turn]))
    assert upright_size(opened(image, kind, exif=exif, **lossless)) == (4, 2)
    shown = rgb(opened(image, kind, exif=exif, **lossless))
    assert (np.asarray(shown) == UPRIGHT).all()
    bright = white_part(opened(image, kind, exif=exif, **lossless))
    assert (bright == (UPRIGHT.astype(float).mean(-1) >= 128)).all()


def test_a_photo_of_a_phone_and_one_with_a_broken_note() -> None:
    exif = PIL.Image.Exif()
    exif[ORIENTATION] = 6
    photo = opened(PIL.Image.new("RGB", (9, 5), "red"), "JPEG", exif=exif)
    assert upright_size(photo) == rgb(photo).size == (5, 9)
    broken = opened(PIL.Image.new("RGB", (9, 5), "red"), "JPEG", exif=b"Exif\0\0nonsense")
    assert upright_size(broken) == rgb(broken).size == (9, 5)


def layered(mode: str, *pixels: Any) -> PIL.Image.Image:
    image = PIL.Image.new(mode, (len(pixels), 1))
    for x, pixel in enumerate(pixels):
        image.putpixel((x, 0), pixel)
    return image


def palette() -> PIL.Image.Image:
    image = PIL.Image.new("P", (3, 1))
    image.putpalette([0, 0, 0, 10, 20, 30, 1, 2, 3])
    for x in range(3):
        image.putpixel((x, 0), x)
    return opened(image, "PNG", transparency=b"\x00\xff\xff")


CLEAR = {
    "RGBA PNG": lambda: opened(
        layered("RGBA", (9, 9, 9, 0), (10, 20, 30, 255), (1, 2, 3, 255)), "PNG"
    ),
    "RGBA TIFF": lambda: opened(
        layered("RGBA", (0, 0, 0, 0), (10, 20, 30, 255), (1, 2, 3, 255)), "TIFF"
    ),
    "RGBA WebP": lambda: opened(
        layered("RGBA", (0, 0, 0, 0), (10, 20, 30, 255), (1, 2, 3, 255)), "WEBP", lossless=True
    ),
    "palette": palette,
    "GIF": lambda: opened(palette(), "GIF", transparency=0),
    "one color of RGB": lambda: PIL.Image.open(
        io.BytesIO(
            png(
                3,
                1,
                8,
                2,
                bytes([0, 7, 7, 7, 10, 20, 30, 1, 2, 3]),
                chunk(b"tRNS", struct.pack(">HHH", 7, 7, 7)),
            )
        )
    ),
}


@pytest.mark.parametrize("name", CLEAR)
def test_transparency_is_on_white(name: str) -> None:
    pixels = np.asarray(rgb(CLEAR[name]()))[0].tolist()
    assert pixels == [[255, 255, 255], [10, 20, 30], [1, 2, 3]]


def test_transparent_grey_and_half_transparency() -> None:
    assert np.asarray(rgb(layered("LA", (0, 0), (40, 255))))[0, :, 0].tolist() == [255, 40]
    half = np.asarray(rgb(layered("RGBA", (0, 0, 0, 128))))
    assert np.abs(half.astype(int) - 127).max() <= 1
    for bits, rows, value, wanted in (
        (8, b"\0\x10\x20", 0x10, [255, 0x20]),
        (16, b"\0\x10\x01\x20\x02", 0x1001, [255, 0x20]),
    ):
        grey = png(2, 1, bits, 0, rows, chunk(b"tRNS", struct.pack(">H", value)))
        assert np.asarray(rgb(PIL.Image.open(io.BytesIO(grey))))[0, :, 0].tolist() == wanted


@pytest.mark.parametrize("kind", [b"zTXt", b"iTXt", b"iCCP"])
def test_a_png_loses_its_comments_and_no_pixel(kind: bytes) -> None:
    text = zlib.compress(b"a" * 3_000_000)
    name = b"workflow\0" + (b"\1\0\0\0" if kind == b"iTXt" else b"\0")
    rows = b"".join(b"\0" + row.tobytes() for row in GREY)
    data = png(16, 16, 8, 0, rows, chunk(kind, name + text))
    with pytest.raises(ValueError, match="MAX_TEXT_CHUNK"):
        PIL.Image.open(io.BytesIO(data)).load()
    cleaned = PIL.Image.open(without_comments(io.BytesIO(data)))
    assert (np.asarray(cleaned) == GREY).all()
    plain = png(16, 16, 8, 0, rows)
    assert without_comments(io.BytesIO(plain)).read() == plain
    assert without_comments(io.BytesIO(b"GIF89a")).read() == b"GIF89a"
