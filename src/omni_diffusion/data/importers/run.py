"""Goes through a corpus file by file and writes its manifest: interrupted, it goes on where it was.

What is done of a file lies in OUT/parts until all are done; then the parts become
OUT/manifest.jsonl. Rows that become no sample are told in OUT/skipped.txt, each with its reason.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from hashlib import blake2b
from pathlib import Path

from omni_diffusion.data import manifest
from omni_diffusion.data.importers.importer import Found, Importer, Shelf, Skipped
from omni_diffusion.data.manifest import Place
from omni_diffusion.errors import DataError
from omni_diffusion.io import config, files

MANIFEST, SKIPPED, RECORD = "manifest.jsonl", "skipped.txt", "import.json"


@dataclass(frozen=True)
class Record:
    """What a folder was filled with; the counts are None until all is done."""

    corpus: str
    source: str
    split: str | None
    samples: int | None = None
    skipped: int | None = None


def run(
    importer: Importer,
    source: str | Path,
    out: str | Path,
    split: str | None = None,
    progress: Callable[[float], None] | None = None,
) -> Record:
    """Import a corpus to a folder; does nothing where it is complete.

    progress: called with the share of files that are done. Raises DataError when the source is laid
    out otherwise or `out` holds another import, StorageError when it cannot be written.
    """
    source, out, split = Path(source), Path(out), split or importer.split
    record = Record(importer.name, str(source.resolve()), split)
    held = _held(out, record)
    if held is not None and held.samples is not None:
        return held
    found = importer.files(source, split)
    if held is None:
        _begin(out, record)
    names = [_name(path.relative_to(source)) for path in found]
    parts = out / "parts"
    parts.mkdir(exist_ok=True)
    for done, (path, name) in enumerate(zip(found, names, strict=True), start=1):
        if not (parts / f"{name}.jsonl").exists():
            told = str(path.relative_to(source))
            _write_part(importer.rows(path, Shelf(out, name), split), parts / name, told, out)
        if progress is not None:
            progress(done / len(found))
    skipped = _join([parts / f"{name}.txt" for name in names], out / SKIPPED)
    samples = _join([parts / f"{name}.jsonl" for name in names], out / MANIFEST)
    record = Record(record.corpus, record.source, record.split, samples, skipped)
    config.save(record, out / RECORD)
    shutil.rmtree(parts)
    return record


def _held(out: Path, asked: Record) -> Record | None:
    """The record of a folder that was begun; raises DataError where it is of another import."""
    path = out / RECORD
    if not path.exists():
        return None
    held = config.load(Record, path)
    if (held.corpus, held.source, held.split) != (asked.corpus, asked.source, asked.split):
        raise DataError(
            f"{out} holds {held.corpus} from {held.source}, split {held.split}; give another"
            " folder or empty it"
        )
    return held


def _begin(out: Path, record: Record) -> None:
    files.make_folder(out)
    if any(out.iterdir()):
        raise DataError(f"{out} holds other files; give an empty folder or a new one")
    config.save(record, out / RECORD)


def _write_part(rows: Iterable[Found], stem: Path, told: str, out: Path) -> None:
    """The lines of one file, and why some rows have none; both whole, the lines last."""
    skipped: list[str] = []
    with files.atomic_path(stem.with_name(f"{stem.name}.jsonl")) as path:
        with path.open("w", encoding="utf-8") as file:
            for row in rows:
                line, reason = _checked(row, out)
                if reason is None:
                    file.write(line + "\n")
                else:
                    skipped.append(f"{told}: {reason}\n")
        files.write_text(stem.with_name(f"{stem.name}.txt"), "".join(skipped))


def _checked(row: Found, out: Path) -> tuple[str, str | None]:
    """A row as a line, and what keeps it from being a sample."""
    if isinstance(row, Skipped):
        return "", f"{row.row}: {row.reason}"
    line = json.dumps(row, ensure_ascii=False)
    _, problems = manifest.parse(line.encode("utf-8", "surrogatepass"), Place(out / MANIFEST, 1))
    errors = [problem.message for problem in problems if not problem.warning]
    return line, f"{row.get('id', 'a row')}: {errors[0]}" if errors else None


def _join(parts: Sequence[Path], path: Path) -> int:
    """Put parts one after the other; returns how many lines they have."""
    count = 0
    with files.atomic_path(path) as temporary, temporary.open("wb") as joined:
        for part in parts:
            with part.open("rb") as lines:
                for line in lines:
                    joined.write(line)
                    count += 1
    return count


def _name(path: Path) -> str:
    """A short name for a file of the corpus that no other one has."""
    digest = blake2b(path.as_posix().encode(), digest_size=4).hexdigest()
    return f"{path.name.partition('.')[0][:40]}-{digest}"
