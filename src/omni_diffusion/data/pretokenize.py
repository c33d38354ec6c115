"""Encode the media of a manifest once, into shards that workers write independently.

Shard i of n holds the lines i, i + n, ... (counted from 0). An existing shard is rebuilt only if
its lines, media contents or codecs changed. Media are compared by size and mtime first, by digest
if those differ. Whoever finds all shards complete writes the index.
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
from omni_diffusion.conversation import Codes, Frames, Image, Message, Speech, Turn
from omni_diffusion.data.defaults import ENCODE_BATCH_SIZE, MAX_BAD_FRACTION, READERS
from omni_diffusion.data.examples import examples_from_turns
from omni_diffusion.data.fingerprint import (
    Fingerprint,
    fingerprint,
    load_medium,
    medium_key,
    read_fingerprints,
    trusted,
    write_fingerprints,
)
from omni_diffusion.data.manifest import (
    LineIndex,
    ManifestSample,
    SourceLine,
    parse_line,
    parse_sample,
)
from omni_diffusion.data.shard_store import (
    SHARD_INDEX,
    EncodedSample,
    ShardIndex,
    ShardRecord,
    read_record,
    shard_name,
    turns_of,
    write_shard,
)
from omni_diffusion.errors import DataError, MediaError
from omni_diffusion.io import config, files
from omni_diffusion.tasks.encode import encode_together, fitted
from omni_diffusion.tasks.prompts import split_tags
from omni_diffusion.tasks.task import AnswerKinds

SHARD_LINES = 4096  # lines of a shard, unless the number of shards is given
CHECKED_AT_ONCE = 64  # lines that a thread fingerprints in one go
SHARD_VERSION = 3  # of the contents of a shard; a new version rebuilds all shards
ItemT = TypeVar("ItemT")
ResultT = TypeVar("ResultT")


@dataclass(frozen=True)
class Pretokenizer:
    """Makes the shards of one manifest.

    out: the folder of the shards. codecs: encode the media. root: what media paths are relative to,
    by default the manifest's folder. answers: by task name, what a model's answer is made of where
    it differs from the task's own. max_bad_fraction: fraction of a shard's lines that may be
    skipped; one more raises DataError. batch_size: lines whose pictures are encoded together; it
    changes no code. workers: threads that read media ahead.
    """

    manifest: Path
    out: Path
    codecs: CodecSuite
    root: Path | None = None
    answers: Mapping[str, AnswerKinds] | None = None
    max_bad_fraction: float = MAX_BAD_FRACTION
    batch_size: int = ENCODE_BATCH_SIZE
    workers: int = READERS

    def __post_init__(self) -> None:
        fraction = self.max_bad_fraction
        if not 0 <= fraction <= 1:
            raise DataError(
                f"max_bad_fraction is {fraction}",
                field="max_bad_fraction",
                value=fraction,
                fix="give a fraction from 0 to 1",
            )
        for name, count in (("batch_size", self.batch_size), ("workers", self.workers)):
            if count < 1:
                raise DataError(f"{name} is {count}", field=name, value=count, fix="give 1 or more")

    def run(
        self,
        shard: int | None = None,
        of: int | None = None,
        progress: Callable[[float], None] | None = None,
    ) -> list[ShardRecord]:
        """Make one shard, or all; returns their records, whether made now or found complete.

        of: the number of shards, by default one for each 4,096 lines. progress: called with the
        fraction of lines that are done. Raises DataError naming the shard if too many of its lines
        are broken, StorageError if a file cannot be written.
        """
        job = self.job(of)
        if shard is not None and not 0 <= shard < job.of:
            raise DataError(
                f"shard {shard} of {job.of} does not exist",
                field="shard",
                value=shard,
                fix=f"give 0 to {job.of - 1}",
            )
        numbers = range(job.of) if shard is None else [shard]
        total, done = sum(len(job.line_numbers(number)) for number in numbers), 0

        def step(lines: int) -> None:
            nonlocal done
            done += lines
            if progress is not None:
                progress(done / total)

        records = [job.make(number, step) for number in numbers]
        job.finish(records)
        return records

    def job(self, of: int | None = None) -> ShardJob:
        """The manifest as it is now, split into `of` shards; reads it once."""
        lines = LineIndex(self.manifest)
        if not len(lines):
            raise DataError(f"{self.manifest} is empty", value=self.manifest, fix="add samples")
        of = -(-len(lines) // SHARD_LINES) if of is None else of
        if not 1 <= of <= len(lines):
            raise DataError(
                f"{of} shards for {len(lines)} lines",
                field="of",
                value=of,
                fix=f"give 1 to {len(lines)}",
            )
        files.make_folder(self.out)
        return ShardJob(self, lines, of, codecs_digest(self.codecs))


@dataclass(frozen=True)
class _LineState:
    """What a line stands for: its text with media digests, and the fingerprints of its media."""

    content: bytes
    fingerprints: dict[str, Fingerprint]


@dataclass(frozen=True)
class _LoadedLine:
    """A line with its media read: its sample and conversation, or the error."""

    source: SourceLine
    state: _LineState
    ready: tuple[ManifestSample, tuple[Message, ...]] | DataError


@dataclass(frozen=True)
class ShardJob:
    """The shards of one manifest, `of` in number.

    codecs: digest of the pretokenizer's codecs.
    """

    pretokenizer: Pretokenizer
    lines: LineIndex
    of: int
    codecs: str

    def line_numbers(self, number: int) -> range:
        """The lines of a shard, counted from 0."""
        return range(number, len(self.lines), self.of)

    def make(self, number: int, step: Callable[[int], None] | None = None) -> ShardRecord:
        """Make a shard unless it is up to date; returns its record.

        step: called with the number of lines just done. Raises DataError if too many lines are
        broken, StorageError if another process makes this shard.
        """
        step = step or (lambda _: None)
        path = self.pretokenizer.out / shard_name(number, self.of)
        with files.exclusive(path, path.with_name(f".{path.name}{files.LOCK_FILE}")):
            record = self._up_to_date(number)
            if record is None:
                files.remove(self.pretokenizer.out / SHARD_INDEX)  # it lists the old shard
                return self._write(number, step)
        step(len(self.line_numbers(number)))
        return record

    def finish(self, fresh: Iterable[ShardRecord] = ()) -> None:
        """Write the index if every shard exists and is up to date.

        fresh: records of shards that were just made or checked.
        """
        known = {record.number: record for record in fresh}
        out = self.pretokenizer.out
        if not all((out / shard_name(number, self.of)).exists() for number in range(self.of)):
            return
        current = (known.get(number) or self._up_to_date(number) for number in range(self.of))
        records = tuple(record for record in current if record is not None)
        if len(records) == self.of:
            config.save(ShardIndex(str(self.pretokenizer.manifest), records), out / SHARD_INDEX)

    def _up_to_date(self, number: int) -> ShardRecord | None:
        """The record of a shard that exists and is up to date."""
        path = self.pretokenizer.out / shard_name(number, self.of)
        record = read_record(path)
        if record is None or record.codecs != self.codecs:
            return None
        now, known = time.time_ns(), read_fingerprints(_fingerprints_path(path))
        digest, current = self._start_digest(), dict[str, Fingerprint]()
        lines = self.lines.lines(self.line_numbers(number))
        with _read_ahead(
            lambda line: self._state(*line, known), lines, CHECKED_AT_ONCE, self._workers
        ) as batches:
            for state in chain.from_iterable(batches):
                digest.update(state.content + b"\n")
                current |= state.fingerprints
        if record.digest != digest.hexdigest():
            return None
        if (kept := trusted(current, now)) != known:
            write_fingerprints(_fingerprints_path(path), kept)
        return record

    @property
    def _workers(self) -> int:
        return self.pretokenizer.workers

    def _start_digest(self) -> blake2b:
        """The digest of what all shards of the job have in common."""
        answers = sorted((self.pretokenizer.answers or {}).items())
        return blake2b(f"{SHARD_VERSION} {self.codecs} {answers}".encode(), digest_size=16)

    def _state(
        self, source: SourceLine, line: bytes, known: Mapping[str, Fingerprint]
    ) -> _LineState:
        sample, _ = parse_line(line, source, self.pretokenizer.root)
        if sample is None:
            return _LineState(line.strip(), {})
        return _line_state(
            sample, [fingerprint(medium, known.get(medium_key(medium))) for medium in sample.media]
        )

    def _write(self, number: int, step: Callable[[int], None]) -> ShardRecord:
        path = self.pretokenizer.out / shard_name(number, self.of)
        now, digest = time.time_ns(), self._start_digest()
        fingerprints, skipped = dict[str, Fingerprint](), list[str]()

        def samples() -> Iterator[EncodedSample]:
            for state, sample in self._encoded(number, step):
                digest.update(state.content + b"\n")
                fingerprints.update(state.fingerprints)
                if isinstance(sample, EncodedSample):
                    yield sample
                    continue
                skipped.append(str(sample))
                self._check_skipped(number, len(skipped), sample)

        def record_of(tasks: Mapping[str, int]) -> ShardRecord:
            return ShardRecord(
                number,
                self.of,
                digest.hexdigest(),
                self.codecs,
                self.pretokenizer.codecs.hearing.dim,
                dict(sorted(tasks.items())),
                tuple(skipped),
            )

        record = write_shard(path, samples(), record_of)
        write_fingerprints(_fingerprints_path(path), trusted(fingerprints, now))
        return record

    def _check_skipped(self, number: int, skipped: int, last: DataError) -> None:
        """Raise DataError if more of a shard's lines are broken than may be."""
        total, fraction = len(self.line_numbers(number)), self.pretokenizer.max_bad_fraction
        if skipped > fraction * total:
            raise DataError(
                f"{shard_name(number, self.of)}: {skipped} of {total} lines are broken, more than"
                f" the fraction {fraction:.3g}; the last is {last}",
                field="max_bad_fraction",
                value=fraction,
                fix="correct the manifest or raise the fraction",
            ) from last

    def _encoded(
        self, number: int, step: Callable[[int], None]
    ) -> Iterator[tuple[_LineState, EncodedSample | DataError]]:
        """Each line of a shard with its encoded sample, or the error of the line."""
        lines = self.lines.lines(self.line_numbers(number))
        size = self.pretokenizer.batch_size
        with _read_ahead(lambda line: self._load(*line), lines, size, self._workers) as batches:
            for batch in batches:
                for loaded, sample in zip(batch, self._encode(batch), strict=True):
                    yield loaded.state, sample
                step(len(batch))

    def _load(self, source: SourceLine, line: bytes) -> _LoadedLine:
        try:
            sample = parse_sample(line, source, self.pretokenizer.root)
        except DataError as error:
            return _LoadedLine(source, _LineState(line.strip(), {}), error)
        loaded = [load_medium(medium) for medium in sample.media]
        state = _line_state(sample, [each for each, _ in loaded])
        try:
            media = iter([_readable(part) for _, part in loaded])
            messages = [Message(m.role, split_tags(m.content, media)) for m in sample.messages]
            return _LoadedLine(source, state, (sample, fitted(messages, self.pretokenizer.codecs)))
        except MediaError as error:
            return _LoadedLine(source, state, DataError(f"{source}: {error}"))

    def _encode(self, batch: Sequence[_LoadedLine]) -> Iterator[EncodedSample | DataError]:
        """The encoded sample of each line, or the error of the line."""
        ready = [line.ready for line in batch if not isinstance(line.ready, DataError)]
        conversations = [conversation for _, conversation in ready]
        codecs, size = self.pretokenizer.codecs, self.pretokenizer.batch_size
        turns = iter(encode_together(conversations, codecs, size))
        for line in batch:
            encoded: EncodedSample | DataError
            try:
                if isinstance(line.ready, DataError):
                    raise line.ready
                encoded = self._sample(line.source, line.ready[0], next(turns))
            except DataError as error:
                encoded = error
            yield encoded

    def _sample(
        self, source: SourceLine, sample: ManifestSample, turns: Sequence[Turn] | MediaError
    ) -> EncodedSample:
        if isinstance(turns, MediaError):
            raise DataError(f"{source}: {turns}")
        media = tuple(
            part for turn in turns for part in turn.parts if isinstance(part, Codes | Frames)
        )
        for part in media:
            self._check(part, source)
        messages = sample.messages
        answers = self.pretokenizer.answers or {}
        examples = examples_from_turns(source, messages, turns_of(messages, media), answers)
        return EncodedSample(source.line, messages, media, examples[-1].task.name, sample.name)

    def _check(self, part: Codes | Frames, source: SourceLine) -> None:
        if isinstance(part, Frames):
            # values that overflow float16 would be read back as infinity
            if not len(part.frames) or not bool(part.frames.half().isfinite().all()):
                raise DataError(
                    f"{source}: its speech has {len(part.frames)} frames that are not all finite in"
                    " float16; check the recording"
                )
            return
        codecs = self.pretokenizer.codecs
        codec = codecs.image if part.kind == "image" else codecs.speech
        if not len(part) or not 0 <= int(part.ids.min()) <= int(part.ids.max()) < (
            codec.vocabulary_size
        ):
            raise DataError(
                f"{source}: its {part.kind} has {len(part)} codes that are not all within"
                f" 0..{codec.vocabulary_size - 1}; check the codec"
            )


