"""Import a corpus file by file and write its manifest; an interrupted import can be resumed.

Finished files are kept in OUT/parts. When all are done they are joined to OUT/manifest.jsonl, and
OUT/skipped.txt lists the rows that did not become a sample, each with its reason.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from hashlib import blake2b
from pathlib import Path

from omni_diffusion.data.importers.importer import ImportedRow, Importer, MediaFolder, Skipped
from omni_diffusion.data.manifest import MANIFEST, SourceLine, parse_line
from omni_diffusion.errors import DataError
from omni_diffusion.io import config, files

SKIPPED, IMPORT_RECORD = "skipped.txt", "import.json"


@dataclass(frozen=True)
class ImportRecord:
    """The import that a folder holds; the counts are None until it is complete."""

    corpus: str
    source: str
    split: str | None
    samples: int | None = None
    skipped: int | None = None


def import_corpus(
    importer: Importer,
    source: str | Path,
    out: str | Path,
    split: str | None = None,
    progress: Callable[[float], None] | None = None,
) -> ImportRecord:
    """Import a corpus from the folder `source` to the folder `out`, unless `out` is complete.

    split: by default the importer's. progress: called with the fraction of files that are done.
    Raises DataError if the source has an unexpected layout or `out` holds another import,
    StorageError if it cannot be written or another process imports to it.
    """
    source, out, split = Path(source), Path(out), split or importer.split
    with files.exclusive(out):
        return _import(importer, source, out, split, progress)


def _import(
    importer: Importer,
    source: Path,
    out: Path,
    split: str | None,
    progress: Callable[[float], None] | None,
) -> ImportRecord:
    record = ImportRecord(importer.name, str(source.resolve()), split)
    existing = _existing(out, record)
    if existing is not None and existing.samples is not None:
        return existing
    paths = importer.files(source, split)
    if existing is None:
        _begin(out, record)
    names = [_part_name(path.relative_to(source)) for path in paths]
    parts = out / "parts"
    parts.mkdir(exist_ok=True)
    for done, (path, name) in enumerate(zip(paths, names, strict=True), start=1):
        if not (parts / f"{name}.jsonl").exists():
            rows = importer.rows(path, MediaFolder(out, name), split)
            _write_part(rows, parts / name, str(path.relative_to(source)), out)
        if progress is not None:
            progress(done / len(paths))
    skipped = _join([parts / f"{name}.txt" for name in names], out / SKIPPED)
    samples = _join([parts / f"{name}.jsonl" for name in names], out / MANIFEST)
    record = replace(record, samples=samples, skipped=skipped)
    config.save(record, out / IMPORT_RECORD)
    shutil.rmtree(parts)
    return record


def _existing(out: Path, record: ImportRecord) -> ImportRecord | None:
    """The record in a folder; raises DataError if it is of another import."""
    path = out / IMPORT_RECORD
    if not path.exists():
        return None
    held = config.load(ImportRecord, path)
    if (held.corpus, held.source, held.split) != (record.corpus, record.source, record.split):
        raise DataError(
            f"{out} holds {held.corpus} from {held.source}, split {held.split}",
            value=out,
            fix="give another folder or empty it",
        )
    return held


def _begin(out: Path, record: ImportRecord) -> None:
    files.make_folder(out)
    if any(path.name != files.LOCK_FILE for path in out.iterdir()):
        raise DataError(
            f"{out} holds other files", value=out, fix="give an empty folder or a new one"
        )
    config.save(record, out / IMPORT_RECORD)


def _write_part(rows: Iterable[ImportedRow], stem: Path, name: str, out: Path) -> None:
    """Write the manifest lines of one file, and its skipped rows; both atomic, the lines last."""
    skipped: list[str] = []
    with files.atomic_path(stem.with_name(f"{stem.name}.jsonl")) as path:
        with path.open("w", encoding="utf-8") as file:
            for row in rows:
                line, reason = _checked(row, out)
                if reason is None:
                    file.write(line + "\n")
                else:
                    skipped.append(f"{name}: {reason}\n")
        files.write_text(stem.with_name(f"{stem.name}.txt"), "".join(skipped))


def _checked(row: ImportedRow, out: Path) -> tuple[str, str | None]:
    """A row as a manifest line, and the reason if it is not a sample."""
    if isinstance(row, Skipped):
        return "", f"{row.row}: {row.reason}"
    line = json.dumps(row, ensure_ascii=False)
    source = SourceLine(out / MANIFEST, 1)
    _, problems = parse_line(line.encode("utf-8", "surrogatepass"), source)
    errors = [problem.message for problem in problems if not problem.warning]
    return line, f"{row.get('id', 'a row')}: {errors[0]}" if errors else None


def _join(parts: Sequence[Path], path: Path) -> int:
    """Concatenate parts; returns the number of lines."""
    count = 0
    with files.atomic_path(path) as temporary, temporary.open("wb") as joined:
        for part in parts:
            with part.open("rb") as lines:
                for line in lines:
                    joined.write(line)
                    count += 1
    return count


def _part_name(path: Path) -> str:
    """A short unique name for a file of the corpus."""
    digest = blake2b(path.as_posix().encode(), digest_size=4).hexdigest()
    return f"{path.name.partition('.')[0][:40]}-{digest}"
