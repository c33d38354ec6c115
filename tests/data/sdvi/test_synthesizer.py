"""Synthesizers by their line: commands and Python, and all that can go wrong with either."""

from __future__ import annotations

import shlex
import sys
import time
from pathlib import Path

import pytest
import torch
from tests.data.sdvi import sine_synthesizer

from omni_diffusion.data.sdvi.synthesizer import Mute, Synthesizer, say, tidy
from omni_diffusion.errors import DataError
from omni_diffusion.media import Waveform

SCRIPT = Path(__file__).with_name("say.py")
COMMAND = shlex.join([sys.executable, str(SCRIPT), "{voice}", "{out}"])


def spoken(line: str, text: str, voice: str = "anna", timeout: float = 30.0) -> Waveform:
    return say(Synthesizer.named(line, timeout).open(), text, voice)


@pytest.mark.parametrize(
    "line",
    [
        COMMAND,
        COMMAND + " {text}",
        "tests.data.sdvi.sine_synthesizer:say",
        "tests.data.sdvi.sine_synthesizer:Sines",
    ],
)
def test_every_kind_says_the_same(line: str) -> None:
    found = spoken(line, "What is on the left?")
    assert found.rate == 8000
    assert torch.allclose(
        found.samples, sine_synthesizer.say("what is on the left", "anna").samples, atol=1e-4
    )
    assert sine_synthesizer.transcribe(found) == "what is on the left"


def test_a_class_gets_its_values() -> None:
    begun = time.monotonic()
    spoken("tests.data.sdvi.sine_synthesizer:Sines seconds=0.2", "boat")
    assert time.monotonic() - begun >= 0.2


def test_a_text_cannot_become_an_option_a_command_or_a_blank() -> None:
    script = "import sys; sys.exit(repr(sys.argv[1:]))"
    line = shlex.join([sys.executable, "-c", script, "{text}", "{out}"])
    for text in ("-rf x", "$(touch x); `x` && y", "{voice} {out}"):
        with pytest.raises(Mute) as caught:
            spoken(line, text)
        assert repr(" " + text if text.startswith("-") else text) in str(caught.value)


@pytest.mark.parametrize(
    ("line", "text", "message"),
    [
        (COMMAND, "an elephant", "ended with code 1: cannot say 'an elephant'"),
        (COMMAND, "nothing", "wrote nothing to {out}"),
        (COMMAND, "noise", "is no readable sound"),
        (COMMAND + " {text}", "nul \0 byte", "cannot be run"),
        ("tests.data.sdvi.sine_synthesizer:say", "an elephant", "ValueError: 'an' is not in"),
        ("tests.data.sdvi.sine_synthesizer:wrong", "boat", "it gave str, not a Waveform"),
        ("tests.data.sdvi.sine_synthesizer:infinite", "boat", "not finite"),
    ],
)
def test_a_text_that_fails_is_told_in_a_line(line: str, text: str, message: str) -> None:
    with pytest.raises(Mute) as caught:
        spoken(line, text)
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_command_that_hangs_is_ended_with_all_it_started() -> None:
    begun = time.monotonic()
    with pytest.raises(Mute, match=r"more than 0\.5 s"):
        spoken(COMMAND, "slow", timeout=0.5)
    assert time.monotonic() - begun < 20  # what it started holds its stderr for 60 s


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("", "is empty"),
        ("say 'it", "cannot be parted"),
        ("no-such-command {out}", "no command 'no-such-command'"),
        (f"{sys.executable} {{voices}} {{out}}", "has {voices}; give {voice}"),
        (f"{sys.executable} {{voice}}", "has no {out}"),
        ("no.such.module:Voice", "names no.such.module:Voice"),
        ("tests.data.sdvi.sine_synthesizer:nobody", "has no attribute 'nobody'"),
        ("tests.data.sdvi.sine_synthesizer:Sines fast", "give key=value"),
    ],
)
def test_a_line_that_names_nothing_is_an_error(line: str, message: str) -> None:
    with pytest.raises(DataError) as caught:
        Synthesizer.named(line)
    assert message in str(caught.value)


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("tests.data.sdvi.sine_synthesizer:Sines pace=1", "did not open .TypeError"),
        ("tests.data.sdvi.sine_synthesizer:say pace=1", "is no class"),
        ("tests.data.sdvi.sine_synthesizer:WORDS", "is list"),
    ],
)
def test_what_does_not_open_is_an_error(line: str, message: str) -> None:
    with pytest.raises(DataError, match=message):
        Synthesizer.named(line).open()


def test_the_digest_follows_the_line_and_the_files_it_names(tmp_path: Path) -> None:
    script = tmp_path / "say.py"
    script.write_bytes(SCRIPT.read_bytes())
    line = shlex.join([sys.executable, str(script), "{voice}", "{out}"])
    first = Synthesizer.named(line).digest
    assert Synthesizer.named(line).digest == first
    assert Synthesizer.named(line + " {text}").digest != first
    script.write_bytes(SCRIPT.read_bytes() + b"# another\n")
    assert Synthesizer.named(line).digest != first


def test_a_spoken_text_is_one_line() -> None:
    assert tidy(" what\n is\tit? ") == "what is it?"
