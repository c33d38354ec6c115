"""A manifest's pictures and sounds become codes once: workers write shards, each on its own.

Shard i of n holds lines i, i + n, .. (counted from 0). A shard that is there is made anew only when
its lines, their media or the codecs have changed; media are told by size and time of change, as
make and rsync do, so that looking costs no reading. Whoever finds all shards there writes the
index.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from hashlib import blake2b
from pathlib import Path

import torch

from omni_diffusion import config, files
from omni_diffusion.codecs.suite import CodecSuite
from omni_diffusion.data import manifest, shards
from omni_diffusion.data.exercises import of_turns
from omni_diffusion.data.manifest import Place, Sample
from omni_diffusion.data.shards import INDEX, Index, Record, Row, turns_of
from omni_diffusion.errors import DataError, MediaError
from omni_diffusion.tasks.encode import encode
from omni_diffusion.tasks.parts import Codes, Frames
from omni_diffusion.tasks.task import Answer

LINES = 4096  # of a shard, where the number of shards is left open
VERSION = 1  # of what a shard holds; another makes all shards anew


@dataclass(frozen=True)
class Worker:
    """Makes shards of one manifest.

    codecs: what encodes. answers: what a model's answers are made of where it differs from the
    tasks' own. most_bad: the share of a shard's lines that may be left out; one more stops the run.
    """

    manifest: Path
    out: Path
    codecs: CodecSuite
    root: Path | None = None
    answers: Mapping[str, Answer] | None = None
    most_bad: float = 0.01

    def __post_init__(self) -> None:
        if not 0 <= self.most_bad <= 1:
            raise DataError(f"most_bad is {self.most_bad}; give a share from 0 to 1")

    def run(
        self,
        shard: int | None = None,
        of: int | None = None,
        progress: Callable[[float], None] | None = None,
    ) -> list[Record]:
        """Make one shard, or all; returns the records of those asked for, made now or before.

        of: how many shards there are, by default one for each 4,096 lines. progress: called with
        the share of lines that are done. Raises DataError naming the shard when too many of its
        lines are broken, StorageError when a file cannot be written.
        """
        lines = sum(1 for _ in manifest.lines(self.manifest))
        if not lines:
            raise DataError(f"{self.manifest} is empty; add samples")
        of = -(-lines // LINES) if of is None else of
        if not 1 <= of <= lines:
            raise DataError(f"{of} shards for {lines} lines; give 1 to {lines}")
        if shard is not None and not 0 <= shard < of:
            raise DataError(f"there is no shard {shard} of {of}; give 0 to {of - 1}")
        files.make_folder(self.out)
        codecs = codecs_digest(self.codecs)
        wanted = range(of) if shard is None else [shard]
        digests = self._digests(codecs, of, wanted)
        found, total = list[Record](), sum(_share(lines, number, of) for number in wanted)
        done = 0

        def step() -> None:
            nonlocal done
            done += 1
            if progress is not None:
                progress(done / total)

        for number in wanted:
            path = self.out / shards.name_of(number, of)
            held = shards.record_at(path)
            if held is None or held.digest != digests[number]:
                files.remove(self.out / INDEX)  # it would name a shard that is no more
                held = self._make(
                    Record(number, of, digests[number], codecs, self.codecs.hearing.dim, {}),
                    _share(lines, number, of),
                    step,
                )
            else:
                done += _share(lines, number, of)
            found.append(held)
        self._finish(codecs, of)
        return found

    def _make(self, empty: Record, lines: int, step: Callable[[], None]) -> Record:
        """Write one shard of so many lines; `empty` is its record before any row."""
        bad: list[str] = []

        def rows() -> Iterator[Row]:
            for place, line in self._lines(empty.number, empty.of):
                try:
                    yield self._row(place, line)
                except DataError as error:
                    bad.append(str(error))
                    if len(bad) > self.most_bad * lines:
                        raise DataError(
                            f"{empty.file}: {len(bad)} of {lines} lines are broken, at most"
                            f" {self.most_bad:.3g} of them may be; mend the manifest or raise"
                            f" --most-bad; the last is {error}"
                        ) from error
                step()

        def record(tasks: Mapping[str, int]) -> Record:
            return replace(empty, tasks=dict(sorted(tasks.items())), skipped=tuple(bad))

        return shards.write(self.out / empty.file, rows(), record)

    def _row(self, place: Place, line: bytes) -> Row:
        """A line with its media encoded; raises DataError naming it for whatever is wrong."""
        sample = manifest.sample_of(line, place, self.root)
        conversation = sample.conversation()
        try:
            turns = encode(conversation, self.codecs)
        except MediaError as error:
            raise DataError(f"{place}: {error}") from error
        media = tuple(
            part for turn in turns for part in turn.parts if isinstance(part, Codes | Frames)
        )
        for piece in media:
            self._check(piece, place)
        entries = sample.entries
        asked = of_turns(place, entries, turns_of(entries, media), self.answers or {})
        return Row(place.line, entries, media, asked[-1].task.name, sample.name)

    def _check(self, piece: Codes | Frames, place: Place) -> None:
        if isinstance(piece, Frames):
            # what overflows float16 would come back as infinity
            if not len(piece.frames) or not bool(piece.frames.half().isfinite().all()):
                raise DataError(
                    f"{place}: its speech is heard as {len(piece.frames)} frames that are not all"
                    " finite in float16; look at the sound"
                )
            return
        codec = self.codecs.image if piece.kind == "image" else self.codecs.speech
        if not len(piece) or not 0 <= int(piece.ids.min()) <= int(piece.ids.max()) < (
            codec.vocabulary_size
        ):
            raise DataError(
                f"{place}: its {piece.kind} became {len(piece)} codes that are not all within"
                f" 0..{codec.vocabulary_size - 1}; look at the codec"
            )

    def _lines(self, number: int, of: int) -> Iterator[tuple[Place, bytes]]:
        return (found for found in manifest.lines(self.manifest) if _shard(found[0], of) == number)

    def _digests(self, codecs: str, of: int, wanted: Sequence[int]) -> dict[int, str]:
        """By number, what each wanted shard is made from; one reading of the manifest."""
        start = f"{VERSION} {codecs} {sorted((self.answers or {}).items())}"
        hashes = {number: blake2b(start.encode(), digest_size=16) for number in wanted}
        for place, line in manifest.lines(self.manifest):
            found = hashes.get(_shard(place, of))
            if found is not None:
                sample, _ = manifest.parse(line, place, self.root)
                found.update(line.rstrip() + b"\n" + _media_state(sample).encode())
        return {number: found.hexdigest() for number, found in hashes.items()}

    def _finish(self, codecs: str, of: int) -> None:
        """Write the index when every shard is there and made from what there is now."""
        records = [shards.record_at(self.out / shards.name_of(number, of)) for number in range(of)]
        held = [record for record in records if record is not None]
        if len(held) < of:
            return
        digests = self._digests(codecs, of, range(of))
        if all(record.digest == digests[record.number] for record in held):
            config.save(Index(str(self.manifest), tuple(held)), self.out / INDEX)


def codecs_digest(codecs: CodecSuite) -> str:
    """A digest of all that decides what media are encoded to."""
    found = blake2b(repr(codecs.config).encode(), digest_size=16)
    for module in (codecs.image, codecs.hearing, codecs.speech.tokenizer):
        found.update(repr(module.config).encode())
        for name, tensor in sorted(module.state_dict().items()):
            plain = tensor.detach().cpu().contiguous().flatten().view(torch.uint8)
            found.update(name.encode() + plain.numpy().tobytes())
    if codecs.hearing.cmvn is not None:
        found.update(codecs.hearing.cmvn.cpu().numpy().tobytes())
    return found.hexdigest()


def _shard(place: Place, of: int) -> int:
    return (place.line - 1) % of


def _share(lines: int, number: int, of: int) -> int:
    """How many of so many lines a shard has."""
    return len(range(number, lines, of))


def _media_state(sample: Sample | None) -> str:
    """Size and time of change of all media; what is not there has none."""
    if sample is None:
        return ""
    found = []
    for medium in sample.media:
        try:
            stat = medium.path.stat()
            found.append((stat.st_size, stat.st_mtime_ns))
        except OSError:
            found.append((-1, -1))
    return repr(found)
