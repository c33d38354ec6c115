"""Speech corpora whose sounds are files beside their texts; the sounds stay where they are.

Transcripts in capitals (LibriSpeech, GigaSpeech) are written small, as the published samples are.
"""

from __future__ import annotations

import csv
import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from omni_diffusion.data.importers.importer import Found, Shelf, Skipped, matching
from omni_diffusion.data.manifest import AUDIO
from omni_diffusion.errors import DataError
from omni_diffusion.tasks import prompts
from omni_diffusion.tasks.catalog import CATALOG

SOUNDS = (".flac", ".wav", ".opus", ".mp3")
SIGNS = {  # how GigaSpeech writes what is no word
    " <COMMA>": ",",
    " <PERIOD>": ".",
    " <QUESTIONMARK>": "?",
    " <EXCLAMATIONPOINT>": "!",
}
NO_SPEECH = ("<SIL>", "<MUSIC>", "<NOISE>", "<OTHER>")
PIECE = 2**20  # characters of a large JSON file that are read at once


def librispeech(transcripts: Path, shelf: Shelf, split: str | None) -> Iterator[Found]:
    """SPEAKER-CHAPTER.trans.txt: one "NAME WORDS" a line, NAME.flac beside it."""
    for line in _text(transcripts).splitlines():
        name, _, words = line.partition(" ")
        yield _heard(shelf, _sound(transcripts.parent / name), words.lower(), name)


def libritts_chapters(source: Path, split: str | None) -> Sequence[Path]:
    """The folders of all chapters: a file each would be too many to keep apart."""
    return sorted({path.parent for path in matching("*.normalized.txt")(source, split)})


def libritts(chapter: Path, shelf: Shelf, split: str | None) -> Iterator[Found]:
    """NAME.normalized.txt: what is said in NAME.wav beside it; becomes text to speech."""
    for text in sorted(chapter.glob("*.normalized.txt")):
        name = text.name.removesuffix(".normalized.txt")
        sound = _sound(chapter / name)
        if sound is None:
            yield Skipped(name, "it has no sound")
            continue
        words, audios = _text(text).strip(), [shelf.leave(sound)]
        yield prompts.row(CATALOG["tts"], text=words, answer=AUDIO, audios=audios, name=name)


def common_voice_tables(source: Path, split: str | None) -> Sequence[Path]:
    """The table of a split: validated.tsv, train.tsv, ..."""
    table = source / f"{split}.tsv"
    if not table.is_file():
        raise DataError(f"no {table.name} in {source}; give the folder of one language, with clips")
    return (table,)


def common_voice(table: Path, shelf: Shelf, split: str | None) -> Iterator[Found]:
    """SPLIT.tsv with the columns `path` and `sentence`; sounds in clips."""
    with table.open(encoding="utf-8", newline="") as file:
        rows = csv.DictReader(file, delimiter="\t", quoting=csv.QUOTE_NONE)
        if not {"path", "sentence"} <= set(rows.fieldnames or ()):
            raise DataError(f"{table} lacks the columns path and sentence; give Common Voice's own")
        for row in rows:
            sound = table.parent / "clips" / (row["path"] or "")
            name = sound.stem
            yield _heard(shelf, sound if sound.is_file() else None, row["sentence"] or "", name)


def gigaspeech(metadata: Path, shelf: Shelf, split: str | None) -> Iterator[Found]:
    """GigaSpeech.json: sections of long recordings, which are named and not cut out."""
    try:
        for audio in _audios(metadata):
            path = metadata.parent / audio["path"]
            for segment in audio["segments"]:
                if f"{{{split}}}" in segment["subsets"]:
                    yield _section(segment, path, shelf)
    except (KeyError, TypeError) as error:
        raise DataError(f"{metadata} has other entries ({error}); give GigaSpeech.json") from error


def _section(segment: dict[str, Any], path: Path, shelf: Shelf) -> Found:
    name, words = segment["sid"], segment["text_tn"]
    if words in NO_SPEECH:
        return Skipped(name, f"it is {words}, no speech")
    if not path.is_file():
        return Skipped(name, f"it has no sound {path}")
    for sign, written in SIGNS.items():
        words = words.replace(sign, written)
    section = {
        "path": shelf.leave(path),
        "start": segment["begin_time"],
        "stop": segment["end_time"],
    }
    return prompts.row(CATALOG["asr"], answer=words.lower(), audios=[section], name=name)


def _audios(path: Path) -> Iterator[dict[str, Any]]:
    """The entries of the list "audios", one by one: the file has gigabytes."""
    decoder = json.JSONDecoder()
    with path.open(encoding="utf-8") as file:
        left = ""
        while '"audios"' not in left:
            piece = file.read(PIECE)
            if not piece:
                raise DataError(f"{path} has no list of audios; give GigaSpeech.json")
            left += piece
        left = left.partition('"audios"')[2].lstrip(" \n\r\t:[")
        wanted = PIECE
        while not left.startswith("]"):
            try:
                audio, at = decoder.raw_decode(left)
            except json.JSONDecodeError as error:
                piece = file.read(wanted)
                if not piece:
                    raise DataError(f"{path} breaks off; fetch it again") from error
                left, wanted = (left + piece).lstrip(" \n\r\t,"), 2 * wanted
                continue
            yield audio
            left, wanted = left[at:].lstrip(" \n\r\t,"), PIECE


def _heard(shelf: Shelf, sound: Path | None, words: str, name: str) -> Found:
    if sound is None:
        return Skipped(name, "it has no sound")
    return prompts.row(CATALOG["asr"], answer=words.strip(), audios=[shelf.leave(sound)], name=name)


def _sound(stem: Path) -> Path | None:
    """The sound of that name, whatever its format."""
    paths = (stem.with_name(stem.name + suffix) for suffix in SOUNDS)
    return next((path for path in paths if path.is_file()), None)


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"cannot read {path} ({error}); fetch it again") from error
