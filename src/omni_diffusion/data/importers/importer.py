"""The importer of a corpus: the files to read, and the manifest rows of each file."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias

from omni_diffusion.errors import DataError, StorageError

SIGNATURES = (  # magic numbers of file formats: (bytes, offset, suffix)
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
    """A row of a corpus that does not become a sample; row: its name. reason: why."""

    row: str
    reason: str


ImportedRow: TypeAlias = dict[str, Any] | Skipped
"""A manifest row, or why there is none."""


class MediaFolder:
    """Paths of the media of one corpus file: referenced where they are, or extracted to a folder.

    out: the folder of the manifest; paths are relative to it. name: of the folder for extracted
    media, below `out`/media.
    """

    def __init__(self, out: Path, name: str) -> None:
        self.out, self._name, self._count = out, name, 0

    def reference(self, path: Path) -> str:
        """The path of a file that stays where it is, relative to the manifest."""
        return Path(os.path.relpath(path.resolve(), self.out.resolve())).as_posix()

    def extract(self, data: bytes) -> str | None:
        """Write a medium to a file; returns its path, or None if its format is unknown.

        Importing the same corpus file again gives the same names. Raises StorageError.
        """
        suffix = _suffix(data)
        if suffix is None:
            return None
        name = f"media/{self._name}/{self._count:06d}{suffix}"
        path = self.out / name
        try:
            # not atomic: after a crash its manifest line is missing too, and both are written again
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(data)
        except OSError as error:
            raise StorageError(
                f"cannot write {path}: {error.strerror}", value=path, fix="choose another disk"
            ) from error
        self._count += 1
        return name


@dataclass(frozen=True)
class Importer:
    """How one corpus becomes a manifest.

    files: the files (or folders) of a split below the corpus's folder; each is imported as a whole.
    rows: the manifest rows of one of them. Both raise DataError for an unexpected layout. split:
    the default split.
    """

    name: str
    files: Callable[[Path, str | None], Sequence[Path]]
    rows: Callable[[Path, MediaFolder, str | None], Iterator[ImportedRow]]
    split: str | None = None


def matching(pattern: str) -> Callable[[Path, str | None], Sequence[Path]]:
    """Lists all files below the corpus's folder, or its subfolder `split`, whose names match."""

    def find(source: Path, split: str | None) -> Sequence[Path]:
        folder = source if split is None else source / split
        paths = sorted(path for path in folder.rglob(pattern) if path.is_file())
        if not paths:
            raise DataError(
                f"no {pattern} below {folder}",
                value=folder,
                fix="give the folder of the unpacked corpus",
            )
        return paths

    return find


def _suffix(data: bytes) -> str | None:
    for signature, offset, suffix in SIGNATURES:
        if data[offset : offset + len(signature)] == signature:
            return suffix
    return None
