"""The written manifests of an SDVI set: questions about pictures, and captions of pictures."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from hashlib import blake2b
from pathlib import Path

from omni_diffusion.data.manifest import ManifestSample, SampleMessage, SourceLine, read_samples
from omni_diffusion.data.sdvi.text_rules import MAX_WORDS, Unspeakable, speakable
from omni_diffusion.data.validate import MediaLimits
from omni_diffusion.errors import MediaError
from omni_diffusion.media import picture_size
from omni_diffusion.tasks.prompts import IMAGE_TAG, TAG_PATTERN, detect_task

LETTER = re.compile(r"[^\W_]")


@dataclass(frozen=True)
class WrittenSample:
    """A written sample to be spoken.

    source: its line. question: what the user says about the picture, or to draw it. answer: what
    the assistant writes and says; None if the answer is the picture.
    """

    name: str
    source: SourceLine
    question: str
    answer: str | None
    picture: Path


@dataclass(frozen=True)
class Rejected:
    """A written sample that is left out. reason: from a fixed set, to be counted."""

    name: str
    source: SourceLine
    reason: str
    detail: str = ""

    def __str__(self) -> str:
        detail = f" ({self.detail})" if self.detail else ""
        line = f"{self.source}: {self.name}: {self.reason}{detail}"
        return " ".join(line.split())  # a name may hold a line end


@dataclass(frozen=True)
class Sources:
    """The written manifests.

    vqa: conversations about a picture. captions: samples of the task `t2i`. root: what media paths
    are relative to, by default each manifest's folder. later_turns: take every question of a
    conversation; by default only the first, which needs no earlier turn to be understood.
    """

    vqa: Path | None = None
    captions: Path | None = None
    root: Path | None = None
    later_turns: bool = False

    def samples(self) -> Iterator[WrittenSample | Rejected]:
        """All samples in order, with unique names; raises DataError at a broken line."""
        names = set[str]()
        for kind, path in (("svqa", self.vqa), ("s2i", self.captions)):
            for sample in read_samples(path, self.root) if path is not None else ():
                name = f"{kind}-{sample.name or _digest(sample)}"
                if name in names:
                    name = f"{name}-line{sample.source.line}"
                names.add(name)
                if kind == "s2i":
                    yield _caption(name, sample)
                else:
                    yield from self._questions(name, sample)

    def _questions(self, name: str, sample: ManifestSample) -> Iterator[WrittenSample | Rejected]:
        messages = [message for message in sample.messages if message.role != "system"]
        turns = list(zip(messages[::2], messages[1::2], strict=True))
        pictures = [medium.path for medium in sample.media]
        reason = _unfit(sample, turns[0][0]) or _unusable(pictures)
        for number, (question, answer) in enumerate(turns, start=1):
            turn = f"{name}-{number}"
            if reason is not None:
                yield Rejected(turn, sample.source, *reason)
            elif number > 1 and not self.later_turns:
                yield Rejected(turn, sample.source, "a later turn")
            else:
                pair = speakable(TAG_PATTERN.sub("", question.content).strip(), answer.content)
                if isinstance(pair, Unspeakable):
                    yield Rejected(turn, sample.source, pair.reason)
                elif not LETTER.search(pair.question) or not LETTER.search(pair.answer):
                    yield Rejected(turn, sample.source, "there are no words to say")
                else:
                    yield WrittenSample(
                        turn, sample.source, pair.question, pair.answer, pictures[0]
                    )


def _caption(name: str, sample: ManifestSample) -> WrittenSample | Rejected:
    detected = detect_task(sample.messages)
    if detected is None or detected.task.name != "t2i":
        return Rejected(name, sample.source, "no caption with its picture")
    caption, pictures = (detected.text or "").strip(), [medium.path for medium in sample.media]
    if not LETTER.search(caption):
        return Rejected(name, sample.source, "there are no words to say")
    if len(caption.split()) > MAX_WORDS:
        return Rejected(name, sample.source, f"the caption has more than {MAX_WORDS} words")
    reason = _unusable(pictures)
    if reason is not None:
        return Rejected(name, sample.source, *reason)
    return WrittenSample(name, sample.source, caption, None, pictures[0])


def _unfit(sample: ManifestSample, first: SampleMessage) -> tuple[str, str] | None:
    """Why a conversation is not about one picture; None if it is."""
    if sample.messages[0].role == "system":
        return "it has a system message", ""
    if len(sample.media) != 1 or TAG_PATTERN.findall(first.content) != [IMAGE_TAG]:
        return "not one picture, in the first question", ""
    return None


def _unusable(pictures: Sequence[Path]) -> tuple[str, str] | None:
    """Why a picture cannot be used, by its header; None if it can."""
    try:
        sides = picture_size(pictures[0])
    except MediaError as error:
        return "the picture cannot be read", str(error)
    least = MediaLimits().min_side
    if min(sides) < least:
        return "the picture is too small", f"{sides[0]} x {sides[1]}, give sides of {least}"
    return None


def _digest(sample: ManifestSample) -> str:
    """A name for a sample without an id, from its content alone."""
    content = [(m.role, m.content, [file.path.name for file in m.media]) for m in sample.messages]
    return blake2b(repr(content).encode("utf-8", "surrogatepass"), digest_size=8).hexdigest()
