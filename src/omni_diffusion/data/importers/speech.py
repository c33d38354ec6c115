"""Speech corpora whose recordings are files beside their texts; the files stay where they are.

Transcripts in capitals (LibriSpeech, GigaSpeech) become lower case, like the published samples.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from omni_diffusion.data.importers.importer import ImportedRow, MediaFolder, Skipped, matching
from omni_diffusion.data.manifest import is_blank
from omni_diffusion.errors import DataError
from omni_diffusion.io import files
from omni_diffusion.tasks.catalog import CATALOG
from omni_diffusion.tasks.prompts import AUDIO_TAG, manifest_row

AUDIO_SUFFIXES = (".flac", ".wav", ".opus", ".mp3")
PUNCTUATION = {  # tags of GigaSpeech
    " <COMMA>": ",",
    " <PERIOD>": ".",
    " <QUESTIONMARK>": "?",
    " <EXCLAMATIONPOINT>": "!",
}
NO_SPEECH = ("<SIL>", "<MUSIC>", "<NOISE>", "<OTHER>")
JSON_CHUNK = 2**20  # characters of a large JSON file read at once


def librispeech(transcripts: Path, media: MediaFolder, split: str | None) -> Iterator[ImportedRow]:
    """SPEAKER-CHAPTER.trans.txt: lines of "NAME TEXT", with NAME.flac beside it; becomes `asr`."""
    for line in _lines(transcripts):
        name, _, words = line.partition(" ")
        yield _asr_row(media, _recording(transcripts.parent / name), words.lower(), name)


def libritts_chapters(source: Path, split: str | None) -> Sequence[Path]:
    """The folders of all chapters; single files would be too many parts."""
    return sorted({path.parent for path in matching("*.normalized.txt")(source, split)})


def libritts(chapter: Path, media: MediaFolder, split: str | None) -> Iterator[ImportedRow]:
    """NAME.normalized.txt: the text of NAME.wav beside it; becomes the task `tts`."""
    for text in sorted(chapter.glob("*.normalized.txt")):
        name = text.name.removesuffix(".normalized.txt")
        recording = _recording(chapter / name)
        if recording is None:
            yield Skipped(name, "it has no recording")
            continue
        words, audios = _text(text).strip(), [media.reference(recording)]
        if is_blank(words):
            yield Skipped(name, "its text is empty")
            continue
        yield manifest_row(CATALOG["tts"], text=words, answer=AUDIO_TAG, audios=audios, name=name)


def common_voice_tables(source: Path, split: str | None) -> Sequence[Path]:
    """The table of a split: validated.tsv, train.tsv, ..."""
    table = source / f"{split}.tsv"
    if not files.is_file(table):
        raise DataError(
            f"no {table.name} in {source}",
            value=source,
            fix="give the folder of one language, with clips",
        )
    return (table,)


def common_voice(table: Path, media: MediaFolder, split: str | None) -> Iterator[ImportedRow]:
    """SPLIT.tsv with the columns `path` and `sentence`, recordings in clips; becomes `asr`."""
    lines = _lines(table)
    columns = next(lines, "").split("\t")
    if not {"path", "sentence"} <= set(columns):
        raise DataError(
            f"{table} lacks the columns path and sentence",
            value=table,
            fix="give a table of Common Voice",
        )
    for line in lines:
        row = dict(zip(columns, line.split("\t"), strict=False))
        path = table.parent / "clips" / row.get("path", "")
        recording = path if files.is_file(path) else None
        yield _asr_row(media, recording, _unquoted(row.get("sentence", "")), path.stem)


def _unquoted(field: str) -> str:
    """A field without the quotes that a CSV writer put around it because it holds quotes.

    The tables of Common Voice mix such fields with plain ones, in which quotes may lack a partner.
    """
    inner = field[1:-1]
    if '""' not in inner or '"' in inner.replace('""', "") or field != f'"{inner}"':
        return field
    return inner.replace('""', '"')


def gigaspeech(metadata: Path, media: MediaFolder, split: str | None) -> Iterator[ImportedRow]:
    """GigaSpeech.json: sections of long recordings, referenced and not cut out; becomes `asr`."""
    try:
        for audio in _audios(metadata):
            path = metadata.parent / audio["path"]
            for segment in audio["segments"]:
                if f"{{{split}}}" in segment["subsets"]:
                    yield _section(segment, path, media)
    except (KeyError, TypeError, AttributeError) as error:
        raise DataError(
            f"{metadata} has unexpected entries ({error})",
            value=metadata,
            fix="give GigaSpeech.json",
        ) from error


def _section(segment: dict[str, Any], path: Path, media: MediaFolder) -> ImportedRow:
    name, words = segment["sid"], segment["text_tn"]
    if words in NO_SPEECH:
        return Skipped(name, f"it is {words}, not speech")
    if not files.is_file(path):
        return Skipped(name, f"it has no recording {path}")
    for tag, sign in PUNCTUATION.items():
        words = words.replace(tag, sign)
    section = {
        "path": media.reference(path),
        "start": segment["begin_time"],
        "stop": segment["end_time"],
    }
    return manifest_row(CATALOG["asr"], answer=words.lower(), audios=[section], name=name)


def _audios(path: Path) -> Iterator[dict[str, Any]]:
    """The entries of the list "audios", one by one: the file has gigabytes."""
    decoder = json.JSONDecoder()
    with path.open(encoding="utf-8-sig") as file:
        text = ""
        while '"audios"' not in text:
            chunk = file.read(JSON_CHUNK)
            if not chunk:
                raise DataError(
                    f"{path} has no list of audios", value=path, fix="give GigaSpeech.json"
                )
            text += chunk
        text = text.partition('"audios"')[2].lstrip(" \n\r\t:[")
        size = JSON_CHUNK
        while not text.startswith("]"):
            try:
                audio, end = decoder.raw_decode(text)
            except json.JSONDecodeError as error:
                chunk = file.read(size)
                if not chunk:
                    raise DataError(
                        f"{path} is truncated", value=path, fix="download it again"
                    ) from error
                text, size = (text + chunk).lstrip(" \n\r\t,"), 2 * size
                continue
            except ValueError as error:  # an integer of thousands of digits
                raise DataError(
                    f"{path} holds a number that cannot be read ({error})", value=path
                ) from error
            yield audio
            text, size = text[end:].lstrip(" \n\r\t,"), JSON_CHUNK


def _asr_row(media: MediaFolder, recording: Path | None, words: str, name: str) -> ImportedRow:
    if recording is None:
        return Skipped(name, "it has no recording")
    audios = [media.reference(recording)]
    return manifest_row(CATALOG["asr"], answer=words.strip(), audios=audios, name=name)


def _recording(stem: Path) -> Path | None:
    """The recording of this name, in whatever format."""
    paths = (stem.with_name(stem.name + suffix) for suffix in AUDIO_SUFFIXES)
    return next((path for path in paths if files.is_file(path)), None)


def _text(path: Path) -> str:
    try:
        return files.read_text(path)
    except (OSError, UnicodeDecodeError) as error:
        raise _unreadable(path, error) from error


def _lines(path: Path) -> Iterator[str]:
    """The lines of a text file that are not blank; raises DataError."""
    try:
        yield from (line for line in files.text_lines(path) if not is_blank(line))
    except (OSError, UnicodeDecodeError) as error:
        raise _unreadable(path, error) from error


def _unreadable(path: Path, error: Exception) -> DataError:
    return DataError(f"cannot read {path} ({error})", value=path, fix="download it again")
