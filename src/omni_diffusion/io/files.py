"""Atomic writes: a file is written beside its path, then moved over it in one step.

Also what may be known of a path before the work: whether it exists, and whether it can be written.
"""

from __future__ import annotations

import errno
import os
import secrets
import shutil
import stat
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from omni_diffusion.errors import StorageError

if sys.platform != "win32":
    import fcntl

LOCK_FILE = ".lock"
FIXES = {
    errno.ENOSPC: "free some space or choose another disk",
    errno.EDQUOT: "free some space or choose another disk",
    errno.EACCES: "choose a folder that you may write to",
    errno.EPERM: "choose a folder that you may write to",
    errno.EROFS: "choose a disk that is not read-only",
    errno.ENOENT: "create its folder first",
    errno.ENOTDIR: "one of its folders is a file; choose another path",
    errno.EEXIST: "one of its folders is a file; choose another path",
    errno.EISDIR: "it is a folder; name a file",
    errno.ENAMETOOLONG: "choose a shorter name",
}


# The methods of Path of these names raise OSError for a name that is too long.
def exists(path: str | Path) -> bool:
    """Whether there is a file or folder; False for a name that the system refuses."""
    return os.path.exists(path)


def is_file(path: str | Path) -> bool:
    """Whether there is a regular file; False for a name that the system refuses."""
    return os.path.isfile(path)


def is_dir(path: str | Path) -> bool:
    """Whether there is a folder; False for a name that the system refuses."""
    return os.path.isdir(path)


def check_writable(path: Path) -> None:
    """Raise the StorageError that writing `path` would raise, before the work.

    Creates a temporary file in its folder and removes it, since rights alone do not tell.
    """
    path = Path(path)
    if is_dir(path):
        raise _refused(path, IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR)))
    target = path if _is_device(path) else _target(path)
    if not is_dir(target.parent):
        raise StorageError(
            f"cannot write {path}: no folder {target.parent}",
            value=str(path),
            fix="create it first",
        )
    with storage_errors(path):
        if _is_device(target):
            if not os.access(target, os.W_OK):
                raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))
            return
        with suppress(FileNotFoundError):
            os.stat(target)  # raises for a name that is too long
        temporary = _beside(target)
        temporary.touch()
        temporary.unlink()


@contextmanager
def atomic_path(path: Path) -> Iterator[Path]:
    """Yield an empty temporary file beside `path`, which replaces `path` at the end.

    A reader of `path` gets the old file or the complete new one, which is flushed before it is
    moved. If the body fails, the temporary file is removed and `path` is unchanged. A symbolic
    link stays, and the file that it names is replaced. A device or pipe (/dev/stdout) is written
    to. Raises StorageError if the system refuses, also in the body.
    """
    given = Path(path)
    if _is_device(given):
        with _to_device(given) as temporary:
            yield temporary
        return
    path = _target(given)
    temporary = _beside(path)
    try:
        temporary.touch()
        mode = temporary.stat().st_mode  # some writers replace the file and its permissions
        yield temporary
        temporary.chmod(mode)
        _flush(temporary)
        temporary.replace(path)
        _flush(path.parent)
    except OSError as error:
        if error.filename not in (None, str(temporary), temporary, str(path.parent), path.parent):
            raise  # an error of another file in the body
        raise _refused(given, error) from error
    finally:
        with suppress(OSError):  # gone after a success, or along with its folder
            temporary.unlink(missing_ok=True)


@contextmanager
def atomic_folder(path: Path) -> Iterator[Path]:
    """Yield an empty folder beside `path`, which becomes `path` at the end with all its files.

    If the body fails, the folder is removed. Raises StorageError if `path` is a file or a folder
    that is not empty, if another process writes it, or if the system refuses.
    """
    path = Path(path)
    temporary = _beside(path)
    with exclusive(path, path.parent / f".{path.name}{LOCK_FILE}"):
        if exists(path) and (not is_dir(path) or any(path.iterdir())):
            raise StorageError(
                f"{path} exists and is not empty",
                value=str(path),
                fix="remove it or choose another path",
            )
        try:
            with storage_errors(path):
                temporary.mkdir(parents=True)
            yield temporary
            with storage_errors(path):
                if path.exists():
                    path.rmdir()  # an empty folder, which not every system replaces
                temporary.replace(path)
                _flush(path.parent)
        finally:
            shutil.rmtree(temporary, ignore_errors=True)


@contextmanager
def exclusive(folder: Path, lock: Path | None = None) -> Iterator[None]:
    """Keep other processes out of a folder; raises StorageError at once if one is using it.

    The lock is the system's (flock): it ends with its process, however that dies. lock: the file
    to lock, by default one in the folder, which is created. The file is removed at the end, and so
    is a folder that stayed empty. A file system or Windows without such locks has none.
    """
    made = lock is None and not Path(folder).exists()
    if lock is None:
        make_folder(folder)
        lock = Path(folder) / LOCK_FILE
    with storage_errors(folder):
        lock.parent.mkdir(parents=True, exist_ok=True)
        descriptor = _locked(lock)
    if descriptor is None:
        raise StorageError(
            f"{folder} is in use by another process",
            value=str(folder),
            fix="wait until it ends, or choose another folder",
        )
    try:
        yield
    finally:
        with suppress(OSError):
            lock.unlink()  # before it is unlocked: whoever opened it meanwhile opens it again
        os.close(descriptor)
        if made:
            with suppress(OSError):  # not empty
                Path(folder).rmdir()


