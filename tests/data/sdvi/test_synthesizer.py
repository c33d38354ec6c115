"""Synthesizers by their line: commands and Python objects, and their failures."""

from __future__ import annotations

import shlex
import sys
import time
from pathlib import Path

import pytest
import torch
from tests.data.sdvi import sine_synthesizer

from omni_diffusion.data.sdvi.synthesizer import (
    SpeechSynthesizer,
    SynthesisError,
    one_line,
    synthesize_text,
)
from omni_diffusion.errors import DataError
from omni_diffusion.media import Waveform

SCRIPT = Path(__file__).with_name("speaking_program.py")
COMMAND = shlex.join([sys.executable, str(SCRIPT), "{voice}", "{out}"])


def recording_of(line: str, text: str, voice: str = "anna", timeout: float = 30.0) -> Waveform:
    return synthesize_text(SpeechSynthesizer.from_line(line, timeout).open(), text, voice)


@pytest.mark.parametrize(
    "line",
    [
        COMMAND,
        COMMAND + " {text}",
        "tests.data.sdvi.sine_synthesizer:say",
        "tests.data.sdvi.sine_synthesizer:Sines",
    ],
)
def test_every_kind_of_synthesizer_gives_the_same(line: str) -> None:
    found = recording_of(line, "What is on the left?")
    assert found.rate == 8000
    assert torch.allclose(
        found.samples, sine_synthesizer.say("what is on the left", "anna").samples, atol=1e-4
    )
    assert sine_synthesizer.transcribe(found) == "what is on the left"


def test_a_class_gets_its_values() -> None:
    begun = time.monotonic()
    recording_of("tests.data.sdvi.sine_synthesizer:Sines seconds=0.2", "boat")
    assert time.monotonic() - begun >= 0.2


def test_a_text_cannot_become_an_option_a_command_or_a_placeholder() -> None:
    script = "import sys; sys.exit(repr(sys.argv[1:]))"
    line = shlex.join([sys.executable, "-c", script, "{text}", "{out}"])
    for text in ("-rf x", "$(touch x); `x` && y", "{voice} {out}"):
        with pytest.raises(SynthesisError) as caught:
            recording_of(line, text)
        assert repr(" " + text if text.startswith("-") else text) in str(caught.value)


@pytest.mark.parametrize(
    ("line", "text", "message"),
    [
        (COMMAND, "an elephant", "ended with code 1: cannot say 'an elephant'"),
        (COMMAND, "nothing", "did not write {out}"),
        (COMMAND, "noise", "is not readable audio"),
        (COMMAND + " {text}", "nul \0 byte", "cannot be run"),
        ("tests.data.sdvi.sine_synthesizer:say", "an elephant", "ValueError: 'an' is not in"),
        ("tests.data.sdvi.sine_synthesizer:wrong", "boat", "it returned str, not a Waveform"),
        ("tests.data.sdvi.sine_synthesizer:infinite", "boat", "not finite"),
    ],
)
def test_a_failed_text_is_one_error_line(line: str, text: str, message: str) -> None:
    with pytest.raises(SynthesisError) as caught:
        recording_of(line, text)
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_hanging_command_is_killed_with_its_children() -> None:
    begun = time.monotonic()
    with pytest.raises(SynthesisError, match=r"more than 0\.5 s"):
        recording_of(COMMAND, "slow", timeout=0.5)
    assert time.monotonic() - begun < 20  # what it started holds its stderr for 60 s


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("", "is empty"),
        ("say 'it", "cannot be split"),
        ("no-such-command {out}", "the command 'no-such-command' does not exist"),
        (f"{sys.executable} {{voices}} {{out}}", "{voices} is not a placeholder; give {voice}"),
        (f"{sys.executable} {{voice}}", "{out} is missing"),
        ("no.such.module:Voice", "cannot import no.such.module:Voice"),
        ("tests.data.sdvi.sine_synthesizer:nobody", "has no attribute 'nobody'"),
        ("tests.data.sdvi.sine_synthesizer:Sines fast", "give key=value"),
    ],
)
def test_a_line_that_names_no_synthesizer_is_an_error(line: str, message: str) -> None:
    with pytest.raises(DataError) as caught:
        SpeechSynthesizer.from_line(line)
    assert message in str(caught.value)


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("tests.data.sdvi.sine_synthesizer:Sines pace=1", "did not open .TypeError"),
        ("tests.data.sdvi.sine_synthesizer:say pace=1", "is not a class"),
        ("tests.data.sdvi.sine_synthesizer:WORDS", "is list"),
    ],
)
def test_a_synthesizer_that_does_not_open_is_an_error(line: str, message: str) -> None:
    with pytest.raises(DataError, match=message):
        SpeechSynthesizer.from_line(line).open()


def test_the_digest_follows_the_line_and_the_files_it_names(tmp_path: Path) -> None:
    script = tmp_path / "say.py"
    script.write_bytes(SCRIPT.read_bytes())
    line = shlex.join([sys.executable, str(script), "{voice}", "{out}"])
    first = SpeechSynthesizer.from_line(line).digest
    assert SpeechSynthesizer.from_line(line).digest == first
    assert SpeechSynthesizer.from_line(line + " {text}").digest != first
    script.write_bytes(SCRIPT.read_bytes() + b"# another\n")
    assert SpeechSynthesizer.from_line(line).digest != first


def test_a_text_becomes_one_line() -> None:
    assert one_line(" what\n is\tit? ") == "what is it?"
