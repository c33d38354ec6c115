"""Manifests: one training sample per line, as JSON.

A row has `messages`, each with a `role` and a `content` in which <|audio|> and <|image|> stand for
media, and the media's paths in `audios` and `images`, in the order of their tags. This is the
published format. Our additions: an `id`, paths relative to the manifest, and sections of a
recording. A broken line is reported, never repaired or skipped.
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
from typing import Any, BinaryIO, TypeAlias, get_args
from unicodedata import category

from omni_diffusion.conversation import Conversation, Image, Message, Part, Role, Speech, Text
from omni_diffusion.errors import DataError, MediaError
from omni_diffusion.io import config
from omni_diffusion.media import Picture, Waveform
from omni_diffusion.tasks.prompts import (
    AUDIO_TAG,
    IMAGE_TAG,
    TAG_KINDS,
    TAG_PATTERN,
    MediaKind,
    TaggedMessage,
)

MANIFEST = "manifest.jsonl"  # the name of a manifest that we write
PATH_KEYS = {AUDIO_TAG: "audios", IMAGE_TAG: "images"}  # the list with the paths of a tag
SIMILAR_TAG = re.compile(r"<\|?(?:audio|image|video|speech|sound|picture)\|?>")
ROW_KEYS = ("messages", "audios", "images", "id")
MESSAGE_KEYS = ("role", "content")
SECTION_KEYS = ("path", "start", "stop")
MAX_TIME = 1e8  # seconds; a recording of three years
ROLE_ALIASES = {"human": "user", "gpt": "assistant"}  # roles in other formats


@dataclass(frozen=True)
class SourceLine:
    """A line of a file, counted from 1."""

    file: Path
    line: int

    def __str__(self) -> str:
        return f"{self.file}:{self.line}"


@dataclass(frozen=True)
class Problem:
    """A problem of a line; a line that has only warnings can still be trained on."""

    source: SourceLine
    message: str
    warning: bool = False

    def __str__(self) -> str:
        return f"{self.source}: {'warning: ' if self.warning else ''}{self.message}"


@dataclass(frozen=True)
class MediaFile:
    """A picture or recording on disk; section: (start, stop) of a recording, in seconds."""

    kind: MediaKind
    path: Path
    section: tuple[float, float] | None = None

    def read(self) -> Image | Speech:
        """The decoded medium; raises MediaError."""
        if self.kind == "image":
            return Image(Picture.read(self.path))
        return Speech(Waveform.read(self.path, section=self.section))


SampleMessage: TypeAlias = TaggedMessage[MediaFile]


@dataclass(frozen=True)
class ManifestSample:
    """A parsed line of a manifest; its media are not read yet."""

    source: SourceLine
    messages: tuple[SampleMessage, ...]
    name: str | None = None

    @property
    def media(self) -> tuple[MediaFile, ...]:
        """All media, in the order of their tags."""
        return tuple(medium for message in self.messages for medium in message.media)

    def conversation(self) -> Conversation:
        """The messages with their media read; raises DataError naming file and line."""
        try:
            return tuple(Message(each.role, _read_parts(each.parts)) for each in self.messages)
        except MediaError as error:
            raise DataError(f"{self.source}: {error}") from error


def read_samples(path: str | Path, root: str | Path | None = None) -> Iterator[ManifestSample]:
    """The samples of a manifest, read line by line.

    root: what media paths are relative to, by default the manifest's folder. Raises DataError at
    the first broken line, naming file and line.
    """
    return (parse_sample(line, source, root) for source, line in read_lines(path))


def read_lines(path: str | Path) -> Iterator[tuple[SourceLine, bytes]]:
    """The lines of a file with their numbers; raises DataError if it cannot be read."""
    path = Path(path)
    with _opened(path) as file:
        for number, line in enumerate(file, start=1):
            yield SourceLine(path, number), line


class LineIndex:
    """The byte offset of each line of a manifest, for random access; 8 bytes a line.

    Reads the file once. Raises DataError if it cannot be read.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        with _opened(self.path) as file:
            self._state = _state(file)
            self._starts = array("q", accumulate(map(len, file), initial=0))

    def __len__(self) -> int:
        return len(self._starts) - 1

    def lines(self, numbers: Iterable[int]) -> Iterator[tuple[SourceLine, bytes]]:
        """The lines of these numbers, counted from 0; raises DataError if the file has changed."""
        with _opened(self.path, buffering=0) as file:  # read no bytes of other lines
            if _state(file) != self._state:
                raise DataError(f"{self.path} changed while it was read", fix="run again")
            for number in numbers:
                start, stop = self._starts[number], self._starts[number + 1]
                file.seek(start)
                yield SourceLine(self.path, number + 1), file.read(stop - start)


