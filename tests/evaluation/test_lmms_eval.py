"""Our scorers against lmms-eval's own, on the predictions in lmms_eval.json.

Equal: POPE's accuracy, precision, recall and F1, both sums of MME, SEED-Bench-2-Plus in all parts.
Different by intent: the share of yes. lmms-eval counts the ground truth, we the predictions.
scripts/lmms_eval_expected.py made the file, in an environment with lmms-eval.
"""

import json
from pathlib import Path

import pytest
from scripts.lmms_eval_expected import drawn

from omni_diffusion.evaluation.scoring import correct, ratio
from omni_diffusion.evaluation.suites.mme import mme_metrics, yes_or_no
from omni_diffusion.evaluation.suites.pope import presence_report, presence_scores
from omni_diffusion.evaluation.suites.seed_bench import first_letter

STORED = json.loads((Path(__file__).parent / "lmms_eval.json").read_text(encoding="utf-8"))
PREDICTIONS, EXPECTED = STORED["predictions"], STORED["expected"]


def test_the_predictions_are_those_of_the_script() -> None:
    assert drawn() == PREDICTIONS


def test_pope() -> None:
    rows = PREDICTIONS["pope"]
    result = presence_report([presence_scores(row["answer"], row["prediction"]) for row in rows])
    details = {name: metric["value"] for name, metric in result["details"].items()}
    expected = EXPECTED["pope"]
    assert result["value"] == pytest.approx(expected["accuracy"])
    for ours, theirs in (("precision", "precision"), ("recall", "recall"), ("f1", "f1_score")):
        assert details[ours] == pytest.approx(expected[theirs]), ours
    yes = sum(row["prediction"].lower().strip() == "yes" for row in rows)
    assert details["yes_share"] == pytest.approx(yes / len(rows))
    assert expected["yes_ratio"] == 0.5 != details["yes_share"]


def test_mme() -> None:
    answers = [
        (
            {"category": row["category"], "image": row["question_id"]},
            yes_or_no(row["prediction"]) == row["answer"].lower(),
        )
        for row in PREDICTIONS["mme"]
    ]
    metrics = mme_metrics(answers)
    for name, value in EXPECTED["mme"].items():
        assert metrics[name]["value"] == pytest.approx(value)


def test_seed_bench_2_plus() -> None:
    scores: dict[str, list[bool]] = {"all": []}
    for row in PREDICTIONS["seed"]:
        right = first_letter(row["prediction"]) == row["answer"].lower()
        scores["all"].append(right)
        scores.setdefault(row["question_image_type"].capitalize(), []).append(right)
    for name, value in EXPECTED["seed"].items():
        assert ratio([correct(right) for right in scores[name]]) == pytest.approx(value)
