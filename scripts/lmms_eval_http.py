"""lmms-eval asks the server: its model `async_openai` answers a tiny task of yes and no over HTTP.

    python -m scripts.lmms_eval_http OUT.json

Needs lmms-eval and this package with its extra serve in one environment. Starts `omni-diffusion
serve` with the shipped model on a free port of the loopback, writes a task such as POPE (is there
this thing in the picture?) to a temporary folder and runs lmms-eval's own evaluator on it; OUT.json
gets its scores and answers, such as scripts/results/lmms-eval-http.json.
"""

from __future__ import annotations

import importlib.metadata
import json
import random
import sys
import tempfile
from collections import Counter
from pathlib import Path
from typing import Any

from lmms_eval import evaluator
from lmms_eval.tasks import TaskManager
from scripts.lmms_eval_check import question_about, write_table
from scripts.soak import free_port, start

SAMPLES = 12
NAME = "omni_presence"
PRESENCE = 1  # of the questions about a scene
TASK = """\
task: {name}
dataset_path: parquet
dataset_kwargs:
  data_files:
    test: {table}
test_split: test
output_type: generate_until
doc_to_visual: !function functions.picture
doc_to_text: question
doc_to_target: answer
process_results: !function functions.right
generation_kwargs:
  max_new_tokens: 16
metric_list:
  - metric: right
    aggregation: mean
    higher_is_better: true
metadata:
  - version: 0.0
"""


def write_task(folder: Path) -> None:
    """The task and its table of questions."""
    rng = random.Random(0)
    table = write_table([question_about(rng, PRESENCE) for _ in range(SAMPLES)], folder)
    (folder / f"{NAME}.yaml").write_text(TASK.format(name=NAME, table=table))


def evaluated(address: str) -> dict[str, Any]:
    """What lmms-eval's evaluator finds at a server."""
    with tempfile.TemporaryDirectory() as folder:
        write_task(Path(folder))
        found: dict[str, Any] = evaluator.simple_evaluate(
            model="async_openai",
            model_args=f"model=mini,base_url={address}/v1,api_key=none,num_cpus=4",
            tasks=[NAME],
            task_manager=TaskManager(include_path=folder),
            batch_size=1,
            log_samples=True,
        )
    return found


def main() -> None:
    """Run the task and write the scores."""
    port = free_port()
    server = start(port)
    try:
        found = evaluated(f"http://127.0.0.1:{port}")
    finally:
        server.terminate()
        server.wait(60)
    answers = [str(sample["filtered_resps"][0]) for sample in found["samples"][NAME]]
    content = {
        "lmms-eval": importlib.metadata.version("lmms-eval"),
        "model": "async_openai",
        "samples": SAMPLES,
        "right": found["results"][NAME]["right,none"],
        "answers": dict(Counter(answers)),
    }
    Path(sys.argv[1]).write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")
    print(json.dumps(content))
    if not set(answers) <= {"yes", "no"}:
        raise SystemExit(f"answers are neither yes nor no: {sorted(set(answers))}")


if __name__ == "__main__":
    main()
