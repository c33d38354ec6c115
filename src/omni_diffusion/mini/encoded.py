"""The world's pictures and sounds as codes, made once: training reads codes and never media.

A picture costs far more to encode than to look up, and there are few enough scenes to encode all.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from omni_diffusion.codecs.glm_voice.tokenizer import SpeechTokenizer
from omni_diffusion.codecs.magvit2 import Magvit2
from omni_diffusion.codecs.sensevoice import SenseVoice
from omni_diffusion.errors import DataError
from omni_diffusion.io import weights
from omni_diffusion.media import Waveform
from omni_diffusion.mini import scenes, speech_plan
from omni_diffusion.tasks.catalog import CATALOG


class SceneCodes:
    """Local picture ids of every scene of the world."""

    def __init__(self, codes: Tensor) -> None:
        every = scenes.every_scene()
        if len(codes) != len(every):
            raise DataError(
                f"picture codes for {len(codes)} scenes, the world has {len(every)}: encode anew"
            )
        self._codes = codes
        self._row = {scene: row for row, scene in enumerate(every)}

    def of(self, scene: scenes.Scene) -> Tensor:
        """Local ids int64 [places] of a scene, row by row."""
        return self._codes[self._row[scene]].long()

    @classmethod
    def open(cls, path: Path) -> SceneCodes:
        """Read what `encode_scenes` wrote; raises DataError for anything else."""
        tensors = weights.read(path)
        if "codes" not in tensors:
            raise DataError(f"{path} holds no picture codes: encode the scenes anew")
        return cls(tensors["codes"])


def encode_scenes(
    codec: Magvit2, path: Path, *, batch: int = 64, report: Callable[[int, int], None] | None = None
) -> None:
    """Encode every scene and write the ids, int16 [scenes, places]."""
    every = scenes.every_scene()
    rows = []
    for start in range(0, len(every), batch):
        pictures = [scenes.render(scene) for scene in every[start : start + batch]]
        rows.append(codec.encode_batch(pictures, scenes.SIZE).to(torch.int16))
        if report:
            report(min(start + batch, len(every)), len(every))
    weights.write({"codes": torch.cat(rows)}, path)


@dataclass(frozen=True)
class Spoken:
    """The speech bank as a model hears and says it.

    frames[i] are the hearing frames of lines[i], one [n, dim] for each variant (speed, noise);
    codes[i] are its local speech ids, where the line is in the answer voice, else empty.
    """

    lines: tuple[speech_plan.Utterance, ...]
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
        speech_plan.save_plan(self.lines, folder / "lines.jsonl")

    @classmethod
    def open(cls, folder: Path) -> Spoken:
        """Read what `save` wrote; raises DataError where its two files do not fit together."""
        lines = tuple(speech_plan.load_plan(folder / "lines.jsonl"))
        tensors = weights.read(folder / "spoken.safetensors")
        frames: list[list[Tensor]] = [[] for _ in lines]
        codes = [torch.zeros(0, dtype=torch.int64) for _ in lines]
        for kind, line, *_, name in sorted(map(_parted, tensors)):
            if line >= len(lines):
                raise DataError(f"{folder} has {name} but {len(lines)} lines: pretokenize anew")
            if kind == "frames":
                frames[line].append(tensors[name].float())
            else:
                codes[line] = tensors[name].long()
        if not all(frames):
            line = next(i for i, variants in enumerate(frames) if not variants)
            raise DataError(f"{folder} has no frames of line {line}: pretokenize anew")
        return cls(lines, tuple(map(tuple, frames)), tuple(codes))

    def __add__(self, more: Spoken) -> Spoken:
        """Both banks as one."""
        return Spoken(self.lines + more.lines, self.frames + more.frames, self.codes + more.codes)

    def where(self, role: str, split: str, *, said: bool = False) -> list[int]:
        """Indices of the lines of a role and split; `said`: only those with speech codes."""
        return [
            i
            for i, line in enumerate(self.lines)
            if line.role == role and line.split == split and (not said or len(self.codes[i]))
        ]


def _parted(name: str) -> tuple[str, int, int, str]:
    """A tensor's name as (kind, line, variant, name), which sorts by number."""
    kind, line, *variant = name.split(".")
    return kind, int(line), int(variant[0]) if variant else 0, name


SPEEDS = (1.0, 0.92, 1.08)  # variants of a training line; the rate changes pitch and pace alike


def encode_speech(
    recorded: Iterable[tuple[speech_plan.Utterance, Waveform]],
    hearing: SenseVoice,
    speech: SpeechTokenizer,
    *,
    variants: int = len(SPEEDS),
    report: Callable[[int], None] | None = None,
) -> Spoken:
    """Hear every line, training lines at several speeds; the answer voice gets speech codes.

    variants: speeds a training line is heard at, those of SPEEDS in turn from line to line.
    """
    lines: list[speech_plan.Utterance] = []
    frames, codes = [], []
    for line, wave in recorded:
        count = variants if line.split == "train" else 1
        first = len(lines) if count < len(SPEEDS) and line.split == "train" else 0
        speeds = [SPEEDS[(first + i) % len(SPEEDS)] for i in range(count)]
        bent = [Waveform(wave.samples, round(wave.rate * speed)) for speed in speeds]
        lines.append(line)
        frames.append(tuple(hearing.encode(each) for each in bent))
        said = line.voice == speech_plan.ANSWER_VOICE
        codes.append(speech.encode(wave) if said else torch.zeros(0, dtype=torch.int64))
        if report:
            report(len(lines))
    return Spoken(tuple(lines), tuple(frames), tuple(codes))


def texts() -> Sequence[str]:
    """Every sentence form of the world and of the prompts, to learn a tokenizer from."""
    found = [caption for scene in scenes.every_scene()[::7] for caption in scenes.captions(scene)]
    found += speech_plan.questions() * 20 + speech_plan.answers() * 20
    for task in CATALOG.values():
        prompts = (task.template, task.system, "system\nuser\nassistant\n")
        found += [prompt for prompt in prompts if prompt] * 200
    return found
