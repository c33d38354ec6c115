"""The importers by corpus name; docs/training-data.md describes the layouts."""

from __future__ import annotations

from omni_diffusion.data.importers import parquet, speech, tars
from omni_diffusion.data.importers.importer import Importer, matching
from omni_diffusion.errors import DataError
from omni_diffusion.io.config import nearest

_IMPORTERS = (
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
        rows=tars.captioned_pictures,
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
IMPORTERS = {importer.name: importer for importer in _IMPORTERS}


def importer(name: str) -> Importer:
    """The importer called `name`; raises DataError with the nearest names."""
    if name not in IMPORTERS:
        raise DataError(
            f"no corpus is called {name!r}",
            value=name,
            fix=nearest(name, IMPORTERS),
        )
    return IMPORTERS[name]
