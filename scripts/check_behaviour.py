"""Record what the small model answers and how it trains, or compare with a record.

A refactor must not change a token: 61 requests over all tasks (greedy and drawn, guidance on and
off, one by one and in a mixed batch) and, up to rounding, the losses of 20 training steps of two
mixtures. Write a record before the change, compare after it, with the same weights, machine and one
thread:

    python scripts/check_behaviour.py record.json --record
    python scripts/check_behaviour.py record.json
"""

from __future__ import annotations

import argparse
import hashlib
import json
import math
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import torch

from omni_diffusion import (
    Engine,
    Image,
    Message,
    OmniModel,
    Picture,
    Request,
    Speech,
    Text,
    Waveform,
    box,
    cloze,
    inpainting,
)
from omni_diffusion.data.mixture import TaskShare
from omni_diffusion.data.pretokenize import Pretokenizer
from omni_diffusion.data.shard_mixture import ShardMixture
from omni_diffusion.data.shard_store import Shards
from omni_diffusion.demo.jobs import INPUTS
from omni_diffusion.mini import scenes
from omni_diffusion.mini.encoded import EncodedSpeech, SceneCodes
from omni_diffusion.mini.mixture import SceneMixture
from omni_diffusion.mini.speech_plan import ANSWER_VOICE, Utterance
from omni_diffusion.tasks import catalog
from omni_diffusion.training.denoising import DenoisingConfig, DenoisingObjective
from omni_diffusion.training.optim import OptimConfig
from omni_diffusion.training.trainer import LoopConfig, Trainer

GUIDED = ("t2i", "caption", "asr", "tts", "inpaint")
STEPS = 10
ROUNDING = 1e-4  # relative; sums may be taken in another order


def conversations(inputs: Path) -> dict[str, list[Any]]:
    """One conversation for each task, two for most."""

    def picture(name: str) -> Picture:
        return Picture.read(inputs / f"{name}.png")

    def sound(name: str) -> Speech:
        return Speech(Waveform.read(inputs / f"{name}.ogg"))

    def user(*parts: Any) -> list[Message]:
        return [Message("user", parts)]

    penguin, houses = picture("penguin-cow"), picture("houses")
    gap = cloze("a _ to the left of a cow on a _ background")
    return {
        "t2i": [user(Text("a dog on a blue background")), user(Text("two cars, pink background"))],
        "caption": [user(Image(penguin)), user(Image(houses))],
        "vqa": [user(Text("what is to the right of the penguin?"), Image(penguin))],
        "asr": [user(sound("dog")), user(sound("cat-ball"))],
        "tts": [user(Text("a picture of two apples on blue"))],
        "s2i": [user(sound("cat-ball"))],
        "svqa": [user(sound("how-many-cameras"), Image(picture("cameras")))],
        "sqa": [user(sound("color-of-elephant"))],
        "chat": [user(Text("what is a cake?")), user(Text("is a dog an animal?"))],
        "inpaint": [inpainting(houses, box(houses, 32, 32, 64, 64), "four houses on green")],
        "infill": [
            [
                Message("user", (Text("Describe the image.\n"), Image(penguin))),
                Message("assistant", gap),
            ]
        ],
    }


def requests(model: OmniModel, inputs: Path) -> Iterator[Request]:
    """Every conversation greedy, drawn, with guidance where the task has it, and in few steps."""
    for task, several in conversations(inputs).items():
        usual = model.config.generation.sampling.get(task, catalog.task(task).params)
        drawn = replace(usual, temperature=0.8, top_p=0.9, seed=7)
        for number, conversation in enumerate(several):
            yield Request(task, conversation)
            yield Request(task, conversation, replace(drawn, seed=11 + number))
            yield Request(task, conversation, replace(usual, steps=5, confidence="margin"))
            yield Request(task, conversation, replace(drawn, rules="upstream", top_k=50))
            if task in GUIDED:
                yield Request(task, conversation, replace(usual, guidance=1.5))


def answers(model: OmniModel, inputs: Path) -> list[dict[str, Any]]:
    """The answers one by one; then in a mixed batch, of which the digest is noted."""
    found = []
    asked = list(requests(model, inputs))
    for request, alone in zip(asked, Engine(model, max_batch=1).run(asked), strict=True):
        found.append({"task": request.task_name, **described(alone)})
    for row, result in zip(found, Engine(model, max_batch=16).run(asked), strict=True):
        row["batched"] = described(result)
    return found


def described(result: Any) -> dict[str, Any]:
    """Token ids, words, and digests of the media of an answer."""
    if result.error is not None:
        raise result.error
    start, stop = result.canvas.answer
    words, digests = [], []
    for part in result.parts:
        if isinstance(part, Text):
            words.append(part.text)
        elif isinstance(part, Image):
            digests.append(digest(part.picture.pixels))
        else:
            digests.append(digest((part.waveform.samples * 32767).round().to(torch.int16)))
    ids = result.canvas.ids[start:stop].tolist()
    return {"ids": ids, "words": words, "media": digests, "steps": result.steps}


def digest(tensor: torch.Tensor) -> str:
    """SHA-256 of a tensor's bytes, shortened."""
    return hashlib.sha256(tensor.contiguous().numpy().tobytes()).hexdigest()[:16]


