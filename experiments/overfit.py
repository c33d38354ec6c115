"""Learn 32 samples of all nine tasks by heart, and let the engine say them back.

    python -m experiments.overfit --mini runs/mini [--steps 450] [--json ...]

A small backbone starts from random weights and is trained with the paper's masking. Every so many
steps the engine answers all 32 requests, greedily and without penalties; told is the share of
the answers' tokens that are exactly right, by task.
"""

from __future__ import annotations

import argparse
import json
import random
import time
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import torch

from omni_diffusion import Engine, OmniModel, Request
from omni_diffusion.backbone.dream import Dream
from omni_diffusion.canvas import Canvas
from omni_diffusion.conversation import Codes, EncodedPart, Frames, Text, Turn
from omni_diffusion.data.mixture import TaskGroup
from omni_diffusion.diffusion.params import SamplingParams
from omni_diffusion.io import files
from omni_diffusion.mini import scenes
from omni_diffusion.mini.encoded import EncodedSpeech, SceneCodes
from omni_diffusion.mini.recipe import SPLICED_LINES, SPOKEN_LINES
from omni_diffusion.tasks import catalog
from omni_diffusion.tasks.defaults import GenerationConfig
from omni_diffusion.tasks.render import layout_training, render
from omni_diffusion.training.denoising import DenoisingConfig, DenoisingObjective
from omni_diffusion.training.optim import OptimConfig
from omni_diffusion.training.trainer import LoopConfig, Trainer

TASKS = ("chat", "asr", "tts", "t2i", "caption", "vqa", "s2i", "sqa", "svqa")
SAMPLES, TAIL = 32, 4  # tail: pads behind an answer that may have some
SIZES = {"hidden_size": 128, "num_layers": 4, "num_heads": 4, "num_kv_heads": 2, "head_dim": 32}
LR, SEED = 2e-3, 0


@dataclass(frozen=True, eq=False)
class Sample:
    """What is asked, encoded already, and the canvas with its answer."""

    task: str
    user: Turn
    canvas: Canvas

    @property
    def request(self) -> Request:
        """The same question, its answer to have as many places."""
        start, stop = self.canvas.answer
        return Request(self.task, (self.user,), SamplingParams(), max_tokens=stop - start)


class Same:
    """A mixture that draws all samples in every step; only their masks differ."""

    def __init__(self, samples: list[Sample]) -> None:
        self.canvases: dict[str, list[Canvas]] = {}
        for sample in samples:
            self.canvases.setdefault(sample.task, []).append(sample.canvas)

    def draw(self, step: int, generator: torch.Generator) -> list[TaskGroup]:
        """All samples, by task."""
        seed = int(torch.randint(2**62, (), generator=generator))
        return [
            TaskGroup.of(task, len(found) / SAMPLES, found, seed + number)
            for number, (task, found) in enumerate(self.canvases.items())
        ]


def samples(model: OmniModel, mini: Path) -> list[Sample]:
    """So many samples, the tasks in turn, no question asked twice."""
    spoken = EncodedSpeech.open(mini / SPOKEN_LINES) + EncodedSpeech.open(mini / SPLICED_LINES)
    drawn = {
        task: conversations(task, spoken, SceneCodes.open(mini / "scenes.safetensors"))
        for task in TASKS
    }
    found = []
    for number in range(SAMPLES):
        name = TASKS[number % len(TASKS)]
        asked, answered = next(drawn[name])
        user, assistant = Turn("user", asked), Turn("assistant", answered)
        task = catalog.task(name)
        tail = 0 if task.answer == ("image",) else TAIL
        canvas = layout_training(
            task, (user, assistant), model.vocabulary, model.codecs.text, tail=tail
        )
        found.append(Sample(name, user, canvas))
    return found


