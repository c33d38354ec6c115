"""Speech synthesizers, named by one line: a command, or a Python class or function.

    piper --model {voice} --output_file {out}
    package.module:attribute key=value ...

No shell is involved.
"""

from __future__ import annotations

import inspect
import os
import re
import shlex
import shutil
import signal
import subprocess
import tempfile
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from hashlib import blake2b
from importlib import import_module
from pathlib import Path
from typing import Any, TypeAlias

from omni_diffusion.data.defaults import SYNTHESIS_TIMEOUT
from omni_diffusion.errors import DataError, MediaError, OmniError
from omni_diffusion.media import Waveform

Speak: TypeAlias = Callable[[str, str], Waveform]
"""Speaks a text (first argument) in a voice (second argument)."""

PYTHON_NAME = re.compile(r"([A-Za-z_]\w*(?:\.[A-Za-z_]\w*)*):([A-Za-z_]\w*)")
PLACEHOLDER = re.compile(r"\{(\w*)\}")
PLACEHOLDERS = ("text", "voice", "out")
ERROR_TAIL = 300  # characters kept from the end of an error output


class SynthesisError(Exception):
    """A synthesizer failed at one text; others may still succeed."""


@dataclass(frozen=True)
class SpeechSynthesizer:
    """A synthesizer.

    line: the line that names it. open: makes the function that speaks; called once a thread.
    digest: of the line and the files that it names.
    """

    line: str
    open: Callable[[], Speak]
    digest: str

    @classmethod
    def from_line(cls, line: str, timeout: float = SYNTHESIS_TIMEOUT) -> SpeechSynthesizer:
        """The synthesizer that a line names; raises DataError if there is none.

        timeout: seconds that a command may take for one text.
        """
        try:
            words = shlex.split(line)
        except ValueError as error:
            raise _error(f"{line!r} cannot be split into words ({error})", line, "fix it") from None
        if not words:
            raise _error("the line is empty", line, "give a command line or package.module:name")
        match = PYTHON_NAME.fullmatch(words[0])
        if match is None:
            return cls(line, _command(words, timeout), _digest(line, words))
        speaker = _attribute(match[1], match[2])
        sources = [*(word.partition("=")[2] for word in words[1:]), _source(speaker)]
        return cls(line, _python(speaker, words), _digest(line, sources))


def _error(problem: str, value: object, fix: str) -> DataError:
    return DataError(f"synthesizer: {problem}", field="synthesizer", value=value, fix=fix)


def one_line(text: str) -> str:
    """The text on one line, with single spaces."""
    return " ".join(text.split())


def file_digest(path: str) -> str:
    """A digest of the file that a word names; empty if it does not name a file."""
    digest = blake2b(digest_size=16)
    try:
        with open(path, "rb") as file:
            while block := file.read(2**20):
                digest.update(block)
    except (OSError, ValueError):  # not a file, or not a valid file name
        return ""
    return digest.hexdigest()


def _digest(line: str, words: list[str]) -> str:
    """A digest of a line and of the files that it names."""
    content = [line, *map(file_digest, words)]
    return blake2b(repr(content).encode("utf-8", "surrogatepass"), digest_size=16).hexdigest()


def _command(words: list[str], timeout: float) -> Callable[[], Speak]:
    if shutil.which(words[0]) is None:
        raise _error(
            f"the command {words[0]!r} does not exist", words[0], "install it or give its path"
        )
    names = [name for word in words for name in PLACEHOLDER.findall(word)]
    for name in names:
        if name not in PLACEHOLDERS:
            raise _error(
                f"{{{name}}} is not a placeholder",
                name,
                "give {voice}, {out} for the path of a WAV file, and {text} unless the command"
                " reads the text from its input",
            )
    if "out" not in names:
        raise _error("{out} is missing", names, "put it where the path of a WAV file goes")
    from_input = "text" not in names

    def speak(text: str, voice: str) -> Waveform:
        with tempfile.TemporaryDirectory(prefix="speech-", ignore_cleanup_errors=True) as folder:
            out = Path(folder) / "speech.wav"
            values = {"text": text, "voice": voice, "out": str(out)}
            filled = [_filled(word, values) for word in words]
            _run(filled, text + "\n" if from_input else "", timeout)
            if not out.exists():
                raise SynthesisError("the command did not write {out}")
            return Waveform.read(out)

    return lambda: speak


