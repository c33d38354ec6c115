"""How answers are masked and padded in training, compared at a small size.

    python -m experiments.ablate_training --mini runs/mini [--study masks] [--steps 800] [--seeds 2]

Every arm trains on the same samples and differs in one thing. `masks`: how the mask
ratio is drawn; judged on held-out scenes by the bound on -log p of the answers and by what greedy
decoding gets right. `pads`: what fills an answer behind its end, and how often that is masked;
judged by the length of decoded answers where the canvas has as many tokens as in training, twice
and four times as many. Both train a new, smaller backbone. `adapter`: where the speech adapter of
the shipped backbone starts again when it learns recognition (an eighth of the steps); judged on
held-out recordings. An arm whose result is in the file is not trained again.
"""

from __future__ import annotations

import argparse
import json
import random
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from functools import cached_property
from pathlib import Path
from statistics import mean, stdev
from typing import Any, Literal

import torch
import torch.nn.functional as F
from experiments.compare_training import LR, SIZES, WARMUP, bound, held_out, laid, new_backbone
from torch import Tensor

from omni_diffusion import OmniModel, Text
from omni_diffusion.backbone.adapter import SpeechAdapter
from omni_diffusion.backbone.dream import Dream
from omni_diffusion.canvas import Canvas
from omni_diffusion.conversation import Image, text_of
from omni_diffusion.data.mixture import TaskGroup, TaskShare
from omni_diffusion.diffusion.masking import MaskingConfig
from omni_diffusion.engine.engine import Engine
from omni_diffusion.engine.request import Request
from omni_diffusion.evaluation.scoring import aggregate, correct
from omni_diffusion.io import files, weights
from omni_diffusion.mini import scenes
from omni_diffusion.mini.benchmarks import user
from omni_diffusion.mini.codecs.ctc import Words, ctc_loss, pad
from omni_diffusion.mini.encoded import EncodedSpeech, SceneCodes
from omni_diffusion.mini.evaluate import evaluate
from omni_diffusion.mini.mixture import SceneMixture
from omni_diffusion.mini.recipe import LENGTHS, Mini
from omni_diffusion.training.denoising import DenoisingConfig, DenoisingObjective
from omni_diffusion.training.optim import OptimConfig
from omni_diffusion.training.trainer import LoopConfig, Trainer
from omni_diffusion.vocab import Vocabulary

RESULT = Path("experiments/results/ablate-training.json")
SHARES = {  # samples of a step
    "masks": {"t2i": 5, "caption": 5, "vqa": 3},
    "pads": {"caption": 8, "vqa": 5, "chat": 2},
    "adapter": {"asr": 24},
}
HELD_OUT, ANSWERS, DECODING_STEPS = 32, 60, 10
ROOM = (1, 2, 4)  # tokens of a decoded answer, in units of the trained length
RAINBOW = (  # tokens that nothing else uses, in turns (arXiv 2510.03680 takes seven too)
    *("quad_start", "quad_end", "box_start", "box_end"),
    *("object_ref_start", "object_ref_end", "fim_middle"),
)

PROBE_STEPS, PROBE_LINES, PROBE_LR = 300, 64, 3e-3  # of the probe, then of the adapter
ADAPTER_LR = 8e-4  # at which the shipped backbone learned recognition

Pads = Literal["void", "end", "rainbow"]
AdapterStart = Literal["shipped", "random", "probe"]
Study = Literal["masks", "pads", "adapter"]


@dataclass(frozen=True)
class Arm:
    """How a training differs from the paper's.

    masking: the forward process. half: of every second sample, another one. pads: "void", a token
    of its own (the published vocabulary); "end", the token that ends an answer, again and again;
    "rainbow", seven tokens in turns. adapter: "probe" starts it at the embeddings of the words that
    a linear CTC probe hears in the frames, and at zero between them.
    """

    study: Study
    name: str
    masking: MaskingConfig = field(default_factory=MaskingConfig)
    half: MaskingConfig | None = None
    pads: Pads = "void"
    adapter: AdapterStart = "shipped"


BELL, HIGH = MaskingConfig("bell"), MaskingConfig("cosine", full=0.5)
ARMS = (
    Arm("masks", "uniform"),
    Arm("masks", "per_token", MaskingConfig("per_token")),
    Arm("masks", "bell", BELL),
    Arm("masks", "high", HIGH),
    Arm("masks", "mixed", BELL, HIGH),
    Arm("pads", "void, gamma 0.6"),
    Arm("pads", "void, gamma 1", MaskingConfig(gamma=1.0)),
    Arm("pads", "void, gamma 0.3", MaskingConfig(gamma=0.3)),
    Arm("pads", "end token", pads="end"),
    Arm("pads", "rainbow", pads="rainbow"),
    Arm("adapter", "random", HIGH, adapter="random"),
    Arm("adapter", "probe", HIGH, adapter="probe"),
)


