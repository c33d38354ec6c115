"""Corpora in parquet files, as the hub keeps data sets; media that lie inside are taken out.

A corpus is the columns it needs and one function from a row to a manifest line.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from omni_diffusion.data.importers.importer import Found, Shelf, Skipped
from omni_diffusion.data.manifest import AUDIO, IMAGE, OTHER_ROLES
from omni_diffusion.errors import DataError
from omni_diffusion.io.optional import need

ROWS = 64  # read at once; a row may hold a large picture
THEIR_IMAGE = "<image>"  # the tag of LLaVA's conversations


def reader(
    columns: Sequence[str], line: Callable[[dict[str, Any], Shelf], dict[str, Any] | str]
) -> Callable[[Path, Shelf, str | None], Iterator[Found]]:
    """Rows of a parquet file by `line`, which gives a manifest line or why there is none."""

    def rows(path: Path, shelf: Shelf, split: str | None) -> Iterator[Found]:
        arrow, parquet = need("pyarrow", "data"), need("pyarrow.parquet", "data")
        try:
            file = parquet.ParquetFile(path)
            missing = [name for name in columns if name not in file.schema_arrow.names]
            if missing:
                raise DataError(f"{path} lacks the columns {', '.join(missing)}; is it the corpus?")
            number = 0
            for batch in file.iter_batches(batch_size=ROWS, columns=list(columns)):
                for row in batch.to_pylist():
                    found = line(row, shelf)
                    yield Skipped(f"row {number}", found) if isinstance(found, str) else found
                    number += 1
        except (arrow.ArrowException, OSError) as error:
            problem = str(error).splitlines()[0]
            raise DataError(f"cannot read {path} ({problem}); fetch it again") from error

    return rows


def llava_onevision(row: dict[str, Any], shelf: Shelf) -> dict[str, Any] | str:
    """`conversations` of human and gpt about `image`; the picture goes behind the first question.

    That is where the task `vqa` has it; without a picture it is a conversation in words.
    """
    messages = [
        {"role": OTHER_ROLES.get(turn["from"], turn["from"]), "content": turn["value"] or ""}
        for turn in row["conversations"] or ()
    ]
    if sum(message["content"].count(THEIR_IMAGE) for message in messages) > 1:
        return "it speaks of several pictures"
    for message in messages:
        message["content"] = message["content"].replace(THEIR_IMAGE, "").strip()
    named = _named(row["id"])
    if row["image"] is None:
        return {**named, "messages": messages}
    path = shelf.put(row["image"]["bytes"] or b"")
    if path is None:
        return "its picture is of no known format"
    asked = next((message for message in messages if message["role"] == "user"), None)
    if asked is None:
        return "nothing is asked"
    asked["content"] = f"{asked['content']}\n{IMAGE}".lstrip()
    return {**named, "messages": messages, "images": [path]}


def tulu(row: dict[str, Any], shelf: Shelf) -> dict[str, Any] | str:
    """`messages` with role and content, words alone."""
    messages = [{"role": m["role"], "content": m["content"]} for m in row["messages"] or ()]
    return {**_named(row["id"]), "messages": messages}


def voice_assistant(row: dict[str, Any], shelf: Shelf) -> dict[str, Any] | str:
    """`question_audio` and the written `answer`; its spoken one is there in SNAC codes alone."""
    path = shelf.put((row["question_audio"] or {}).get("bytes") or b"")
    if path is None:
        return "its question is no sound of a known format"
    messages = [
        {"role": "user", "content": AUDIO},
        {"role": "assistant", "content": row["answer"] or ""},
    ]
    return {"messages": messages, "audios": [path]}


def _named(name: Any) -> dict[str, Any]:
    return {} if name is None else {"id": str(name)}