def codecs_digest(codecs: CodecSuite) -> str:
    """A digest of everything that decides the codes: configs and weights of the encoders."""
    hasher = blake2b(repr(codecs.config).encode(), digest_size=16)
    for module in (codecs.image, codecs.hearing, codecs.speech.tokenizer):
        hasher.update(repr(module.config).encode())
        for name, tensor in sorted(module.state_dict().items()):
            plain = tensor.detach().cpu().contiguous().flatten().view(torch.uint8)
            hasher.update(name.encode() + plain.numpy().tobytes())
    if codecs.hearing.cmvn is not None:
        hasher.update(codecs.hearing.cmvn.cpu().numpy().tobytes())
    return hasher.hexdigest()


def _line_state(sample: ManifestSample, fingerprints: Sequence[Fingerprint]) -> _LineState:
    """The state of a line; paths are not part of its content."""
    contents = [(message.role, message.content) for message in sample.messages]
    content = repr((sample.name, contents, [each.digest for each in fingerprints])).encode()
    return _LineState(content, dict(zip(map(medium_key, sample.media), fingerprints, strict=True)))


def _fingerprints_path(shard: Path) -> Path:
    """The file beside a shard with the fingerprints of its media."""
    return shard.with_suffix(".media.json")


def _readable(part: Image | Speech | MediaError) -> Image | Speech:
    if isinstance(part, MediaError):
        raise part
    return part


@contextmanager
def _read_ahead(
    function: Callable[[ItemT], ResultT], items: Iterator[ItemT], size: int, workers: int
) -> Iterator[Iterator[list[ResultT]]]:
    """The function's results, in order, in batches of `size`; each thread works a batch ahead."""
    pool, waiting = ThreadPoolExecutor(workers), deque[Future[list[ResultT]]]()

    def compute(batch: list[ItemT]) -> list[ResultT]:
        return [function(item) for item in batch]

    def results() -> Iterator[list[ResultT]]:
        while batch := list(islice(items, size)):
            waiting.append(pool.submit(compute, batch))
            if len(waiting) > workers:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()

    try:
        yield results()
    finally:
        pool.shutdown(cancel_futures=True)
