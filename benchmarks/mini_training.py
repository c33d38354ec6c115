"""Training of a larger small model on the shipped codecs within a number of seconds.

The codecs of the shipped model turn all scenes and the recordings of assets/speech into codes and
frames; then the last stage of `mini.recipe`, which has every task, runs until the time is over.
"""

from __future__ import annotations

import math
import multiprocessing
import os
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from omni_diffusion.backbone.config import DreamConfig
from omni_diffusion.backbone.dream import Dream
from omni_diffusion.codecs.suite import CodecSuite
from omni_diffusion.io import weights
from omni_diffusion.media import Waveform
from omni_diffusion.mini import recipe, scenes
from omni_diffusion.mini.encoded import SPEEDS, EncodedSpeech, SceneCodes
from omni_diffusion.mini.mixture import SceneMixture
from omni_diffusion.mini.recordings import Bank, BankEntry
from omni_diffusion.mini.speech_plan import ANSWER_VOICE, Utterance
from omni_diffusion.models.omni import BACKBONE_FILE, OmniModel
from omni_diffusion.training.denoising import DenoisingObjective
from omni_diffusion.training.distributed import World
from omni_diffusion.training.trainer import LoopConfig, Trainer

SPEECH = Path(__file__).resolve().parent.parent / "assets" / "speech"
LARGER = {"hidden_size": 384, "num_layers": 8, "num_heads": 6, "intermediate_size": 1152}
FILE_BYTES = 15_000_000  # of a file that may be carried away
ENCODERS = 14  # processes that encode recordings
FIRST = 12  # steps that measure the pace
TINY_SCENES, TINY_STEPS = 4, 2
SAVING = 15.0  # seconds that the end of a training needs


def train_small_model(
    device: torch.device,
    *,
    seconds: float,
    tiny: bool,
    folder: Path | None,
    notes: Callable[..., None],
) -> None:
    """Train for `seconds` and write the model to `folder` (None: nowhere).

    notes: called with the figures as they are known. tiny: three lines, a few scenes, two steps,
    and no spoken questions about images, for which three lines are too few.
    """
    began = time.monotonic()
    shipped = OmniModel.open(device=device)
    codes = scene_codes(shipped.codecs, tiny)
    notes(scenes_s=time.monotonic() - began)
    spoken = recordings(tiny)
    notes(encoded_s=time.monotonic() - began, lines=len(spoken.lines))
    sizes = shipped.config.backbone if tiny else replace(shipped.config.backbone, **LARGER)
    torch.manual_seed(0)
    backbone = Dream(sizes).to(device)
    (stage,) = (each for each in recipe.stages() if each.name == "interaction")
    if tiny:  # a sample of each task; many CPUs are slow in bfloat16
        spoken_questions = ("svqa", "spoken_presence")
        few_shares = [s for s in stage.shares if s.task not in spoken_questions]
        shares = tuple(replace(s, samples=1) for s in few_shares)
        denoising = replace(stage.denoising, precision="float32")
        stage = replace(stage, shares=shares, denoising=denoising)
    vocabulary = shipped.vocabulary
    mixture = SceneMixture(
        stage.shares,
        vocabulary,
        shipped.codecs.text,
        codes,
        spoken,
        lengths=recipe.LENGTHS,
        answers=recipe.ANSWERS,
        augment=True,
    )
    world = World(device=device)
    objective = DenoisingObjective(backbone, vocabulary, mixture, stage.denoising, world)
    left = seconds - (time.monotonic() - began) - SAVING
    metrics = fit(objective, stage.loop, world, left, tiny, folder)
    notes(parameters=sum(p.numel() for p in backbone.parameters()), **metrics)
    if folder is not None:
        save(shipped, sizes, backbone, folder)


