"""What rounded shapes do for a training of the small model: shapes, memory and pace.

Two processes train from the same weights on the same samples, one with shapes as they are drawn,
one with rounded shapes (`canvas.rounded`); they take turns, a few steps each, so that what else the
machine does meets both. The mixture is that of the last stage of `mini.recipe`, with codes and
frames that are drawn, so no codec runs. Counted: distinct shapes of what the backbone computes,
resident memory, the C heap, tokens without padding by processor second, and losses.

    python -m benchmarks.training_shapes                       # 60 steps each
    python -m benchmarks.training_shapes --steps 4 --out x.json
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import tempfile
import time
from collections.abc import Sequence
from dataclasses import replace
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import torch
from benchmarks.engine_memory import resident
from scripts.check_behaviour import scene_mixture

from omni_diffusion.backbone import adapter
from omni_diffusion.mini import recipe
from omni_diffusion.models.omni import OmniModel
from omni_diffusion.training import batches
from omni_diffusion.training.denoising import DenoisingObjective
from omni_diffusion.training.trainer import LoopConfig, Trainer

RESULT = Path(__file__).parent / "results" / "training-shapes.json"
TURN = 5  # steps that a process takes before the other one's turn


def train(rounds: bool, precision: Any, pipe: Connection) -> None:
    """Train as many steps as the pipe asks for, again and again; send what was seen."""
    torch.set_num_threads(1)
    if not rounds:
        adapter.rounded = batches.rounded = lambda size: size  # type: ignore[attr-defined]
    model = OmniModel.open()
    mixture = scene_mixture(model)
    config = replace(recipe.stages()[-1].denoising, precision=precision)
    objective = DenoisingObjective(model.backbone, model.vocabulary, mixture, config)
    shapes: set[tuple[int, ...]] = set()
    prepare = objective.prepare

    def counted(step: int, generator: torch.Generator) -> Any:
        prepared = prepare(step, generator)
        for micro in prepared.micro_batches:
            shapes.add((*micro.batch.ids.shape, int(micro.queried.sum())))
        return prepared

    objective.prepare = counted  # type: ignore[method-assign]
    with tempfile.TemporaryDirectory() as folder:
        trainer = Trainer(objective, LoopConfig(10**6, seed=3, ema_decay=None), Path(folder))
        while steps := pipe.recv():
            began, tokens, losses, padding = time.process_time(), 0.0, [], 0.0
            for _ in range(steps):
                row = trainer.advance()
                tokens += row["tokens"]
                padding += row["padding"]
                losses.append(row["loss"])
            pipe.send(
                {
                    "losses": losses,
                    "tokens": tokens,
                    "padding": padding / steps,
                    "seconds": time.process_time() - began,
                    "megabytes": round(resident() / 1e6, 1),
                    "shapes": len(shapes),
                }
            )


def summary(turns: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """The figures of one process; the first turn, which allocates, does not count for the pace."""
    later = turns[1:] or turns
    return {
        "tokens_per_processor_second": round(
            sum(turn["tokens"] for turn in later) / sum(turn["seconds"] for turn in later), 1
        ),
        "padding": round(sum(turn["padding"] for turn in turns) / len(turns), 3),
        "distinct_shapes_so_far": [turn["shapes"] for turn in turns],
        "megabytes_so_far": [turn["megabytes"] for turn in turns],
    }


def main(arguments: Sequence[str] | None = None) -> None:
    """Let both processes train in turn, and write the result after every turn."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, default=RESULT, help="the JSON file")
    parser.add_argument("--steps", type=int, default=60, help="of each process")
    parser.add_argument("--precision", default="float32", help="or bfloat16")
    given = parser.parse_args(arguments)
    context = multiprocessing.get_context("spawn")
    pipes, processes = {}, []
    for name, rounds in (("as drawn", False), ("rounded", True)):
        pipes[name], theirs = context.Pipe()
        processes.append(context.Process(target=train, args=(rounds, given.precision, theirs)))
        processes[-1].start()
    turns: dict[str, list[dict[str, Any]]] = {name: [] for name in pipes}
    for done in range(0, given.steps, TURN):
        for name, pipe in pipes.items():
            pipe.send(min(TURN, given.steps - done))
            turns[name].append(pipe.recv())
        losses = [[x for turn in seen for x in turn["losses"]] for seen in turns.values()]
        result: dict[str, Any] = {
            "torch": torch.__version__,
            "precision": given.precision,
            "steps": len(losses[0]),
            **{name: summary(seen) for name, seen in turns.items()},
            "greatest_difference_of_a_loss": max(
                abs(a - b) / a for a, b in zip(*losses, strict=True)
            ),
        }
        given.out.write_text(json.dumps(result, indent=2) + "\n")
    for pipe in pipes.values():
        pipe.send(0)
    for process in processes:
        process.join()
    print(given.out.read_text())


if __name__ == "__main__":
    main()