def parse_sample(line: bytes, source: SourceLine, root: str | Path | None = None) -> ManifestSample:
    """The sample of a line; raises DataError with its first problem."""
    sample, problems = parse_line(line, source, root)
    if sample is None:
        raise DataError(str(next(problem for problem in problems if not problem.warning)))
    return sample


def parse_line(
    line: bytes, source: SourceLine, root: str | Path | None = None
) -> tuple[ManifestSample | None, list[Problem]]:
    """The sample of a line and all of its problems; None if one of them is not a warning."""
    try:
        row = json.loads(_text(line), object_pairs_hook=config.unique_keys)
    except (ValueError, RecursionError) as error:
        return None, [Problem(source, _json_problem(error))]
    parser = _RowParser(source, Path(root) if root is not None else source.file.parent)
    sample = parser.sample(row)
    return (None if parser.broken else sample), parser.problems


class _RowParser:
    """Turns a row into a sample and collects every problem on the way."""

    def __init__(self, source: SourceLine, root: Path) -> None:
        self.source, self.root, self.problems = source, root, list[Problem]()

    @property
    def broken(self) -> bool:
        return any(not problem.warning for problem in self.problems)

    def report(self, message: str, *, warning: bool = False) -> None:
        self.problems.append(Problem(self.source, message, warning))

    def sample(self, row: Any) -> ManifestSample | None:
        if not isinstance(row, dict):
            keys = ", ".join(map(repr, ROW_KEYS))
            self.report(f"the line is {_type_name(row)}; give an object with {keys}")
            return None
        self._check_keys(row, ROW_KEYS, "the line")
        name = row.get("id")
        if name is not None and not isinstance(name, str):
            self.report(f"'id' is {_type_name(name)}; give text")
        messages = self._messages(row.get("messages"))
        media = {tag: self._media(row.get(key), tag) for tag, key in PATH_KEYS.items()}
        for tag, key in PATH_KEYS.items():
            count, files = sum(m["content"].count(tag) for m in messages), media[tag]
            if files is not None and count != len(files):
                self.report(
                    f"the messages hold {tag} {count} times, {key!r} has {len(files)} paths;"
                    " give one path per tag, in order"
                )
        if self.broken:
            return None
        queues = {tag: iter(files or ()) for tag, files in media.items()}
        parsed = tuple(
            TaggedMessage(
                each["role"],
                each["content"],
                tuple(next(queues[tag]) for tag in TAG_PATTERN.findall(each["content"])),
            )
            for each in messages
        )
        return ManifestSample(self.source, parsed, name)

    def _check_keys(self, row: Mapping[str, Any], known: Sequence[str], where: str) -> None:
        for key in row:
            if key not in known:
                near = difflib.get_close_matches(key, known, n=1)
                hint = f"did you mean {near[0]!r}?" if near else f"known keys: {', '.join(known)}"
                self.report(f"{where} has an unknown key {key!r}; {hint}")

    def _messages(self, value: Any) -> list[dict[str, Any]]:
        """The messages whose content is text, so that their tags can be counted."""
        if not isinstance(value, list) or not value:
            state = "missing" if value is None else "empty" if value == [] else _type_name(value)
            self.report(f"'messages' is {state}; give a list of messages")
            return []
        messages = [message for i, message in enumerate(value) if self._message(message, i)]
        roles = [message.get("role") for message in messages]
        if len(messages) == len(value) and all(role in get_args(Role) for role in roles):
            self._check_order(roles)
        return messages

    def _message(self, message: Any, index: int) -> bool:
        where = f"message {index + 1}"
        if not isinstance(message, dict):
            self.report(
                f"{where} is {_type_name(message)}; give an object with 'role' and 'content'"
            )
            return False
        self._check_keys(message, MESSAGE_KEYS, where)
        role, content = message.get("role"), message.get("content")
        if role not in get_args(Role):
            alias = ROLE_ALIASES.get(role) if isinstance(role, str) else None
            fix = f"give {alias!r}" if alias else f"give one of {', '.join(get_args(Role))}"
            self.report(f"{where} has the role {config.shown(role)}; {fix}")
        if not isinstance(content, str):
            self.report(f"the content of {where} is {_type_name(content)}; give text with tags")
        else:
            self._check_content(content, f"{where} ({config.shown(role).strip(chr(39))})", role)
        return isinstance(content, str)

    def _check_content(self, content: str, where: str, role: Any) -> None:
        if is_blank(content):
            self.report(f"{where} is empty; give text or a tag, or remove the line")
        if role == "system" and TAG_PATTERN.search(content):
            self.report(f"{where} holds a tag; move it to the user's message")
        if any("\ud800" <= char <= "\udfff" for char in content):
            self.report(f"{where} holds a lone surrogate, which is not a character; remove it")
        for tag in dict.fromkeys(SIMILAR_TAG.findall(content)):
            if tag not in TAG_KINDS:
                self.report(
                    f"{where} holds {tag}, which is read as text; tags are {AUDIO_TAG} and"
                    f" {IMAGE_TAG}",
                    warning=True,
                )

    def _check_order(self, roles: Sequence[str]) -> None:
        turns = roles[1:] if roles[0] == "system" else roles
        expected = ["user", "assistant"] * math.ceil(len(turns) / 2)
        if not turns or list(turns) != expected:
            self.report(
                f"the roles are {', '.join(roles)}; alternate user and assistant, end with the"
                " assistant, and put at most one system message first"
            )

    def _media(self, value: Any, tag: str) -> list[MediaFile] | None:
        """The media of a list; None if it is not a list of media."""
        key = PATH_KEYS[tag]
        if value is None:
            return []
        if not isinstance(value, list):
            self.report(f"{key!r} is {_type_name(value)}; give a list of paths")
            return None
        media = [self._medium(item, tag, f"{key}[{i}]") for i, item in enumerate(value)]
        return None if None in media else [medium for medium in media if medium is not None]

    def _medium(self, item: Any, tag: str, where: str) -> MediaFile | None:
        section = None
        if isinstance(item, dict) and tag == AUDIO_TAG:
            self._check_keys(item, SECTION_KEYS, where)
            start, stop = _number(item.get("start")), _number(item.get("stop"))
            if not 0 <= start < stop:
                given = (config.shown(item.get(name)) for name in ("start", "stop"))
                self.report(
                    f"{where} goes from {' to '.join(given)}; give 'start' and 'stop' in seconds,"
                    " 0 <= start < stop"
                )
                return None
            item, section = item.get("path"), (start, stop)
        if not isinstance(item, str) or not item or "\0" in item:
            self.report(f"{where} is {config.shown(item)}; give the path of a file")
            return None
        return MediaFile(TAG_KINDS[tag], self.root / item, section)


