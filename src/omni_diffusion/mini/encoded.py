"""Scenes and recordings as tokens, encoded once: training reads tokens and never media.

Encoding an image costs far more than a lookup, and there are few enough scenes to encode all.
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
    """Local image ids of every scene. Raises DataError for another number of scenes."""

    def __init__(self, codes: Tensor) -> None:
        every = scenes.every_scene()
        if len(codes) != len(every):
            raise DataError(
                f"image tokens of {len(codes)} scenes, expected {len(every)}; encode again",
                value=len(codes),
            )
        self._codes = codes
        self._row = {scene: row for row, scene in enumerate(every)}

    def of(self, scene: scenes.Scene) -> Tensor:
        """Local ids int64 [tokens] of a scene, row by row."""
        return self._codes[self._row[scene]].long()

    @classmethod
    def open(cls, path: Path) -> SceneCodes:
        """Read the file of `encode_scenes`. Raises DataError for another file."""
        tensors = weights.read_tensors(path)
        if "codes" not in tensors:
            raise DataError(f"{path} has no tensor `codes`; encode the scenes again", value=path)
        return cls(tensors["codes"])


def encode_scenes(
    codec: Magvit2, path: Path, *, batch: int = 64, report: Callable[[int, int], None] | None = None
) -> None:
    """Encode every scene and write the ids, int16 [scenes, tokens]; `report` gets done and all."""
    every = scenes.every_scene()
    rows = []
    for start in range(0, len(every), batch):
        pictures = [scenes.render_scene(scene) for scene in every[start : start + batch]]
        rows.append(codec.encode_batch(pictures, scenes.SIZE).to(torch.int16))
        if report:
            report(min(start + batch, len(every)), len(every))
    weights.write_tensors({"codes": torch.cat(rows)}, path)


@dataclass(frozen=True)
class EncodedSpeech:
    """Recordings as the input and output of a model.

    frames[i]: speech encoder frames of lines[i], one [n, dim] for each speed. codes[i]: local
    speech ids of lines[i], empty if the line is not in the answer voice.
    """

    lines: tuple[speech_plan.Utterance, ...]
    frames: tuple[tuple[Tensor, ...], ...]
    codes: tuple[Tensor, ...]

    def save(self, folder: Path) -> None:
        """Write the lines as JSON lines and the tensors as one file."""
        tensors = {}
        for i, variants in enumerate(self.frames):
            for v, frames in enumerate(variants):
                tensors[f"frames.{i}.{v}"] = frames.half()
            if len(self.codes[i]):
                tensors[f"codes.{i}"] = self.codes[i].to(torch.int16)
        folder.mkdir(parents=True, exist_ok=True)
        weights.write_tensors(tensors, folder / "spoken.safetensors")
        speech_plan.save_plan(self.lines, folder / "lines.jsonl")

    @classmethod
    def open(cls, folder: Path) -> EncodedSpeech:
        """Read what `save` wrote. Raises DataError if its two files do not fit together."""
        lines = tuple(speech_plan.load_plan(folder / "lines.jsonl"))
        tensors = weights.read_tensors(folder / "spoken.safetensors")
        frames: list[list[Tensor]] = [[] for _ in lines]
        codes = [torch.zeros(0, dtype=torch.int64) for _ in lines]
        for kind, line, *_, name in sorted(map(_split_name, tensors)):
            if line >= len(lines):
                raise DataError(
                    f"{folder} has {name} but {len(lines)} lines; encode it again", value=name
                )
            if kind == "frames":
                frames[line].append(tensors[name].float())
            else:
                codes[line] = tensors[name].long()
        if not all(frames):
            line = next(i for i, variants in enumerate(frames) if not variants)
            raise DataError(f"{folder} has no frames of line {line}; encode it again", value=line)
        return cls(lines, tuple(map(tuple, frames)), tuple(codes))

    def __add__(self, more: EncodedSpeech) -> EncodedSpeech:
        """The lines of both."""
        return EncodedSpeech(
            self.lines + more.lines, self.frames + more.frames, self.codes + more.codes
        )

    def where(self, role: str, split: str, *, with_codes: bool = False) -> list[int]:
        """Indices of the lines of a role and split; with_codes: only those with speech codes."""
        return [
            i
            for i, line in enumerate(self.lines)
            if line.role == role and line.split == split and (not with_codes or len(self.codes[i]))
        ]


def _split_name(name: str) -> tuple[str, int, int, str]:
    """A tensor's name as (kind, line, variant, name), so that lines sort by number."""
    kind, line, *variant = name.split(".")
    return kind, int(line), int(variant[0]) if variant else 0, name


SPEEDS = (1.0, 0.92, 1.08)  # of a training line; changes pitch and pace alike


def encode_speech(
    recorded: Iterable[tuple[speech_plan.Utterance, Waveform]],
    encoder: SenseVoice,
    tokenizer: SpeechTokenizer,
    *,
    variants: int = len(SPEEDS),
    report: Callable[[int], None] | None = None,
) -> EncodedSpeech:
    """Encode every line, training lines at several speeds; the answer voice also as speech codes.

    variants: number of speeds of a training line; if fewer than SPEEDS, lines take turns.
    """
    lines: list[speech_plan.Utterance] = []
    frames, codes = [], []
    for line, wave in recorded:
        count = variants if line.split == "train" else 1
        first = len(lines) if count < len(SPEEDS) and line.split == "train" else 0
        speeds = [SPEEDS[(first + i) % len(SPEEDS)] for i in range(count)]
        variants_ = [Waveform(wave.samples, round(wave.rate * speed)) for speed in speeds]
        lines.append(line)
        frames.append(tuple(encoder.encode(variant) for variant in variants_))
        is_answer = line.voice == speech_plan.ANSWER_VOICE
        codes.append(tokenizer.encode(wave) if is_answer else torch.zeros(0, dtype=torch.int64))
        if report:
            report(len(lines))
    return EncodedSpeech(tuple(lines), tuple(frames), tuple(codes))


def texts() -> Sequence[str]:
    """Sentences and prompts to train the text tokenizer on."""
    sentences = [
        caption for scene in scenes.every_scene()[::7] for caption in scenes.captions(scene)
    ]
    sentences += speech_plan.questions() * 20 + speech_plan.answers() * 20
    for task in CATALOG.values():
        prompts = (task.template, task.system, "system\nuser\nassistant\n")
        sentences += [prompt for prompt in prompts if prompt] * 200
    return sentences
