"""What speaks: a command line or a piece of Python, named by one line of text.

    piper --model {voice} --output_file {out}
    package.module:attribute key=value ..

Nothing goes through a shell. Knows no manifest and nothing of what the speech is for.
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

from omni_diffusion.errors import DataError, MediaError, OmniError
from omni_diffusion.media import Waveform

Speak: TypeAlias = Callable[[str, str], Waveform]
"""Says a text (the first) in a voice (the second)."""

PYTHON = re.compile(r"([A-Za-z_]\w*(?:\.[A-Za-z_]\w*)*):([A-Za-z_]\w*)")
BLANK = re.compile(r"\{(\w*)\}")
BLANKS = ("text", "voice", "out")
TAIL = 300  # characters of what a failing command said last
TIMEOUT = 120.0  # seconds a command may take for one text


class Mute(Exception):
    """A synthesizer could not say one text; the others may still be said."""


@dataclass(frozen=True)
class Synthesizer:
    """A synthesizer by its line; `open` makes what speaks, one for each thread."""

    line: str
    open: Callable[[], Speak]
    digest: str

    @classmethod
    def named(cls, line: str, timeout: float = TIMEOUT) -> Synthesizer:
        """Find what a line names; raises DataError for a line that names nothing.

        timeout: seconds that a command may take for one text.
        """
        try:
            words = shlex.split(line)
        except ValueError as error:
            raise DataError(f"--synthesizer {line!r} cannot be parted ({error}); mend it") from None
        if not words:
            raise DataError("--synthesizer is empty; give a command line or package.module:name")
        match = PYTHON.fullmatch(words[0])
        if match is None:
            return cls(line, _command(words, timeout), _digest(line, words))
        found = _attribute(match[1], match[2])
        sources = [*(word.partition("=")[2] for word in words[1:]), _source(found)]
        return cls(line, _python(found, words), _digest(line, sources))


def tidy(text: str) -> str:
    """A text as it is spoken: one line, single spaces."""
    return " ".join(text.split())


def content(path: str) -> str:
    """A digest of the file that a word names, empty where it names none; a folder is not read."""
    digest = blake2b(digest_size=16)
    try:
        with open(path, "rb") as file:
            while block := file.read(2**20):
                digest.update(block)
    except (OSError, ValueError):  # no file, or nothing that could be one's name
        return ""
    return digest.hexdigest()


def _digest(line: str, words: list[str]) -> str:
    """What tells a synthesizer from another: its line, and the content of the files it names."""
    told = [line, *map(content, words)]
    return blake2b(repr(told).encode("utf-8", "surrogatepass"), digest_size=16).hexdigest()


def _command(words: list[str], timeout: float) -> Callable[[], Speak]:
    if shutil.which(words[0]) is None:
        raise DataError(f"no command {words[0]!r} for --synthesizer; install it or give its path")
    blanks = [blank for word in words for blank in BLANK.findall(word)]
    for blank in blanks:
        if blank not in BLANKS:
            raise DataError(
                f"--synthesizer has {{{blank}}}; give {{voice}}, {{out}} for a WAV file and"
                " {text}, or let it read the text from its input"
            )
    if "out" not in blanks:
        raise DataError("--synthesizer has no {out}; put it where the path of a WAV file goes")
    from_input = "text" not in blanks

    def speak(text: str, voice: str) -> Waveform:
        with tempfile.TemporaryDirectory(prefix="speech-", ignore_cleanup_errors=True) as folder:
            out = Path(folder) / "speech.wav"
            values = {"text": text, "voice": voice, "out": str(out)}
            filled = [_filled(word, values) for word in words]
            _run(filled, text + "\n" if from_input else "", timeout)
            if not out.exists():
                raise Mute("the command wrote nothing to {out}")
            return Waveform.read(out)

    return lambda: speak


def _filled(word: str, values: dict[str, str]) -> str:
    """All blanks at once: a text with "{out}" in it stays as it is."""
    filled = BLANK.sub(lambda blank: values[blank[1]], word)
    # "-5 degrees" is a text and no option
    return f" {filled}" if word == "{text}" and filled.startswith("-") else filled


def _run(words: list[str], text: str, timeout: float) -> None:
    """Run a command to its end; raises Mute with the end of what it said."""
    try:
        # in a session of its own, so that what it started ends with it
        process = subprocess.Popen(
            words,
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            start_new_session=True,
        )
    except (OSError, ValueError) as error:  # a path that is no program, a text with a null byte
        raise Mute(f"the command cannot be run ({error})") from error
    try:
        _, said = process.communicate(text.encode(), timeout)
    except subprocess.TimeoutExpired as error:
        raise Mute(f"the command took more than {timeout:g} s") from error
    finally:
        if process.poll() is None:
            _kill(process)
    if process.returncode:
        last = tidy(said.decode(errors="replace"))[-TAIL:] or "it said nothing"
        raise Mute(f"the command ended with code {process.returncode}: {last}")


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
        raise DataError(
            f"--synthesizer names {module}:{name} ({error}); install it or put its folder on"
            " PYTHONPATH"
        ) from error


def _source(found: Any) -> str:
    """The file that a class or function is written in."""
    with suppress(TypeError):
        return inspect.getsourcefile(found) or ""
    return ""


def _python(found: Any, words: list[str]) -> Callable[[], Speak]:
    """A class is opened once a thread with the values after its name; a function speaks itself."""
    values = dict(word.partition("=")[::2] for word in words[1:])
    if not all(re.fullmatch(r"[A-Za-z_]\w*=.*", word, re.DOTALL) for word in words[1:]):
        raise DataError(f"--synthesizer has {words[1:]} after its name; give key=value")

    def opened() -> Speak:
        made = found
        if inspect.isclass(found):
            try:
                made = found(**values)
            except OmniError:
                raise
            except Exception as error:
                raise DataError(
                    f"--synthesizer {words[0]} did not open ({type(error).__name__}: {error});"
                    " look at its values"
                ) from error
        elif values:
            raise DataError(f"--synthesizer {words[0]} is no class; leave away {words[1:]}")
        speak = getattr(made, "speak", made)
        if not callable(speak):
            raise DataError(
                f"--synthesizer {words[0]} is {type(made).__name__}; give a function of text and"
                " voice, or a class with speak(text, voice)"
            )
        return _guarded(speak)

    return opened


def _guarded(speak: Callable[[str, str], Any]) -> Speak:
    def say(text: str, voice: str) -> Waveform:
        try:
            wave = speak(text, voice)
        except Exception as error:  # whatever a plug-in raises concerns one text
            raise Mute(tidy(f"{type(error).__name__}: {error}")[:TAIL]) from error
        if not isinstance(wave, Waveform):
            raise Mute(f"it gave {type(wave).__name__}, not a Waveform")
        return wave

    return say


def say(speak: Speak, text: str, voice: str) -> Waveform:
    """One text, as one channel; raises Mute where the synthesizer fails or gives no sound."""
    try:
        wave = speak(text, voice).mono()
    except MediaError as error:
        raise Mute(tidy(str(error))[:TAIL]) from error
    if not bool(wave.samples.isfinite().all()):
        raise Mute("it gave samples that are not finite")
    return wave
