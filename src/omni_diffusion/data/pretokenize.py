"""The world's pictures and sounds as codes, made once: training reads codes and never media.

A picture costs far more to encode than to look up, and there are few enough scenes to encode all.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from omni_diffusion import weights
from omni_diffusion.codecs.magvit2 import Magvit2
from omni_diffusion.data import voices, world
from omni_diffusion.errors import DataError


class SceneCodes:
    """Local picture ids of every scene of the world."""

    def __init__(self, codes: Tensor) -> None:
        scenes = world.every_scene()
        if len(codes) != len(scenes):
            raise DataError(
                f"picture codes for {len(codes)} scenes, the world has {len(scenes)}: encode anew"
            )
        self._codes = codes
        self._row = {scene: row for row, scene in enumerate(scenes)}

    def of(self, scene: world.Scene) -> Tensor:
        """Local ids int64 [places] of a scene, row by row."""
        return self._codes[self._row[scene]].long()

    @classmethod
    def open(cls, path: Path) -> SceneCodes:
        """Read what `encode_scenes` wrote."""
        return cls(weights.read(path)["codes"])


def encode_scenes(
    codec: Magvit2, path: Path, *, batch: int = 64, report: Callable[[int, int], None] | None = None
) -> None:
    """Encode every scene and write the ids, int16 [scenes, places]."""
    scenes = world.every_scene()
    rows = []
    for start in range(0, len(scenes), batch):
        pictures = [world.render(scene) for scene in scenes[start : start + batch]]
        rows.append(codec.encode_batch(pictures, world.SIZE).to(torch.int16))
        if report:
            report(min(start + batch, len(scenes)), len(scenes))
    weights.write({"codes": torch.cat(rows)}, path)


@dataclass(frozen=True)
class Spoken:
    """The speech bank as a model hears and says it.

    frames[i] are the hearing frames of lines[i], one [n, dim] for each variant (speed, noise);
    codes[i] are its local speech ids, where the line is in the answer voice, else empty.
    """

    lines: tuple[voices.Utterance, ...]
    frames: tuple[tuple[Tensor, ...], ...]
    codes: tuple[Tensor, ...]

    def save(self, folder: Path) -> None:
        """Write the lines as JSON and everything else as one file."""
        tensors = {}
        for i, variants in enumerate(self.frames):
            for v, frames in enumerate(variants):
                tensors[f"frames.{i}.{v}"] = frames.half()
            if len(self.codes[i]):
                tensors[f"codes.{i}"] = self.codes[i].to(torch.int16)
        folder.mkdir(parents=True, exist_ok=True)
        weights.write(tensors, folder / "spoken.safetensors")
        voices.save_plan(self.lines, folder / "lines.jsonl")

    @classmethod
    def open(cls, folder: Path) -> Spoken:
        """Read what `save` wrote."""
        lines = tuple(voices.load_plan(folder / "lines.jsonl"))
        tensors = weights.read(folder / "spoken.safetensors")
        frames: list[list[Tensor]] = [[] for _ in lines]
        codes = [torch.zeros(0, dtype=torch.int64) for _ in lines]
        for name in sorted(tensors):
            kind, line, *_ = name.split(".")
            if kind == "frames":
                frames[int(line)].append(tensors[name].float())
            else:
                codes[int(line)] = tensors[name].long()
        return cls(lines, tuple(map(tuple, frames)), tuple(codes))

    def where(self, role: str, split: str, *, said: bool = False) -> list[int]:
        """Indices of the lines of a role and split; `said`: only those with speech codes."""
        return [
            i
            for i, line in enumerate(self.lines)
            if line.role == role and line.split == split and (not said or len(self.codes[i]))
        ]


def texts() -> Sequence[str]:
    """Every sentence form of the world, enough to learn a tokenizer from."""
    found = [caption for scene in world.every_scene()[::7] for caption in world.captions(scene)]
    return found + voices.questions() * 20 + voices.answers() * 20
