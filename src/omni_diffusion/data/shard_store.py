"""Pretokenized samples on disk: parquet shards, and the index that lists them.

A row is one manifest line: its messages with tags, unchanged, and for each tag, in order, local
codes or, for a user's speech, frames. Text stays text and nothing is laid out, so tails, null
prompts and the tokenizer can change without a new store. Frames are kept as float16: 16.7 frames
of 512 values a second are 17 kB/s, about half of 16-bit PCM. Storing the path of the recording
instead would save nothing, and the encoder would run in every epoch.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import lru_cache
from itertools import accumulate
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from omni_diffusion.conversation import Codes, Frames, Turn
from omni_diffusion.data.examples import TrainingExample, examples_from_turns, strip_answer
from omni_diffusion.data.manifest import SampleMessage, SourceLine
from omni_diffusion.errors import ConfigError, DataError
from omni_diffusion.io import config, files
from omni_diffusion.io.optional import require
from omni_diffusion.tasks.prompts import TaggedMessage, split_tags
from omni_diffusion.tasks.task import AnswerKinds

SHARD_INDEX = "index.json"
RECORD_KEY = b"omni_diffusion"  # the key of a shard's record in its parquet metadata
ROW_GROUP = 16  # rows; reading one random row reads this many
OPEN_SHARDS = 64  # shards kept open
REBUILD = "delete it and run data pretokenize again"


@dataclass(frozen=True)
class ShardRecord:
    """What one shard holds and what it was made from.

    number, of: the shard's number from 0, and how many shards there are. digest: of its lines,
    their media and the codecs. codecs: digest of the codecs alone. frame_dim: values of a speech
    frame. tasks: rows by task. skipped: the problem of each line that was left out.
    """

    number: int
    of: int
    digest: str
    codecs: str
    frame_dim: int
    tasks: dict[str, int]
    skipped: tuple[str, ...] = ()

    @property
    def rows(self) -> int:
        """The number of samples."""
        return sum(self.tasks.values())

    @property
    def file(self) -> str:
        """The shard's file name."""
        return shard_name(self.number, self.of)


@dataclass(frozen=True)
class ShardIndex:
    """All shards of a folder, in order. The index is written once all of them exist."""

    manifest: str
    shards: tuple[ShardRecord, ...]


@dataclass(frozen=True, eq=False)
class EncodedSample:
    """A manifest line with its media encoded.

    line: its number, from 1. media: in the order of their tags. task: of its last answer. name:
    its `id`.
    """

    line: int
    messages: tuple[SampleMessage, ...]
    media: tuple[Codes | Frames, ...]
    task: str
    name: str | None = None

    def examples(
        self, manifest: Path, answers: Mapping[str, AnswerKinds]
    ) -> tuple[TrainingExample, ...]:
        """The same as `training_examples` of the manifest's sample."""
        turns = turns_of(self.messages, self.media)
        source = SourceLine(manifest, self.line)
        return examples_from_turns(source, self.messages, turns, answers)


def turns_of(
    messages: Sequence[SampleMessage], media: Sequence[Codes | Frames]
) -> tuple[Turn, ...]:
    """Tagged messages as turns, with the encoded media in place of the tags."""
    waiting, turns = iter(media), list[Turn]()
    for message in messages:
        parts = split_tags(message.content, waiting)
        answer = message.role == "assistant"
        turns.append(Turn(message.role, strip_answer(parts) if answer else parts))
    return tuple(turns)


def shard_name(number: int, of: int) -> str:
    """The file name of a shard."""
    return f"shard-{number:05}-of-{of:05}.parquet"


# ------------------------------------------------------------------------------------------ write
def write_shard(
    path: Path,
    samples: Iterator[EncodedSample],
    record_of: Callable[[Mapping[str, int]], ShardRecord],
) -> ShardRecord:
    """Write a shard atomically.

    record_of: makes the record from the rows by task; called after the last sample. Raises
    StorageError, and whatever `samples` raises.
    """
    parquet = require("pyarrow.parquet", "data")
    tasks: Counter[str] = Counter()
    with (
        files.atomic_path(path) as temporary,
        parquet.ParquetWriter(
            temporary, _schema(), compression="zstd", write_page_checksum=True
        ) as file,
    ):
        group: list[EncodedSample] = []
        for sample in samples:
            tasks[sample.task] += 1
            group.append(sample)
            if len(group) == ROW_GROUP:
                file.write_table(_table(group))
                group = []
        if group:
            file.write_table(_table(group))
        record = record_of(tasks)
        file.add_key_value_metadata({RECORD_KEY: json.dumps(config.to_dict(record)).encode()})
    return record


def _schema() -> Any:
    arrow = require("pyarrow", "data")
    codes, frames = arrow.list_(arrow.int32()), arrow.binary()
    medium = arrow.struct([("kind", arrow.string()), ("codes", codes), ("frames", frames)])
    message = arrow.struct([("role", arrow.string()), ("content", arrow.string())])
    return arrow.schema(
        [
            ("line", arrow.int64()),
            ("id", arrow.string()),
            ("task", arrow.string()),
            ("messages", arrow.list_(message)),
            ("media", arrow.list_(medium)),
        ]
    )


def _table(samples: Sequence[EncodedSample]) -> Any:
    arrow = require("pyarrow", "data")
    rows = [
        {
            "line": sample.line,
            "id": sample.name,
            "task": sample.task,
            "messages": [{"role": each.role, "content": each.content} for each in sample.messages],
            "media": [_stored(part) for part in sample.media],
        }
        for sample in samples
    ]
    return arrow.Table.from_pylist(rows, schema=_schema())


