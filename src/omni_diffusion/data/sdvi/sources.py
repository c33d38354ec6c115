"""What of two manifests is to be spoken: written questions about pictures, captions of pictures.

Knows no synthesizer.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from hashlib import blake2b
from pathlib import Path

from omni_diffusion.data import manifest
from omni_diffusion.data.manifest import IMAGE, TAG, Entry, Place, Sample
from omni_diffusion.data.sdvi.text_rules import MOST_WORDS, Dropped, spoken
from omni_diffusion.data.validate import Limits
from omni_diffusion.errors import MediaError
from omni_diffusion.media import picture_size
from omni_diffusion.tasks import prompts

WORD = re.compile(r"[^\W_]")


@dataclass(frozen=True)
class Line:
    """One line to make.

    question: what the user says, of a picture or to draw one; answer: what is written and spoken,
    None where the answer is the picture. place: of the written line.
    """

    name: str
    place: Place
    question: str
    answer: str | None
    picture: Path


@dataclass(frozen=True)
class Left:
    """A written line, or a turn of one, that becomes none: why, in words that can be counted."""

    name: str
    place: Place
    reason: str
    detail: str = ""

    def __str__(self) -> str:
        told = f"{self.place}: {self.name}: {self.reason}" + (self.detail and f" ({self.detail})")
        return " ".join(told.split())  # a name may hold a line end


@dataclass(frozen=True)
class Sources:
    """The written manifests.

    vqa: conversations about a picture; captions: lines of the task t2i. Paths in them are relative
    to `root`, by default to each one's folder. later_turns: take every question of a conversation,
    not the first alone, which no other turn has to be known for.
    """

    vqa: Path | None = None
    captions: Path | None = None
    root: Path | None = None
    later_turns: bool = False

    def lines(self) -> Iterator[Line | Left]:
        """All lines in their order, no name twice; raises DataError at a broken one."""
        names = set[str]()
        for kind, path in (("svqa", self.vqa), ("s2i", self.captions)):
            for sample in manifest.read(path, self.root) if path is not None else ():
                name = f"{kind}-{sample.name or _digest(sample)}"
                if name in names:
                    name = f"{name}-line{sample.place.line}"
                names.add(name)
                if kind == "s2i":
                    yield _caption(name, sample)
                else:
                    yield from self._questions(name, sample)

    def _questions(self, name: str, sample: Sample) -> Iterator[Line | Left]:
        entries = [entry for entry in sample.entries if entry.role != "system"]
        turns = list(zip(entries[::2], entries[1::2], strict=True))
        pictures = [medium.path for medium in sample.media]
        reason = _unfit(sample, turns[0][0]) or _unseen(pictures)
        for number, (asked, told) in enumerate(turns, start=1):
            turn = f"{name}-{number}"
            if reason is not None:
                yield Left(turn, sample.place, *reason)
            elif number > 1 and not self.later_turns:
                yield Left(turn, sample.place, "a later turn")
            else:
                found = spoken(TAG.sub("", asked.content).strip(), told.content)
                if isinstance(found, Dropped):
                    yield Left(turn, sample.place, found.reason)
                elif not WORD.search(found.question) or not WORD.search(found.answer):
                    yield Left(turn, sample.place, "there are no words to say")
                else:
                    place = sample.place
                    yield Line(turn, place, found.question, found.answer, pictures[0])


def _caption(name: str, sample: Sample) -> Line | Left:
    prompt = prompts.recognise(sample.entries)
    if prompt is None or prompt.task.name != "t2i":
        return Left(name, sample.place, "no caption with its picture")
    caption, pictures = (prompt.text or "").strip(), [medium.path for medium in sample.media]
    if not WORD.search(caption):
        return Left(name, sample.place, "there are no words to say")
    if len(caption.split()) > MOST_WORDS:
        return Left(name, sample.place, f"the caption has more than {MOST_WORDS} words")
    reason = _unseen(pictures)
    if reason is not None:
        return Left(name, sample.place, *reason)
    return Line(name, sample.place, caption, None, pictures[0])


def _unfit(sample: Sample, first: Entry) -> tuple[str, str] | None:
    """What keeps a conversation from being one about a picture."""
    if sample.entries[0].role == "system":
        return "it has a system text of its own", ""
    if len(sample.media) != 1 or TAG.findall(first.content) != [IMAGE]:
        return "not one picture, in the first question", ""
    return None


def _unseen(pictures: Sequence[Path]) -> tuple[str, str] | None:
    """What is wrong with a picture by its header; nothing is spoken for one that is missing."""
    try:
        sides = picture_size(pictures[0])
    except MediaError as error:
        return "the picture cannot be read", str(error)
    least = Limits().min_side
    if min(sides) < least:
        return "the picture is too small", f"{sides[0]} x {sides[1]}, give sides of {least}"
    return None


def _digest(sample: Sample) -> str:
    """A name for a sample without one, wherever in the manifest it stands."""
    told = [(e.role, e.content, [m.path.name for m in e.media]) for e in sample.entries]
    return blake2b(repr(told).encode("utf-8", "surrogatepass"), digest_size=8).hexdigest()