def _locked(lock: Path) -> int | None:
    """A descriptor that holds the lock, or None if another process has it."""
    while True:
        descriptor = os.open(lock, os.O_RDWR | os.O_CREAT, 0o666)
        if sys.platform == "win32":
            return descriptor
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(descriptor)
            return None
        except OSError:  # a file system without locks
            return descriptor
        try:
            if os.path.samestat(os.fstat(descriptor), os.stat(lock)):
                return descriptor
        except FileNotFoundError:
            pass
        os.close(descriptor)  # its last owner has removed it


def make_folder(path: Path) -> None:
    """Create a folder and its parents if they do not exist; raises StorageError."""
    try:
        Path(path).mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise StorageError(
            f"cannot create {path}: {error.strerror}",
            value=str(path),
            fix="choose another folder",
        ) from error


def check_space(path: Path, needed: int) -> None:
    """Raise StorageError if the disk of `path` has fewer than `needed` bytes free."""
    folder = Path(path).absolute()
    while not exists(folder) and folder != folder.parent:
        folder = folder.parent
    try:
        free = shutil.disk_usage(folder).free
    except OSError:  # unknown; writing will fail if there is too little
        return
    if needed > free:
        raise StorageError(
            f"{path} takes {needed / 1e9:.3g} GB, its disk has {free / 1e9:.3g} GB free",
            value=str(path),
            fix="free some space or choose another disk",
        )


def read_text(path: Path) -> str:
    """The text of a UTF-8 file without its byte order mark; raises OSError, UnicodeDecodeError."""
    return Path(path).read_bytes().decode("utf-8-sig")


def text_lines(path: Path) -> Iterator[str]:
    """The lines of a UTF-8 file, without their ends and without a byte order mark.

    Only a line feed, or one after a carriage return, ends a line; `str.splitlines` would also cut
    at U+2028 and others, which may be part of a text. Raises OSError, UnicodeDecodeError.
    """
    with Path(path).open("rb") as file:
        for number, line in enumerate(file):
            text = line.decode("utf-8" if number else "utf-8-sig")
            yield text[:-1].removesuffix("\r") if text.endswith("\n") else text


def write_bytes(path: Path, data: bytes) -> None:
    """Write `data` to `path` atomically; raises StorageError."""
    with atomic_path(path) as temporary:
        temporary.write_bytes(data)


def write_text(path: Path, text: str) -> None:
    """Write `text` to `path` as UTF-8, atomically; raises StorageError.

    Bytes of file names that are not UTF-8 become escapes such as \\udcff, which JSON knows.
    """
    write_bytes(path, text.encode(errors="backslashreplace"))


def remove(path: Path) -> None:
    """Delete a file if it exists; raises StorageError."""
    with storage_errors(path, "remove"):
        Path(path).unlink(missing_ok=True)


def rename(path: Path, to: Path) -> None:
    """Rename a file or folder within its folder, in one step; raises StorageError."""
    with storage_errors(to):
        Path(path).replace(to)
        _flush(Path(to).parent)


@contextmanager
def storage_errors(path: Path, verb: str = "write") -> Iterator[None]:
    """Raise an OSError of the body as a StorageError that names `path`."""
    try:
        yield
    except OSError as error:
        raise _refused(path, error, verb) from error


def _target(path: Path) -> Path:
    """The path that a symbolic link leads to, else the path itself."""
    return Path(os.path.realpath(path)) if os.path.islink(path) else path


def _beside(path: Path) -> Path:
    """The name of a temporary file or folder beside `path`."""
    return path.parent / f".{secrets.token_hex(8)}.partial"


def _is_device(path: Path) -> bool:
    """Whether `path` is neither a file nor a folder but a terminal, pipe or other device.

    All of /dev counts: /dev/stdout stays a name for the open file, even if that is a regular one.
    """
    try:
        mode = os.stat(path).st_mode
    except OSError:
        return False
    return not (stat.S_ISREG(mode) or stat.S_ISDIR(mode)) or Path(path).parent == Path("/dev")


@contextmanager
def _to_device(device: Path) -> Iterator[Path]:
    """Yield a temporary file elsewhere, whose content goes to the device at the end."""
    with tempfile.TemporaryDirectory() as folder, storage_errors(device):
        temporary = Path(folder) / device.name
        temporary.touch()
        yield temporary
        with temporary.open("rb") as content, device.open("wb") as out:
            shutil.copyfileobj(content, out)


def _flush(path: Path) -> None:
    """Wait until a file's content, or a folder's entries, are on the disk."""
    if path.is_dir() and os.name == "nt":
        return  # Windows cannot open folders
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _refused(path: Path, error: OSError, verb: str = "write") -> StorageError:
    return StorageError(
        f"cannot {verb} {path}: {error.strerror or error}",
        value=str(path),
        fix=FIXES.get(error.errno or 0, "choose another path"),
    )