def _stored(part: Codes | Frames) -> dict[str, Any]:
    if isinstance(part, Frames):
        return {"kind": "frames", "frames": part.frames.half().numpy().astype("<f2").tobytes()}
    return {"kind": part.kind, "codes": part.ids.numpy()}


# ------------------------------------------------------------------------------------------- read
class Shards:
    """The encoded samples of a folder of shards, by number from 0.

    Raises DataError for a folder without an index or without samples, and for a broken shard.
    """

    def __init__(self, folder: str | Path) -> None:
        self.folder = Path(folder)
        self.index = _index(self.folder)
        self._stops = list(accumulate(shard.rows for shard in self.index.shards))
        if not len(self):
            skipped = sum(len(shard.skipped) for shard in self.index.shards)
            raise DataError(
                f"{self.folder} holds no samples, all {skipped} lines were skipped",
                fix="correct the manifest",
            )
        self._file = lru_cache(maxsize=OPEN_SHARDS)(self._open)

    def __len__(self) -> int:
        return self._stops[-1] if self._stops else 0

    @property
    def manifest(self) -> Path:
        """The manifest that the samples come from; errors name its lines."""
        return Path(self.index.manifest)

    def __getitem__(self, number: int) -> EncodedSample:
        if not 0 <= number < len(self):
            raise IndexError(f"sample {number} of {len(self)}")
        at = int(np.searchsorted(self._stops, number, side="right"))
        shard = self.index.shards[at]
        group, row = divmod(number - (self._stops[at] - shard.rows), ROW_GROUP)
        path = self.folder / shard.file
        with _reading(path):
            table = self._file(at).read_row_group(group)
            return _sample(table.slice(row, 1).to_pylist()[0], shard.frame_dim)

    def by_task(self) -> dict[str, Tensor]:
        """The sample numbers of each task, int64 [n]; reads the task column of every shard."""
        parts: dict[str, list[Tensor]] = {}
        for at, shard in enumerate(self.index.shards):
            with _reading(self.folder / shard.file):
                column = self._file(at).read(columns=["task"])["task"]
                coded = column.combine_chunks().dictionary_encode()
            codes = torch.tensor(coded.indices.to_numpy(), dtype=torch.int64)
            for code, task in enumerate(coded.dictionary.to_pylist()):
                numbers = (codes == code).nonzero().flatten() + self._stops[at] - shard.rows
                parts.setdefault(task, []).append(numbers)
        return {task: torch.cat(numbers) for task, numbers in sorted(parts.items())}

    def counts(self) -> dict[str, int]:
        """The number of samples of each task, from the index."""
        total: Counter[str] = Counter()
        for shard in self.index.shards:
            total.update(shard.tasks)
        return dict(sorted(total.items()))

    def _open(self, at: int) -> Any:
        parquet = require("pyarrow.parquet", "data")
        shard = self.index.shards[at]
        path = self.folder / shard.file
        file = parquet.ParquetFile(path, page_checksum_verification=True)
        if file.metadata.num_rows != shard.rows:
            raise DataError(
                f"{path} has {file.metadata.num_rows} rows, the index says {shard.rows}",
                fix=REBUILD,
            )
        return file


def read_record(path: Path) -> ShardRecord | None:
    """The record of a shard file; None if the file is missing or broken."""
    parquet = require("pyarrow.parquet", "data")
    try:
        with _reading(path):
            stored = (parquet.read_metadata(path).metadata or {}).get(RECORD_KEY)
            return config.from_dict(ShardRecord, json.loads(stored)) if stored else None
    except (DataError, ConfigError, ValueError):
        return None


def _index(folder: Path) -> ShardIndex:
    if not files.is_file(folder / SHARD_INDEX):
        raise DataError(
            f"{folder} has no {SHARD_INDEX}",
            fix="run data pretokenize, which writes it once all shards exist",
        )
    try:
        return config.load(ShardIndex, folder / SHARD_INDEX)
    except ConfigError as error:
        raise DataError(f"{error}; or run data pretokenize again") from error


@contextmanager
def _reading(path: Path) -> Iterator[None]:
    """Raise an error of reading a shard as a DataError that names the shard."""
    arrow = require("pyarrow", "data")
    try:
        yield
    except (arrow.ArrowException, OSError, ValueError, LookupError, TypeError) as error:
        # a footer has no checksum: column names may be missing or broken
        problem = (str(error) or type(error).__name__).splitlines()[0]
        raise DataError(f"cannot read {path} ({problem})", fix=REBUILD) from error


def _sample(row: Mapping[str, Any], frame_dim: int) -> EncodedSample:
    return EncodedSample(
        row["line"],
        tuple(TaggedMessage(each["role"], each["content"]) for each in row["messages"]),
        tuple(_part(each, frame_dim) for each in row["media"]),
        row["task"],
        row["id"],
    )


def _part(stored: Mapping[str, Any], frame_dim: int) -> Codes | Frames:
    if stored["kind"] == "frames":
        values = np.frombuffer(stored["frames"], "<f2").reshape(-1, frame_dim)
        return Frames(torch.from_numpy(values.astype(np.float32)))
    return Codes(stored["kind"], torch.tensor(stored["codes"], dtype=torch.int64))
