"""Ways of training compared at a small size: mask ratios, weights of the loss, stages.

    python -m experiments.compare_training --mini runs/mini [--steps 400] [--seeds 3]

Every run trains a new backbone on the small world's stage 2 and differs from the first in one
thing. All are judged alike, on scenes and recordings that no training showed: by the bound on the
answers' likelihood, and by what ten steps of decoding get right. A run that was stopped goes on,
one whose result is in the file is not made again.
"""

from __future__ import annotations

import argparse
import json
import random
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from statistics import mean, stdev

import torch

from omni_diffusion import Message, OmniModel, Text
from omni_diffusion.backbone.config import DreamConfig
from omni_diffusion.backbone.dream import Dream
from omni_diffusion.canvas import Canvas
from omni_diffusion.conversation import Image, Part, Speech
from omni_diffusion.data.mixture import TaskShare
from omni_diffusion.diffusion.loss import Weighting, likelihood_bound
from omni_diffusion.diffusion.masking import MaskingConfig, Variant
from omni_diffusion.io import files, weights
from omni_diffusion.mini import scenes
from omni_diffusion.mini.encoded import SceneCodes
from omni_diffusion.mini.evaluate import BANK, evaluate
from omni_diffusion.mini.mixture import SceneMixture
from omni_diffusion.mini.recipe import LENGTHS, Mini, stages
from omni_diffusion.mini.recordings import Bank
from omni_diffusion.tasks import catalog
from omni_diffusion.tasks.defaults import answer_length
from omni_diffusion.tasks.encode import encode
from omni_diffusion.tasks.render import layout_training
from omni_diffusion.training.denoising import (
    DenoisingConfig,
    DenoisingObjective,
    init_code_embeddings,
)
from omni_diffusion.training.optim import OptimConfig
from omni_diffusion.training.trainer import LoopConfig, Trainer

SIZES = {"hidden_size": 96, "num_layers": 2, "num_heads": 3, "num_kv_heads": 3, "head_dim": 32}
SHARE = 0.3  # of the samples that a step of the small model's recipe has
LR, WARMUP = 3e-3, 30
HELD_OUT, MASKINGS = 32, 8  # samples of a task, and how often each is masked
ANSWERS, DECODING_STEPS = 30, 10


@dataclass(frozen=True)
class Way:
    """How a run differs: the mask ratio, the weights, and its length in units of `--steps`."""

    masking: Variant = "uniform"
    weighting: Weighting = "plain"
    first: float = 0.0  # of stage 1, before
    joint: float = 1.0  # of stage 2


WAYS = {
    "uniform": Way(),
    "per_token": Way("per_token"),
    "antithetic": Way("antithetic"),
    "stage 1 before": Way(first=0.5),
    "stage 2 for longer": Way(joint=1.5),
    "elbo": Way(weighting="elbo"),
    "per_length": Way(weighting="per_length"),
}


