"""What is wrong with a manifest, line by line.

Of media only headers are read unless asked otherwise, so a million lines take minutes. Knows no
model.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import lru_cache
from hashlib import blake2b
from itertools import islice
from pathlib import Path

from omni_diffusion.data import manifest
from omni_diffusion.data.manifest import Medium, Place, Problem, Sample
from omni_diffusion.data.stats import Header, Report, seconds_of
from omni_diffusion.errors import MediaError
from omni_diffusion.media import SoundHeader, picture_size, sound_header

READERS = 8  # threads: a header is little work and much waiting for the disk
LINES = 512  # handed to them at once


@dataclass(frozen=True)
class Limits:
    """What media may be: seconds and samples a second of a sound, pixels of a picture's side.

    180 s of heard speech fill the 3,072 places of the official model.
    """

    min_seconds: float = 0.1
    max_seconds: float = 180.0
    min_rate: int = 8_000
    max_rate: int = 192_000
    min_side: int = 16


def check(
    path: str | Path,
    root: str | Path | None = None,
    *,
    limits: Limits | None = None,
    decode: bool = False,
    progress: Callable[[float], None] | None = None,
) -> Report:
    """Look at every line of a manifest and at its media.

    decode: read media whole, which also finds those that break off. progress: called with the share
    of the manifest that is done. Raises DataError when the manifest itself cannot be read.
    """
    limits = limits or Limits()
    report = Report(str(path))
    seen: dict[bytes, int] = {}
    names: dict[str, int] = {}
    done = 0
    # A long recording that many lines have sections of is opened once.
    header = lru_cache(maxsize=4096)(_header)

    def examine(at: tuple[Place, bytes]) -> tuple[Sample | None, list[Problem], list[Header]]:
        place, line = at
        sample, problems = manifest.parse(line, place, root)
        headers: list[Header] = []
        for medium in sample.media if sample else ():
            try:
                found = header(medium.kind, medium.path)
                if decode:
                    medium.read()
            except MediaError as error:
                problems.append(Problem(place, str(error)))
                continue
            headers.append(found)
            problems += [
                Problem(place, message, warning) for message, warning in _odd(medium, found, limits)
            ]
        return sample, problems, headers

    size = Path(path).stat().st_size if Path(path).is_file() else 0
    rows = manifest.lines(path)
    with ThreadPoolExecutor(READERS) as pool:
        while some := list(islice(rows, LINES)):
            for (_, line), found in zip(some, pool.map(examine, some), strict=True):
                sample, problems, headers = found
                if sample is not None:
                    problems += _twins(sample, seen, names)
                report.lines += 1
                report.problems += problems
                if sample is not None and all(problem.warning for problem in problems):
                    report.add(sample, headers)
                done += len(line)
            if progress is not None:
                progress(done / size)
    if not report.lines:
        report.problems.append(Problem(Place(Path(path), 1), "the manifest is empty; add samples"))
    return report


def _header(kind: str, path: Path) -> Header:
    return picture_size(path) if kind == "image" else sound_header(path)


def _odd(medium: Medium, header: Header, limits: Limits) -> Iterator[tuple[str, bool]]:
    """What is out of range, each with whether it is but a warning."""
    path, section = medium.path, medium.section
    if not isinstance(header, SoundHeader):
        width, height = header
        if min(header) < limits.min_side:
            yield f"{path} is {width} x {height}; give sides of {limits.min_side} or more", False
        return
    if not limits.min_rate <= header.rate <= limits.max_rate:
        yield (
            f"{path} has {header.rate} samples a second; give {limits.min_rate} to"
            f" {limits.max_rate}, export it anew",
            False,
        )
    if header.seconds is None:
        yield f"{path} does not say how long it is; decode it to know", section is None
        return
    if section is not None and section[1] > header.seconds:
        yield (
            f"{path} lasts {header.seconds:g} s, its section ends at {section[1]:g}; move it",
            False,
        )
    seconds = seconds_of(medium, header)
    if seconds is not None and not limits.min_seconds <= seconds <= limits.max_seconds:
        yield (
            f"{path} lasts {seconds:g} s; give {limits.min_seconds:g} to {limits.max_seconds:g} s,"
            " cut it or move the limit",
            False,
        )


def _twins(sample: Sample, seen: dict[bytes, int], names: dict[str, int]) -> Iterator[Problem]:
    """Tell a sample, or a name, that stood on an earlier line."""
    told = [
        (e.role, e.content, [(str(m.path), m.section) for m in e.media]) for e in sample.entries
    ]
    digest = blake2b(repr(told).encode("utf-8", "surrogatepass"), digest_size=8).digest()
    first = seen.setdefault(digest, sample.place.line)
    if first != sample.place.line:
        yield Problem(sample.place, f"the same sample stands on line {first}; remove one")
    if sample.name is not None:
        first = names.setdefault(sample.name, sample.place.line)
        if first != sample.place.line:
            message = f"the id {sample.name!r} stands on line {first}; give each sample its own"
            yield Problem(sample.place, message, warning=True)
