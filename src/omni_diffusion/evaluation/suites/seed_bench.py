"""SEED-Bench-2-Plus: charts, maps and web pages, each question with four options.

The first character of the answer is compared, as lmms-eval 0.7.3 does.
"""

from __future__ import annotations

from collections.abc import Sequence

from omni_diffusion.conversation import Part, text_of
from omni_diffusion.evaluation.scoring import Scores, correct
from omni_diffusion.evaluation.suites.catalog import SuiteEntry
from omni_diffusion.evaluation.suites.items import (
    FileBenchmark,
    Item,
    SuiteOptions,
    data_path,
    question_tail,
    read_data_json,
    read_rows,
)

SEED_FILE = "SEED-Bench-2-plus-text-rich.json"
OPTION_LETTERS = "ABCD"
SEED_KEYS = (
    *("question_id", "question", "answer", "data_id", "question_image_type"),
    *(f"choice_{letter}" for letter in OPTION_LETTERS),
)


class SeedBench2Plus(FileBenchmark):
    """The value is the accuracy; details: Chart, Map and Web."""

    def score(self, sample: Item, answer: Sequence[Part]) -> Scores:
        """Whether the answer begins with the letter of the right option."""
        right = correct(first_letter(text_of(answer)) == sample.facts["expected"].lower())
        return {"value": right, sample.facts["kind"]: right}


def first_letter(text: str) -> str:
    """The first character of an answer, in lower case; empty for an empty answer."""
    return text.strip()[:1].lower()


def seed_bench_2_plus(entry: SuiteEntry, options: SuiteOptions) -> SeedBench2Plus:
    """All questions of the file."""
    path = data_path(entry, options.data, SEED_FILE, f"SEED-Bench-2-plus/{SEED_FILE}")
    content = read_data_json(entry, path)
    if isinstance(content, dict):  # some mirrors wrap the list
        content = content.get("questions")
    items = []
    for row in read_rows(entry, path, SEED_KEYS, content):
        picture = data_path(entry, path.parent, row["data_id"], f"text_rich/{row['data_id']}")
        choices = "\n".join(f"{letter}. {row[f'choice_{letter}']}" for letter in OPTION_LETTERS)
        facts = {
            "id": str(row["question_id"]),
            "asked": f"{row['question']}\n{choices}",
            "expected": row["answer"],
            "kind": row["question_image_type"].capitalize(),
            "image": row["data_id"],
        }
        items.append(Item(facts, facts["asked"] + question_tail(entry), (picture,)))
    return SeedBench2Plus(entry, options, "vqa", items)
