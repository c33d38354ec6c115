"""What was said so far: a sound file for each take that is good, and a journal of all takes.

A take is one text in one voice by one synthesizer; its key follows from these, so whatever changes
gets another key and nothing old is taken for new. A journal line is written once the sound is
whole, in one piece; a piece that broke off is passed over and its take made again.
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

JOURNALS, SOUNDS = "takes", "sounds"
ABANDONED = 3600.0  # seconds after which a file that was begun is finished by nobody
VERSION = 1  # of how a take is made; another makes all anew


@dataclass(frozen=True)
class Take:
    """How one text came out.

    seconds, loudness (root mean square): of the sound. judge, heard, wrong, words: who listened to
    it, what it understood, and how many of how many words of the text were wrong in that; judge and
    heard are None where nobody listened. failed: why there is no sound.
    """

    key: str
    seconds: float = 0.0
    loudness: float = 0.0
    judge: str | None = None
    heard: str | None = None
    wrong: int = 0
    words: int = 0
    failed: str | None = None


def key_of(synthesizer: str, text: str, voice: str) -> str:
    """The key of a take; synthesizer and voice by their digests or names."""
    told = repr((VERSION, synthesizer, text, voice))
    return blake2b(told.encode("utf-8", "surrogatepass"), digest_size=16).hexdigest()


class Takes:
    """The takes of a folder, of all its journals; new ones go to the journal `name`."""

    def __init__(self, folder: Path, name: str) -> None:
        self._folder = folder
        self._journal = folder / JOURNALS / f"{name}.jsonl"
        self._found: dict[str, Take] = {}
        self._lock = threading.Lock()
        files.make_folder(folder / JOURNALS)
        self.refresh()
        self._mend()

    def refresh(self) -> None:
        """Read what other workers have written since."""
        for path in sorted((self._folder / JOURNALS).glob("*.jsonl")):
            for line in path.read_bytes().splitlines():
                try:
                    take = Take(**json.loads(line))
                except (ValueError, TypeError):
                    continue  # it broke off
                held = self._found.get(take.key)
                if held is None or held.failed is not None or take.failed is None:
                    self._found[take.key] = take

    def get(self, key: str) -> Take | None:
        """The take of a key; None where it was not made yet."""
        return self._found.get(key)

    def failures(self) -> set[str]:
        """The keys of the takes that failed."""
        return {take.key for take in self._found.values() if take.failed is not None}

    def note(self, take: Take) -> None:
        """Know a take in this run alone."""
        self._found[take.key] = take

    def path(self, key: str) -> Path:
        """Where the sound of a take lies, or would."""
        return self._folder / SOUNDS / key[:2] / f"{key}.flac"

    def add(self, take: Take, sound: Waveform | None) -> None:
        """Keep a take, and its sound if that is good; raises StorageError."""
        if sound is not None:
            path = self.path(take.key)
            files.make_folder(path.parent)
            sound.write(path)
        line = json.dumps(asdict(take), ensure_ascii=False) + "\n"
        with self._lock:
            self._append(line.encode("utf-8", "surrogatepass"))
            self._found[take.key] = take

    def sweep(self, used: Iterable[str]) -> int:
        """Delete the sounds of other keys, and what broke off long ago; says how many files."""
        keep = {self.path(key) for key in used}
        found = [*(self._folder / SOUNDS).glob("*/*.flac"), *self._partial()]
        for path in found:
            if path not in keep:
                files.remove(path)
        return len([path for path in found if path not in keep])

    def _partial(self) -> Iterator[Path]:
        """Files that nobody can be writing any more; another worker may be at a younger one."""
        for path in (self._folder / SOUNDS).glob("*/.*.partial"):
            with suppress(OSError):  # it has just been finished
                if time.time() - path.stat().st_mtime > ABANDONED:
                    yield path

    def _append(self, line: bytes) -> None:
        try:
            with self._journal.open("ab", buffering=0) as file:
                file.write(line)
        except OSError as error:
            problem = f"cannot write {self._journal}: {error.strerror}; choose another disk"
            raise StorageError(problem) from error

    def _mend(self) -> None:
        """End a line that broke off, so that the next one does not go on with it."""
        if self._journal.exists() and self._journal.read_bytes()[-1:] not in (b"", b"\n"):
            self._append(b"\n")
