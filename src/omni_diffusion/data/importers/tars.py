"""Pictures with captions in tar files of the webdataset layout."""

from __future__ import annotations

import tarfile
from collections.abc import Iterator
from itertools import groupby
from pathlib import Path, PurePosixPath

from omni_diffusion.data.importers.importer import ImportedRow, MediaFolder, Skipped
from omni_diffusion.data.manifest import is_blank
from omni_diffusion.errors import DataError
from omni_diffusion.tasks.catalog import CATALOG
from omni_diffusion.tasks.prompts import IMAGE_TAG, manifest_row

PICTURE_SUFFIXES = ("jpg", "jpeg", "png", "webp")


def captioned_pictures(path: Path, media: MediaFolder, split: str | None) -> Iterator[ImportedRow]:
    """NAME.jpg (png, webp) and NAME.txt, one after the other; becomes the task `t2i`."""
    try:
        for name, parts in groupby(_members(path), lambda member: member[0]):
            files = {suffix: data for _, suffix, data in parts}
            picture = next((files[suffix] for suffix in PICTURE_SUFFIXES if suffix in files), None)
            if picture is None or "txt" not in files:
                yield Skipped(name, f"it has {', '.join(sorted(files))}, not a picture with a txt")
                continue
            yield _row(name, files["txt"], picture, media)
    except (tarfile.TarError, OSError, EOFError) as error:
        raise DataError(
            f"cannot read {path} ({error})", value=path, fix="download it again"
        ) from error


def _row(name: str, caption: bytes, picture: bytes, media: MediaFolder) -> ImportedRow:
    try:
        text = caption.decode("utf-8-sig").strip()
    except UnicodeDecodeError:
        return Skipped(name, "its text is not UTF-8")
    if is_blank(text):
        return Skipped(name, "its text is empty")
    path = media.extract(picture)
    if path is None:
        return Skipped(name, "the format of its picture is unknown")
    return manifest_row(CATALOG["t2i"], text=text, answer=IMAGE_TAG, images=[path], name=name)


def _members(path: Path) -> Iterator[tuple[str, str, bytes]]:
    """(name, suffix, content) of every file, in order; the tar may be compressed."""
    with tarfile.open(path, "r|*") as tar:
        for member in tar:
            content = tar.extractfile(member) if member.isfile() else None
            if content is not None:
                inside = PurePosixPath(member.name)
                stem, _, suffix = inside.name.partition(".")
                yield (inside.parent / stem).as_posix(), suffix.lower(), content.read()
