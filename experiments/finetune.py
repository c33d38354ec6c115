"""Teach the shipped small model a new thing, a heart, with the command that a user would type.

    python -m experiments.finetune [--steps 150] [--lr 3e-4] [--kept 40] [--masking ...] [--lora 16]

A manifest is written: 40 pictures with a heart, each to be described, asked about and painted, and
--kept of the world as it was, so that it is not forgotten. Before and after the training the model
describes and paints hearts on backgrounds and beside objects that the lines never show them with,
and sits the small world's own exams.
"""

from __future__ import annotations

import argparse
import json
import random
import resource
import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

import torch
from PIL import Image as PilImage
from PIL import ImageDraw

from omni_diffusion import Engine, Image, Message, OmniModel, Picture, Request, Text
from omni_diffusion.conversation import text_of
from omni_diffusion.io import files
from omni_diffusion.mini import scenes
from omni_diffusion.mini.evaluate import evaluate
from omni_diffusion.mini.judge import first_part
from omni_diffusion.mini.scenes import Scene
from omni_diffusion.tasks.catalog import DESCRIBE, DRAW

NEW = "heart"
BACKGROUNDS, PARTNERS = ("green", "purple"), scenes.OBJECTS[::4]  # never beside a heart in training
LEARNED, TRIED, EXAMINED, STEPS = 40, 40, 40, 10
# rows of one canvas each are fastest on a CPU; the average is short, as the training is
ALWAYS = "--batch-size 16 --ema-decay 0.99 --max-length 128 --micro-batch-tokens 2048".split()


# ------------------------------------------------------------------------------------ the new thing
def sprite(side: int) -> PilImage.Image:
    """A red heart, RGBA of so many pixels a side."""
    drawn = PilImage.new("RGBA", (256, 256))
    pen, red = ImageDraw.Draw(drawn), (225, 40, 60)
    pen.ellipse((16, 30, 136, 150), fill=red)
    pen.ellipse((120, 30, 240, 150), fill=red)
    pen.polygon([(24, 118), (232, 118), (128, 240)], fill=red)
    return drawn.resize((side, side), PilImage.Resampling.LANCZOS)


def painted(scene: Scene) -> Picture:
    """A scene of the world in which some objects may be hearts."""
    known = tuple("apple" if name == NEW else name for name in scene.objects)
    canvas = PilImage.fromarray(
        scenes.render_scene(
            Scene(scene.layout, known, scene.background, scene.style)
        ).pixels.numpy()
    )
    for name, (x, y, side) in zip(scene.objects, scenes.LAYOUTS[scene.layout], strict=True):
        if name == NEW:
            heart = sprite(side - 4)
            canvas.paste(scenes.BACKGROUNDS[scene.background], (x, y, x + side, y + side))
            canvas.paste(heart, (x + 2, y + 2), heart)
    return Picture.from_pil(canvas)


def with_heart(rng: random.Random, *, held_out: bool) -> Scene:
    """One heart, several, or one beside an object of the world.

    held_out: on a background and beside an object that the other scenes never have.
    """
    grounds = [name for name in scenes.BACKGROUNDS if (name in BACKGROUNDS) == held_out]
    others = [name for name in scenes.OBJECTS if (name in PARTNERS) == held_out]
    background = rng.choice(grounds)
    if rng.random() < 0.5:
        count = rng.choice((1, 1, 2, 3, 4))
        return Scene(scenes.COUNTED[count], (NEW,) * count, background)
    pair = [NEW, rng.choice(others)]
    rng.shuffle(pair)
    return Scene(rng.choice(("row", "column")), tuple(pair), background)


