"""Samples on disk with their media as codes: parquet shards, and the index that names them.

A row is a line of a manifest: its words with tags as they stand, and for each tag, in order, local
codes or, for speech that is heard, frames. Words stay words and nothing is laid out, so that tails,
null prompts and tokenisation are free at training. Heard frames are kept as float16: at 16.7 frames
of 512 values a second that is 17 kB a second, about half of the sound itself as 16-bit PCM, so a
reference to the sound would save nothing and cost the encoder at every epoch.
Knows no model and no manifest on disk.
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

from omni_diffusion.data.examples import Exercise, bare, of_turns
from omni_diffusion.data.manifest import Entry, Place, parted
from omni_diffusion.errors import ConfigError, DataError
from omni_diffusion.io import config, files
from omni_diffusion.io.optional import need
from omni_diffusion.tasks.parts import Codes, Frames, Turn
from omni_diffusion.tasks.task import Answer

INDEX = "index.json"
RECORD = b"omni_diffusion"  # the key of a shard's record in its parquet metadata
GROUP = 16  # rows read at once: a row drawn at random costs this many
OPEN = 64  # shards kept open
ANEW = "delete it and run data pretokenize again"


@dataclass(frozen=True)
class Record:
    """What a shard is: its number of so many, its inputs, and what came of them.

    digest: of its lines, their media and the codecs. codecs: of the codecs alone. frame_dim:
    values of a heard frame. tasks: rows by task. skipped: what was wrong with each line left out.
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
        """How many samples there are."""
        return sum(self.tasks.values())

    @property
    def file(self) -> str:
        """The shard's name in its folder."""
        return name_of(self.number, self.of)


@dataclass(frozen=True)
class Index:
    """All shards of a folder, in order; it is written when the last of them is there."""

    manifest: str
    shards: tuple[Record, ...]


@dataclass(frozen=True, eq=False)
class Row:
    """A line of a manifest with its media encoded, in the order of their tags."""

    line: int
    entries: tuple[Entry, ...]
    media: tuple[Codes | Frames, ...]
    task: str
    name: str | None = None

    def exercises(self, manifest: Path, answers: Mapping[str, Answer]) -> tuple[Exercise, ...]:
        """The same as `exercises` of the manifest's sample."""
        turns = turns_of(self.entries, self.media)
        return of_turns(Place(manifest, self.line), self.entries, turns, answers)


def turns_of(entries: Sequence[Entry], media: Sequence[Codes | Frames]) -> tuple[Turn, ...]:
    """Words with tags, and the encoded media of the tags, as turns."""
    waiting, turns = iter(media), list[Turn]()
    for entry in entries:
        parts = parted(entry.content, waiting)
        turns.append(Turn(entry.role, bare(parts) if entry.role == "assistant" else parts))
    return tuple(turns)


def name_of(number: int, of: int) -> str:
    """The file of a shard."""
    return f"shard-{number:05}-of-{of:05}.parquet"


# ------------------------------------------------------------------------------------------ write
def write(path: Path, rows: Iterator[Row], record: Callable[[Mapping[str, int]], Record]) -> Record:
    """Write a shard whole or not at all.

    record: makes the shard's record from the rows of each task, once all rows are drawn. Raises
    StorageError, and whatever `rows` raises.
    """
    parquet = need("pyarrow.parquet", "data")
    tasks: Counter[str] = Counter()
    with (
        files.atomic_path(path) as temporary,
        parquet.ParquetWriter(
            temporary, _schema(), compression="zstd", write_page_checksum=True
        ) as file,
    ):
        waiting: list[Row] = []
        for row in rows:
            tasks[row.task] += 1
            waiting.append(row)
            if len(waiting) == GROUP:
                file.write_table(_table(waiting))
                waiting = []
        if waiting:
            file.write_table(_table(waiting))
        made = record(tasks)
        file.add_key_value_metadata({RECORD: json.dumps(config.to_dict(made)).encode()})
    return made


def _schema() -> Any:
    arrow = need("pyarrow", "data")
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


def _table(rows: Sequence[Row]) -> Any:
    arrow = need("pyarrow", "data")
    plain = [
        {
            "line": row.line,
            "id": row.name,
            "task": row.task,
            "messages": [{"role": each.role, "content": each.content} for each in row.entries],
            "media": [_stored(piece) for piece in row.media],
        }
        for row in rows
    ]
    return arrow.Table.from_pylist(plain, schema=_schema())


def _stored(piece: Codes | Frames) -> dict[str, Any]:
    if isinstance(piece, Frames):
        return {"kind": "frames", "frames": piece.frames.half().numpy().astype("<f2").tobytes()}
    return {"kind": piece.kind, "codes": piece.ids.numpy()}


