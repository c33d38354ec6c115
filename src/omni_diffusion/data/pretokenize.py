"""A manifest's pictures and sounds become codes once: workers write shards, each on its own.

Shard i of n holds lines i, i + n, .. (counted from 0). A shard that is there is made anew only when
its lines, the content of their media or the codecs have changed; media are known by size and time
of change, and read again only where these differ from the notes beside the shard. Whoever finds all
shards there writes the index.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from hashlib import blake2b
from itertools import chain, islice
from pathlib import Path
from typing import TypeVar

import torch

from omni_diffusion.codecs.suite import CodecSuite
from omni_diffusion.conversation import Conversation, Image, Message, Speech
from omni_diffusion.data import fingerprint, manifest, shard_store
from omni_diffusion.data.examples import of_turns
from omni_diffusion.data.fingerprint import Seen
from omni_diffusion.data.manifest import Place, Sample, Table, parted
from omni_diffusion.data.shard_store import INDEX, Index, Record, Row, turns_of
from omni_diffusion.errors import DataError, MediaError
from omni_diffusion.io import config, files
from omni_diffusion.tasks.encode import encode_together, fitted
from omni_diffusion.tasks.parts import Codes, Frames, Turn
from omni_diffusion.tasks.task import Answer

LINES = 4096  # of a shard, where the number of shards is left open
LOOKS = 64  # lines that a thread looks at before it comes back
VERSION = 2  # of what a shard holds; another makes all shards anew
T = TypeVar("T")
U = TypeVar("U")


@dataclass(frozen=True)
class Worker:
    """Makes shards of one manifest.

    codecs: what encodes. answers: what a model's answers are made of where it differs from the
    tasks' own. most_bad: the share of a shard's lines that may be left out; one more stops the run.
    batch: lines whose pictures are encoded together, which changes no code. workers: threads that
    read media ahead.
    """

    manifest: Path
    out: Path
    codecs: CodecSuite
    root: Path | None = None
    answers: Mapping[str, Answer] | None = None
    most_bad: float = 0.01
    batch: int = 8
    workers: int = 4

    def __post_init__(self) -> None:
        if not 0 <= self.most_bad <= 1:
            raise DataError(f"most_bad is {self.most_bad}; give a share from 0 to 1")
        for name, count in (("batch", self.batch), ("workers", self.workers)):
            if count < 1:
                raise DataError(f"{name} is {count}; give 1 or more")

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
        job = self.job(of)
        if shard is not None and not 0 <= shard < job.of:
            raise DataError(f"there is no shard {shard} of {job.of}; give 0 to {job.of - 1}")
        wanted = range(job.of) if shard is None else [shard]
        total, done = sum(len(job.numbers(number)) for number in wanted), 0

        def step(lines: int) -> None:
            nonlocal done
            done += lines
            if progress is not None:
                progress(done / total)

        found = [job.make(number, step) for number in wanted]
        job.finish(found)
        return found

    def job(self, of: int | None = None) -> Job:
        """The manifest as it is now, parted into so many shards; reads it once."""
        table = Table(self.manifest)
        if not len(table):
            raise DataError(f"{self.manifest} is empty; add samples")
        of = -(-len(table) // LINES) if of is None else of
        if not 1 <= of <= len(table):
            raise DataError(f"{of} shards for {len(table)} lines; give 1 to {len(table)}")
        files.make_folder(self.out)
        return Job(self, table, of, codecs_digest(self.codecs))


@dataclass(frozen=True)
class Looked:
    """A line as it was found: its words with digests of its media, and what its media were."""

    content: bytes
    seen: dict[str, Seen]


@dataclass(frozen=True)
class Loaded:
    """A line with its media read: its sample and conversation, or what is wrong with it."""

    place: Place
    looked: Looked
    ready: tuple[Sample, Conversation] | DataError


@dataclass(frozen=True)
class Job:
    """The shards of one manifest, each made or found; `codecs` is a digest of the worker's."""

    worker: Worker
    table: Table
    of: int
    codecs: str

    def numbers(self, number: int) -> range:
        """Which lines a shard has, counted from 0."""
        return range(number, len(self.table), self.of)

    def make(self, number: int, step: Callable[[int], None] | None = None) -> Record:
        """The shard's record; it is made unless it is there from the same lines, media and codecs.

        step: told how many lines more are done. Raises DataError when too many lines are broken.
        """
        step = step or (lambda _: None)
        held = self._held(number)
        if held is None:
            files.remove(self.worker.out / INDEX)  # it would name a shard that is no more
            return self._write(number, step)
        step(len(self.numbers(number)))
        return held

    def finish(self, sure: Iterable[Record] = ()) -> None:
        """Write the index when every shard is there and made from what there is now.

        sure: shards that were made or looked at just now.
        """
        known = {record.number: record for record in sure}
        paths = [
            self.worker.out / shard_store.name_of(number, self.of) for number in range(self.of)
        ]
        if not all(path.exists() for path in paths):
            return
        held = [known.get(number) or self._held(number) for number in range(self.of)]
        records = tuple(record for record in held if record is not None)
        if len(records) == self.of:
            config.save(Index(str(self.worker.manifest), records), self.worker.out / INDEX)

    def _held(self, number: int) -> Record | None:
        """The record of a shard that is there and up to date."""
        path = self.worker.out / shard_store.name_of(number, self.of)
        held = shard_store.record_at(path)
        if held is None or held.codecs != self.codecs:
            return None
        now, notes = time.time_ns(), fingerprint.read_notes(_notes(path))
        digest, seen = self._start(), dict[str, Seen]()
        lines = self.table.lines(self.numbers(number))
        with _ahead(lambda at: self._look(*at, notes), lines, LOOKS, self.worker.workers) as looks:
            for looked in chain.from_iterable(looks):
                digest.update(looked.content + b"\n")
                seen |= looked.seen
        if held.digest != digest.hexdigest():
            return None
        if (settled := fingerprint.settled(seen, now)) != notes:
            fingerprint.write_notes(_notes(path), settled)
        return held

    def _start(self) -> blake2b:
        """What all shards of the job are made from, before any line."""
        answers = sorted((self.worker.answers or {}).items())
        return blake2b(f"{VERSION} {self.codecs} {answers}".encode(), digest_size=16)

    def _look(self, place: Place, line: bytes, notes: Mapping[str, Seen]) -> Looked:
        sample, _ = manifest.parse(line, place, self.worker.root)
        if sample is None:
            return Looked(line.strip(), {})
        media = sample.media
        return _looked(
            sample, [fingerprint.look(m, notes.get(fingerprint.name_of(m))) for m in media]
        )

    def _write(self, number: int, step: Callable[[int], None]) -> Record:
        worker, numbers = self.worker, self.numbers(number)
        path = worker.out / shard_store.name_of(number, self.of)
        now, digest, seen, bad = time.time_ns(), self._start(), dict[str, Seen](), list[str]()

        def rows() -> Iterator[Row]:
            lines = self.table.lines(numbers)
            with _ahead(lambda at: self._load(*at), lines, worker.batch, worker.workers) as batches:
                for some in batches:
                    for line, row in zip(some, self._rows(some), strict=True):
                        digest.update(line.looked.content + b"\n")
                        seen.update(line.looked.seen)
                        if isinstance(row, Row):
                            yield row
                            continue
                        bad.append(str(row))
                        if len(bad) > worker.most_bad * len(numbers):
                            raise DataError(
                                f"{path.name}: {len(bad)} of {len(numbers)} lines are broken, at"
                                f" most {worker.most_bad:.3g} of them may be; mend the manifest or"
                                f" raise --most-bad; the last is {row}"
                            ) from row
                    step(len(some))

        def record(tasks: Mapping[str, int]) -> Record:
            return Record(
                number,
                self.of,
                digest.hexdigest(),
                self.codecs,
                worker.codecs.hearing.dim,
                dict(sorted(tasks.items())),
                tuple(bad),
            )

        made = shard_store.write(path, rows(), record)
        fingerprint.write_notes(_notes(path), fingerprint.settled(seen, now))
        return made

    def _load(self, place: Place, line: bytes) -> Loaded:
        try:
            sample = manifest.sample_of(line, place, self.worker.root)
        except DataError as error:
            return Loaded(place, Looked(line.strip(), {}), error)
        found = [fingerprint.load(medium) for medium in sample.media]
        looked = _looked(sample, [seen for seen, _ in found])
        try:
            media = iter([_sound(part) for _, part in found])
            said = [Message(each.role, parted(each.content, media)) for each in sample.entries]
            return Loaded(place, looked, (sample, fitted(said, self.worker.codecs)))
        except MediaError as error:
            return Loaded(place, looked, DataError(f"{place}: {error}"))

    def _rows(self, some: Sequence[Loaded]) -> Iterator[Row | DataError]:
        """For each line its row, or what is wrong with it."""
        ready = [each.ready for each in some if not isinstance(each.ready, DataError)]
        said = [conversation for _, conversation in ready]
        turns = iter(encode_together(said, self.worker.codecs, self.worker.batch))
        for each in some:
            row: Row | DataError
            try:
                if isinstance(each.ready, DataError):
                    raise each.ready
                row = self._row(each.place, each.ready[0], next(turns))
            except DataError as error:
                row = error
            yield row

    def _row(self, place: Place, sample: Sample, turns: Sequence[Turn] | MediaError) -> Row:
        if isinstance(turns, MediaError):
            raise DataError(f"{place}: {turns}")
        media = tuple(
            part for turn in turns for part in turn.parts if isinstance(part, Codes | Frames)
        )
        for piece in media:
            self._check(piece, place)
        entries = sample.entries
        asked = of_turns(place, entries, turns_of(entries, media), self.worker.answers or {})
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
        codecs = self.worker.codecs
        codec = codecs.image if piece.kind == "image" else codecs.speech
        if not len(piece) or not 0 <= int(piece.ids.min()) <= int(piece.ids.max()) < (
            codec.vocabulary_size
        ):
            raise DataError(
                f"{place}: its {piece.kind} became {len(piece)} codes that are not all within"
                f" 0..{codec.vocabulary_size - 1}; look at the codec"
            )


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


