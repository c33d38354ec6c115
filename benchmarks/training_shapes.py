"""What rounded shapes do for a training of the small model: shapes, memory and pace.

Two processes train from the same weights on the same samples, one with shapes as they are drawn,
one with rounded shapes (`canvas.rounded`); they take turns, a few steps each, so that what else the
machine does meets both. The mixture has most tasks of the small model's last stage, a third of its
samples, and frames and codes of random content and changing length, so no codec runs. Counted
first, in many steps that are only drawn: distinct shapes of what the backbone computes, that is
rows by tokens, and numbers of logits. Then, in training: resident memory, tokens without padding
by processor second, and losses.

    python -m benchmarks.training_shapes                       # 200 steps drawn, 60 of each trained
    python -m benchmarks.training_shapes --steps 4 --draws 10 --out x.json
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import random
import tempfile
import time
from collections.abc import Sequence
from dataclasses import replace
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import torch
from benchmarks.engine_memory import resident

from omni_diffusion.backbone import adapter
from omni_diffusion.data.mixture import TaskShare
from omni_diffusion.mini import recipe, scenes
from omni_diffusion.mini.encoded import EncodedSpeech, SceneCodes
from omni_diffusion.mini.mixture import SceneMixture
from omni_diffusion.mini.speech_plan import ANSWER_VOICE, Utterance
from omni_diffusion.models.omni import OmniModel
from omni_diffusion.training import batches
from omni_diffusion.training.denoising import DenoisingObjective
from omni_diffusion.training.trainer import LoopConfig, Trainer

RESULT = Path(__file__).parent / "results" / "training-shapes.json"
UNSPOKEN = ("svqa", "spoken_presence")  # they need a recording of each question about a scene
TURN = 5  # steps that a process takes before the other one's turn


def mixture(model: OmniModel) -> SceneMixture:
    """A third of the samples of the last stage; sounds are drawn, longer where the text is."""
    rng, generator = random.Random(5), torch.Generator().manual_seed(5)
    every = scenes.every_scene()
    codes = torch.randint(1024, (len(every), 64), generator=generator, dtype=torch.int16)
    texts = [("caption", scenes.caption(scene)) for scene in rng.sample(every, 200)]
    for fact in scenes.facts():
        texts += [("question", fact.text), ("answer", fact.sentence)]
    lines, frames, spoken = [], [], []
    for role, text in texts:
        voice = "am_adam" if role == "question" else ANSWER_VOICE
        seconds = len(text) / rng.uniform(12, 18)
        lines.append(Utterance(len(lines), role, "train", voice, text))
        width = model.config.backbone.speech_dim
        frames.append((torch.randn(int(17 * seconds) + 1, width, generator=generator),))
        spoken.append(torch.randint(1024, (int(12.5 * seconds) + 1,), generator=generator))
    shares = [
        TaskShare(share.task, max(1, round(share.samples / 3)), share.weight)
        for share in recipe.stages()[-1].shares
        if share.task not in UNSPOKEN
    ]
    return SceneMixture(
        shares,
        model.vocabulary,
        model.codecs.text,
        SceneCodes(codes),
        EncodedSpeech(tuple(lines), tuple(frames), tuple(spoken)),
        lengths=model.config.generation.lengths,
        answers=model.config.generation.answers,
        augment=True,
    )


def objective_of(rounds: bool, precision: Any) -> DenoisingObjective:
    """The small model's objective, with shapes rounded or as they are drawn."""
    torch.set_num_threads(1)
    if not rounds:
        adapter.rounded = batches.rounded = lambda size: size  # type: ignore[attr-defined]
    model = OmniModel.open()
    config = replace(recipe.stages()[-1].denoising, precision=precision)
    return DenoisingObjective(model.backbone, model.vocabulary, mixture(model), config)


def shapes_of(objective: DenoisingObjective, steps: int) -> list[int]:
    """Distinct shapes after each tenth of so many steps, which are drawn and not computed."""
    seen: set[tuple[int, ...]] = set()
    counts = []
    for step in range(steps):
        prepared = objective.prepare(step, torch.Generator().manual_seed(step))
        for micro in prepared.micro_batches:
            seen |= {tuple(micro.batch.ids.shape), (int(micro.queried.sum()),)}
        if (step + 1) % max(1, steps // 10) == 0:
            counts.append(len(seen))
    return counts


def train(rounds: bool, precision: Any, draws: int, pipe: Connection) -> None:
    """Train as many steps as the pipe asks for, again and again; send what was seen."""
    objective = objective_of(rounds, precision)
    pipe.send(shapes_of(objective, draws))
    with tempfile.TemporaryDirectory() as folder:
        trainer = Trainer(objective, LoopConfig(10**6, seed=3, ema_decay=None), Path(folder))
        while steps := pipe.recv():
            began, rows = time.process_time(), [trainer.advance() for _ in range(steps)]
            pipe.send(
                {
                    "losses": [row["loss"] for row in rows],
                    "tokens": sum(row["tokens"] for row in rows),
                    "padding": sum(row["padding"] for row in rows) / steps,
                    "seconds": time.process_time() - began,
                    "megabytes": round(resident() / 1e6, 1),
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
        "megabytes_so_far": [turn["megabytes"] for turn in turns],
    }


def main(arguments: Sequence[str] | None = None) -> None:
    """Let both processes train in turn, and write the result after every turn."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, default=RESULT, help="the JSON file")
    parser.add_argument("--steps", type=int, default=60, help="of each process")
    parser.add_argument("--draws", type=int, default=200, help="steps whose shapes are counted")
    parser.add_argument("--precision", default="float32", help="or bfloat16")
    given = parser.parse_args(arguments)
    context = multiprocessing.get_context("spawn")
    pipes, processes = {}, []
    for name, rounds in (("as drawn", False), ("rounded", True)):
        pipes[name], theirs = context.Pipe()
        processes.append(
            context.Process(target=train, args=(rounds, given.precision, given.draws, theirs))
        )
        processes[-1].start()
    drawn = {name: pipe.recv() for name, pipe in pipes.items()}
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
            "steps_drawn": given.draws,
            "distinct_shapes_at_every_tenth": drawn,
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
