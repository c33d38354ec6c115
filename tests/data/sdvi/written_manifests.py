"""Written questions and captions to be spoken, for the tests of this folder."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from tests.tiny import checkers

from omni_diffusion.tasks.catalog import CATALOG
from omni_diffusion.tasks.prompts import manifest_row


def vqa(text: str, answer: str, image: str = "boat.png", name: str | None = None) -> dict[str, Any]:
    return manifest_row(CATALOG["vqa"], text=text, answer=answer, images=[image], name=name)


def caption(text: str, image: str = "boat.png", name: str | None = None) -> dict[str, Any]:
    return manifest_row(CATALOG["t2i"], text=text, answer="<|image|>", images=[image], name=name)


def written(folder: Path, name: str, rows: list[dict[str, Any]]) -> Path:
    checkers(32).write(folder / "boat.png")
    path = folder / name
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path
