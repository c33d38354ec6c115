"""Corpora in parquet files, the format of data sets on the Hugging Face hub.

A corpus is a list of columns and a function from a parquet row to a manifest row. Embedded media
are extracted to files.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from omni_diffusion.data.importers.importer import ImportedRow, MediaFolder, Skipped
from omni_diffusion.data.manifest import ROLE_ALIASES
from omni_diffusion.errors import DataError
from omni_diffusion.io.optional import require
from omni_diffusion.tasks.prompts import AUDIO_TAG, IMAGE_TAG

ROWS_AT_ONCE = 64  # a row may hold a large picture
LLAVA_IMAGE_TAG = "<image>"


def reader(
    columns: Sequence[str], convert: Callable[[dict[str, Any], MediaFolder], dict[str, Any] | str]
) -> Callable[[Path, MediaFolder, str | None], Iterator[ImportedRow]]:
    """Reads a parquet file; `convert` turns its row into a manifest row, or says why it cannot."""

    def rows(path: Path, media: MediaFolder, split: str | None) -> Iterator[ImportedRow]:
        arrow, parquet = require("pyarrow", "data"), require("pyarrow.parquet", "data")
        try:
            file = parquet.ParquetFile(path)
            missing = [name for name in columns if name not in file.schema_arrow.names]
            if missing:
                raise DataError(
                    f"{path} lacks the columns {', '.join(missing)}",
                    value=missing,
                    fix="give the folder of this corpus",
                )
            number = 0
            for batch in file.iter_batches(batch_size=ROWS_AT_ONCE, columns=list(columns)):
                for row in batch.to_pylist():
                    converted = convert(row, media)
                    yield (
                        Skipped(f"row {number}", converted)
                        if isinstance(converted, str)
                        else converted
                    )
                    number += 1
        except (arrow.ArrowException, OSError) as error:
            problem = str(error).splitlines()[0]
            raise DataError(
                f"cannot read {path} ({problem})", value=path, fix="download it again"
            ) from error

    return rows


def llava_onevision(row: dict[str, Any], media: MediaFolder) -> dict[str, Any] | str:
    """`conversations` of human and gpt about `image`.

    The picture goes behind the first question, as in the task `vqa`; a row without a picture
    becomes a text conversation.
    """
    messages = [
        {"role": ROLE_ALIASES.get(turn["from"], turn["from"]), "content": turn["value"] or ""}
        for turn in row["conversations"] or ()
    ]
    if sum(message["content"].count(LLAVA_IMAGE_TAG) for message in messages) > 1:
        return "it has several pictures"
    for message in messages:
        message["content"] = message["content"].replace(LLAVA_IMAGE_TAG, "").strip()
    name = _id(row["id"])
    if row["image"] is None:
        return {**name, "messages": messages}
    path = media.extract(row["image"]["bytes"] or b"")
    if path is None:
        return "the format of its picture is unknown"
    question = next((message for message in messages if message["role"] == "user"), None)
    if question is None:
        return "it has no question"
    question["content"] = f"{question['content']}\n{IMAGE_TAG}".lstrip()
    return {**name, "messages": messages, "images": [path]}


def tulu(row: dict[str, Any], media: MediaFolder) -> dict[str, Any] | str:
    """`messages` with role and content; text only."""
    messages = [{"role": m["role"], "content": m["content"]} for m in row["messages"] or ()]
    return {**_id(row["id"]), "messages": messages}


def voice_assistant(row: dict[str, Any], media: MediaFolder) -> dict[str, Any] | str:
    """`question_audio` and the written `answer`; the spoken answer exists as SNAC codes only."""
    path = media.extract((row["question_audio"] or {}).get("bytes") or b"")
    if path is None:
        return "the audio format of its question is unknown"
    messages = [
        {"role": "user", "content": AUDIO_TAG},
        {"role": "assistant", "content": row["answer"] or ""},
    ]
    return {"messages": messages, "audios": [path]}


def _id(name: Any) -> dict[str, Any]:
    return {} if name is None else {"id": str(name)}