@contextmanager
def _opened(path: Path, buffering: int = -1) -> Iterator[BinaryIO]:
    """The file, open for reading bytes; raises DataError if that fails."""
    try:
        with open(path, "rb", buffering) as file:
            yield file
    except OSError as error:
        raise DataError(
            f"cannot read {path}: {error.strerror}",
            value=path,
            fix="give a JSONL manifest",
        ) from error


def _state(file: BinaryIO) -> tuple[int, int]:
    """Size in bytes, and modification time in ns."""
    stat = os.stat(file.fileno())
    return stat.st_size, stat.st_mtime_ns


def _read_parts(parts: Sequence[Text | MediaFile]) -> tuple[Part, ...]:
    return tuple(part.read() if isinstance(part, MediaFile) else part for part in parts)


def _text(line: bytes) -> str:
    if not line.strip():
        raise ValueError("the line is empty; remove it")
    try:
        return line.decode("utf-8-sig")  # joined files have a byte order mark in the middle
    except UnicodeDecodeError as error:
        raise ValueError(f"byte {error.start + 1} is not UTF-8; save the file as UTF-8") from error


def _json_problem(error: ValueError | RecursionError) -> str:
    """Why a line is not JSON, and at which column; more precise than the parser's message."""
    if "integer string conversion" in str(error):
        return "a number of the line has more than 4,300 digits; correct it"
    if not isinstance(error, json.JSONDecodeError):
        return "the line is nested too deeply" if isinstance(error, RecursionError) else str(error)
    before, after = error.doc[: error.pos].rstrip(), error.doc[error.pos :].strip()
    if len(before) <= 1 and not after:
        return (
            "the line ends before its sample does; write each sample on one line, for instance"
            " with: jq -c . FILE"
        )
    near = (before[-1:] + " " + after[:1]).strip()
    what = f"invalid JSON at column {error.pos + 1} ({error.msg}, at {near!r})"
    if error.msg == "Expecting ',' delimiter" and after:
        return (
            f"invalid JSON: a comma is missing before column {error.pos + 1}, at {near!r}; add it"
        )
    trailing = error.msg.startswith("Illegal trailing comma")  # Python 3.13 points at the comma
    if trailing or (after[:1] in ("]", "}") and before.endswith(",")):
        column = error.pos + 1 if trailing else len(before)
        return f"invalid JSON: an extra comma at column {column}; remove it"
    return f"{what}; fix the line"


def _type_name(value: Any) -> str:
    kinds = {dict: "an object", list: "a list", str: "text", bool: "true or false"}
    if value is None:
        return "missing"
    return kinds.get(type(value), "a number")


def _number(value: Any) -> float:
    """A number of at most MAX_TIME as it is, NaN for anything else."""
    if type(value) not in (int, float) or not abs(value) <= MAX_TIME:
        return math.nan
    return float(value)


def is_blank(text: str) -> bool:
    """Whether a text shows nothing: only spaces, control characters and marks without a width."""
    return all(char.isspace() or category(char) in ("Cc", "Cf") for char in text)
