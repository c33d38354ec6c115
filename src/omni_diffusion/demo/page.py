"""Cards become one HTML page that needs nothing else: media, style and script are inside of it.

Knows no model and no tokens: a card says in words and numbers what happened.
"""

from __future__ import annotations

import json
from base64 import b64encode
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from html import escape
from importlib import resources
from string import Template

import torch.nn.functional as F

from omni_diffusion.conversation import Image, Part, Speech, Text
from omni_diffusion.media import Picture, Waveform

BARS = 160  # of a drawn waveform
LARGE = 512  # pixels; longer sides are shrunk to it


@dataclass(frozen=True)
class Cell:
    """One place of an answer.

    kind: "text", "image", "speech" or "special". step: when it was committed; 0 = given
    beforehand, None = never. sure: 0..1, how strongly it is coloured.
    """

    kind: str
    token: str
    step: int | None
    confidence: float | None = None
    sure: float | None = None


@dataclass(frozen=True)
class Shot:
    """The picture as far as it is known after a step."""

    step: int
    picture: Picture


@dataclass(frozen=True)
class Replay:
    """How an answer came to be. columns: cells in a row of its picture; measure: of confidence."""

    cells: tuple[Cell, ...]
    steps: int
    measure: str
    columns: int = 0
    shots: tuple[Shot, ...] = ()


@dataclass(frozen=True)
class Card:
    """One task that was run: what was given, what came back, how long it took.

    key: names the card on its page, different for each. fault: why there is no answer.
    """

    key: str
    name: str
    title: str
    given: tuple[Part, ...]
    answer: tuple[Part, ...]
    seconds: float
    steps: int
    replay: Replay | None = None
    notes: tuple[str, ...] = ()
    fault: str | None = None


def page(title: str, facts: Sequence[str], cards: Sequence[Card]) -> str:
    """The whole page; `facts` are said under its title."""
    return Template(_asset("page.html")).substitute(
        title=escape(title),
        facts=escape(" · ".join(facts)),
        links="\n".join(map(_link, cards)),
        cards="\n".join(map(_card, cards)),
        style=_asset("page.css"),
        script=_asset("page.js"),
    )


def _asset(name: str) -> str:
    return (resources.files("omni_diffusion.demo") / name).read_text(encoding="utf-8")


def _link(card: Card) -> str:
    return f'<a href="#{escape(card.key)}" title="{escape(card.title)}">{escape(card.key)}</a>'


def _card(card: Card) -> str:
    notes = "".join(f'<p class="note">{escape(note)}</p>' for note in card.notes)
    if card.fault is not None:
        notes += f'<p class="note fault">{escape(card.fault)}</p>'
    return f"""<article class="card" id="{escape(card.key)}">
<header><h2>{escape(card.title)}</h2><code>{escape(card.name)}</code>
<span class="quiet">{card.steps} steps · {card.seconds:.2f} s</span></header>
<div class="sides">
<section><h3>Given</h3>{_parts(card.given, card.key + "-in")}</section>
<section><h3>Answer</h3>{_parts(card.answer, card.key + "-out")}{notes}</section>
</div>
{_replay(card.replay) if card.replay else ""}
</article>"""


def _parts(parts: Sequence[Part], key: str) -> str:
    drawn = [_part(part, f"{key}-{i}") for i, part in enumerate(parts)]
    return "".join(f'<div class="part">{part}</div>' for part in drawn)


def _part(part: Part, key: str) -> str:
    if isinstance(part, Text):
        return f'<p class="said">{escape(part.text) or "<i>(nothing)</i>"}</p>'
    if isinstance(part, Image):
        picture = part.picture
        size = f"{picture.width} × {picture.height}"
        crisp = ' class="crisp"' if max(picture.width, picture.height) < LARGE // 2 else ""
        return f'<img src="{_png(_shrunk(picture))}" alt="A picture, {size} pixels"{crisp}>'
    assert isinstance(part, Speech)
    return _sound(part.waveform, escape(key))


def _sound(waveform: Waveform, key: str) -> str:
    """A player below the drawn waveform; the drawing is twice there, the upper one clipped."""
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


def _replay(replay: Replay) -> str:
    data = asdict(replay)
    data["shots"] = [{"step": s.step, "src": _png(s.picture)} for s in replay.shots]
    # "<" is written as its escape, so that no text can close the script element
    encoded = json.dumps(data, ensure_ascii=False).replace("<", "\\u003c")
    shot = '<canvas class="shot" role="img" aria-label="The picture at this step"></canvas>'
    return f"""<section class="replay" tabindex="-1" aria-label="The denoising, step by step">
<h3>Denoising</h3>
<div class="bar"><button type="button" aria-label="Play or pause">▶</button>
<input type="range" min="0" max="{replay.steps}" value="{replay.steps}" aria-label="Step">
<output></output></div>
<div class="stage">{shot if replay.shots else ""}<div class="cells"></div></div>
<script type="application/json">{encoded}</script>
</section>"""


def peaks(waveform: Waveform, bars: int) -> list[float]:
    """The loudest sample of each of `bars` equal stretches, 0..1 of the loudest of all."""
    level = waveform.mono().samples.abs()
    found = F.adaptive_max_pool1d(level, bars)[0]
    return [float(peak) for peak in found / found.max().clamp(min=1e-4)]


def _shrunk(picture: Picture) -> Picture:
    """A photograph need not be on the page in full."""
    small = picture.to_pil()
    small.thumbnail((LARGE, LARGE))
    return Picture.from_pil(small)


def _png(picture: Picture) -> str:
    return _data("image/png", picture.png_bytes())


def _data(kind: str, content: bytes) -> str:
    return f"data:{kind};base64,{b64encode(content).decode()}"
