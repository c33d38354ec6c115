"""The cache of synthesized speech: a recording of each good take, and a journal of all takes.

A take is one text in one voice by one synthesizer. Its key is a digest of these, so a change gives
a new key and never reuses an old recording. A journal line is written after its recording is
complete; a truncated line is ignored and its take made again.
"""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Iterable, Iterator
from contextlib import suppress
from dataclasses import asdict, dataclass
from hashlib import blake2b
from pathlib import Path

from omni_diffusion.errors import StorageError
from omni_diffusion.io import files
from omni_diffusion.media import Waveform

JOURNALS, RECORDINGS = "takes", "sounds"  # folders
STALE_SECONDS = 3600.0  # age at which a partial file counts as abandoned
TAKE_VERSION = 1  # of how takes are made; a new version makes all of them again


@dataclass(frozen=True)
class Take:
    """The result of synthesizing one text.

    seconds, loudness: of the recording; loudness is its root mean square, 1 is full scale. judge,
    heard: the name of the ASR model and its transcript, None if it was not transcribed. wrong,
    words: word errors in the transcript, and words of the text. failed: why there is no recording.
    """

    key: str
    seconds: float = 0.0
    loudness: float = 0.0
    judge: str | None = None
    heard: str | None = None
    wrong: int = 0
    words: int = 0
    failed: str | None = None


def take_key(synthesizer: str, text: str, voice: str) -> str:
    """The key of a take. synthesizer, voice: names with the digests of their files."""
    content = repr((TAKE_VERSION, synthesizer, text, voice))
    return blake2b(content.encode("utf-8", "surrogatepass"), digest_size=16).hexdigest()


class TakeStore:
    """All takes of a folder; new ones are appended to the journal `name`.

    Several threads may use it. Each process needs a journal of its own.
    """

    def __init__(self, folder: Path, name: str) -> None:
        self._folder = folder
        self._journal = folder / JOURNALS / f"{name}.jsonl"
        self._takes: dict[str, Take] = {}
        self._lock = threading.Lock()
        files.make_folder(folder / JOURNALS)
        self.refresh()
        self._end_line()

    def refresh(self) -> None:
        """Read what other processes have written since."""
        for path in sorted((self._folder / JOURNALS).glob("*.jsonl")):
            for line in path.read_bytes().splitlines():
                try:
                    take = Take(**json.loads(line))
                except (ValueError, TypeError):
                    continue  # a truncated line
                held = self._takes.get(take.key)
                if held is None or held.failed is not None or take.failed is None:
                    self._takes[take.key] = take

    def get(self, key: str) -> Take | None:
        """The take of a key; None if it was not made yet."""
        return self._takes.get(key)

    def failures(self) -> set[str]:
        """The keys of the takes that failed."""
        return {take.key for take in self._takes.values() if take.failed is not None}

    def remember(self, take: Take) -> None:
        """Keep a take in memory only, for this run."""
        self._takes[take.key] = take

    def path(self, key: str) -> Path:
        """The path of a take's recording, whether it exists or not."""
        return self._folder / RECORDINGS / key[:2] / f"{key}.flac"

    def add(self, take: Take, recording: Waveform | None) -> None:
        """Append a take to the journal, and write its recording; raises StorageError."""
        if recording is not None:
            path = self.path(take.key)
            files.make_folder(path.parent)
            recording.write(path)
        line = json.dumps(asdict(take), ensure_ascii=False) + "\n"
        with self._lock:
            self._append(line.encode("utf-8", "surrogatepass"))
            self._takes[take.key] = take

    def sweep(self, used: Iterable[str]) -> int:
        """Delete other recordings and abandoned partial files; returns how many."""
        keep = {self.path(key) for key in used}
        paths = [*(self._folder / RECORDINGS).glob("*/*.flac"), *self._abandoned()]
        unused = [path for path in paths if path not in keep]
        for path in unused:
            files.remove(path)
        return len(unused)

    def _abandoned(self) -> Iterator[Path]:
        """Old partial files; another process may still be writing a young one."""
        for path in (self._folder / RECORDINGS).glob("*/.*.partial"):
            with suppress(OSError):  # it was just completed
                if time.time() - path.stat().st_mtime > STALE_SECONDS:
                    yield path

    def _append(self, line: bytes) -> None:
        try:
            with self._journal.open("ab", buffering=0) as file:
                file.write(line)
        except OSError as error:
            raise StorageError(
                f"cannot write {self._journal}: {error.strerror}",
                value=self._journal,
                fix="choose another disk",
            ) from error

    def _end_line(self) -> None:
        """End a truncated last line, so that the next one starts on a line of its own."""
        if self._journal.exists() and self._journal.read_bytes()[-1:] not in (b"", b"\n"):
            self._append(b"\n")
