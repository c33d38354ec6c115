"""MME: two questions a picture, one to be answered with yes and one with no, in 14 categories.

A category scores 100 times the share of right answers plus 100 times the share of pictures with
both answers right; perception is the sum of ten categories (at most 2000), cognition of four (at
most 800). Questions are asked as they are distributed; they end in "Please answer yes or no.".
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from omni_diffusion.conversation import Part, text_of
from omni_diffusion.evaluation.scoring import BenchmarkResult, Metric, Scores, Unit, correct
from omni_diffusion.evaluation.suites.catalog import SuiteEntry
from omni_diffusion.evaluation.suites.items import (
    FileBenchmark,
    Item,
    SuiteOptions,
    missing_data,
    question_tail,
    wrong_data,
)
from omni_diffusion.io import files

PERCEPTION = "existence count position color posters celebrity scene landmark artwork OCR".split()
COGNITION = "commonsense_reasoning numerical_calculation text_translation code_reasoning".split()
MME_FOLDERS = ("MME_Benchmark_release_version/MME_Benchmark", "MME_Benchmark_release_version", ".")
MME_SUFFIXES = (".jpg", ".png", ".jpeg")


class Mme(FileBenchmark):
    """The value is the score of perception; details: cognition and every category."""

    unit: Unit = "points"

    def score(self, sample: Item, answer: Sequence[Part]) -> Scores:
        """Whether the answer is the expected one of yes and no."""
        return {"value": correct(yes_or_no(text_of(answer)) == sample.facts["expected"])}

    def report(self, outcomes: Sequence[tuple[Item, Scores]]) -> BenchmarkResult:
        """The sums of the categories."""
        metrics = mme_metrics([(item.facts, bool(s["value"].amount)) for item, s in outcomes])
        return points_result("perception", metrics)


def yes_or_no(text: str) -> str:
    """ "yes", "no" or "other": what an answer says, by the rule that is usual for MME.

    Without dots and case it is one of the words or its first letter, or has the word among its
    first four characters, where yes is looked for first.
    """
    said = text.lower().strip().replace(".", "")
    if len(said) == 1:
        return {"y": "yes", "n": "no"}.get(said, "other")
    return next((word for word in ("yes", "no") if word in said[:4]), "other")


def mme_metrics(answers: Sequence[tuple[Mapping[str, str], bool]]) -> dict[str, Metric]:
    """The score of each category, and of "perception" and "cognition", from right answers.

    answers: facts with "category" and "image", and whether the answer is right. A picture of which
    only one question was asked counts by that one. The error is that of a mean over pictures.
    """
    pictures: dict[str, dict[str, list[bool]]] = {}
    for facts, right in answers:
        pictures.setdefault(facts["category"], {}).setdefault(facts["image"], []).append(right)
    metrics = {name: _category(list(by.values())) for name, by in pictures.items()}
    for name, categories in (("perception", PERCEPTION), ("cognition", COGNITION)):
        parts = [metrics[category] for category in categories if category in metrics]
        metrics[name] = Metric(
            value=sum(part["value"] for part in parts),
            stderr=math.hypot(*(part["stderr"] for part in parts)),
            n=sum(part["n"] for part in parts),
        )
    return metrics


def points_result(value: str, metrics: Mapping[str, Metric]) -> BenchmarkResult:
    """A result in points whose value is the metric of that name; the others are details."""
    details = {name: metric for name, metric in metrics.items() if name != value}
    whole = metrics[value]
    return BenchmarkResult(
        value=whole["value"],
        stderr=whole["stderr"],
        n=whole["n"],
        details=details,
        unit="points",
    )


def mme(entry: SuiteEntry, options: SuiteOptions) -> Mme:
    """All categories that are there."""
    items = [
        Item(facts, facts["asked"] + question_tail(entry), (picture,))
        for facts, picture in mme_questions(entry, options.data)
    ]
    return Mme(entry, options, "vqa", items)


def mme_questions(entry: SuiteEntry, data: Path) -> Iterator[tuple[dict[str, str], Path]]:
    """The facts of every question with its picture; or raises EvaluationError."""
    root = _root(entry, data)
    for category in PERCEPTION + COGNITION:
        for text in sorted((root / category).rglob("*.txt")):
            picture = _picture(entry, text)
            for number, line in enumerate(_questions(entry, text), start=1):
                question, _, label = line.rpartition("\t")
                yield (
                    {
                        "id": f"{category}/{text.stem}-{number}",
                        "asked": question.strip(),
                        "expected": label.strip().lower().replace(".", ""),
                        "category": category,
                        "image": picture.name,
                    },
                    picture,
                )


def _root(entry: SuiteEntry, data: Path) -> Path:
    """The folder that holds the categories."""
    for folder in MME_FOLDERS:
        if any((data / folder / category).is_dir() for category in PERCEPTION + COGNITION):
            return data / folder
    raise missing_data(entry, data, f"folder of a category, such as {PERCEPTION[0]}")


def _questions(entry: SuiteEntry, path: Path) -> list[str]:
    lines = [line for line in files.text_lines(path) if line.strip()]
    if not lines or any(
        line.rpartition("\t")[2].strip().lower() not in ("yes", "no") for line in lines
    ):
        raise wrong_data(entry, path, "lines of a question, a tab and Yes or No")
    return lines


def _picture(entry: SuiteEntry, text: Path) -> Path:
    """The picture of a file of questions: beside it, or in the folder `images` of its category."""
    stems = (text.with_suffix(""), text.parent.parent / "images" / text.stem)
    paths = [stem.with_name(stem.name + suffix) for stem in stems for suffix in MME_SUFFIXES]
    found = next((path for path in paths if path.is_file()), None)
    if found is None:
        raise wrong_data(entry, text, f"beside its picture {text.stem}.jpg")
    return found


def _category(pictures: Sequence[Sequence[bool]]) -> Metric:
    scores = [100 * sum(right) / len(right) + 100 * all(right) for right in pictures]
    mean = sum(scores) / len(scores)
    variance = sum((score - mean) ** 2 for score in scores) / max(1, len(scores) - 1)
    return Metric(value=mean, stderr=math.sqrt(variance / len(scores)), n=len(scores))
