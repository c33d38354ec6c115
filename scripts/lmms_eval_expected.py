"""What lmms-eval's own scorers make of the predictions in tests/evaluation/lmms_eval.json.

    python scripts/lmms_eval_expected.py tests/evaluation/lmms_eval.json

Needs lmms-eval, in an environment of its own: its packages do not fit beside ours. It imports the
functions of three tasks and nothing else of it. The file holds the predictions, which this script
draws again, and the values of lmms-eval; tests/evaluation/test_lmms_eval.py compares ours.
"""

from __future__ import annotations

import importlib.metadata
import json
import random
import sys
from pathlib import Path
from typing import Any

WORDS = ("Yes", "no", "Yes.", " yes ", "No, there is none", "yeah", "n", "maybe", "Y", "")
LETTERS = ("A", "b", "C.", "(D)", "D is right", "", "the second", "c")
CATEGORIES = {
    "perception": ("existence", "count", "OCR"),
    "cognition": ("commonsense_reasoning", "code_reasoning"),
}


def drawn() -> dict[str, list[dict[str, Any]]]:
    """Questions with right answers and predictions, among them unclear ones."""
    rng = random.Random(0)
    pope = [
        {"answer": ("yes", "no")[i % 2], "prediction": rng.choice(WORDS), "question_id": str(i)}
        for i in range(200)
    ]
    mme = [
        {"category": category, "question_id": f"{category}{i}", "answer": answer}
        | {"prediction": rng.choice((*WORDS, answer, answer))}
        for categories in CATEGORIES.values()
        for category in categories
        for i in range(20)
        for answer in ("Yes", "No")
    ]
    seed = [
        {"answer": "ABCD"[i % 4], "question_id": str(i)}
        | {"question_image_type": ("chart", "map", "web")[i % 3]}
        | {"prediction": rng.choice((*LETTERS, "ABCD"[i % 4]))}
        for i in range(120)
    ]
    return {"pope": pope, "mme": mme, "seed": seed}


def scored(drawn: dict[str, list[dict[str, Any]]]) -> dict[str, dict[str, float]]:
    """The values of lmms-eval's functions."""
    from lmms_eval.tasks.mme import utils as mme
    from lmms_eval.tasks.pope import utils as pope
    from lmms_eval.tasks.seedbench_2_plus import utils as seed

    kept = [pope.pope_process_results(row, [row["prediction"]]) for row in drawn["pope"]]
    values: dict[str, dict[str, float]] = {"pope": {}, "mme": {}, "seed": {}}
    for name, function in (
        ("accuracy", pope.pope_aggregate_accuracy),
        ("precision", pope.pope_aggregate_precision),
        ("recall", pope.pope_aggregate_recall),
        ("f1_score", pope.pope_aggregate_f1_score),
        ("yes_ratio", pope.pope_aggregate_yes_ratio),
    ):
        values["pope"][name] = function([each[f"pope_{name}"] for each in kept])
    kept = [mme.mme_process_results(row, [row["prediction"]]) for row in drawn["mme"]]
    for name in CATEGORIES:
        key = f"mme_{name}_score"
        values["mme"][name] = mme.mme_aggregate_results([e[key] for e in kept if key in e])
    kept = [seed.seed_process_result(row, [row["prediction"]]) for row in drawn["seed"]]
    for name in ("all", "Chart", "Map", "Web"):
        key = f"seedbench_2_plus_{name}"
        values["seed"][name] = seed.seed_aggregation_result([e[key] for e in kept if key in e])
    return values


def main() -> None:
    """Write predictions and values to the file that is named."""
    predictions = drawn()
    content = {
        "lmms-eval": importlib.metadata.version("lmms-eval"),
        "expected": scored(predictions),
        "predictions": predictions,
    }
    Path(sys.argv[1]).write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