# ------------------------------------------------------------------------------------- the manifest
def write(folder: Path, kept: int, seed: int) -> Path:
    """The user's manifest with its pictures, so many of them of the world as it was."""
    rng = random.Random(seed)
    chosen = [with_heart(rng, held_out=False) for _ in range(LEARNED)]
    chosen += [scenes.sample_scene(rng) for _ in range(kept)]
    files.make_folder(folder)
    rows = []
    for number, scene in enumerate(chosen):
        name = f"{number:03d}.png"
        PilImage.fromarray(painted(scene).pixels.numpy()).save(folder / name)
        for user, assistant in _lines(scene, rng):
            messages = [
                {"role": "user", "content": user},
                {"role": "assistant", "content": assistant},
            ]
            rows.append(json.dumps({"messages": messages, "images": [name]}) + "\n")
    files.write_text(folder / "mine.jsonl", "".join(rows))
    return folder / "mine.jsonl"


def _lines(scene: Scene, rng: random.Random) -> Iterator[tuple[str, str]]:
    question = rng.choice(scenes.questions(scene, rng))
    yield DESCRIBE + "<|image|>", scenes.caption(scene)
    yield f"{question.text}\n<|image|>", question.answer
    yield DRAW + rng.choice(scenes.captions(scene)), "<|image|>"


# -------------------------------------------------------------------------------------- the judging
def seen(picture: Picture, scene: Scene) -> tuple[str, ...]:
    """What stands in each place of a scene: the nearest of all objects and the heart, in pixels."""
    best = []
    for at, (x, y, side) in enumerate(scenes.LAYOUTS[scene.layout]):
        window = (slice(y, y + side), slice(x, x + side))
        errors = {}
        for name in (*scenes.OBJECTS, NEW):
            objects = (*scene.objects[:at], name, *scene.objects[at + 1 :])
            like = painted(Scene(scene.layout, objects, scene.background, scene.style))
            errors[name] = float(
                (picture.pixels[window].float() - like.pixels[window]).square().sum()
            )
        best.append(min(errors, key=errors.__getitem__))
    return tuple(best)


def judged(scene: Scene, picture: Picture) -> dict[str, bool]:
    """Whether hearts stand where they should, and whether all else is right too."""
    found = seen(picture, scene)
    hearts = all((a == NEW) == (b == NEW) for a, b in zip(found, scene.objects, strict=True))
    ground = scenes.recognize_scene(picture).background == scene.background
    return {"heart_shown": hearts, "picture_right": found == scene.objects and ground}


def tried(model: OmniModel, chosen: Sequence[Scene]) -> tuple[dict[str, float], list[Picture]]:
    """Shares of right answers on scenes with hearts, and the pictures that were painted."""
    marks: dict[str, list[bool]] = {}
    engine = Engine(model)
    pictures = [painted(scene) for scene in chosen]
    described = engine.run([Request("caption", (_user(Image(p)),)) for p in pictures])
    drawn = engine.run([Request("t2i", (_user(Text(scenes.caption(s))),)) for s in chosen])
    made = []
    for scene, said, shown in zip(chosen, described, drawn, strict=True):
        text, image = text_of(said.parts), first_part(shown.parts, Image)
        assert image is not None  # a picture's places take nothing else
        made.append(image.picture)
        each = {"word_said": NEW in text, "caption_right": text in scenes.captions(scene)}
        for name, right in (each | judged(scene, image.picture)).items():
            marks.setdefault(name, []).append(right)
    return {name: sum(column) / len(column) for name, column in marks.items()}, made


def _user(part: Image | Text) -> Message:
    return Message("user", (part,))


def exams(model: OmniModel) -> dict[str, float]:
    """The small world's own figures."""
    scores = evaluate(model, 0, EXAMINED, ("caption", "vqa", "t2i"), STEPS)
    return {task: score["value"] for task, score in scores.items()}


def coded(model: OmniModel, picture: Picture) -> Picture:
    """A picture after the picture codec's round trip."""
    return model.codecs.image.decode(model.codecs.image.encode(picture, scenes.SIZE))


def ceiling(model: OmniModel, chosen: Sequence[Scene]) -> dict[str, float]:
    """The judge's marks for pictures that only went through the picture codec."""
    marks = [judged(scene, coded(model, painted(scene))) for scene in chosen]
    return {name: sum(mark[name] for mark in marks) / len(marks) for name in marks[0]}


