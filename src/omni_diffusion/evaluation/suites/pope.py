"""POPE: is there such an object in the picture? 3,000 questions each of three kinds of absence.

An answer counts only if it is "yes" or "no" and nothing else, in either case, as lmms-eval 0.7.3
counts. `loose_accuracy` reads answers as MME does. The share of yes is of the predictions; that of
lmms-eval is of the ground truth, which is always a half.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from omni_diffusion.conversation import Part, text_of
from omni_diffusion.evaluation.benchmark import summarize
from omni_diffusion.evaluation.scoring import BenchmarkResult, Metric, Score, Scores, correct
from omni_diffusion.evaluation.suites.catalog import SuiteEntry
from omni_diffusion.evaluation.suites.items import (
    FileBenchmark,
    Item,
    SuiteOptions,
    data_path,
    question_tail,
    read_rows,
    wrong_data,
)
from omni_diffusion.evaluation.suites.mme import yes_or_no
from omni_diffusion.io import files

ABSENCES = ("random", "popular", "adversarial")
POPE_KEYS = ("question_id", "image", "text", "label")


class Pope(FileBenchmark):
    """The value is the accuracy over all questions; the details are the metrics and each kind."""

    def score(self, sample: Item, answer: Sequence[Part]) -> Scores:
        """The scores whose sums are the metrics."""
        text = text_of(answer)
        return {
            **presence_scores(sample.facts["expected"], text),
            sample.facts["absence"]: correct(text.lower() == sample.facts["expected"]),
        }

    def report(self, outcomes: Sequence[tuple[Item, Scores]]) -> BenchmarkResult:
        """Accuracy, precision, recall, F1 and the share of yes."""
        return presence_report([scores for _, scores in outcomes])


def presence_scores(expected: str, text: str) -> Scores:
    """Scores of one answer; precision, recall and F1 are ratios of their sums.

    An answer that is neither yes nor no is wrong, and counts neither for precision nor for recall.
    """
    said, right = text.lower().strip(), expected == "yes"
    hit, false_yes = said == "yes" and right, said == "yes" and not right
    missed = said == "no" and right
    return {
        "value": correct(said == expected),
        "precision": Score(hit, hit + false_yes),
        "recall": Score(hit, hit + missed),
        "f1": Score(2 * hit, 2 * hit + false_yes + missed),
        "yes_share": correct(said == "yes"),
        "loose_accuracy": correct(yes_or_no(text) == expected),
    }


def presence_report(scores: Sequence[Scores]) -> BenchmarkResult:
    """The metrics of `presence_scores`; one without a single case, such as precision where
    nothing was answered by yes, is 0.
    """
    names = {name for each in scores for name in each}
    empty = {name for name in names if not any(each[name].of for each in scores if name in each)}
    kept = [{name: s for name, s in each.items() if name not in empty} for each in scores]
    result = summarize(kept)
    zeros = {name: Metric(value=0.0, stderr=0.0, n=len(scores)) for name in sorted(empty)}
    result["details"] = {**result.get("details", {}), **zeros}
    return result


def pope(entry: SuiteEntry, options: SuiteOptions) -> Pope:
    """All three kinds, one after the other."""
    pictures = data_path(entry, options.data, "val2014", "coco/val2014")
    items: list[Item] = []
    for absence in ABSENCES:
        name = f"coco_pope_{absence}.json"
        path = data_path(entry, options.data, name, f"coco/{name}", f"output/coco/{name}")
        items += [_question(entry, pictures, absence, row) for row in _lines(entry, path)]
    return Pope(entry, options, "vqa", items)


def _question(entry: SuiteEntry, pictures: Path, absence: str, row: dict[str, Any]) -> Item:
    picture = data_path(entry, pictures, row["image"])
    facts = {
        "id": f"{absence}-{row['question_id']}",
        "asked": row["text"],
        "expected": row["label"].strip().lower(),
        "absence": absence,
        "image": row["image"],
    }
    return Item(facts, row["text"] + question_tail(entry), (picture,))


def _lines(entry: SuiteEntry, path: Path) -> list[dict[str, Any]]:
    """The rows of a file with one JSON object a line."""
    try:
        rows = [json.loads(line) for line in files.text_lines(path) if line]
    except ValueError as error:
        raise wrong_data(entry, path, f"a JSON object a line ({error})") from error
    return read_rows(entry, path, POPE_KEYS, rows)