class Comparison:
    """All that the runs share."""

    def __init__(self, mini: Path, steps: int) -> None:
        self.steps = steps
        self.model = OmniModel.open()
        self.spoken = Mini(mini, mini).lines()
        self.scenes = SceneCodes.open(mini / "scenes.safetensors")
        sizes = {**SIZES, "intermediate_size": 3 * SIZES["hidden_size"]}
        self.config = replace(
            self.model.config, backbone=replace(self.model.config.backbone, **sizes)
        )
        self.held_out = dict(held_out(self.model))

    def run(self, way: Way, seed: int, work: Path) -> dict[str, object]:
        """Train and judge; the result as JSON holds it."""
        backbone = new_backbone(self.model, self.config.backbone, seed)
        start = time.process_time()
        loss = None
        for number, times in enumerate((way.first, way.joint)):
            if times:
                shares = tuple(
                    replace(s, samples=SHARE * s.samples) for s in stages()[number].shares
                )
                loss = self.train(
                    backbone, shares, way, round(times * self.steps), seed, work / str(number)
                )
        seconds = time.process_time() - start
        model = OmniModel(self.config, self.model.codecs, backbone.eval())
        scores = evaluate(model, 0, ANSWERS, ("vqa", "t2i"), DECODING_STEPS)
        return {
            "training_loss": loss,
            "seconds": round(seconds, 1),
            "nats": {task: bound(backbone, rows, model) for task, rows in self.held_out.items()},
            "right": {task: score["value"] for task, score in scores.items()},
            "background_right": {
                task: score["details"]["background"]["value"] for task, score in scores.items()
            },
        }

    def train(
        self,
        backbone: Dream,
        shares: tuple[TaskShare, ...],
        way: Way,
        steps: int,
        seed: int,
        folder: Path,
    ) -> float:
        """Train one stage; its loss over the last tenth of the steps."""
        model = self.model
        mixture = SceneMixture(
            shares, model.vocabulary, model.codecs.text, self.scenes, self.spoken,
            lengths=LENGTHS, augment=True,
        )  # fmt: skip
        denoising = DenoisingConfig(MaskingConfig(way.masking), way.weighting)
        optim = OptimConfig(LR, WARMUP, floor=0.1)
        # a stage has seeds of its own, so that stage 2 draws the same whatever was before it
        loop = LoopConfig(steps, 10 * seed + int(folder.name), optim, log_every=steps // 10)
        objective = DenoisingObjective(backbone, model.vocabulary, mixture, denoising)
        trainer = Trainer(objective, loop, folder)
        trainer.resume()
        trainer.fit()
        weights.load_into(backbone, trainer.weights(), where="the trained weights")
        rows = (folder / "metrics.jsonl").read_text().splitlines()
        return round(json.loads(rows[-1])["loss"], 4)


def new_backbone(model: OmniModel, config: DreamConfig, seed: int) -> Dream:
    """A new one, whose rows of codes begin as in the small model's recipe."""
    torch.manual_seed(seed)
    backbone = Dream(config)
    image, book = model.codecs.image, model.codecs.speech.tokenizer.codebook.weight
    every = torch.arange(image.config.codes)[None]
    signs = image.codes_of(every, (1, image.config.codes))[0, :, 0].T
    generator = torch.Generator().manual_seed(seed)
    vocabulary = model.vocabulary
    init_code_embeddings(backbone, vocabulary.image, signs, scale=0.05, generator=generator)
    init_code_embeddings(backbone, vocabulary.speech, book, scale=0.05, generator=generator)
    return backbone


def held_out(model: OmniModel, seed: int = 0) -> Iterator[tuple[str, list[Canvas]]]:
    """By task, canvases whose answer is given, of held-out scenes and recordings."""
    rng = random.Random(seed)
    chosen = [scenes.sample_scene(rng, split="test") for _ in range(HELD_OUT)]
    asked = [rng.choice(scenes.questions(scene, rng)) for scene in chosen]
    pictures = [Image(scenes.render_scene(scene)) for scene in chosen]
    bank = Bank.open(BANK)
    heard = bank.sample("caption", seed, HELD_OUT)
    said = bank.sample("answer", seed, HELD_OUT)
    pairs: dict[str, list[tuple[tuple[Part, ...], Part]]] = {
        "t2i": [
            ((Text(rng.choice(scenes.captions(s))),), p)
            for s, p in zip(chosen, pictures, strict=True)
        ],
        "caption": [((p,), Text(scenes.caption(s))) for s, p in zip(chosen, pictures, strict=True)],
        "vqa": [((Text(q.text), p), Text(q.answer)) for q, p in zip(asked, pictures, strict=True)],
        "asr": [((Speech(r.waveform),), Text(r.text)) for r in heard],
        "tts": [((Text(r.text),), Speech(r.waveform)) for r in said],
    }
    for name, both in pairs.items():
        yield name, [laid(name, user, answer, model) for user, answer in both]


def laid(name: str, user: Sequence[Part], answer: Part, model: OmniModel) -> Canvas:
    """A sample with as many places for its answer as inference would give."""
    task, text = catalog.task(name), model.codecs.text
    turns = encode((Message("user", tuple(user)), Message("assistant", (answer,))), model.codecs)
    model_rule = LENGTHS.get(name)
    min_length = answer_length(task.length, turns[:1], text, model_rule) if model_rule else 0
    return layout_training(task, turns, model.vocabulary, text, min_length=min_length)


@torch.no_grad()
def bound(backbone: Dream, canvases: Sequence[Canvas], model: OmniModel) -> float:
    """Upper bound on -log p(answer) in nats per token that is no pad; pads are asked for too."""
    total, tokens = 0.0, 0
    vocabulary = model.vocabulary
    for number, canvas in enumerate(canvases):
        slots = [(row, slot) for row in range(MASKINGS) for slot in canvas.slots]
        maskable = torch.zeros(canvas.length, dtype=torch.bool)
        maskable[slice(*canvas.answer)] = True
        found = likelihood_bound(
            lambda ids, slots=slots: backbone(ids, slots=slots),
            canvas.ids,
            maskable,
            vocabulary.mask,
            samples=MASKINGS,
            generator=torch.Generator().manual_seed(number),
        )
        total += float(found.mean())
        tokens += int((maskable & (canvas.ids != vocabulary.pad)).sum())
    return round(total / tokens, 4)


def table(runs: Sequence[dict[str, dict[str, float]]]) -> str:
    """Markdown: by way the mean over seeds, with its standard error."""
    rows = []
    for name in dict.fromkeys(run["name"] for run in runs):
        mine = [run for run in runs if run["name"] == name]
        columns = {f"{task}, nats": [run["nats"][task] for run in mine] for task in mine[0]["nats"]}
        columns["vqa, right"] = [run["right"]["vqa"] for run in mine]
        columns["t2i, background"] = [run["background_right"]["t2i"] for run in mine]
        if not rows:
            rows += [["way", "seeds", *columns], ["---"] * (2 + len(columns))]
        rows.append([name, str(len(mine)), *map(_told, columns.values())])
    return "\n".join(f"| {' | '.join(row)} |" for row in rows)


def _told(values: Sequence[float]) -> str:
    error = stdev(values) / len(values) ** 0.5 if len(values) > 1 else float("nan")
    return f"{mean(values):.2f} ± {error:.2f}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--mini", type=Path, default=Path("runs/mini"), help="the world's codes")
    parser.add_argument("--steps", type=int, default=400)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--work", type=Path, default=Path("runs/compare"))
    parser.add_argument("--json", type=Path, default=Path("experiments/results/training.json"))
    given = parser.parse_args()
    torch.set_num_threads(1)
    settings = {
        "steps": given.steps, "sizes": SIZES, "share": SHARE, "lr": LR, "warmup": WARMUP,
        "held_out": HELD_OUT, "maskings": MASKINGS, "answers": ANSWERS,
        "decoding_steps": DECODING_STEPS,
    }  # fmt: skip
    made = json.loads(given.json.read_text()) if given.json.exists() else {"settings": settings}
    if made["settings"] != settings:
        parser.error(f"{given.json} was made with {made['settings']}, not {settings}; move it")
    runs = made.setdefault("runs", [])
    comparison = Comparison(given.mini, given.steps)
    # weights last, and seed by seed, so that what is cut short still compares like with like
    parts = [
        [n for n in WAYS if (WAYS[n].weighting == "plain") == plain] for plain in (True, False)
    ]
    wanted = [(name, seed) for part in parts for seed in range(given.seeds) for name in part]
    for count, (name, seed) in enumerate(wanted, 1):
        if any((run["name"], run["seed"]) == (name, seed) for run in runs):
            continue
        work = given.work / f"{name.replace(' ', '-')}-{seed}"
        result = comparison.run(WAYS[name], seed, work)
        runs.append({"name": name, "seed": seed, **asdict(WAYS[name]), **result})
        files.write_text(given.json, json.dumps(made, indent=1) + "\n")
        print(f"{count}/{len(wanted)} {runs[-1]}", flush=True)
    print(table(runs))


if __name__ == "__main__":
    main()
