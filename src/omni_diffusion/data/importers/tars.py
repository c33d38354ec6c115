"""Pictures with captions in tar files, as the webdataset library lays them out."""

from __future__ import annotations

import tarfile
from collections.abc import Iterator
from itertools import groupby
from pathlib import Path, PurePosixPath

from omni_diffusion.data.importers.importer import Found, Shelf, Skipped
from omni_diffusion.data.manifest import IMAGE
from omni_diffusion.errors import DataError
from omni_diffusion.tasks import prompts
from omni_diffusion.tasks.catalog import CATALOG

PICTURES = ("jpg", "jpeg", "png", "webp")


def captioned(path: Path, shelf: Shelf, split: str | None) -> Iterator[Found]:
    """NAME.jpg (png, webp) and NAME.txt, one after the other; becomes text to image."""
    try:
        for name, parts in groupby(_members(path), lambda member: member[0]):
            held = {suffix: data for _, suffix, data in parts}
            picture = next((held[suffix] for suffix in PICTURES if suffix in held), None)
            if picture is None or "txt" not in held:
                yield Skipped(name, f"it is {', '.join(sorted(held))}, no picture with its txt")
                continue
            yield _line(name, held["txt"], picture, shelf)
    except (tarfile.TarError, OSError, EOFError) as error:
        raise DataError(f"cannot read {path} ({error}); fetch it again") from error


def _line(name: str, caption: bytes, picture: bytes, shelf: Shelf) -> Found:
    try:
        text = caption.decode().strip()
    except UnicodeDecodeError:
        return Skipped(name, "its text is no UTF-8")
    path = shelf.put(picture)
    if path is None:
        return Skipped(name, "its picture is of no known format")
    return prompts.row(CATALOG["t2i"], text=text, answer=IMAGE, images=[path], name=name)


def _members(path: Path) -> Iterator[tuple[str, str, bytes]]:
    """(name, suffix, content) of every file, in the order of the tar, which may be compressed."""
    with tarfile.open(path, "r|*") as tar:
        for member in tar:
            content = tar.extractfile(member) if member.isfile() else None
            if content is not None:
                inside = PurePosixPath(member.name)
                stem, _, suffix = inside.name.partition(".")
                yield (inside.parent / stem).as_posix(), suffix.lower(), content.read()
