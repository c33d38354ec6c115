"""Check every line of a manifest and the media that it names.

By default only the headers of media are read, so a million lines take minutes.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import lru_cache
from hashlib import blake2b
from itertools import islice
from pathlib import Path

from omni_diffusion.codecs.magvit2 import LONGEST_ASPECT
from omni_diffusion.conversation import Speech
from omni_diffusion.data.defaults import MAX_RECORDING_SECONDS
from omni_diffusion.data.manifest import (
    ManifestSample,
    MediaFile,
    Problem,
    SourceLine,
    parse_line,
    read_lines,
)
from omni_diffusion.data.stats import ManifestStats, MediaHeader, seconds_of
from omni_diffusion.errors import MediaError
from omni_diffusion.io import files
from omni_diffusion.media import SoundHeader, picture_size, sound_header

HEADER_READERS = 8  # threads; reading a header is mostly waiting for the disk
LINES_AT_ONCE = 512  # handed to the threads together


@dataclass(frozen=True)
class MediaLimits:
    """Accepted media: seconds and sampling rate (Hz) of a recording, pixels of a picture's side."""

    min_seconds: float = 0.1
    max_seconds: float = MAX_RECORDING_SECONDS
    min_rate: int = 8_000
    max_rate: int = 192_000
    min_side: int = 16


@dataclass(frozen=True)
class _CheckedLine:
    """A line with its problems; sample: None if it is broken. headers: of the readable media."""

    sample: ManifestSample | None
    problems: list[Problem]
    headers: list[MediaHeader]


def validate(
    path: str | Path,
    root: str | Path | None = None,
    *,
    limits: MediaLimits | None = None,
    decode: bool = False,
    progress: Callable[[float], None] | None = None,
) -> ManifestStats:
    """Check a manifest; returns its problems and statistics.

    root: what media paths are relative to, by default the manifest's folder. decode: decode media
    whole, which also finds truncated files. progress: called with the fraction that is done.
    Raises DataError if the manifest itself cannot be read.
    """
    limits = limits or MediaLimits()
    stats = ManifestStats(str(path))
    digests: dict[bytes, int] = {}
    names: dict[str, int] = {}
    done = 0
    # a long recording with a section in many lines is opened once
    header_of = lru_cache(maxsize=4096)(_header)

    def check(numbered: tuple[SourceLine, bytes]) -> _CheckedLine:
        source, line = numbered
        sample, problems = parse_line(line, source, root)
        headers: list[MediaHeader] = []
        for medium in sample.media if sample else ():
            try:
                header = header_of(medium.kind, medium.path)
                if decode:
                    problems += _unheard(medium, source)
            except MediaError as error:
                problems.append(Problem(source, str(error)))
                continue
            headers.append(header)
            problems += [
                Problem(source, message, warning)
                for message, warning in _out_of_range(medium, header, limits)
            ]
        return _CheckedLine(sample, problems, headers)

    size = Path(path).stat().st_size if files.is_file(path) else 0
    lines = read_lines(path)
    with ThreadPoolExecutor(HEADER_READERS) as pool:
        while batch := list(islice(lines, LINES_AT_ONCE)):
            for (_, line), checked in zip(batch, pool.map(check, batch), strict=True):
                sample, problems = checked.sample, checked.problems
                if sample is not None:
                    problems += _duplicates(sample, digests, names)
                stats.lines += 1
                stats.problems += problems
                if sample is not None and all(problem.warning for problem in problems):
                    stats.add(sample, checked.headers)
                done += len(line)
            if progress is not None:
                progress(done / size if size else 0.0)  # the size of a pipe is not known
    if not stats.lines:
        first = SourceLine(Path(path), 1)
        stats.problems.append(Problem(first, "the manifest is empty; add samples"))
    return stats


def _header(kind: str, path: Path) -> MediaHeader:
    return picture_size(path) if kind == "image" else sound_header(path)


def _unheard(medium: MediaFile, source: SourceLine) -> Iterator[Problem]:
    """Decode a medium; yields a warning for a recording in which nothing can be heard."""
    part = medium.read()
    if isinstance(part, Speech):
        try:
            part.waveform.check_heard(str(medium.path))
        except MediaError as error:
            yield Problem(source, str(error), warning=True)


def _out_of_range(
    medium: MediaFile, header: MediaHeader, limits: MediaLimits
) -> Iterator[tuple[str, bool]]:
    """Each violated limit as (message, whether it is only a warning)."""
    path, section = medium.path, medium.section
    if not isinstance(header, SoundHeader):
        width, height = header
        if min(header) < limits.min_side:
            yield f"{path} is {width} x {height}; give sides of {limits.min_side} or more", False
        elif max(header) > LONGEST_ASPECT * min(header):
            yield (
                f"{path} is {width} x {height}; crop it to sides within 1 : {LONGEST_ASPECT}",
                False,
            )
        return
    if not limits.min_rate <= header.rate <= limits.max_rate:
        yield (
            f"{path} is sampled at {header.rate} Hz; export it at {limits.min_rate} to"
            f" {limits.max_rate} Hz",
            False,
        )
    if header.seconds is None:
        yield f"{path} does not state its length; decode it to know", section is None
        return
    if section is not None and section[1] > header.seconds:
        yield (
            f"{path} lasts {header.seconds:g} s, its section ends at {section[1]:g} s; move it",
            False,
        )
    seconds = seconds_of(medium, header)
    if seconds is not None and not limits.min_seconds <= seconds <= limits.max_seconds:
        yield (
            f"{path} lasts {seconds:g} s; give {limits.min_seconds:g} to {limits.max_seconds:g} s,"
            " cut it or move the limit",
            False,
        )


def _duplicates(
    sample: ManifestSample, digests: dict[bytes, int], names: dict[str, int]
) -> Iterator[Problem]:
    """Report a sample or an id that an earlier line has; adds this one to both maps."""
    content = [
        (each.role, each.content, [(str(m.path), m.section) for m in each.media])
        for each in sample.messages
    ]
    digest = blake2b(repr(content).encode("utf-8", "surrogatepass"), digest_size=8).digest()
    first = digests.setdefault(digest, sample.source.line)
    if first != sample.source.line:
        yield Problem(sample.source, f"the same sample is on line {first}; remove one")
    if sample.name is not None:
        first = names.setdefault(sample.name, sample.source.line)
        if first != sample.source.line:
            message = f"the id {sample.name!r} is on line {first} too; make ids unique"
            yield Problem(sample.source, message, warning=True)
