"""Digests follow the content; an unchanged file is not read."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from tests.tiny import checkers, tone

from omni_diffusion.conversation import Image, Speech
from omni_diffusion.data import fingerprint
from omni_diffusion.data.fingerprint import MTIME_TICK, Fingerprint
from omni_diffusion.data.manifest import MediaFile
from omni_diffusion.errors import MediaError


@pytest.fixture
def recording(tmp_path: Path) -> MediaFile:
    tone(1.0).write(tmp_path / "a.wav")
    return MediaFile("speech", tmp_path / "a.wav")


def section(medium: MediaFile, start: float, stop: float) -> MediaFile:
    return MediaFile(medium.kind, medium.path, (start, stop))


def test_an_unchanged_file_is_not_read(recording: MediaFile) -> None:
    first = fingerprint.fingerprint(recording)
    stat = recording.path.stat()
    assert first[:2] == (stat.st_size, stat.st_mtime_ns)
    known = first._replace(digest="as stored")
    assert fingerprint.fingerprint(recording, known) is known
    assert fingerprint.fingerprint(section(recording, 0.0, 0.5), known) is known
    os.utime(recording.path, ns=(0, 0))
    assert fingerprint.fingerprint(recording, known) == first._replace(mtime=0)
    tone(1.0, hertz=221).write(recording.path)
    assert fingerprint.fingerprint(recording, first).digest != first.digest


def test_loading_gives_the_same_fingerprint(recording: MediaFile, tmp_path: Path) -> None:
    checkers().write(tmp_path / "c.png")
    picture = MediaFile("image", tmp_path / "c.png")
    for medium, kind in (
        (recording, Speech),
        (section(recording, 0.25, 0.5), Speech),
        (picture, Image),
    ):
        current, part = fingerprint.load_medium(medium)
        assert isinstance(part, kind)
        assert fingerprint.fingerprint(medium) == current
        assert len(current.digest) == 32


def test_the_digest_of_a_section_covers_its_samples(recording: MediaFile) -> None:
    """A long recording may grow without changing its sections."""
    before = [
        fingerprint.fingerprint(section(recording, *at)).digest for at in ((0.0, 0.5), (0.5, 1.0))
    ]
    assert before[0] != before[1]
    assert fingerprint.medium_key(section(recording, 0.0, 0.5)) != fingerprint.medium_key(recording)
    whole = fingerprint.fingerprint(recording).digest
    tone(1.5).write(recording.path)
    assert [
        fingerprint.fingerprint(section(recording, *at)).digest for at in ((0.0, 0.5), (0.5, 1.0))
    ] == before
    assert fingerprint.fingerprint(recording).digest != whole


def test_an_unreadable_file_is_never_trusted(recording: MediaFile, tmp_path: Path) -> None:
    outside = section(recording, 5.0, 6.0)
    none = MediaFile("image", tmp_path / "none.png")
    for medium in (outside, none, MediaFile("image", tmp_path)):
        current, error = fingerprint.load_medium(medium)
        assert isinstance(error, MediaError)
        assert current.digest.startswith("broken: ")
        assert fingerprint.trusted({"it": current}, current.mtime + 2 * MTIME_TICK) == {}
    broken = MediaFile("image", recording.path)  # a whole file, but no picture
    current, error = fingerprint.load_medium(broken)
    assert isinstance(error, MediaError)
    assert current == fingerprint.fingerprint(recording)


def test_fingerprints_are_stored_except_of_recent_changes(tmp_path: Path) -> None:
    now = 10 * MTIME_TICK
    current = {
        "a": Fingerprint(1, 2, "x"),
        "b \udcff": Fingerprint(3, now - MTIME_TICK - 1, "y"),
        "c": Fingerprint(4, now, "z"),
    }
    kept = fingerprint.trusted(current, now)
    assert list(kept) == ["a", "b \udcff"]
    fingerprint.write_fingerprints(tmp_path / "notes.json", kept)
    assert fingerprint.read_fingerprints(tmp_path / "notes.json") == kept
    assert fingerprint.read_fingerprints(tmp_path / "none.json") == {}
