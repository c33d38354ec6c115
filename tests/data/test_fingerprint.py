"""Content is told by a digest; a file that is as it was noted is not read."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from tests.tiny import checkers, tone

from omni_diffusion.conversation import Image, Speech
from omni_diffusion.data import fingerprint
from omni_diffusion.data.fingerprint import TICK, Seen
from omni_diffusion.data.manifest import Medium
from omni_diffusion.errors import MediaError


@pytest.fixture
def sound(tmp_path: Path) -> Medium:
    tone(1.0).write(tmp_path / "a.wav")
    return Medium("speech", tmp_path / "a.wav")


def section(medium: Medium, start: float, stop: float) -> Medium:
    return Medium(medium.kind, medium.path, (start, stop))


def test_what_is_as_noted_is_not_read(sound: Medium) -> None:
    first = fingerprint.look(sound)
    stat = sound.path.stat()
    assert first[:2] == (stat.st_size, stat.st_mtime_ns)
    noted = first._replace(digest="as noted")
    assert fingerprint.look(sound, noted) is noted
    assert fingerprint.look(section(sound, 0.0, 0.5), noted) is noted
    os.utime(sound.path, ns=(0, 0))
    assert fingerprint.look(sound, noted) == first._replace(changed=0)
    tone(1.0, hertz=221).write(sound.path)
    assert fingerprint.look(sound, first).digest != first.digest


def test_a_medium_is_loaded_with_what_a_look_finds(sound: Medium, tmp_path: Path) -> None:
    checkers().write(tmp_path / "c.png")
    picture = Medium("image", tmp_path / "c.png")
    for medium, kind in ((sound, Speech), (section(sound, 0.25, 0.5), Speech), (picture, Image)):
        seen, part = fingerprint.load(medium)
        assert isinstance(part, kind)
        assert fingerprint.look(medium) == seen
        assert len(seen.digest) == 32


def test_a_section_is_told_by_its_samples(sound: Medium) -> None:
    """A long recording may grow without what was cut from it being made anew."""
    before = [fingerprint.look(section(sound, *at)).digest for at in ((0.0, 0.5), (0.5, 1.0))]
    assert before[0] != before[1]
    assert fingerprint.name_of(section(sound, 0.0, 0.5)) != fingerprint.name_of(sound)
    whole = fingerprint.look(sound).digest
    tone(1.5).write(sound.path)
    assert [
        fingerprint.look(section(sound, *at)).digest for at in ((0.0, 0.5), (0.5, 1.0))
    ] == before
    assert fingerprint.look(sound).digest != whole


def test_what_cannot_be_read_is_told_and_never_noted(sound: Medium, tmp_path: Path) -> None:
    outside = section(sound, 5.0, 6.0)
    none = Medium("image", tmp_path / "none.png")
    for medium in (outside, none, Medium("image", tmp_path)):
        seen, error = fingerprint.load(medium)
        assert isinstance(error, MediaError)
        assert seen.digest.startswith("broken: ")
        assert fingerprint.settled({"it": seen}, seen.changed + 2 * TICK) == {}
    broken = Medium("image", sound.path)  # a whole file, but no picture
    seen, error = fingerprint.load(broken)
    assert isinstance(error, MediaError)
    assert seen == fingerprint.look(sound)


def test_notes_are_kept_but_for_what_changed_just_now(tmp_path: Path) -> None:
    now = 10 * TICK
    seen = {"a": Seen(1, 2, "x"), "b \udcff": Seen(3, now - TICK - 1, "y"), "c": Seen(4, now, "z")}
    kept = fingerprint.settled(seen, now)
    assert list(kept) == ["a", "b \udcff"]
    fingerprint.write_notes(tmp_path / "notes.json", kept)
    assert fingerprint.read_notes(tmp_path / "notes.json") == kept
    assert fingerprint.read_notes(tmp_path / "none.json") == {}