def _looked(sample: Sample, seen: Sequence[Seen]) -> Looked:
    """What a line says and its media hold; a path is no content."""
    words = [(entry.role, entry.content) for entry in sample.entries]
    said = repr((sample.name, words, [each.digest for each in seen])).encode()
    return Looked(said, dict(zip(map(fingerprint.name_of, sample.media), seen, strict=True)))


def _notes(path: Path) -> Path:
    """Where what is known of a shard's media is kept."""
    return path.with_suffix(".media.json")


def _sound(part: Image | Speech | MediaError) -> Image | Speech:
    if isinstance(part, MediaError):
        raise part
    return part


@contextmanager
def _ahead(
    make: Callable[[T], U], items: Iterator[T], size: int, workers: int
) -> Iterator[Iterator[list[U]]]:
    """What is made of the items, in order and `size` at once, by threads a batch each ahead."""
    pool, waiting = ThreadPoolExecutor(workers), deque[Future[list[U]]]()

    def several(some: list[T]) -> list[U]:
        return [make(each) for each in some]

    def made() -> Iterator[list[U]]:
        while some := list(islice(items, size)):
            waiting.append(pool.submit(several, some))
            if len(waiting) > workers:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()

    try:
        yield made()
    finally:
        pool.shutdown(cancel_futures=True)
