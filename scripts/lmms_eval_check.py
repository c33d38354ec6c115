"""lmms-eval answers a tiny task with the shipped model, found by its entry point.

    python scripts/lmms_eval_check.py OUT.json

Needs lmms-eval and this package in one environment. A task of questions about scenes is written to
a temporary folder and run by lmms-eval's own evaluator; OUT.json gets its scores, such as
scripts/results/lmms-eval.json.
"""

from __future__ import annotations

import importlib.metadata
import io
import json
import random
import sys
import tempfile
from pathlib import Path

import datasets
from lmms_eval import evaluator
from lmms_eval.tasks import TaskManager

from omni_diffusion.mini import scenes

SAMPLES = 12
NAME = "omni_scenes"
TASK = """\
task: {name}
dataset_path: parquet
dataset_kwargs:
  data_files:
    test: {data}
test_split: test
output_type: {kind}
doc_to_visual: !function functions.picture
doc_to_text: question
doc_to_target: answer
{more}
metadata:
  - version: 0.0
"""
GENERATED = """\
process_results: !function functions.right
generation_kwargs:
  max_new_tokens: 16
metric_list:
  - metric: right
    aggregation: mean
    higher_is_better: true
"""
FUNCTIONS = '''\
"""What the tasks need beside their tables."""


def picture(doc):
    return [doc["image"].convert("RGB")]


def right(doc, results):
    return {"right": float(results[0].strip() == doc["answer"])}
'''


def write_task(folder: Path) -> None:
    """The task and its table of questions."""
    rng, rows = random.Random(0), []
    for _ in range(SAMPLES):
        scene = scenes.sample_scene(rng, split="test")
        question = scenes.questions(scene, rng)[0]  # the colour of the background
        out = io.BytesIO()
        scenes.render_scene(scene).to_pil().save(out, format="PNG")
        image = {"bytes": out.getvalue(), "path": None}
        rows.append({"image": image, "question": question.text, "answer": question.answer})
    features = datasets.Features(
        {
            "image": datasets.Image(),
            "question": datasets.Value("string"),
            "answer": datasets.Value("string"),
        }
    )
    table = datasets.Dataset.from_list(rows, features=features)
    table.to_parquet(folder / "test.parquet")
    (folder / "functions.py").write_text(FUNCTIONS)
    text = TASK.format(
        name=NAME, data=folder / "test.parquet", kind="generate_until", more=GENERATED
    )
    (folder / f"{NAME}.yaml").write_text(text)


def main() -> None:
    """Run the task and write the scores."""
    with tempfile.TemporaryDirectory() as folder:
        write_task(Path(folder))
        manager = TaskManager(include_path=folder)
        found = evaluator.simple_evaluate(
            model="omni_diffusion",
            model_args="",
            tasks=[NAME],
            task_manager=manager,
            batch_size=8,
            device="cpu",
        )
    scores = {
        name: {key: value for key, value in each.items() if isinstance(value, float)}
        for name, each in found["results"].items()
    }
    version = importlib.metadata.version("lmms-eval")
    content = {"lmms-eval": version, "samples": SAMPLES, "results": scores}
    Path(sys.argv[1]).write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")
    print(json.dumps(content))


if __name__ == "__main__":
    main()
