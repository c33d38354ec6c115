"""The corpora that can be imported, by name; docs/training-data.md tells their layouts."""

from __future__ import annotations

from omni_diffusion.data.importers import parquet, speech, tars
from omni_diffusion.data.importers.importer import Importer, matching
from omni_diffusion.errors import DataError
from omni_diffusion.io.config import nearest

IMPORTERS = (
    Importer(
        name="librispeech",
        files=matching("*.trans.txt"),
        rows=speech.librispeech,
    ),
    Importer(
        name="libritts",
        files=speech.libritts_chapters,
        rows=speech.libritts,
    ),
    Importer(
        name="common-voice",
        files=speech.common_voice_tables,
        rows=speech.common_voice,
        split="train",
    ),
    Importer(
        name="gigaspeech",
        files=lambda source, split: matching("GigaSpeech.json")(source, None),
        rows=speech.gigaspeech,
        split="XL",
    ),
    Importer(
        name="llava-onevision",
        files=matching("*.parquet"),
        rows=parquet.reader(("id", "image", "conversations"), parquet.llava_onevision),
    ),
    Importer(
        name="blip3o",
        files=matching("*.tar*"),
        rows=tars.captioned,
    ),
    Importer(
        name="tulu-3",
        files=matching("*.parquet"),
        rows=parquet.reader(("id", "messages"), parquet.tulu),
    ),
    Importer(
        name="voiceassistant",
        files=matching("*.parquet"),
        rows=parquet.reader(("question_audio", "answer"), parquet.voice_assistant),
    ),
)
CATALOG = {importer.name: importer for importer in IMPORTERS}


def importer(name: str) -> Importer:
    """The importer called `name`; raises DataError with the nearest names."""
    if name not in CATALOG:
        raise DataError(f"no corpus is called {name!r}; {nearest(name, CATALOG)}")
    return CATALOG[name]