def conversations(
    task: str, spoken: EncodedSpeech, chosen: SceneCodes
) -> Iterator[tuple[tuple[EncodedPart, ...], tuple[EncodedPart, ...]]]:
    """Questions and answers of a task, endless."""
    rng = random.Random(f"{task} {SEED}")
    captions = spoken.where("caption", "train")
    questions = {spoken.lines[i].text: i for i in spoken.where("question", "train")}
    answers = {spoken.lines[i].text: i for i in spoken.where("answer", "train", with_codes=True)}

    def heard(line: int) -> Frames:
        return Frames(spoken.frames[line][0])

    def said(line: int) -> Codes:
        return Codes("speech", spoken.codes[line])

    def speakable(found: list[scenes.Question]) -> list[scenes.Question]:
        return [q for q in found if q.text in questions and q.sentence in answers]

    facts = scenes.facts()
    rng.shuffle(facts)
    for fact in facts if task in ("chat", "sqa") else ():
        if task == "chat":
            yield (Text(fact.text),), (Text(fact.sentence),)
        elif speakable([fact]):
            reply = (Text(fact.sentence), said(answers[fact.sentence]))
            yield (heard(questions[fact.text]),), reply
    while task not in ("chat", "sqa"):
        scene = scenes.sample_scene(rng)
        picture = Codes("image", chosen.of(scene))
        if task in ("asr", "s2i", "tts"):
            lines = spoken.where("caption", "train", with_codes=True) if task == "tts" else captions
            line = rng.choice(lines)
            text = spoken.lines[line].text
            described = scenes.parse(text)
            if task == "asr":
                yield (heard(line),), (Text(text),)
            elif task == "tts":
                yield (Text(text),), (said(line),)
            elif described is not None:
                yield (heard(line),), (Codes("image", chosen.of(described)),)
        elif task in ("t2i", "caption"):
            text = Text(scenes.caption(scene))
            yield ((text,), (picture,)) if task == "t2i" else ((picture,), (text,))
        else:
            asked = scenes.questions(scene, rng)
            if task == "vqa":
                question = rng.choice(asked)
                yield (Text(question.text), picture), (Text(question.answer),)
            elif speakable(asked):
                question = rng.choice(speakable(asked))
                reply = (Text(question.sentence), said(answers[question.sentence]))
                yield (heard(questions[question.text]), picture), reply


def said_back(model: OmniModel, found: list[Sample]) -> dict[str, dict[str, float]]:
    """By task: the share of tokens and the share of answers that are exact.

    Only places that were blank count, and of them those whose token is no pad and may be written:
    the line end behind a spoken answer, which nobody reads, is no token of its range.
    """
    right: dict[str, list[torch.Tensor]] = {}
    results = Engine(model).run([sample.request for sample in found])
    for sample, result in zip(found, results, strict=True):
        request, true = sample.request, sample.canvas.ids
        laid = render(
            catalog.task(sample.task), (sample.user,), model, max_tokens=request.max_tokens
        )
        given = ~laid.canvas.blank
        if result.canvas is None or not torch.equal(laid.canvas.ids[given], true[given]):
            raise RuntimeError(f"a {sample.task} is not asked as it was learned: {result.error}")
        low, high = laid.canvas.allowed.unbind(1)
        asked = ~given & (true != model.vocabulary.pad) & (low <= true) & (true < high)
        right.setdefault(sample.task, []).append((result.canvas.ids == true)[asked])
    return {
        task: {
            "tokens": round(float(torch.cat(same).float().mean()), 4),
            "answers": sum(bool(each.all()) for each in same) / len(same),
        }
        for task, same in right.items()
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--mini", type=Path, default=Path("runs/mini"), help="the world's codes")
    parser.add_argument("--steps", type=int, default=450)
    parser.add_argument("--every", type=int, default=150)
    parser.add_argument("--work", type=Path, default=Path("runs/overfit"))
    parser.add_argument("--json", type=Path, default=Path("experiments/results/overfit.json"))
    given = parser.parse_args()
    if given.json.exists():
        parser.exit(message=f"the result is there already: {given.json}\n")
    torch.set_num_threads(1)
    shipped = OmniModel.open()
    sizes = replace(shipped.config.backbone, **SIZES, intermediate_size=3 * SIZES["hidden_size"])
    config = replace(shipped.config, backbone=sizes, generation=GenerationConfig())
    found = samples(shipped, given.mini)
    torch.manual_seed(SEED)
    backbone = Dream(sizes)
    model = OmniModel(config, shipped.codecs, backbone)
    rows = []
    start = time.process_time()

    def watch(step: int) -> None:
        if step % given.every and step != given.steps:
            return
        backbone.eval()
        row = {"step": step, "seconds": round(time.process_time() - start, 1)}
        rows.append({**row, "right": said_back(model, found)})
        print(f"{step}/{given.steps} {rows[-1]}", flush=True)

    objective = DenoisingObjective(
        backbone, shipped.vocabulary, Same(found), DenoisingConfig(loss_average="token")
    )
    # the weights as they are: the average lags behind, and what is asked is whether they can learn
    loop = LoopConfig(given.steps, SEED, OptimConfig(LR, 50), ema_decay=None)
    Trainer(objective, loop, given.work, on_step=watch).fit()
    settings = {"samples": SAMPLES, "sizes": SIZES, "lr": LR, "seed": SEED, "tail": TAIL}
    files.write_text(given.json, json.dumps({**settings, "rows": rows}, indent=1) + "\n")


if __name__ == "__main__":
    main()
