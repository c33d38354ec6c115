"""How a file reaches the disk whole: written beside its place, then moved over it in one step.

Knows nothing of what is in the file.
"""

from __future__ import annotations

import errno
import os
import secrets
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from omni_diffusion.errors import StorageError

FIXES = {
    errno.ENOSPC: "free some space or choose another disk",
    errno.EDQUOT: "free some space or choose another disk",
    errno.EACCES: "choose a folder that you may write to",
    errno.EPERM: "choose a folder that you may write to",
    errno.EROFS: "choose a disk that is not read-only",
    errno.ENOENT: "create its folder first",
    errno.ENOTDIR: "one of its folders is a file; choose another path",
    errno.EISDIR: "it is a folder; name a file",
    errno.ENAMETOOLONG: "choose a shorter name",
}


@contextmanager
def atomic_path(path: Path) -> Iterator[Path]:
    """Yield an empty temporary file beside `path`; it takes the place of `path` at the end.

    Whoever reads `path` meets the old file or the whole new one, never a part: the new one is on
    the disk before it is moved. When the body fails, the temporary file is removed and `path`
    is as before. Raises StorageError for what the system refuses, in the body too.
    """
    path = Path(path)
    temporary = path.parent / f".{secrets.token_hex(8)}.partial"
    try:
        temporary.touch()
        mode = temporary.stat().st_mode  # some writers replace the file, with rights of their own
        yield temporary
        temporary.chmod(mode)
        _flush(temporary)
        temporary.replace(path)
        _flush(path.parent)
    except OSError as error:
        if error.filename not in (None, str(temporary), temporary, str(path.parent), path.parent):
            raise  # another file's trouble, met in the body
        raise StorageError(_reason(path, error)) from error
    finally:
        with suppress(OSError):  # gone after a success, or along with its folder
            temporary.unlink(missing_ok=True)


@contextmanager
def atomic_folder(path: Path) -> Iterator[Path]:
    """Yield an empty folder beside `path`; it becomes `path` at the end, all its files at once.

    When the body fails nothing of it remains. Raises StorageError where `path` is a file or a
    folder that is not empty, and for what the system refuses.
    """
    path = Path(path)
    temporary = path.parent / f".{secrets.token_hex(8)}.partial"
    if path.exists() and (not path.is_dir() or any(path.iterdir())):
        raise StorageError(f"{path} is there and not empty; remove it or choose another path")
    try:
        with _told(path):
            temporary.mkdir(parents=True)
        yield temporary
        with _told(path):
            if path.exists():
                path.rmdir()  # an empty one, which not every system replaces
            temporary.replace(path)
            _flush(path.parent)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def make_folder(path: Path) -> None:
    """Create a folder and those it lies in, where they are not there; raises StorageError."""
    try:
        Path(path).mkdir(parents=True, exist_ok=True)
    except OSError as error:
        problem = f"cannot create {path}: {error.strerror}; choose another folder"
        raise StorageError(problem) from error


def check_space(path: Path, needed: int) -> None:
    """Raise StorageError when the disk that `path` is to lie on has fewer than `needed` bytes."""
    place = Path(path).absolute()
    while not place.exists() and place != place.parent:
        place = place.parent
    try:
        free = shutil.disk_usage(place).free
    except OSError:  # not told; the writing will tell
        return
    if needed > free:
        raise StorageError(
            f"{path} takes {needed / 1e9:.3g} GB, its disk has {free / 1e9:.3g} GB free;"
            " free some space or choose another disk"
        )


def write_bytes(path: Path, data: bytes) -> None:
    """Write `data` to `path` whole or not at all; raises StorageError."""
    with atomic_path(path) as temporary:
        temporary.write_bytes(data)


def write_text(path: Path, text: str) -> None:
    """Write `text` to `path` as UTF-8, whole or not at all; raises StorageError."""
    write_bytes(path, text.encode())


def remove(path: Path) -> None:
    """Delete a file if it is there; raises StorageError."""
    with _told(path, "remove"):
        Path(path).unlink(missing_ok=True)


def rename(path: Path, to: Path) -> None:
    """Give a file or folder another name beside it, in one step; raises StorageError."""
    with _told(to):
        Path(path).replace(to)
        _flush(Path(to).parent)


@contextmanager
def _told(path: Path, verb: str = "write") -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise StorageError(_reason(path, error, verb)) from error


def _flush(path: Path) -> None:
    """Wait until a file's content, or a folder's list of names, is on the disk."""
    if path.is_dir() and os.name == "nt":
        return  # Windows opens no folders
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _reason(path: Path, error: OSError, verb: str = "write") -> str:
    what = error.strerror or str(error)
    fix = FIXES.get(error.errno or 0, "choose another path")
    return f"cannot {verb} {path}: {what}; {fix}"