def fit(
    objective: DenoisingObjective,
    loop: LoopConfig,
    world: World,
    seconds: float,
    tiny: bool,
    folder: Path | None,
) -> dict[str, Any]:
    """Train as many steps as fit into `seconds`, at the pace of the first ones."""
    import tempfile

    began = time.monotonic()
    with tempfile.TemporaryDirectory() as scratch:
        first = TINY_STEPS if tiny else FIRST
        trainer = Trainer(
            objective, replace(loop, steps=first), Path(scratch, "first"), world=world
        )
        for _ in range(first // 2):
            trainer.advance()
        measured = time.monotonic()
        for _ in range(first - first // 2):
            trainer.advance()
        pace = (time.monotonic() - measured) / (first - first // 2)
        left = seconds - (time.monotonic() - began)
        steps = TINY_STEPS if tiny else max(1, math.floor(0.95 * left / pace))
        config = replace(loop, steps=steps, log_every=max(1, steps // 20), save_seconds=1e9)
        trainer = Trainer(objective, config, Path(scratch, "run"), world=world)
        rows: list[dict[str, float]] = []
        trainer.fit(lambda _, row: rows.append(row))
        objective.backbone.load_state_dict(trainer.weights())
    kept = ("loss", "seconds_per_step", "tokens", "data_wait_s")
    return {
        "steps": steps,
        "first_loss": rows[0]["loss"],
        "last": {name: value for name, value in rows[-1].items() if name in kept},
        "accuracy": {n.removesuffix("_accuracy"): v for n, v in rows[-1].items() if "_acc" in n},
    }


def scene_codes(codecs: CodecSuite, tiny: bool) -> SceneCodes:
    """The image tokens of every scene; tiny: those of a few, over and over."""
    every = scenes.every_scene()
    encoded = every[:TINY_SCENES] if tiny else every
    rows = []
    for start in range(0, len(encoded), 256):
        pictures = [scenes.render_scene(scene) for scene in encoded[start : start + 256]]
        rows.append(codecs.image.encode_batch(pictures, scenes.SIZE).cpu().to(torch.int16))
    codes = torch.cat(rows)
    return SceneCodes(codes.repeat(math.ceil(len(every) / len(codes)), 1)[: len(every)])


def recordings(tiny: bool) -> EncodedSpeech:
    """The training recordings as frames, and as codes where the answer voice speaks."""
    if tiny:
        return joined([encode(0, 1, True)])
    workers = min(ENCODERS, max(1, (os.cpu_count() or 2) - 1))
    with multiprocessing.get_context("spawn").Pool(workers) as pool:
        return joined(pool.starmap(encode, [(i, workers, False) for i in range(workers)]))


Encoded = list[tuple[str, str, str, Tensor, Tensor]]
"""Role, voice, text, frames and codes of lines."""


def encode(number: int, of: int, tiny: bool) -> Encoded:
    """Encode every `of`-th line, from the `number`-th on, at speeds that take turns."""
    torch.set_num_threads(1)
    codecs = OmniModel.open().codecs
    out: Encoded = []
    for folder in sorted(path for path in SPEECH.iterdir() if path.is_dir()):
        bank = Bank.open(folder)
        entries = few(bank) if tiny else bank.entries[number::of]
        for i, entry in enumerate(entries):
            wave = bank.recording(entry).waveform
            speed = SPEEDS[i % len(SPEEDS)]
            frames = codecs.hearing.encode(Waveform(wave.samples, round(wave.rate * speed)))
            said = entry.voice == ANSWER_VOICE
            codes = codecs.speech.encode(wave) if said else torch.zeros(0, dtype=torch.int64)
            out.append((entry.role, entry.voice, entry.text, frames, codes))
        if tiny:
            break
    return out


def few(bank: Bank) -> list[BankEntry]:
    """A question with its answer, and a caption in the answer voice."""
    held = {entry.text: entry for entry in bank.entries}
    facts = [fact for fact in scenes.facts() if {fact.text, fact.sentence} <= held.keys()]
    captions = (e for e in bank.entries if (e.role, e.voice) == ("caption", ANSWER_VOICE))
    return [held[facts[0].text], held[facts[0].sentence], next(captions)]


def joined(parts: list[Encoded]) -> EncodedSpeech:
    rows = [row for part in parts for row in part]
    lines = tuple(Utterance(i, r[0], "train", r[1], r[2]) for i, r in enumerate(rows))
    return EncodedSpeech(lines, tuple((r[3],) for r in rows), tuple(r[4] for r in rows))


def save(shipped: OmniModel, sizes: DreamConfig, backbone: Dream, folder: Path) -> None:
    """Write the model folder in float16, its weights in files that are small enough to carry."""
    config = replace(shipped.config, backbone=sizes)
    backbone.cpu()
    OmniModel(config, shipped.codecs, backbone).save(folder, torch.float16)
    weights.write_tensors(
        backbone.state_dict(),
        folder / BACKBONE_FILE,
        dtype=torch.float16,
        max_shard_bytes=FILE_BYTES,
    )
