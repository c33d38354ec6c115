"""Manifests: one training sample a line, as JSON; read line by line, never repaired, never skipped.

A line has `messages`, each with a `role` and a `content` in which <|audio|> and <|image|> stand for
media, and the media's paths in `audios` and `images`, in the order of their tags. This is the
published format; ours adds `id`, paths that are relative to the manifest, and sections of a sound.
Knows no model.
"""

from __future__ import annotations

import difflib
import json
import math
import os
import re
from array import array
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import accumulate
from pathlib import Path
from typing import Any, BinaryIO, Literal, TypeAlias, TypeVar, get_args

from omni_diffusion.conversation import Conversation, Image, Message, Part, Role, Speech, Text
from omni_diffusion.errors import DataError, MediaError
from omni_diffusion.io import config
from omni_diffusion.media import Picture, Waveform

AUDIO, IMAGE = "<|audio|>", "<|image|>"
M = TypeVar("M")
Kind: TypeAlias = Literal["speech", "image"]
KINDS: dict[str, Kind] = {AUDIO: "speech", IMAGE: "image"}
LISTS = {AUDIO: "audios", IMAGE: "images"}  # where the paths of a tag stand
TAG = re.compile("|".join(map(re.escape, KINDS)))
ALIKE = re.compile(r"<\|?(?:audio|image|video|speech|sound|picture)\|?>")
ROW_KEYS = ("messages", "audios", "images", "id")
MESSAGE_KEYS = ("role", "content")
SECTION_KEYS = ("path", "start", "stop")
OTHER_ROLES = {"human": "user", "gpt": "assistant"}  # what other formats call them


@dataclass(frozen=True)
class Place:
    """A line of a file, counted from 1."""

    file: Path
    line: int

    def __str__(self) -> str:
        return f"{self.file}:{self.line}"


@dataclass(frozen=True)
class Problem:
    """What is wrong with a line; a warning is odd, but can be trained on."""

    place: Place
    message: str
    warning: bool = False

    def __str__(self) -> str:
        return f"{self.place}: {'warning: ' if self.warning else ''}{self.message}"


@dataclass(frozen=True)
class Medium:
    """A picture or sound by its path; section: (start, stop) of a sound, in seconds."""

    kind: Kind
    path: Path
    section: tuple[float, float] | None = None

    def read(self) -> Image | Speech:
        """The medium itself; raises MediaError."""
        if self.kind == "image":
            return Image(Picture.read(self.path))
        return Speech(Waveform.read(self.path, section=self.section))


@dataclass(frozen=True)
class Entry:
    """One message of a sample: its words with tags, and the media of its tags in order."""

    role: Role
    content: str
    media: tuple[Medium, ...] = ()

    @property
    def parts(self) -> tuple[Text | Medium, ...]:
        """The words between the tags, as they stand, and the media."""
        return parted(self.content, iter(self.media))


@dataclass(frozen=True)
class Sample:
    """One line of a manifest, its media not yet read."""

    place: Place
    entries: tuple[Entry, ...]
    name: str | None = None

    @property
    def media(self) -> tuple[Medium, ...]:
        """All media, in the order of their tags."""
        return tuple(medium for entry in self.entries for medium in entry.media)

    def conversation(self) -> Conversation:
        """The messages with their media read; raises DataError naming file and line."""
        try:
            return tuple(Message(entry.role, _read(entry.parts)) for entry in self.entries)
        except MediaError as error:
            raise DataError(f"{self.place}: {error}") from error


def parted(content: str, media: Iterator[M]) -> tuple[Text | M, ...]:
    """The words between the tags, as they stand, and for each tag the next of `media`."""
    parts, at = list[Text | M](), 0
    for tag in TAG.finditer(content):
        parts += [Text(content[at : tag.start()])] if tag.start() > at else []
        parts.append(next(media))
        at = tag.end()
    return (*parts, Text(content[at:])) if content[at:] else tuple(parts)


def read(path: str | Path, root: str | Path | None = None) -> Iterator[Sample]:
    """The samples of a manifest, one by one.

    root: what the media's paths are relative to, by default the manifest's own folder. Raises
    DataError at the first line with a problem, naming file and line.
    """
    return (sample_of(line, place, root) for place, line in lines(path))


def conversations(path: str | Path, root: str | Path | None = None) -> Iterator[Conversation]:
    """What is said in each sample of a manifest, media read; raises DataError as `read` does."""
    return (sample.conversation() for sample in read(path, root))


def lines(path: str | Path) -> Iterator[tuple[Place, bytes]]:
    """The lines of a file and where they are; raises DataError when it cannot be read."""
    path = Path(path)
    with _opened(path) as file:
        for number, line in enumerate(file, start=1):
            yield Place(path, number), line


