"""Write a task of lm-eval: questions of the small world, to be answered in the exact sentence.

    python -m scripts.lm_eval_task OUT

OUT gets `omni_facts.yaml` and its table. docs/evaluation.md has the command that runs it through
the server; scripts/results/lm-eval.json is such a result.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

from omni_diffusion.io import files
from omni_diffusion.mini import scenes

NAME, ITEMS = "omni_facts", 40
TASK = """\
task: {name}
dataset_path: json
dataset_kwargs:
  data_files:
    test: {data}
test_split: test
output_type: generate_until
doc_to_text: "{{{{question}}}}"
doc_to_target: "{{{{answer}}}}"
generation_kwargs:
  until: ["\\n"]
  max_gen_toks: 32
metric_list:
  - metric: exact_match
    aggregation: mean
    higher_is_better: true
metadata:
  version: 1.0
"""


def write_task(folder: Path) -> None:
    """The task and its table in a folder, which is made."""
    data = folder.resolve() / f"{NAME}.jsonl"
    every = scenes.facts()
    facts = every[:: len(every) // ITEMS][:ITEMS]
    rows = [json.dumps({"question": fact.text, "answer": fact.sentence}) for fact in facts]
    files.make_folder(folder)
    files.write_text(data, "\n".join(rows) + "\n")
    files.write_text(folder / f"{NAME}.yaml", TASK.format(name=NAME, data=data))


if __name__ == "__main__":
    write_task(Path(sys.argv[1]))
