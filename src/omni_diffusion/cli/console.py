"""Standard output and error that never interrupt the work.

A closed pipe, a full disk behind `> file`, or an encoding that lacks a character must not cost an
answer that takes minutes: what cannot be written is dropped, and told when the command ends.
"""

from __future__ import annotations

import errno
import io
import sys
from collections.abc import Iterator
from contextlib import contextmanager

from omni_diffusion.errors import StorageError
from omni_diffusion.io.files import FIXES

CLOSED = 141  # exit code of a program that a closed pipe ends: 128 + SIGPIPE


class PatientFile(io.RawIOBase):
    """A raw file that takes everything; `error` is the first one that the system raised."""

    def __init__(self, raw: io.RawIOBase) -> None:
        self.raw = raw
        self.error: OSError | None = None

    def writable(self) -> bool:
        """Always, even after an error."""
        return True

    def write(self, data: object, /) -> int:
        """Write to the file underneath; after an error, only pretend to."""
        view = memoryview(data)  # type: ignore[arg-type]
        if self.error is None:
            try:
                return self.raw.write(view) or 0
            except OSError as error:
                self.error = error
        return view.nbytes

    def fileno(self) -> int:
        """The descriptor underneath."""
        return self.raw.fileno()

    def isatty(self) -> bool:
        """Whether that is a terminal."""
        return self.raw.isatty()


@contextmanager
def patient_console() -> Iterator[None]:
    """Replace sys.stdout and sys.stderr; characters that the console lacks become "?".

    At the end, raises SystemExit(141) if standard output was closed, and StorageError if it could
    not be written, unless the command failed anyway.
    """
    given, out = (sys.stdout, sys.stderr), _patient("stdout")
    _patient("stderr")
    try:
        yield
        sys.stdout.flush() if sys.stdout is not None else None
        if out is not None and out.error is not None:
            raise _ended(out.error)
    finally:
        for stream in (sys.stdout, sys.stderr):
            if stream is not None:
                stream.flush()
        sys.stdout, sys.stderr = given


def _patient(name: str) -> PatientFile | None:
    """Replace one stream of sys; None for one that is not a file (in tests, or closed)."""
    stream = getattr(sys, name)
    buffer = getattr(stream, "buffer", None)
    raw = getattr(buffer, "raw", buffer)  # PYTHONUNBUFFERED leaves the raw file alone
    if not isinstance(raw, io.FileIO):
        return None
    stream.flush()
    patient = PatientFile(raw)
    errors = "replace" if name == "stdout" else stream.errors
    setattr(
        sys,
        name,
        io.TextIOWrapper(
            patient if raw is buffer else io.BufferedWriter(patient),
            encoding=stream.encoding,
            errors=errors,
            line_buffering=stream.line_buffering,
            write_through=stream.write_through,
        ),
    )
    return patient


def _ended(error: OSError) -> BaseException:
    if error.errno in (errno.EPIPE, errno.ESHUTDOWN):
        return SystemExit(CLOSED)
    return StorageError(
        f"cannot write to standard output: {error.strerror}",
        fix=FIXES.get(error.errno or 0, "write it elsewhere"),
    )
