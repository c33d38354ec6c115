"""MMMU, validation split: questions of 30 subjects, most with options, some with several pictures.

The official scorer guesses an option where it can read none; here such an answer is wrong, so the
score is up to a quarter of the unreadable answers lower, and the same in every run.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from omni_diffusion.conversation import Image, Message, Part, Text, text_of
from omni_diffusion.engine.request import Request
from omni_diffusion.evaluation.scoring import Scores, correct
from omni_diffusion.evaluation.suites.catalog import SuiteEntry
from omni_diffusion.evaluation.suites.items import (
    FileBenchmark,
    Item,
    SuiteOptions,
    missing_data,
    question_tail,
    wrong_data,
)
from omni_diffusion.io.optional import require
from omni_diffusion.media import Picture
from omni_diffusion.tasks.presets import ASK_WORD

MOST_IMAGES = 7
MMMU_COLUMNS = ("id", "question", "options", "answer", "question_type", "image_1")
NUMBER = re.compile(r"-?\d+(?:,\d{3})*(?:\.\d+)?")


class Mmmu(FileBenchmark):
    """The value is the accuracy; details: every subject."""

    def request(self, sample: Item) -> Request:
        """One picture is asked about as `vqa` does, several in their order behind the question."""
        if len(sample.images) == 1:
            return super().request(sample)
        pictures = tuple(Image(Picture.read(image)) for image in sample.images)
        message = Message("user", (Text(f"{sample.text}\n"), *pictures))
        preset, setting = self.options.preset, self.entry.setting if self.options.preset else None
        overrides = dict(self.options.overrides) or None
        return Request("chat", (message,), overrides, preset=preset, setting=setting)

    def score(self, sample: Item, answer: Sequence[Part]) -> Scores:
        """Whether the chosen option, or the open answer, is right."""
        facts, text = sample.facts, text_of(answer)
        if facts["options"]:
            right = chosen_option(text, facts["options"]) == facts["expected"]
        else:
            right = open_answer_right(text, facts["expected"])
        return {"value": correct(right), facts["subject"]: correct(right)}


def chosen_option(text: str, options: Sequence[str]) -> str | None:
    """The letter that an answer names, or of the option that a longer answer quotes; else None.

    "(B)" goes before a B that stands alone, and the last one named counts.
    """
    letters = [chr(ord("A") + i) for i in range(len(options))]
    known = "".join(letters)
    for pattern in (rf"\(([{known}])\)", rf"(?<![A-Za-z])([{known}])(?![A-Za-z'])"):
        named = re.findall(pattern, text)
        if named:
            return str(named[-1])
    if len(text.split()) > 5:
        places = {text.lower().rfind(option.lower()): i for i, option in enumerate(options)}
        last = max(places)
        return letters[places[last]] if last >= 0 else None
    return None


def open_answer_right(text: str, expected: str | Sequence[str]) -> bool:
    """Whether an answer has one of the expected numbers, to 2 decimals, or holds the words."""
    wanted = [expected] if isinstance(expected, str) else list(expected)
    said = _plain_words(text)
    for each in wanted:
        if NUMBER.fullmatch(each.strip()):
            values = [_number(found) for found in NUMBER.findall(text)]
            if _number(each) in values:
                return True
        elif _plain_words(each) and f" {_plain_words(each)} " in f" {said} ":
            return True
    return False


def mmmu(entry: SuiteEntry, options: SuiteOptions) -> Mmmu:
    """All subjects that are there."""
    shards = sorted(options.data.glob("*/validation-*.parquet"))
    if not shards:
        raise missing_data(entry, options.data, "SUBJECT/validation-*.parquet")
    items = [_item(entry, row) for path in shards for row in _rows(entry, path)]
    return Mmmu(entry, options, "vqa", items)


def _rows(entry: SuiteEntry, path: Path) -> Iterator[dict[str, Any]]:
    parquet = require("pyarrow.parquet", "data")
    table = parquet.read_table(path)
    if not set(MMMU_COLUMNS) <= set(table.column_names):
        raise wrong_data(entry, path, f"a table with {', '.join(MMMU_COLUMNS)}")
    for row in table.to_pylist():
        yield {**row, "subject": path.parent.name}


def _item(entry: SuiteEntry, row: Mapping[str, Any]) -> Item:
    options, answer = _listed(row["options"]), row["answer"]
    images = [row.get(f"image_{i}") for i in range(1, MOST_IMAGES + 1)]
    facts: dict[str, Any] = {"id": row["id"], "asked": row["question"], "options": options}
    facts |= {"expected": answer if options else _listed(answer), "subject": row["subject"]}
    asked = row["question"]
    if options:
        listed = "\n".join(f"{chr(ord('A') + i)}. {option}" for i, option in enumerate(options))
        asked = f"{asked}\n{listed}{question_tail(entry)}"
    else:
        asked += ASK_WORD
    return Item(facts, asked, tuple(image["bytes"] for image in images if image))


def _listed(text: str) -> list[str]:
    """The options or answers of a column, which is the Python list as text, or one answer."""
    if not text.strip().startswith("["):
        return [text] if text.strip() else []
    return [str(each) for each in ast.literal_eval(text)]


def _plain_words(text: str) -> str:
    return " ".join(re.sub(r"[^\w\s.%-]", " ", text.lower()).strip(" .").split())


def _number(text: str) -> float:
    return round(float(text.replace(",", "")), 2)
