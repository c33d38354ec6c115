"""lmms-eval runs two tiny tasks with the shipped model, found by its entry point.

    python scripts/lmms_eval_check.py OUT.json

Needs lmms-eval and this package in one environment. Questions about scenes, to be answered and to
be chosen by likelihood among four options, are written to a temporary folder and run by lmms-eval's
own evaluator; OUT.json gets its scores, such as scripts/results/lmms-eval.json.
"""

from __future__ import annotations

import importlib.metadata
import io
import json
import random
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import datasets
from lmms_eval import evaluator
from lmms_eval.tasks import TaskManager

from omni_diffusion.mini import scenes

SAMPLES = 12
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
CHOSEN = """\
doc_to_choice: options
process_results: !function functions.chosen
metric_list:
  - metric: acc
    aggregation: mean
    higher_is_better: true
"""
TASKS = {  # by name, the kind of request and what is scored
    "omni_scenes": ("generate_until", GENERATED),
    "omni_scenes_choice": ("multiple_choice", CHOSEN),
}
FUNCTIONS = '''\
"""What the tasks need beside their tables."""


def picture(doc):
    return [doc["image"].convert("RGB")]


def right(doc, results):
    return {"right": float(results[0].strip() == doc["answer"])}


def chosen(doc, results):
    """lmms-eval 0.7.3 makes text of each (loss, greedy), which its own scorer cannot read."""
    losses = [float(str(result).strip("()").split(",")[0]) for result in results]
    return {"acc": float(doc["options"][losses.index(min(losses))] == doc["answer"])}
'''


def question_about(rng: random.Random, number: int) -> dict[str, Any]:
    """A held-out scene as a PNG file, and one of the questions about it with its answer."""
    scene = scenes.sample_scene(rng, split="test")
    question = scenes.questions(scene, rng)[number]
    out = io.BytesIO()
    scenes.render_scene(scene).to_pil().save(out, format="PNG")
    image = {"bytes": out.getvalue(), "path": None}
    return {"image": image, "question": question.text, "answer": question.answer}


def write_table(rows: Sequence[dict[str, Any]], folder: Path, **more: Any) -> Path:
    """The questions as a table, with what the tasks need beside it. more: further columns."""
    words = datasets.Value("string")
    columns = {"image": datasets.Image(), "question": words, "answer": words, **more}
    table = datasets.Dataset.from_list(list(rows), features=datasets.Features(columns))
    table.to_parquet(folder / "test.parquet")
    (folder / "functions.py").write_text(FUNCTIONS)
    return folder / "test.parquet"


def write_tasks(folder: Path) -> None:
    """The tasks and their table of questions."""
    rng, rows = random.Random(0), []
    for _ in range(SAMPLES):
        row = question_about(rng, 0)  # the colour of the background
        options = rng.sample([c for c in scenes.BACKGROUNDS if c != row["answer"]], 3)
        options.insert(rng.randrange(4), row["answer"])
        rows.append({**row, "options": options})
    data = write_table(rows, folder, options=datasets.Sequence(datasets.Value("string")))
    for name, (kind, more) in TASKS.items():
        text = TASK.format(name=name, data=data, kind=kind, more=more)
        (folder / f"{name}.yaml").write_text(text)


def main() -> None:
    """Run the tasks and write the scores."""
    with tempfile.TemporaryDirectory() as folder:
        write_tasks(Path(folder))
        manager = TaskManager(include_path=folder)
        found = evaluator.simple_evaluate(
            model="omni_diffusion",
            model_args="",
            tasks=list(TASKS),
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
