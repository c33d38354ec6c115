"""One HTML page of cards, with media, style and script inside of it."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from html import escape
from importlib import resources
from string import Template

from omni_diffusion import html
from omni_diffusion.conversation import Part
from omni_diffusion.media import Picture


@dataclass(frozen=True)
class Cell:
    """One token of an answer.

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
    """The picture after a step, as far as it is committed."""

    step: int
    picture: Picture


@dataclass(frozen=True)
class Replay:
    """The denoising of an answer.

    columns: cells in a row of its picture. measure: what the confidences are.
    """

    cells: tuple[Cell, ...]
    steps: int
    measure: str
    columns: int = 0
    shots: tuple[Shot, ...] = ()


@dataclass(frozen=True)
class Card:
    """One task: its inputs, its answer, its seconds and steps.

    key: the card's name on its page, unique. fault: why there is no answer.
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
    """The whole page, with `facts` under its title."""
    return Template(_asset("page.html")).substitute(
        title=escape(title),
        facts=escape(" · ".join(facts)),
        links="\n".join(map(_link, cards)),
        cards="\n".join(map(_card, cards)),
        style=html.style() + html.asset("replay.css") + _asset("page.css"),
        script=html.asset("html.js") + _asset("page.js"),
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
<section><h3>Given</h3>{html.parts(card.given, card.key + "-in")}</section>
<section><h3>Answer</h3>{html.parts(card.answer, card.key + "-out")}{notes}</section>
</div>
{_replay(card.replay, card.title) if card.replay else ""}
</article>"""


def _replay(replay: Replay, title: str) -> str:
    data = asdict(replay)
    data["shots"] = [{"step": s.step, "src": html.png(s.picture)} for s in replay.shots]
    # "<" is written as its escape, so that no text can close the script element
    encoded = json.dumps(data, ensure_ascii=False).replace("<", "\\u003c")
    return f"""<section class="replay" tabindex="-1" aria-label="Denoising: {escape(title)}">
<h3>Denoising</h3>
<script type="application/json">{encoded}</script>
</section>"""