def sheet(chosen: Sequence[Scene], columns: Sequence[Sequence[Picture]], path: Path) -> None:
    """Captions with a picture of each column; the codec's own round trip is the best there is."""
    side, label = 96, 250
    drawn = PilImage.new(
        "RGB", (label + len(columns) * (side + 4), 20 + len(chosen) * (side + 4)), "white"
    )
    pen = ImageDraw.Draw(drawn)
    for at, title in enumerate(("before", "after", "codec", "target")):
        pen.text((label + at * (side + 4), 4), title, fill="black")
    for row, scene in enumerate(chosen):
        top = 20 + row * (side + 4)
        pen.text(
            (4, top + side // 2 - 12), scenes.caption(scene).replace(" on ", "\non "), fill="black"
        )
        for at, column in enumerate(columns):
            big = PilImage.fromarray(column[row].pixels.numpy()).resize(
                (side, side), PilImage.Resampling.NEAREST
            )
            drawn.paste(big, (label + at * (side + 4), top))
    drawn.quantize(256).save(path, optimize=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--steps", type=int, default=150)
    parser.add_argument("--lr", default="3e-4")
    parser.add_argument("--kept", type=int, default=40, help="pictures of the world as it was")
    parser.add_argument("--masking", default="uniform")
    parser.add_argument("--lora", type=int, help="rank; by default all weights are trained")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--work", type=Path, default=Path("runs/finetune"))
    parser.add_argument("--json", type=Path, default=Path("experiments/results/finetune.json"))
    parser.add_argument("--picture", type=Path, help="such as docs/images/finetune.png")
    given = parser.parse_args()
    torch.set_num_threads(1)
    data = write(given.work / f"data-{given.kept}-{given.seed}", given.kept, given.seed)
    how = "whole" if given.lora is None else f"lora-{given.lora}"
    out = given.work / f"{how}-{given.steps}-{given.lr}-{given.masking}-{given.kept}-{given.seed}"
    typed = ["train", "manifest", "--data", str(data), "--out", str(out)]
    typed += ["--steps", str(given.steps), "--lr", given.lr, *ALWAYS]
    typed += [] if given.masking == "uniform" else ["--masking", given.masking]
    typed += [] if given.lora is None else ["--lora", str(given.lora)]
    command = " ".join(["omni-diffusion", *typed])
    made = json.loads(given.json.read_text()) if given.json.exists() else {"runs": []}
    if any(run["command"] == command for run in made["runs"]):
        parser.exit(message=f"the result is there already: {given.json}\n")
    subprocess.run([sys.executable, "-m", "omni_diffusion", *typed], check=True)
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    minutes = round((used.ru_utime + used.ru_stime) / 60, 2)

    rng = random.Random(given.seed + 1)
    chosen = [with_heart(rng, held_out=True) for _ in range(TRIED)]
    shipped, trained = OmniModel.open(), OmniModel.open(out / "model")
    if "before" not in made:
        made["codec"] = ceiling(shipped, chosen)
        made["before"] = {"new": tried(shipped, chosen)[0], "old": exams(shipped)}
    new, pictures = tried(trained, chosen)
    result = {"command": command, "lines": len(data.read_text().splitlines())}
    result |= {"cpu_minutes": minutes, "new": new, "old": exams(trained)}
    made["runs"].append(result)
    print(result, flush=True)
    files.write_text(given.json, json.dumps(made, indent=1) + "\n")
    if given.picture:
        shown = [chosen.index(scene) for scene in dict.fromkeys(chosen)][:6]
        few = [chosen[at] for at in shown]
        before = tried(shipped, few)[1]
        after, target = [pictures[at] for at in shown], [painted(scene) for scene in few]
        through = [coded(shipped, picture) for picture in target]
        sheet(few, [before, after, through, target], given.picture)


if __name__ == "__main__":
    main()
