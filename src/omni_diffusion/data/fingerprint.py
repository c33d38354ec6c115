"""Fingerprints of media files: size, mtime and a content digest, so that a rerun reads no media.

A file whose size and mtime match its stored fingerprint counts as unchanged; any other is read.
The path is not part of the digest.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

from omni_diffusion.conversation import Image, Speech
from omni_diffusion.data.manifest import MediaFile
from omni_diffusion.errors import MediaError
from omni_diffusion.io import files

MTIME_TICK = 2_000_000_000  # ns; the coarsest mtime resolution of a file system (FAT)
UNREADABLE = "broken: "  # prefix of the digest of a file that could not be read


class Fingerprint(NamedTuple):
    """The state of a medium: bytes, mtime in ns (both -1 if missing), and a content digest."""

    size: int
    mtime: int
    digest: str


def fingerprint(medium: MediaFile, known: Fingerprint | None = None) -> Fingerprint:
    """The fingerprint of a medium; `known` is returned unread if size and mtime still match."""
    state = _state(medium.path)
    if known is not None and known[:2] == state:
        return known
    if medium.section:
        return load_medium(medium)[0]
    return Fingerprint(*state, _file_digest(medium.path))


def load_medium(medium: MediaFile) -> tuple[Fingerprint, Image | Speech | MediaError]:
    """The fingerprint of a medium, and the medium or the error of reading it.

    The digest covers the file, or the samples of a section: a long recording is not read whole for
    each of its sections.
    """
    # State before digest before medium: a file that changes meanwhile gets an old fingerprint and
    # is read again next time.
    state = _state(medium.path)
    digest = "" if medium.section else _file_digest(medium.path)
    try:
        part = medium.read()
    except MediaError as error:
        return Fingerprint(*state, digest or f"{UNREADABLE}{error}"), error
    if isinstance(part, Speech) and medium.section:
        wave = part.waveform
        hasher = hashlib.blake2b(f"{wave.rate} {len(wave.samples)}".encode(), digest_size=16)
        hasher.update(wave.samples.numpy().tobytes())
        digest = hasher.hexdigest()
    return Fingerprint(*state, digest), part


def medium_key(medium: MediaFile) -> str:
    """The key of a medium among stored fingerprints."""
    return str(medium.path) if medium.section is None else f"{medium.path} {medium.section}"


def read_fingerprints(path: Path) -> dict[str, Fingerprint]:
    """Fingerprints by `medium_key`; empty if the file is missing or broken."""
    try:
        stored = json.loads(path.read_bytes())
        return {
            key: Fingerprint(int(size), int(mtime), str(digest))
            for key, (size, mtime, digest) in stored.items()
        }
    except (OSError, ValueError, TypeError, AttributeError):
        return {}


def write_fingerprints(path: Path, fingerprints: Mapping[str, Fingerprint]) -> None:
    """Write fingerprints atomically; raises StorageError."""
    files.write_text(path, json.dumps(fingerprints, sort_keys=True))


def trusted(fingerprints: Mapping[str, Fingerprint], now: int) -> dict[str, Fingerprint]:
    """The fingerprints that a later run may compare by mtime; `now` is in ns.

    A file that was just modified is left out: it may change again within one mtime tick. So is a
    file that could not be read: it may be readable next time.
    """
    return {
        key: each
        for key, each in fingerprints.items()
        if each.mtime < now - MTIME_TICK and not each.digest.startswith(UNREADABLE)
    }


def _state(path: Path) -> tuple[int, int]:
    try:
        stat = path.stat()
    except (OSError, ValueError):
        return -1, -1
    return stat.st_size, stat.st_mtime_ns


def _file_digest(path: Path) -> str:
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, lambda: hashlib.blake2b(digest_size=16)).hexdigest()
    except (OSError, ValueError) as error:
        return f"{UNREADABLE}{error}"