class Table:
    """Where each line of a manifest begins, found in one reading, so that any is read alone.

    Takes 8 bytes a line. Raises DataError when the file cannot be read.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        with _opened(self.path) as file:
            self._state = _state(file)
            self._starts = array("q", accumulate(map(len, file), initial=0))

    def __len__(self) -> int:
        return len(self._starts) - 1

    def lines(self, numbers: Iterable[int]) -> Iterator[tuple[Place, bytes]]:
        """Those lines, counted from 0; raises DataError when the file is no longer the same."""
        with _opened(self.path, buffering=0) as file:  # no bytes of other lines
            if _state(file) != self._state:
                raise DataError(f"{self.path} was changed while it was being read; run again")
            for number in numbers:
                start, stop = self._starts[number], self._starts[number + 1]
                file.seek(start)
                yield Place(self.path, number + 1), file.read(stop - start)


def sample_of(line: bytes, place: Place, root: str | Path | None = None) -> Sample:
    """A line's sample; raises DataError with the first thing that is wrong."""
    sample, problems = parse(line, place, root)
    if sample is None:
        raise DataError(str(next(problem for problem in problems if not problem.warning)))
    return sample


def parse(
    line: bytes, place: Place, root: str | Path | None = None
) -> tuple[Sample | None, list[Problem]]:
    """A line's sample and all that is wrong with it; None unless there are but warnings."""
    found: list[Problem] = []
    try:
        row = json.loads(_text(line), object_pairs_hook=config.no_twins)
    except (ValueError, RecursionError) as error:
        return None, [Problem(place, _explained(error))]
    checker = _Row(place, Path(root) if root is not None else place.file.parent, found)
    sample = checker.sample(row)
    return (None if any(not problem.warning for problem in found) else sample), found


class _Row:
    """Turns a row into a sample and notes every problem on the way."""

    def __init__(self, place: Place, root: Path, problems: list[Problem]) -> None:
        self.place, self.root, self.problems = place, root, problems

    def wrong(self, message: str, *, warning: bool = False) -> None:
        self.problems.append(Problem(self.place, message, warning))

    def sample(self, row: Any) -> Sample | None:
        if not isinstance(row, dict):
            self.wrong(f"the line is {_kind(row)}; give an object with {_named(ROW_KEYS)}")
            return None
        self._check_keys(row, ROW_KEYS, "the line")
        name = row.get("id")
        if name is not None and not isinstance(name, str):
            self.wrong(f"'id' is {_kind(name)}; give text")
        messages = self._messages(row.get("messages"))
        media = {tag: self._media(row.get(key), tag) for tag, key in LISTS.items()}
        for tag, key in LISTS.items():
            count, given = sum(m["content"].count(tag) for m in messages), media[tag]
            if given is not None and count != len(given):
                self.wrong(
                    f"the messages hold {tag} {count} times, {key!r} has {len(given)} paths;"
                    " give one path for each tag, in their order"
                )
        if any(not problem.warning for problem in self.problems):
            return None
        ready = {tag: iter(given or ()) for tag, given in media.items()}
        entries = tuple(
            Entry(
                m["role"],
                m["content"],
                tuple(next(ready[tag]) for tag in TAG.findall(m["content"])),
            )
            for m in messages
        )
        return Sample(self.place, entries, name)

    def _check_keys(self, row: Mapping[str, Any], known: Sequence[str], where: str) -> None:
        for key in row:
            if key not in known:
                near = difflib.get_close_matches(key, known, n=1)
                hint = f"did you mean {near[0]!r}?" if near else f"known keys: {', '.join(known)}"
                self.wrong(f"{where} has an unknown key {key!r}; {hint}")

    def _messages(self, value: Any) -> list[dict[str, Any]]:
        """Those messages that have words, in which tags can be counted."""
        if not isinstance(value, list) or not value:
            told = "missing" if value is None else "empty" if value == [] else _kind(value)
            self.wrong(f"'messages' is {told}; give a list of messages")
            return []
        worded = [message for i, message in enumerate(value) if self._message(message, i)]
        roles = [message.get("role") for message in worded]
        if len(worded) == len(value) and all(role in get_args(Role) for role in roles):
            self._check_order(roles)
        return worded

    def _message(self, message: Any, at: int) -> bool:
        where = f"message {at + 1}"
        if not isinstance(message, dict):
            self.wrong(f"{where} is {_kind(message)}; give an object with 'role' and 'content'")
            return False
        self._check_keys(message, MESSAGE_KEYS, where)
        role, content = message.get("role"), message.get("content")
        if role not in get_args(Role):
            known = OTHER_ROLES.get(role) if isinstance(role, str) else None
            fix = f"give {known!r}" if known else f"give one of {', '.join(get_args(Role))}"
            self.wrong(f"{where} has the role {config.shown(role)}; {fix}")
        if not isinstance(content, str):
            self.wrong(f"the content of {where} is {_kind(content)}; give text with tags")
        else:
            self._check_content(content, f"{where} ({config.shown(role).strip(chr(39))})", role)
        return isinstance(content, str)

    def _check_content(self, content: str, where: str, role: Any) -> None:
        if not content.strip():
            self.wrong(f"{where} is empty; give it words or a tag, or remove the line")
        if role == "system" and TAG.search(content):
            self.wrong(f"{where} holds a tag; move it to the user's message")
        if any("\ud800" <= char <= "\udfff" for char in content):
            self.wrong(f"{where} holds half of a surrogate pair, which is no character; remove it")
        for alike in dict.fromkeys(ALIKE.findall(content)):
            if alike not in KINDS:
                self.wrong(
                    f"{where} holds {alike}, which is taken for words; tags are {AUDIO} and"
                    f" {IMAGE}",
                    warning=True,
                )

    def _check_order(self, roles: Sequence[str]) -> None:
        turns = roles[1:] if roles[0] == "system" else roles
        wanted = ["user", "assistant"] * math.ceil(len(turns) / 2)
        if not turns or list(turns) != wanted:
            self.wrong(
                f"the roles are {', '.join(roles)}; give user and assistant in turn, the assistant"
                " last, after one system message or none"
            )

    def _media(self, value: Any, tag: str) -> list[Medium] | None:
        """The media of a list; None when it is no list of media."""
        key = LISTS[tag]
        if value is None:
            return []
        if not isinstance(value, list):
            self.wrong(f"{key!r} is {_kind(value)}; give a list of paths")
            return None
        found = [self._medium(item, tag, f"{key}[{i}]") for i, item in enumerate(value)]
        return None if None in found else [medium for medium in found if medium is not None]

    def _medium(self, item: Any, tag: str, where: str) -> Medium | None:
        section = None
        if isinstance(item, dict) and tag == AUDIO:
            self._check_keys(item, SECTION_KEYS, where)
            start, stop = _number(item.get("start")), _number(item.get("stop"))
            if not 0 <= start < stop:
                self.wrong(
                    f"{where} goes from {start:g} to {stop:g}; give 'start' and 'stop' in seconds,"
                    " 0 <= start < stop"
                )
                return None
            item, section = item.get("path"), (start, stop)
        if not isinstance(item, str) or not item or "\0" in item:
            self.wrong(f"{where} is {config.shown(item)}; give the path of a file")
            return None
        return Medium(KINDS[tag], self.root / item, section)