class ArmMixture:
    """The samples of scenes, padded and divided as an arm says."""

    def __init__(self, arm: Arm, inner: SceneMixture, vocabulary: Vocabulary) -> None:
        self.arm, self.inner, self.vocabulary = arm, inner, vocabulary

    def draw(self, step: int, generator: torch.Generator) -> list[TaskGroup]:
        """The groups of a step; with two ways of masking, every task's in two halves."""
        groups = [self._padded(group) for group in self.inner.draw(step, generator)]
        if self.arm.half is None:
            return groups
        return [half for group in groups for half in halves(group) if half.total]

    def _padded(self, group: TaskGroup) -> TaskGroup:
        drawn = [
            replace(each, canvas=padded(each.canvas, self.arm.pads, self.vocabulary))
            for each in group.drawn
        ]
        return replace(group, drawn=drawn)


def halves(group: TaskGroup) -> tuple[TaskGroup, TaskGroup]:
    """The samples of even and of odd number, as groups of their own."""
    first, second = (
        [replace(each, number=each.number // 2) for each in group.drawn if each.number % 2 == odd]
        for odd in (0, 1)
    )
    share = group.weight / max(1, group.total)
    return (
        TaskGroup(group.name, share * len(first), len(first), first),
        TaskGroup(f"{group.name} half", share * len(second), len(second), second),
    )


def pad_ids(pads: Pads, vocabulary: Vocabulary) -> torch.Tensor:
    """The ids that fill an answer in turns."""
    names = {"void": ("endoftext",), "end": ("im_end",), "rainbow": RAINBOW}[pads]
    return torch.tensor([vocabulary.id(name) for name in names])


def padded(canvas: Canvas, pads: Pads, vocabulary: Vocabulary) -> Canvas:
    """The canvas with other tokens behind the end of its answer."""
    start, stop = canvas.answer
    where = torch.zeros(canvas.length, dtype=torch.bool)
    where[start:stop] = canvas.ids[start:stop] == vocabulary.pad
    turns = pad_ids(pads, vocabulary)
    ids = canvas.ids.clone()
    ids[where] = turns[torch.arange(int(where.sum())) % len(turns)]
    return replace(canvas, ids=ids)


class Ablation:
    """What all arms share: the codecs, the encoded scenes and what is asked."""

    def __init__(self, mini: Path, steps: int) -> None:
        self.steps = steps
        self.model = OmniModel.open()
        self.mini = mini
        self.scenes = SceneCodes.open(mini / "scenes.safetensors")
        sizes = {**SIZES, "intermediate_size": 3 * SIZES["hidden_size"]}
        self.config = replace(
            self.model.config, backbone=replace(self.model.config.backbone, **sizes)
        )
        rng = random.Random(0)
        self.asked = [scenes.sample_scene(rng, split="test") for _ in range(ANSWERS)]

    @cached_property
    def spoken(self) -> EncodedSpeech:
        """The recordings, and the sentences spliced from them."""
        return Mini(self.mini, self.mini).lines()

    def run(self, arm: Arm, seed: int, work: Path) -> dict[str, object]:
        """Train an arm and judge it."""
        if arm.study == "adapter":
            return self.adapter(arm, seed, work)
        backbone = new_backbone(self.model, self.config.backbone, seed)
        seconds = self.train(backbone, arm, seed, work, self.steps, LR)
        model = OmniModel(self.config, self.model.codecs, backbone.eval())
        judged = self.masks(model) if arm.study == "masks" else self.pads(model, arm)
        return {"seconds": seconds, **judged}

    def train(
        self, backbone: Dream, arm: Arm, seed: int, folder: Path, steps: int, lr: float
    ) -> float:
        """Train the backbone in place; the CPU seconds. A training that was stopped goes on."""
        began = time.process_time()
        vocabulary = self.model.vocabulary
        shares = tuple(TaskShare(task, n) for task, n in SHARES[arm.study].items())
        scene_mixture = SceneMixture(
            shares, vocabulary, self.model.codecs.text, self.scenes,
            self.spoken if arm.study == "adapter" else None, lengths=LENGTHS,
        )  # fmt: skip
        by_half = {} if arm.half is None else {f"{share.task} half": arm.half for share in shares}
        objective = DenoisingObjective(
            backbone,
            vocabulary,
            ArmMixture(arm, scene_mixture, vocabulary),
            DenoisingConfig(arm.masking, by_task=by_half),
        )
        loop = LoopConfig(
            steps, seed, OptimConfig(lr, WARMUP, floor=0.1), ema_decay=0.99,
            log_every=max(1, steps // 10),
        )  # fmt: skip
        trainer = Trainer(objective, loop, folder)
        trainer.resume()
        trainer.fit()
        weights.load_into(backbone, trainer.weights(), where="the trained weights")
        return round(time.process_time() - began, 1)

    def adapter(self, arm: Arm, seed: int, work: Path) -> dict[str, object]:
        """Recognition by the shipped backbone with a new adapter, before and after training."""
        backbone = Dream(self.model.config.backbone)
        backbone.load_state_dict(
            {k: v.float() for k, v in self.model.backbone.state_dict().items()}
        )
        start_adapter(backbone, arm.adapter, self.spoken, self.model, seed)
        canvases = dict(held_out(self.model))["asr"]
        before = bound(backbone.eval(), canvases, self.model)
        seconds = self.train(backbone, arm, seed, work, self.steps // 8, ADAPTER_LR)
        model = OmniModel(self.model.config, self.model.codecs, backbone.eval())
        heard = evaluate(model, 0, ANSWERS, ("asr_wer",), DECODING_STEPS)["asr_wer"]
        logged = (work / "metrics.jsonl").read_text().splitlines()
        return {
            "seconds": seconds,
            "nats": {"before": before, "after": bound(backbone, canvases, model)},
            "losses": {row["step"]: row["asr_loss"] for row in map(json.loads, logged)},
            "word_errors": {"value": heard["value"], "stderr": heard["stderr"]},
        }

    def masks(self, model: OmniModel) -> dict[str, object]:
        """The bound by task, and what greedy decoding gets right."""
        scores = evaluate(model, 0, ANSWERS, ("caption", "vqa", "t2i"), DECODING_STEPS)
        right = {task: score["value"] for task, score in scores.items()}
        right["t2i, background"] = scores["t2i"]["details"]["background"]["value"]
        return {
            "nats": {
                task: bound(model.backbone, canvases, model)
                for task, canvases in self.held_out().items()
            },
            "right": right,
        }

    def held_out(self) -> dict[str, list[Canvas]]:
        """By task, canvases whose answer is given, of scenes that no training shows."""
        chosen = self.asked[:HELD_OUT]
        rng = random.Random(1)
        pairs = {
            "t2i": [((Text(rng.choice(scenes.captions(s))),), _picture(s)) for s in chosen],
            "caption": [((_picture(s),), Text(scenes.caption(s))) for s in chosen],
            "vqa": [
                ((Text(q.text), _picture(s)), Text(q.answer))
                for s in chosen
                for q in [rng.choice(scenes.questions(s, rng))]
            ],
        }
        return {
            task: [laid(task, asked, answer, self.model) for asked, answer in both]
            for task, both in pairs.items()
        }

    def pads(self, model: OmniModel, arm: Arm) -> dict[str, object]:
        """Of captions in several rooms: how many are right, and how their lengths err."""
        return {f"room {room}": self._lengths(model, arm, room) for room in ROOM}

    def _lengths(self, model: OmniModel, arm: Arm, room: int) -> dict[str, object]:
        length = room * LENGTHS["caption"][1]
        results = Engine(model, max_batch=16).run(
            [Request("caption", user(_picture(scene)), max_tokens=length) for scene in self.asked]
        )
        vocabulary, text = model.vocabulary, model.codecs.text
        fills = pad_ids(arm.pads, vocabulary)
        rows = []
        for scene, result in zip(self.asked, results, strict=True):
            assert result.canvas is not None
            ids = result.canvas.ids[slice(*result.canvas.answer)]
            ends = (ids == vocabulary.im_end).nonzero().flatten().tolist()
            end = ends[0] if ends else len(ids)
            expected = len(text.encode(scenes.caption(scene)))
            behind = ids[end + 2 :]  # after the end and a line end
            rows.append(
                {
                    "right": float(scenes.parse(text_of(result.parts)) == scene),
                    "ended": float(bool(ends)),
                    "length_error": end - expected,
                    "pads": float(torch.isin(behind, fills).double().mean())
                    if len(behind)
                    else 1.0,
                    "early_pads": float(torch.isin(ids[:end], fills).sum()),
                }
            )
        return {
            "right": aggregate([correct(row["right"] == 1) for row in rows]),
            **{
                name: sum(row[name] for row in rows) / len(rows)
                for name in ("ended", "length_error", "pads", "early_pads")
            },
            "absolute_length_error": sum(abs(row["length_error"]) for row in rows) / len(rows),
        }


def start_adapter(
    backbone: Dream, start: AdapterStart, spoken: EncodedSpeech, model: OmniModel, seed: int
) -> None:
    """Give the backbone a new speech adapter, random or fitted to what a CTC probe hears."""
    torch.manual_seed(seed)
    adapter = SpeechAdapter(model.config.backbone.speech_dim, model.config.backbone.hidden_size)
    adapter.apply(backbone._init_weights)
    backbone.model.audio_projection = adapter
    if start == "random":
        return
    lines = [i for i, line in enumerate(spoken.lines) if line.split == "train"]
    rows = [spoken.frames[i][0] for i in lines]
    words = Words.of(spoken.lines[i].text for i in lines)
    symbols = [words.encode(spoken.lines[i].text) for i in lines]
    generator = torch.Generator().manual_seed(seed)
    probe = torch.nn.Linear(adapter.width, words.size)
    embedded = word_embeddings(backbone, words, model)

    def step(optimizer: torch.optim.Optimizer, loss: Callable[[list[int]], Tensor]) -> None:
        chosen = torch.randint(len(lines), (PROBE_LINES,), generator=generator).tolist()
        optimizer.zero_grad()
        loss(chosen).backward()
        optimizer.step()

    def heard(chosen: list[int]) -> Tensor:
        padded_rows, counts = pad([rows[i] for i in chosen])
        return ctc_loss(probe(padded_rows), counts, [symbols[i] for i in chosen])

    def apart(chosen: list[int]) -> Tensor:
        frames = torch.cat([rows[i] for i in chosen])
        with torch.no_grad():
            expected = embedded[probe(frames).argmax(-1)]
        return F.mse_loss(adapter(frames), expected, reduction="sum") / len(frames)

    for module, loss in ((probe, heard), (adapter, apart)):
        optimizer = torch.optim.Adam(module.parameters(), PROBE_LR)
        for _ in range(PROBE_STEPS):
            step(optimizer, loss)


@torch.no_grad()
def word_embeddings(backbone: Dream, words: Words, model: OmniModel) -> Tensor:
    """[symbols, hidden]: of each word the mean embedding of its tokens; of the blank, zero."""
    vocabulary, text = model.vocabulary, model.codecs.text
    ids = [vocabulary.text.lift(text.encode(f" {word}")) for word in words.known]
    rows = [backbone.embed(row[None])[0].mean(0) for row in ids]
    return torch.stack([torch.zeros_like(rows[0]), *rows])


def _picture(scene: scenes.Scene) -> Image:
    return Image(scenes.render_scene(scene))


# ---------------------------------------------------------------------------------------- results
@dataclass(frozen=True)
class Mean:
    """A mean over seeds with its standard error; of one seed that of the answers, 0 if unknown."""

    mean: float
    error: float = 0.0


def columns(run: Mapping[str, Any]) -> dict[str, Mean]:
    """What is told of a run, by the heading of its column."""
    if run["study"] == "adapter":
        errors = run["word_errors"]
        return {
            "untrained, nats": Mean(run["nats"]["before"]),
            "trained, nats": Mean(run["nats"]["after"]),
            "word errors": Mean(errors["value"], errors["stderr"]),
        }
    if run["study"] == "masks":
        found = {f"{task}, nats": Mean(nats) for task, nats in run["nats"].items()}
        return found | {f"{name}, right": _share(value) for name, value in run["right"].items()}
    found = {}
    for room in ROOM:
        judged = run[f"room {room}"]
        right = judged["right"]
        found[f"x{room}: right"] = Mean(right["value"], right["stderr"])
        found[f"x{room}: ended"] = _share(judged["ended"])
        found[f"x{room}: pads"] = _share(judged["pads"])
        found[f"x{room}: length error"] = Mean(judged["absolute_length_error"])
    return found


def averaged(runs: Sequence[Mapping[str, Any]], study: str) -> dict[str, dict[str, Mean]]:
    """By arm and column, the mean over its seeds."""
    arms: dict[str, list[dict[str, Mean]]] = {}
    for run in runs:
        if run["study"] == study:
            arms.setdefault(run["name"], []).append(columns(run))
    return {
        name: {column: _over([each[column] for each in seeds]) for column in seeds[0]}
        for name, seeds in arms.items()
    }


def table(made: Mapping[str, Any], study: str) -> list[str]:
    """The lines of a study's table in Markdown."""
    arms = averaged(made["runs"], study)
    headings = list(next(iter(arms.values()))) if arms else []
    lines = ["| arm | " + " | ".join(headings) + " |", "| --- " * (len(headings) + 1) + "|"]
    for name, row in arms.items():
        cells = [_told(column, row[column]) for column in headings]
        lines.append(f"| {name} | {' | '.join(cells)} |")
    return lines


def shares(made: Mapping[str, Any]) -> dict[str, dict[str, Mean]]:
    """By title of a plot, the mean of every arm, for what is a share; not where all are zero."""
    found: dict[str, dict[str, Mean]] = {}
    for study in SHARES:
        for arm, row in averaged(made["runs"], study).items():
            for column, value in row.items():
                if column.endswith(("right", "ended", "word errors")):
                    found.setdefault(f"{study}: {column}", {})[arm] = value
    return {title: arms for title, arms in found.items() if any(v.mean for v in arms.values())}


def _share(value: float) -> Mean:
    return Mean(value, (value * (1 - value) / ANSWERS) ** 0.5)


def _over(values: Sequence[Mean]) -> Mean:
    if len(values) == 1:
        return values[0]
    means = [value.mean for value in values]
    return Mean(mean(means), stdev(means) / len(means) ** 0.5)


def _told(column: str, value: Mean) -> str:
    if column.endswith(("nats", "length error")):
        return f"{value.mean:.2f}" + (f" ± {value.error:.2f}" if value.error else "")
    return f"{100 * value.mean:.0f} % ± {100 * value.error:.0f} %"


# ---------------------------------------------------------------------------------------- running
def settings(steps: int) -> dict[str, object]:
    """What all runs of a result have in common."""
    return {
        "steps": steps, "sizes": SIZES, "shares": SHARES, "lr": LR, "warmup": WARMUP,
        "held_out": HELD_OUT, "answers": ANSWERS, "decoding_steps": DECODING_STEPS,
        "adapter_lr": ADAPTER_LR, "probe_steps": PROBE_STEPS,
    }  # fmt: skip


def missing(
    runs: Sequence[Mapping[str, object]], studies: Sequence[str], seeds: int
) -> list[tuple[Arm, int]]:
    """The arms and seeds that have no result yet, seed by seed."""
    made = {(run["study"], run["name"], run["seed"]) for run in runs}
    return [
        (arm, seed)
        for seed in range(seeds)
        for arm in ARMS
        if arm.study in studies and (arm.study, arm.name, seed) not in made
    ]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--mini", type=Path, default=Path("runs/mini"), help="the encoded scenes")
    parser.add_argument("--study", choices=tuple(SHARES), help="default: all")
    parser.add_argument("--steps", type=int, default=800)
    parser.add_argument("--seeds", type=int, default=2)
    parser.add_argument("--work", type=Path, default=Path("runs/ablate-training"))
    parser.add_argument("--json", type=Path, default=RESULT)
    parser.add_argument("--tables", action="store_true", help="print the tables, train nothing")
    given = parser.parse_args()
    if given.tables:
        for study in SHARES:
            print(f"## {study}\n", *table(json.loads(given.json.read_text()), study), "", sep="\n")
        return
    torch.set_num_threads(1)
    told = settings(given.steps)
    made = json.loads(given.json.read_text()) if given.json.exists() else {"settings": told}
    if made["settings"] != told:
        parser.error(f"{given.json} was made with {made['settings']}, not {told}; move it")
    runs = made.setdefault("runs", [])
    studies = (given.study,) if given.study else tuple(SHARES)
    ablation = Ablation(given.mini, given.steps)
    for arm, seed in missing(runs, studies, given.seeds):
        work = given.work / f"{arm.study}-{arm.name.replace(' ', '-')}-{seed}"
        runs.append({"seed": seed, **asdict(arm), **ablation.run(arm, seed, work)})
        files.write_text(given.json, json.dumps(made, indent=1) + "\n")
        print(runs[-1], flush=True)


if __name__ == "__main__":
    main()
