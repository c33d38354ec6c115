"""What media hold, told by a digest, and a note of it, so that looking again costs no reading.

A file whose size and time of change are those of the note is taken for the same; any other is
read. Paths are no content. Knows nothing of codecs and of shards.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

from omni_diffusion.conversation import Image, Speech
from omni_diffusion.data.manifest import Medium
from omni_diffusion.errors import MediaError
from omni_diffusion.io import files

TICK = 2_000_000_000  # ns; the coarsest that a disk tells times in

BROKEN = "broken: "  # how the digest begins of what could not be read


class Seen(NamedTuple):
    """A medium as it was found: bytes, time of change in ns (-1: not there), and its digest."""

    size: int
    changed: int
    digest: str


def look(medium: Medium, known: Seen | None = None) -> Seen:
    """What a medium holds; it is not read where it is still as `known` has it."""
    state = _state(medium.path)
    if known is not None and known[:2] == state:
        return known
    return load(medium)[0] if medium.section else Seen(*state, _of_file(medium.path))


def load(medium: Medium) -> tuple[Seen, Image | Speech | MediaError]:
    """What a medium holds and the medium itself, or what is wrong with it.

    The digest is of the file, or of a section's samples: a long recording need not be read for each
    of its sections. Time comes first and the digest before the medium, so a file that changes
    meanwhile is not taken for the same when it is looked at again.
    """
    state = _state(medium.path)
    digest = "" if medium.section else _of_file(medium.path)
    try:
        part = medium.read()
    except MediaError as error:
        return Seen(*state, digest or f"{BROKEN}{error}"), error
    if isinstance(part, Speech) and medium.section:
        sound = part.waveform
        found = hashlib.blake2b(f"{sound.rate} {len(sound.samples)}".encode(), digest_size=16)
        found.update(sound.samples.numpy().tobytes())
        digest = found.hexdigest()
    return Seen(*state, digest), part


def name_of(medium: Medium) -> str:
    """What notes call a medium."""
    return str(medium.path) if medium.section is None else f"{medium.path} {medium.section}"


def read_notes(path: Path) -> dict[str, Seen]:
    """The notes at `path`; none where they are missing or broken: the media are then read."""
    try:
        notes = json.loads(path.read_bytes())
        return {
            name: Seen(int(size), int(at), str(digest))
            for name, (size, at, digest) in notes.items()
        }
    except (OSError, ValueError, TypeError, AttributeError):
        return {}


def write_notes(path: Path, notes: Mapping[str, Seen]) -> None:
    """Keep notes, whole or not at all; raises StorageError."""
    files.write_text(path, json.dumps(notes, sort_keys=True))


def settled(seen: Mapping[str, Seen], now: int) -> dict[str, Seen]:
    """The media that may be known by their time: whole, and not changed just before `now` (ns).

    A file that changes twice in one tick of the disk's clock has the same time, and what could not
    be read may be readable now.
    """
    return {
        name: each
        for name, each in seen.items()
        if each.changed < now - TICK and not each.digest.startswith(BROKEN)
    }


def _state(path: Path) -> tuple[int, int]:
    try:
        stat = path.stat()
    except (OSError, ValueError):
        return -1, -1
    return stat.st_size, stat.st_mtime_ns


def _of_file(path: Path) -> str:
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, lambda: hashlib.blake2b(digest_size=16)).hexdigest()
    except (OSError, ValueError) as error:
        return f"{BROKEN}{error}"