def scene_mixture(model: OmniModel) -> SceneMixture:
    """The small world with codes and frames that are drawn, not encoded: nothing of codecs here."""
    generator = torch.Generator().manual_seed(5)
    codes_of_scenes = torch.randint(
        1024, (len(scenes.every_scene()), 64), generator=generator, dtype=torch.int16
    )
    texts = [scenes.caption(scene) for scene in scenes.every_scene()[:40]]
    lines = [Utterance(i, "caption", "train", ANSWER_VOICE, text) for i, text in enumerate(texts)]
    pairs = [(q.text, q.sentence) for q in scenes.facts()[:20]]
    for question, answer in pairs:
        lines.append(Utterance(len(lines), "question", "train", "am_adam", question))
        lines.append(Utterance(len(lines), "answer", "train", ANSWER_VOICE, answer))
    frames = [(torch.randn(30, 144, generator=generator),) for _ in lines]
    codes = [
        torch.randint(1024, (40,), generator=generator)
        if line.voice == ANSWER_VOICE
        else torch.zeros(0, dtype=torch.int64)
        for line in lines
    ]
    shares = (
        *(TaskShare("t2i", 3), TaskShare("caption", 2), TaskShare("vqa", 2), TaskShare("chat", 1)),
        *(TaskShare("asr", 2), TaskShare("tts", 2), TaskShare("s2i", 2), TaskShare("sqa", 1)),
    )
    return SceneMixture(
        shares,
        model.vocabulary,
        model.codecs.text,
        SceneCodes(codes_of_scenes),
        EncodedSpeech(tuple(lines), tuple(frames), tuple(codes)),
        lengths=model.config.generation.lengths,
        answers=model.config.generation.answers,
        augment=True,
    )


def shard_mixture(model: OmniModel, folder: Path, inputs: Path) -> ShardMixture:
    """A manifest of a dozen samples, pretokenized by the model's codecs."""
    rows = []
    for number in range(4):
        for name in ("dog", "cat-ball"):
            rows.append(
                sample("Convert the speech to text.\n<|audio|>", f"{name} {number}")
                | {"audios": [str(inputs / f"{name}.ogg")]}
            )
        for name in ("houses", "cameras"):
            paint = "Generate an image based on the provided text description.\n"
            rows.append(
                sample(f"{paint}{name} {number}", "<|image|>")
                | {"images": [str(inputs / f"{name}.png")]}
            )
        rows.append(sample(f"what is {number}?", "a number"))
    manifest = folder / "train.jsonl"
    manifest.write_text("".join(json.dumps(row) + "\n" for row in rows))
    Pretokenizer(manifest, folder / "shards", model.codecs).run(of=2)
    shares = (TaskShare("asr", 3), TaskShare("t2i", 2), TaskShare("chat", 2))
    return ShardMixture(shares, Shards(folder / "shards"), model.vocabulary, model.codecs.text)


def sample(question: str, answer: str) -> dict[str, Any]:
    """A line of a manifest."""
    return {
        "messages": [
            {"role": "user", "content": question},
            {"role": "assistant", "content": answer},
        ]
    }


def losses(model_folder: Path | None, which: str, inputs: Path) -> list[float]:
    """The losses of ten steps of a mixture, from the model's weights."""
    model = OmniModel.open(model_folder)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        if which == "world":
            mixture: Any = scene_mixture(model)
            config = DenoisingConfig()
        else:
            mixture = shard_mixture(model, folder, inputs)
            config = DenoisingConfig(loss_average="token", max_length=512, micro_batch_tokens=1024)
        objective = DenoisingObjective(model.backbone, model.vocabulary, mixture, config)
        loop = LoopConfig(STEPS, 3, OptimConfig(lr=1e-4, warmup=2), ema_decay=None)
        trainer = Trainer(objective, loop, folder / "run")
        return [trainer.advance()["loss"] for _ in range(STEPS)]


def main() -> None:
    """Write the record, or compare with it and exit with 1 where something differs."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("record", type=Path, help="the JSON file")
    parser.add_argument("--record", action="store_true", dest="write", help="write it")
    parser.add_argument("--model", type=Path, help="a model folder; default: the small one shipped")
    parser.add_argument("--inputs", type=Path, default=INPUTS, help="the demo's inputs")
    given = parser.parse_args()
    torch.set_num_threads(1)
    model = OmniModel.open(given.model)
    weights = hashlib.sha256()
    for name, tensor in sorted(model.backbone.state_dict().items()):
        weights.update(name.encode() + tensor.numpy().tobytes())
    made = {
        "weights": weights.hexdigest()[:16],
        "answers": answers(model, given.inputs),
        "losses": {
            which: losses(given.model, which, given.inputs) for which in ("world", "shards")
        },
    }
    if given.write:
        given.record.write_text(json.dumps(made, indent=1) + "\n")
        print(f"recorded {len(made['answers'])} answers and {2 * STEPS} losses")
        return
    kept = json.loads(given.record.read_text())
    different = [] if kept["weights"] == made["weights"] else ["weights"]
    different += [
        f"losses of {which}"
        for which, before in kept["losses"].items()
        if not all(map(partial(math.isclose, rel_tol=ROUNDING), before, made["losses"][which]))
    ]
    different += [
        f"answer {number} ({before['task']})"
        for number, (before, after) in enumerate(zip(kept["answers"], made["answers"], strict=True))
        if before != after
    ]
    for what in different:
        print(f"differs: {what}")
    print(f"{len(made['answers'])} answers and {2 * STEPS} losses compared")
    sys.exit(bool(different))


if __name__ == "__main__":
    main()
