"""What an importer is: which files of a corpus to go through, and the manifest lines of each.

Knows no corpus and nothing of how lines are stored.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias

from omni_diffusion.errors import DataError, StorageError

SIGNATURES = (  # how the files of a format begin: (bytes, where, suffix)
    (b"\xff\xd8\xff", 0, ".jpg"),
    (b"\x89PNG", 0, ".png"),
    (b"WEBP", 8, ".webp"),
    (b"GIF8", 0, ".gif"),
    (b"BM", 0, ".bmp"),
    (b"WAVE", 8, ".wav"),
    (b"fLaC", 0, ".flac"),
    (b"OggS", 0, ".ogg"),
    (b"ID3", 0, ".mp3"),
    (b"\xff\xfb", 0, ".mp3"),
    (b"\xff\xf3", 0, ".mp3"),
)


@dataclass(frozen=True)
class Skipped:
    """A row of a corpus that becomes no sample: which one, and why."""

    row: str
    reason: str


Row: TypeAlias = dict[str, Any]
Found: TypeAlias = Row | Skipped


class Shelf:
    """Where the media of one file of a corpus are: left where they lie, or put into a folder.

    out: the folder of the manifest, which paths are relative to; name: of the folder for media.
    """

    def __init__(self, out: Path, name: str) -> None:
        self.out, self._name, self._count = out, name, 0

    def leave(self, path: Path) -> str:
        """The path of a file that stays where it is, as the manifest names it."""
        return Path(os.path.relpath(path.resolve(), self.out.resolve())).as_posix()

    def put(self, data: bytes) -> str | None:
        """Write a medium that lies inside of another file; None if it is of no known format.

        Going through the same file again gives the same names.
        """
        suffix = _suffix(data)
        if suffix is None:
            return None
        name = f"media/{self._name}/{self._count:06d}{suffix}"
        path = self.out / name
        try:
            # Plainly: were it cut off, its line would not be kept either, and both come anew.
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(data)
        except OSError as error:
            problem = f"cannot write {path}: {error.strerror}; choose another disk"
            raise StorageError(problem) from error
        self._count += 1
        return name


@dataclass(frozen=True)
class Importer:
    """How one corpus becomes a manifest.

    files: those (or folders) to go through, given the corpus's folder and a split; each is done at
    once or not at all. rows: the lines of one file. Both raise DataError where the layout is
    another. split: the one that is taken where none is asked for.
    """

    name: str
    files: Callable[[Path, str | None], Sequence[Path]]
    rows: Callable[[Path, Shelf, str | None], Iterator[Found]]
    split: str | None = None


def matching(pattern: str) -> Callable[[Path, str | None], Sequence[Path]]:
    """All files below the corpus's folder, or its subfolder `split`, whose names match."""

    def find(source: Path, split: str | None) -> Sequence[Path]:
        folder = source if split is None else source / split
        found = sorted(path for path in folder.rglob(pattern) if path.is_file())
        if not found:
            raise DataError(f"no {pattern} below {folder}; give the folder that was unpacked")
        return found

    return find


def _suffix(data: bytes) -> str | None:
    for signature, at, suffix in SIGNATURES:
        if data[at : at + len(signature)] == signature:
            return suffix
    return None
