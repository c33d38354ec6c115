"""Train the paper's three stages at a small size with one process and with two, and compare them.

    python -m scripts.train_check

Makes a manifest of small scenes and recorded sentences (`assets/speech`), its shards with the
shipped codecs, and a backbone with random weights. Then it trains stages 1, 2 and 3 through the
command line, each from the result of the one before, with one process and with two under torchrun.
Prints the last metrics of each and the largest difference of any step. The exit code is 1 if losses
differ by more than 1e-4 or do not fall.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import replace
from itertools import cycle
from pathlib import Path
from typing import Any

import torch

from omni_diffusion.backbone.dream import Dream
from omni_diffusion.data.pretokenize import Pretokenizer
from omni_diffusion.io import files
from omni_diffusion.mini import scenes
from omni_diffusion.mini.recordings import Bank, Recording
from omni_diffusion.models.omni import OmniModel
from omni_diffusion.tasks import prompts
from omni_diffusion.tasks.catalog import CATALOG
from omni_diffusion.tasks.defaults import GenerationConfig

BANK = Path(__file__).parent.parent / "assets" / "speech" / "part-1"
SAMPLES_PER_TASK = 12
STEPS, BATCH_SIZE = 25, 24
RATES = {1: 1e-3, 2: 1e-3, 3: 1e-4}  # ten times the paper's; rounding errors grow with the rate
TOLERANCE = 1e-4  # largest difference of the loss of a step


def make_data(folder: Path, seed: int = 0) -> Path:
    """Write a manifest of all nine tasks, with its images and audio files."""
    rng, bank = random.Random(seed), Bank.open(BANK)
    spoken = {role: cycle(bank.sample(role, seed)) for role in ("caption", "question", "answer")}
    questions = {one.text: one for one in bank.sample("question", seed)}
    answers = {one.text: one for one in bank.sample("answer", seed)}
    count = 0

    def sound(one: Recording) -> list[str | dict[str, Any]]:
        nonlocal count
        count += 1
        one.waveform.write(folder / f"{count:04}.wav")
        return [f"{count:04}.wav"]

    def picture(scene: scenes.Scene) -> list[str]:
        nonlocal count
        count += 1
        scenes.render_scene(scene).write(folder / f"{count:04}.png")
        return [f"{count:04}.png"]

    def speakable() -> tuple[scenes.Scene, scenes.Question]:
        while True:
            scene = scenes.sample_scene(rng)
            for question in scenes.questions(scene, rng):
                if question.text in questions and question.sentence in answers:
                    return scene, question

    def t2i(scene: scenes.Scene) -> dict[str, Any]:
        return {"text": scenes.caption(scene), "answer": "<|image|>", "images": picture(scene)}

    def caption(scene: scenes.Scene) -> dict[str, Any]:
        return {"answer": scenes.caption(scene), "images": picture(scene)}

    def vqa(scene: scenes.Scene) -> dict[str, Any]:
        question = rng.choice(scenes.questions(scene, rng))
        return {"text": question.text, "answer": question.answer, "images": picture(scene)}

    def asr(_: scenes.Scene) -> dict[str, Any]:
        recording = next(spoken["question"])
        return {"answer": recording.text, "audios": sound(recording)}

    def tts(_: scenes.Scene) -> dict[str, Any]:
        recording = next(spoken["answer"])
        return {"text": recording.text, "answer": "<|audio|>", "audios": sound(recording)}

    def s2i(_: scenes.Scene) -> dict[str, Any]:
        recording = next(one for one in spoken["caption"] if scenes.parse(one.text))
        scene = scenes.parse(recording.text)
        assert scene is not None
        return {"answer": "<|image|>", "audios": sound(recording), "images": picture(scene)}

    def sqa(_: scenes.Scene) -> dict[str, Any]:
        _, question = speakable()
        audios = sound(questions[question.text]) + sound(answers[question.sentence])
        return {"answer": f"{question.sentence}\n<|audio|>", "audios": audios}

    def svqa(_: scenes.Scene) -> dict[str, Any]:
        scene, question = speakable()
        audios = sound(questions[question.text]) + sound(answers[question.sentence])
        answer = f"{question.sentence}\n<|audio|>"
        return {"answer": answer, "audios": audios, "images": picture(scene)}

    makers: dict[str, Callable[[scenes.Scene], dict[str, Any]]] = {
        "t2i": t2i, "caption": caption, "vqa": vqa, "asr": asr, "tts": tts, "s2i": s2i,
        "sqa": sqa, "svqa": svqa,
    }  # fmt: skip
    rows = [
        prompts.manifest_row(CATALOG[name], **make(scenes.sample_scene(rng)))
        for name, make in makers.items()
        for _ in range(SAMPLES_PER_TASK)
    ]
    for fact in rng.sample(scenes.facts(), SAMPLES_PER_TASK):
        messages = [("user", fact.text), ("assistant", fact.sentence)]
        rows.append({"messages": [{"role": r, "content": c} for r, c in messages]})
    path = folder / "train.jsonl"
    files.write_text(path, "".join(json.dumps(row) + "\n" for row in rows))
    return path


def make_model(folder: Path) -> OmniModel:
    """A backbone with random weights, smaller than the shipped one, with the shipped codecs."""
    shipped = OmniModel.open()
    sizes = replace(
        shipped.config.backbone,
        hidden_size=96,
        num_layers=3,
        num_heads=4,
        num_kv_heads=2,
        head_dim=24,
        intermediate_size=256,
    )
    torch.manual_seed(0)
    config = replace(shipped.config, name="check", backbone=sizes, generation=GenerationConfig())
    model = OmniModel(config, shipped.codecs, Dream(sizes))
    model.save(folder)
    return model


def train(work: Path, processes: int) -> None:
    """Train all three stages through the command line."""
    start = work / "model"
    for stage in (1, 2, 3):
        out = work / f"{processes}-process" / f"stage-{stage}"
        torchrun = ["-m", "torch.distributed.run", "--standalone", f"--nproc_per_node={processes}"]
        command = [sys.executable, *(torchrun if processes > 1 else ()), "-m", "omni_diffusion"]
        command += ["train", "manifest", "--data", str(work / "shards"), "--model", str(start)]
        command += ["--stage", str(stage), "--out", str(out), "--lr", str(RATES[stage])]
        command += ["--steps", str(STEPS), "--batch-size", str(BATCH_SIZE), "--ema-decay", "0"]
        command += ["--max-length", "512", "--micro-batch-tokens", "1024"]
        command += ["--log-every", "1", "--report-to", "none", "--sample-every", "0"]
        environment = os.environ | {"OMP_NUM_THREADS": "1"}
        done = subprocess.run(command, env=environment, capture_output=True, text=True)
        if done.returncode:
            sys.exit(f"stage {stage} in {processes} processes failed:\n{done.stderr[-4000:]}")
        start = out / "model"


def rows_of(work: Path, processes: int, stage: int) -> list[dict[str, float]]:
    """The log records of a run, one for each step."""
    path = work / f"{processes}-process" / f"stage-{stage}" / "training" / "metrics.jsonl"
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def compare(work: Path) -> list[str]:
    """Print both runs side by side; returns the problems."""
    problems = []
    print(f"{'stage':5}  {'processes':9}  {'first loss':>10}  {'last loss':>10}  {'last norm':>10}")
    for stage in (1, 2, 3):
        one, two = (rows_of(work, processes, stage) for processes in (1, 2))
        for processes, rows in ((1, one), (2, two)):
            first, last = rows[0], rows[-1]
            numbers = (first["loss"], last["loss"], last["gradient_norm"])
            print(f"{stage:5}  {processes:9}  " + "  ".join(f"{value:10.6f}" for value in numbers))
        if len(one) != STEPS or len(two) != STEPS:
            problems.append(f"stage {stage} has {len(one)} and {len(two)} records of {STEPS} steps")
            continue
        pairs = list(zip(one, two, strict=True))
        loss = max(abs(a["loss"] - b["loss"]) for a, b in pairs)
        norm = max(abs(a["gradient_norm"] / b["gradient_norm"] - 1) for a, b in pairs)
        print(f"{'':5}  largest difference of a step: loss {loss:.1e}, norm {norm:.1e} of it")
        if not loss <= TOLERANCE:
            problems.append(
                f"losses of stage {stage} differ by {loss:.1e}, more than {TOLERANCE:.0e}"
            )
        if not one[-1]["loss"] < 0.8 * one[0]["loss"] and stage == 1:
            problems.append("the loss of stage 1 did not fall by a fifth")
    return problems


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--work", type=Path, help="folder of all files; default: a temporary one")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        work = options.work or Path(temporary)
        start = time.monotonic()
        (work / "data").mkdir(parents=True, exist_ok=True)
        path = make_data(work / "data")
        Pretokenizer(path, work / "shards", make_model(work / "model").codecs).run()
        print(
            f"{9 * SAMPLES_PER_TASK} samples of 9 tasks made in {time.monotonic() - start:.0f} s",
            flush=True,
        )
        for processes in (1, 2):
            start = time.monotonic()
            train(work, processes)
            took = f"{time.monotonic() - start:.0f} s"
            print(f"3 stages of {STEPS} steps, {processes} process(es): {took}", flush=True)
        problems = compare(work)
    if problems:
        sys.exit("\n".join(problems))
    print("one process and two agree")


if __name__ == "__main__":
    main()