def _filled(word: str, values: dict[str, str]) -> str:
    """A word with its placeholders replaced."""
    # all at once: a text that holds "{out}" stays as it is
    filled = PLACEHOLDER.sub(lambda match: values[match[1]], word)
    # the space keeps a text such as "-5 degrees" from being read as an option
    return f" {filled}" if word == "{text}" and filled.startswith("-") else filled


def _run(words: list[str], text: str, timeout: float) -> None:
    """Run a command to its end; raises SynthesisError with the end of its error output."""
    try:
        # a new session, so that its child processes can be killed with it
        process = subprocess.Popen(
            words,
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            start_new_session=True,
        )
    except (OSError, ValueError) as error:  # not a program, or a null byte in the text
        raise SynthesisError(f"the command cannot be run ({error})") from error
    try:
        _, output = process.communicate(text.encode(), timeout)
    except subprocess.TimeoutExpired as error:
        raise SynthesisError(f"the command took more than {timeout:g} s") from error
    finally:
        if process.poll() is None:
            _kill(process)
    if process.returncode:
        message = one_line(output.decode(errors="replace"))[-ERROR_TAIL:] or "no error output"
        raise SynthesisError(f"the command ended with code {process.returncode}: {message}")


def _kill(process: subprocess.Popen[bytes]) -> None:
    with suppress(ProcessLookupError):
        if os.name == "nt":
            process.kill()
        else:
            os.killpg(process.pid, signal.SIGKILL)
    process.communicate()


def _attribute(module: str, name: str) -> Any:
    try:
        return getattr(import_module(module), name)
    except (ImportError, AttributeError) as error:
        raise _error(
            f"cannot import {module}:{name} ({error})",
            f"{module}:{name}",
            "install it or put its folder on PYTHONPATH",
        ) from error


def _source(speaker: Any) -> str:
    """The source file of a class or function; empty if there is none."""
    with suppress(TypeError):
        return inspect.getsourcefile(speaker) or ""
    return ""


def _python(speaker: Any, words: list[str]) -> Callable[[], Speak]:
    """Opens a class once a thread, with the values after its name; a function is used as it is."""
    values = dict(word.partition("=")[::2] for word in words[1:])
    if not all(re.fullmatch(r"[A-Za-z_]\w*=.*", word, re.DOTALL) for word in words[1:]):
        raise _error(f"{words[1:]} after {words[0]}", words[1:], "give key=value")

    def opened() -> Speak:
        instance = speaker
        if inspect.isclass(speaker):
            try:
                instance = speaker(**values)
            except OmniError:
                raise
            except Exception as error:
                raise _error(
                    f"{words[0]} did not open ({type(error).__name__}: {error})",
                    words[0],
                    "check its values",
                ) from error
        elif values:
            raise _error(f"{words[0]} is not a class", words[0], f"remove {words[1:]}")
        speak = getattr(instance, "speak", instance)
        if not callable(speak):
            raise _error(
                f"{words[0]} is {type(instance).__name__}",
                words[0],
                "give a function of text and voice, or a class with speak(text, voice)",
            )
        return _guarded(speak)

    return opened


def _guarded(speak: Callable[[str, str], Any]) -> Speak:
    def guarded(text: str, voice: str) -> Waveform:
        try:
            wave = speak(text, voice)
        except Exception as error:  # a plug-in may raise anything; it concerns this text only
            raise SynthesisError(
                one_line(f"{type(error).__name__}: {error}")[:ERROR_TAIL]
            ) from error
        if not isinstance(wave, Waveform):
            raise SynthesisError(f"it returned {type(wave).__name__}, not a Waveform")
        return wave

    return guarded


def synthesize_text(speak: Speak, text: str, voice: str) -> Waveform:
    """One text as a mono recording; raises SynthesisError if the synthesizer fails."""
    try:
        wave = speak(text, voice).mono()
    except MediaError as error:
        raise SynthesisError(one_line(str(error))[:ERROR_TAIL]) from error
    if not bool(wave.samples.isfinite().all()):
        raise SynthesisError("it returned samples that are not finite")
    return wave
