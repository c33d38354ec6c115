"""Draw docs/images/results.png: what the shipped model paints, unselected.

    python scripts/results_picture.py [--seed 0] [--out docs/images/results.png]

Rows: captions; the rendered scene; the model's answer, a token a step and as by default; a spoken
description's picture; and inpainting with its hole.
"""

from __future__ import annotations

import argparse
import random
from pathlib import Path

import torch
from PIL import Image as PilImage
from PIL import ImageDraw

from omni_diffusion import Engine, Image, Message, OmniModel, Picture, Request, Speech, Text
from omni_diffusion.mini import scenes
from omni_diffusion.mini.recordings import Bank
from omni_diffusion.models.omni import SMALL_MODEL
from omni_diffusion.tasks.defaults import Overrides
from omni_diffusion.tasks.infill import inpainting

SIDE, COLUMNS, LABEL = 128, 7, 190
STEPS = 64  # tokens of an image


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, default=Path("docs/images/results.png"))
    given = parser.parse_args()
    torch.set_num_threads(1)
    model = OmniModel.open()
    engine = Engine(model)
    rng = random.Random(given.seed)
    chosen = [scenes.sample_scene(rng, split="test") for _ in range(COLUMNS)]
    wanted = [scenes.render_scene(scene) for scene in chosen]
    said = [Text(scenes.caption(scene)) for scene in chosen]
    full = paint(engine, [ask("t2i", text, {"steps": STEPS}) for text in said])
    few = paint(engine, [ask("t2i", text) for text in said])
    spoken = Bank.open(SMALL_MODEL / "bank").sample("caption", given.seed, COLUMNS)
    heard = paint(engine, [ask("s2i", Speech(each.waveform)) for each in spoken])
    holes = [hole(scene) for scene in chosen]
    mended = paint(
        engine,
        [
            Request("inpaint", inpainting(picture, cut, text.text))
            for picture, cut, text in zip(wanted, holes, said, strict=True)
        ],
    )
    rows = [
        ("asked", [text.text for text in said], None),
        ("a painter's answer", None, wanted),
        (f"text to image, {STEPS} steps", None, full),
        ("text to image", None, few),
        ("spoken", [each.text for each in spoken], None),
        ("speech to image", None, heard),
        ("with a hole", None, [grey(p, c) for p, c in zip(wanted, holes, strict=True)]),
        ("inpainted", None, mended),
    ]
    draw(rows).save(given.out, optimize=True)
    print(given.out)


def ask(task: str, part: Text | Speech | Image, params: Overrides = None) -> Request:
    return Request(task, (Message("user", (part,)),), params)


def paint(engine: Engine, requests: list[Request]) -> list[Picture]:
    pictures = []
    for result in engine.run(requests):
        if result.error is not None:
            raise result.error
        pictures.append(next(p.picture for p in result.parts if isinstance(p, Image)))
    return pictures


def hole(scene: scenes.Scene) -> torch.Tensor:
    """The place of the scene's first object, bool [64, 64]."""
    x, y, side = scenes.LAYOUTS[scene.layout][0]
    cut = torch.zeros(scenes.SIZE, scenes.SIZE, dtype=torch.bool)
    cut[y : y + side, x : x + side] = True
    return cut


def grey(picture: Picture, cut: torch.Tensor) -> Picture:
    pixels = picture.pixels.clone()
    pixels[cut] = 60
    return Picture(pixels)


def draw(rows: list[tuple[str, list[str] | None, list[Picture] | None]]) -> PilImage.Image:
    heights = [SIDE + 6 if pictures else 58 for _, _, pictures in rows]
    sheet = PilImage.new("RGB", (LABEL + COLUMNS * (SIDE + 6), sum(heights)), "white")
    pen = ImageDraw.Draw(sheet)
    y = 0
    for (title, texts, pictures), height in zip(rows, heights, strict=True):
        pen.text((8, y + height // 2 - 6), title, fill="black")
        for i in range(COLUMNS):
            x = LABEL + i * (SIDE + 6)
            if pictures:
                big = pictures[i].to_pil().resize((SIDE, SIDE), PilImage.Resampling.BICUBIC)
                sheet.paste(big, (x, y))
            if texts:
                pen.text((x, y + 4), wrap(texts[i]), fill="black", spacing=1)
        y += height
    return sheet


def wrap(text: str, width: int = 21) -> str:
    lines = [""]
    for word in text.split():
        if len(lines[-1]) + len(word) >= width:
            lines.append("")
        lines[-1] = f"{lines[-1]} {word}".strip()
    return "\n".join(lines)


if __name__ == "__main__":
    main()
