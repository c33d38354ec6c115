"""The page is whole, needs nothing from elsewhere, and no text breaks out of its place."""

import json
import re
from html.parser import HTMLParser

import pytest
import torch
from tests.tiny import checkers, tone

from omni_diffusion.conversation import Image, Part, Speech, Text
from omni_diffusion.demo.page import Card, Cell, Replay, Shot, page
from omni_diffusion.html import LARGE
from omni_diffusion.media import Picture

NASTY = "</script><script>alert('é & \"x\"')</script>"
PARTS: tuple[Part, ...] = (Text(NASTY), Image(checkers()), Speech(tone(0.1)))
REPLAY = Replay(
    cells=(Cell("text", NASTY, 1, -0.5, 0.6), Cell("image", "image_1", 2, -0.1, 0.9)),
    steps=2,
    measure="entropy",
    columns=1,
    shots=(Shot(2, checkers()),),
)


class Reader(HTMLParser):
    """Collects elements, and what stands in scripts."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.open: list[str] = []
        self.scripts: list[str] = []
        self.text = ""
        self.feed(html)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag not in ("meta", "img", "input", "path", "rect"):
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if self.open and self.open[-1] == "script":
            self.scripts.append(data)
        else:
            self.text += data


@pytest.fixture(scope="module")
def html() -> str:
    whole = Card("a", "svqa", "A & B", PARTS, PARTS, 1.5, 2, REPLAY, notes=(NASTY,))
    failed = Card("b", "t2i", "C", PARTS[:1], (), 0.1, 0, fault=NASTY)
    return page("demo <1>", ("seed 0", NASTY), (whole, failed))


def test_all_elements_close_and_nothing_breaks_out(html: str) -> None:
    reader = Reader(html)
    assert reader.open == []
    assert len(reader.scripts) == 2  # the data and the page's own; NASTY opened none
    assert reader.text.count(NASTY) == 6  # fact, words given twice, answer, note, fault
    assert "$" not in reader.text


def test_nothing_comes_from_elsewhere(html: str) -> None:
    for tag, attributes in Reader(html).tags:
        assert tag not in ("link", "iframe", "object", "base")
        for name in ("src", "href"):
            value = attributes.get(name)
            assert value is None or value.startswith(("data:", "#")), (tag, value)
    assert not re.search(r"url\((?!#)|@import|fetch\(|https?://", html)


def test_links_lead_to_cards(html: str) -> None:
    tags = Reader(html).tags
    ids = [attributes["id"] for _, attributes in tags if "id" in attributes]
    assert len(ids) == len(set(ids))
    links = [str(a["href"])[1:] for tag, a in tags if tag == "a"]
    assert links == ["a", "b"]
    assert set(links) < set(ids)


def test_the_data_of_a_replay_comes_through(html: str) -> None:
    data = json.loads(Reader(html).scripts[0])
    assert data["steps"] == 2
    assert data["cells"][0] == {
        "kind": "text", "token": NASTY, "step": 1, "confidence": -0.5, "sure": 0.6,
    }  # fmt: skip
    assert [shot["step"] for shot in data["shots"]] == [2]


def test_large_pictures_are_shrunk() -> None:
    huge = Picture(torch.zeros(600, 2 * LARGE, 3, dtype=torch.uint8))
    made = page("t", (), (Card("a", "caption", "A", (Image(huge),), (), 0.0, 0),))
    assert len(made) < 60_000
    assert f"{2 * LARGE} × 600 pixels" in made