@contextmanager
def _opened(path: Path, buffering: int = -1) -> Iterator[BinaryIO]:
    """A manifest's bytes; raises DataError for what the system refuses."""
    try:
        with open(path, "rb", buffering) as file:
            yield file
    except OSError as error:
        raise DataError(f"cannot read {path}: {error.strerror}; give a JSONL manifest") from error


def _state(file: BinaryIO) -> tuple[int, int]:
    """Size, and time of change in ns."""
    stat = os.stat(file.fileno())
    return stat.st_size, stat.st_mtime_ns


def _read(parts: Sequence[Text | Medium]) -> tuple[Part, ...]:
    return tuple(part.read() if isinstance(part, Medium) else part for part in parts)


def _text(line: bytes) -> str:
    if not line.strip():
        raise ValueError("the line is empty; remove it")
    if line.startswith(b"\xef\xbb\xbf"):
        raise ValueError("the line begins with a byte order mark; save the file without it")
    try:
        return line.decode()
    except UnicodeDecodeError as error:
        raise ValueError(f"byte {error.start + 1} is no UTF-8; save the file as UTF-8") from error


def _explained(error: ValueError | RecursionError) -> str:
    """What is wrong with a line that is no JSON, and where, more to the point than the parser."""
    if not isinstance(error, json.JSONDecodeError):
        return "the line is nested too deeply" if isinstance(error, RecursionError) else str(error)
    before, after = error.doc[: error.pos].rstrip(), error.doc[error.pos :].strip()
    if len(before) <= 1 and not after:
        return (
            "the line ends where the sample begins; write each sample on one line, for instance"
            " with: jq -c . FILE"
        )
    near = (before[-1:] + " " + after[:1]).strip()
    what = f"no JSON at column {error.pos + 1} ({error.msg}, at {near!r})"
    if error.msg == "Expecting ',' delimiter" and after:
        return f"no JSON: a comma is missing before column {error.pos + 1}, at {near!r}; add it"
    if after[:1] in ("]", "}") and before.endswith(","):
        return f"no JSON: a comma too many before column {error.pos + 1}, at {near!r}; remove it"
    if error.msg.startswith("Illegal trailing comma"):  # Python 3.13 points at the comma
        return f"no JSON: a comma too many at column {error.pos + 1}; remove it"
    return f"{what}; mend the line"


def _kind(value: Any) -> str:
    kinds = {dict: "an object", list: "a list", str: "text", bool: "true or false"}
    if value is None:
        return "missing"
    return kinds.get(type(value), "a number")


def _named(keys: Sequence[str]) -> str:
    return ", ".join(repr(key) for key in keys)


def _number(value: Any) -> float:
    """A finite number, or NaN, which no comparison holds for."""
    found = float(value) if type(value) in (int, float) else math.nan
    return found if math.isfinite(found) else math.nan