# ------------------------------------------------------------------------------------------- read
class Shards:
    """The rows of a folder of shards, by number from 0.

    Raises DataError for a folder without index or rows, and where a shard is broken.
    """

    def __init__(self, folder: str | Path) -> None:
        self.folder = Path(folder)
        self.index = _index(self.folder)
        self._stops = list(accumulate(shard.rows for shard in self.index.shards))
        if not len(self):
            lost = sum(len(shard.skipped) for shard in self.index.shards)
            raise DataError(
                f"{self.folder} holds no samples; all {lost} lines were left out, mend the manifest"
            )
        self._file = lru_cache(maxsize=OPEN)(self._open)

    def __len__(self) -> int:
        return self._stops[-1] if self._stops else 0

    @property
    def manifest(self) -> Path:
        """What the rows were made from; errors name its lines."""
        return Path(self.index.manifest)

    def __getitem__(self, number: int) -> Row:
        if not 0 <= number < len(self):
            raise IndexError(f"row {number} of {len(self)}")
        at = int(np.searchsorted(self._stops, number, side="right"))
        shard = self.index.shards[at]
        group, row = divmod(number - (self._stops[at] - shard.rows), GROUP)
        path = self.folder / shard.file
        with _broken(path):
            table = self._file(at).read_row_group(group)
            return _row(table.slice(row, 1).to_pylist()[0], shard.frame_dim)

    def by_task(self) -> dict[str, Tensor]:
        """The numbers of each task's rows, int64 [n]; reads that column of every shard."""
        found: dict[str, list[Tensor]] = {}
        for at, shard in enumerate(self.index.shards):
            with _broken(self.folder / shard.file):
                column = self._file(at).read(columns=["task"])["task"]
                coded = column.combine_chunks().dictionary_encode()
            codes = torch.tensor(coded.indices.to_numpy(), dtype=torch.int64)
            for code, task in enumerate(coded.dictionary.to_pylist()):
                numbers = (codes == code).nonzero().flatten() + self._stops[at] - shard.rows
                found.setdefault(task, []).append(numbers)
        return {task: torch.cat(parts) for task, parts in sorted(found.items())}

    def counts(self) -> dict[str, int]:
        """How many rows each task has, by the index."""
        total: Counter[str] = Counter()
        for shard in self.index.shards:
            total.update(shard.tasks)
        return dict(sorted(total.items()))

    def _open(self, at: int) -> Any:
        parquet = need("pyarrow.parquet", "data")
        shard = self.index.shards[at]
        path = self.folder / shard.file
        file = parquet.ParquetFile(path, page_checksum_verification=True)
        if file.metadata.num_rows != shard.rows:
            raise DataError(
                f"{path} has {file.metadata.num_rows} rows, the index says {shard.rows}; {ANEW}"
            )
        return file


def record_at(path: Path) -> Record | None:
    """The record of a shard that is there; None where there is none, or it is broken."""
    parquet = need("pyarrow.parquet", "data")
    try:
        with _broken(path):
            stored = (parquet.read_metadata(path).metadata or {}).get(RECORD)
            return config.from_dict(Record, json.loads(stored)) if stored else None
    except (DataError, ConfigError, ValueError):
        return None


def _index(folder: Path) -> Index:
    if not (folder / INDEX).is_file():
        raise DataError(
            f"{folder} has no {INDEX}; run data pretokenize, which writes it when all shards are"
            " there"
        )
    try:
        return config.load(Index, folder / INDEX)
    except ConfigError as error:
        raise DataError(f"{error}; or run data pretokenize again") from error


@contextmanager
def _broken(path: Path) -> Iterator[None]:
    """Raise what befalls the reading of a shard as a DataError that names it."""
    arrow = need("pyarrow", "data")
    try:
        yield
    except (arrow.ArrowException, OSError, ValueError, LookupError, TypeError) as error:
        # a footer has no checksum: columns may have lost their names, or names be no text
        problem = (str(error) or type(error).__name__).splitlines()[0]
        raise DataError(f"cannot read {path} ({problem}); {ANEW}") from error


def _row(plain: Mapping[str, Any], frame_dim: int) -> Row:
    return Row(
        plain["line"],
        tuple(Entry(each["role"], each["content"]) for each in plain["messages"]),
        tuple(_piece(each, frame_dim) for each in plain["media"]),
        plain["task"],
        plain["id"],
    )


def _piece(plain: Mapping[str, Any], frame_dim: int) -> Codes | Frames:
    if plain["kind"] == "frames":
        values = np.frombuffer(plain["frames"], "<f2").reshape(-1, frame_dim)
        return Frames(torch.from_numpy(values.astype(np.float32)))
    return Codes(plain["kind"], torch.tensor(plain["codes"], dtype=torch.int64))
