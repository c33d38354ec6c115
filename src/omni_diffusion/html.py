"""Parts of a conversation as HTML, with the media inside of it."""

from __future__ import annotations

from base64 import b64encode
from collections.abc import Sequence
from html import escape
from importlib import resources

import torch
import torch.nn.functional as F

from omni_diffusion.conversation import (
    AnyPart,
    Blank,
    Codes,
    Conversation,
    Frames,
    Image,
    Part,
    Partial,
    PartialImage,
    PartialSpeech,
    Speech,
    Text,
)
from omni_diffusion.media import Picture, Waveform

BARS = 160  # of a drawn waveform
LARGE = 512  # pixels; longer sides are shrunk to it
HOLE = 128  # grey, as it is shown


def visible(conversation: Conversation) -> tuple[Part, ...]:
    """A conversation as a person sees it: a hole in a picture is grey, masked text underscores.

    Encoded parts are named in brackets.
    """
    return tuple(_visible(part) for message in conversation for part in message.parts)


def _visible(part: AnyPart) -> Part:
    if isinstance(part, Text | Image | Speech):
        return part
    if isinstance(part, PartialImage):
        grey = torch.where(part.hole[..., None], HOLE, part.picture.pixels)
        return Image(Picture(grey.to(torch.uint8)))
    if isinstance(part, PartialSpeech):
        return Speech(part.waveform)
    if isinstance(part, Blank) and part.kind == "text":
        return Text("_" * part.length)
    if isinstance(part, Frames):
        return Text(f"[{len(part.frames)} frames of speech]")
    assert isinstance(part, Blank | Codes | Partial)
    state = "known" if isinstance(part, Codes) else "masked"
    return Text(f"[{len(part)} {part.kind} tokens, {state}]")


def style() -> str:
    """The style sheet of parts, cards and the page around them."""
    return asset("html.css")


def asset(name: str) -> str:
    """html.css, or what a page with replays needs beside it: replay.css and html.js."""
    return (resources.files("omni_diffusion") / name).read_text(encoding="utf-8")


def parts(shown: Sequence[Part], key: str) -> str:
    """Every part in an element; `key` must be unique on the page."""
    drawn = [_part(part, f"{key}-{i}") for i, part in enumerate(shown)]
    return "".join(f'<div class="part">{part}</div>' for part in drawn)


def _part(part: Part, key: str) -> str:
    if isinstance(part, Text):
        return f'<p class="said">{escape(part.text) or "<i>(nothing)</i>"}</p>'
    if isinstance(part, Image):
        picture = part.picture
        size = f"{picture.width} × {picture.height}"
        crisp = ' class="crisp"' if max(picture.width, picture.height) < LARGE // 2 else ""
        return f'<img src="{png(_shrunk(picture))}" alt="A picture, {size} pixels"{crisp}>'
    assert isinstance(part, Speech)
    return _sound(part.waveform, escape(key))


def _sound(waveform: Waveform, key: str) -> str:
    """A player below the drawn waveform; the upper of its two drawings shows what was played."""
    bars = "".join(
        f"M{x + 0.1:.1f} {50 - 48 * peak:.1f}h.8v{96 * peak:.1f}h-.8z"
        for x, peak in enumerate(peaks(waveform, BARS))
    )
    source = _data("audio/wav", waveform.wav_bytes())
    return f"""<div class="sound">
<svg viewBox="0 0 {BARS} 100" preserveAspectRatio="none" aria-hidden="true">
<clipPath id="{key}" clipPathUnits="objectBoundingBox"><rect width="0" height="1"/></clipPath>
<path d="{bars}"/><path class="heard" clip-path="url(#{key})" d="{bars}"/></svg>
<audio controls preload="metadata" src="{source}"></audio>
<p class="quiet">{waveform.seconds:.1f} s, {waveform.rate:,} Hz</p></div>"""


def peaks(waveform: Waveform, bars: int) -> list[float]:
    """The loudest sample of each of `bars` equal stretches, 0..1 of the loudest of all."""
    level = waveform.mono().samples.abs()
    found = F.adaptive_max_pool1d(level, bars)[0]
    return [float(peak) for peak in found / found.max().clamp(min=1e-4)]


def _shrunk(picture: Picture) -> Picture:
    """The picture, at most LARGE pixels wide and high."""
    small = picture.to_pil()
    small.thumbnail((LARGE, LARGE))
    return Picture.from_pil(small)


def png(picture: Picture) -> str:
    """The picture as an address that holds it."""
    return _data("image/png", picture.png_bytes())


def _data(kind: str, content: bytes) -> str:
    return f"data:{kind};base64,{b64encode(content).decode()}"
