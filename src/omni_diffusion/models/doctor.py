"""What is here, what fits, and how long it would take: the report of `omni-diffusion doctor`.

Sizes come from modules on the meta device, which take no memory, so that the published model is
reckoned without its weights. Estimates say what they are made of; the only thing measured is the
rate of matrix products.
"""

from __future__ import annotations

import importlib.util
import json
import os
import platform
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from rich.table import Table

from omni_diffusion.backbone.config import DreamConfig
from omni_diffusion.backbone.quantization import Quantization, bytes_saved
from omni_diffusion.codecs.glm_voice.codec import CONFIG_FILE as SPEECH_CONFIG
from omni_diffusion.codecs.glm_voice.codec import GlmVoiceConfig
from omni_diffusion.codecs.suite import SPEECH_FOLDER, SuiteConfig
from omni_diffusion.errors import ModelError
from omni_diffusion.io import config as configs
from omni_diffusion.io import memory
from omni_diffusion.models import upstream
from omni_diffusion.models.files import Entry, is_ours
from omni_diffusion.models.omni import SHIPPED, config_at
from omni_diffusion.models.upstream import Parts, parameters

EXTRAS = {  # what each optional library is for, and what installs it
    "faster_whisper": ("judging speech in `eval`", "pip install omni-diffusion[eval]"),
    "jiwer": ("word errors in `eval`", "pip install omni-diffusion[eval]"),
    "huggingface_hub": ("opening a model by its hub id", "pip install huggingface_hub"),
    "transformers": ("AutoModel and AutoProcessor", "pip install omni-diffusion[hub]"),
    "pyarrow": ("pretokenized shards, corpora in parquet", "pip install omni-diffusion[data]"),
    "tensorboard": ("training seen in TensorBoard", "pip install omni-diffusion[tensorboard]"),
    "peft": ("training with LoRA", "pip install omni-diffusion[lora]"),
    "torchao": ("weights of 8 bits", "pip install omni-diffusion[quant]"),
    "diffusers": ("the diffusers pipeline", "pip install omni-diffusion[diffusers]"),
}
STAGE_PLACES = 3072  # the longest training row of the paper
LORA_RANK = 16


@dataclass(frozen=True)
class Part:
    """One part of a model: parameters, and the bytes that they take in memory."""

    parameters: int
    bytes: int


@dataclass(frozen=True)
class Sizes:
    """What a model is made of: its parts by name, the backbone's sizes and its numbers' type.

    seen, made: codes of a picture that is looked at, and of one that is painted.
    """

    parts: Mapping[str, Part]
    backbone: DreamConfig
    dtype: torch.dtype
    seen: int
    made: int

    @property
    def canvases(self) -> dict[str, tuple[int, int]]:
        """By task, the places of a usual canvas, and of those the blanks.

        A sentence to paint or about a picture; five seconds of speech heard or spoken.
        """
        return {
            "t2i": (self.made + 64, self.made),
            "vqa": (self.seen + 96, 64),
            "asr": (160, 32),
            "tts": (160, 120),
        }

    @property
    def bytes(self) -> int:
        """All parts together."""
        return sum(part.bytes for part in self.parts.values())


def official(
    dtype: torch.dtype = torch.bfloat16, quantization: Quantization | None = None
) -> Sizes:
    """The published model; `dtype` is that of backbone and projector, codecs are in float32.

    quantization: as `OmniModel.from_pretrained` takes it.
    """
    parts = (DreamConfig.dream_7b(), SuiteConfig.official(), GlmVoiceConfig.official())
    return _sizes(*parts, dtype, quantization)


def folder(
    path: Path | None = None,
    dtype: torch.dtype | None = None,
    quantization: Quantization | None = None,
    parts: Parts | None = None,
) -> Sizes:
    """The model of a folder, ours or a published one, by its configs alone.

    dtype: None = as it opens by default. parts: a published folder's. Raises ModelError where
    there is no model, ConfigError.
    """
    path = SHIPPED if path is None else Path(path)
    if not is_ours(path):
        told = upstream.told(path, parts or Parts())
        return _sizes(told.backbone, told.codecs, told.voice, dtype or told.dtype, quantization)
    found = config_at(path)
    dtype = dtype or torch.float32
    voice = configs.load(GlmVoiceConfig, path / SPEECH_FOLDER / SPEECH_CONFIG)
    return _sizes(found.backbone, found.codecs, voice, dtype, quantization)


def _sizes(
    backbone: DreamConfig,
    codecs: SuiteConfig,
    voice: GlmVoiceConfig,
    dtype: torch.dtype,
    quantization: Quantization | None,
) -> Sizes:
    own = ("backbone", "speech_projector")  # what has the backbone's dtype
    parts = {
        name: Part(count, count * (dtype if name in own else torch.float32).itemsize)
        for name, count in parameters(backbone, codecs, voice).items()
    }
    if quantization is not None:
        whole = parts["backbone"]
        saved = bytes_saved(backbone, dtype)
        parts["backbone"] = Part(whole.parameters, whole.bytes - saved)
    image = codecs.image
    seen, made = image.tokens(image.understanding_size), image.tokens(image.generation_size)
    return Sizes(parts, backbone, dtype, seen, made)


# ------------------------------------------------------------------------------------ estimates
def answering(sizes: Sizes, places: int, blanks: int, batch: int = 1) -> int:
    """Bytes of one forward pass of `batch` rows beside the weights.

    Hidden states and the widest layer's products, and the blanks' logits with a float32 copy.
    """
    one, size = sizes.backbone, sizes.dtype.itemsize
    hidden = places * (6 * one.hidden_size + 2 * one.intermediate_size) * size
    return batch * (hidden + blanks * one.vocab_size * (size + 4))


def training(sizes: Sizes, how: str, places: int = STAGE_PLACES) -> int:
    """Bytes of one training step with a row of `places`, codecs left out (codes are made before).

    full: weights, gradients in their type, a float32 copy and AdamW's two moments. lora, qlora:
    the backbone frozen in its type, or in 4 bits, and rank-16 factors of all projections trained.
    Activations are checkpointed: each layer's input, one layer in full, and the places' logits.
    """
    one, size = sizes.backbone, sizes.dtype.itemsize
    count = sizes.parts["backbone"].parameters + sizes.parts["speech_projector"].parameters
    heads = (one.num_heads + 2 * one.num_kv_heads) * one.head_dim
    widths = 2 * one.hidden_size + heads + one.num_heads * one.head_dim  # q, k, v and o
    widths += 3 * (one.hidden_size + one.intermediate_size)
    factors = one.num_layers * LORA_RANK * (widths + 2 * one.hidden_size)
    weights = {
        "full": count * (2 * size + 12),
        "lora": count * size + factors * 16,
        "qlora": count // 2 + factors * 16,
    }
    if how not in weights:
        raise ModelError(f"no training is called {how!r}; give one of {', '.join(weights)}")
    kept = one.num_layers * places * one.hidden_size * size
    layer = places * (10 * one.hidden_size + 4 * one.intermediate_size) * size
    return weights[how] + kept + layer + places // 2 * one.vocab_size * (size + 8)


def seconds(sizes: Sizes, places: int, steps: int, rate: float) -> float:
    """Seconds of `steps` forward passes at `rate` operations a second, two for each weight."""
    count = sizes.parts["backbone"].parameters - sizes.backbone.vocab_size * (
        sizes.backbone.hidden_size
    )  # looking an embedding up costs nothing
    return 2 * count * places * steps / rate


def measured_rate(device: torch.device, dtype: torch.dtype, size: int = 512) -> float:
    """Operations a second of square matrix products here, for about 0.2 s."""
    left = torch.randn(size, size, device=device, dtype=dtype)
    made, spent = 0, 0.0
    _ = left @ left
    _wait(device)
    began = time.perf_counter()
    while spent < 0.2:
        _ = left @ left
        _wait(device)
        made, spent = made + 1, time.perf_counter() - began
    return 2 * size**3 * made / spent


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


# -------------------------------------------------------------------------------------- machine
def machine(device: torch.device) -> list[tuple[str, str]]:
    """What computes here, as names and values."""
    free = memory.free_on(device)
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else platform.machine()
    attention = "fused kernel" if device.type == "cuda" else "fused kernel, plain under bfloat16"
    return [
        ("python", platform.python_version()),
        ("torch", torch.__version__),
        ("device", f"{device} ({name}, {os.cpu_count()} cores)"),
        ("free memory", "not told" if free is None else human(free)),
        ("attention", attention),
    ]


def extras() -> list[tuple[str, str]]:
    """Optional libraries: there, or what they are for and how to get them."""
    found = []
    for name, (purpose, how) in EXTRAS.items():
        there = importlib.util.find_spec(name) is not None
        found.append((name, "there" if there else f"missing, for {purpose}: {how}"))
    return found


@dataclass(frozen=True)
class Diagnosis:
    """The whole report. Bytes and seconds; None where the system does not tell.

    needed: by what is done, the bytes that it takes with all weights (training: with the
    backbone's alone). expected: by task, seconds at `rate` operations a second, which is an upper
    bound on the speed, for it leaves out all that is no matrix product.
    """

    sizes: Sizes
    machine: list[tuple[str, str]]
    extras: list[tuple[str, str]]
    files: list[Entry]
    free: int | None
    needed: dict[str, int]
    rate: float
    expected: dict[str, float]

    def fits(self, what: str) -> bool | None:
        """Whether there is room for it now."""
        return None if self.free is None else self.needed[what] <= self.free

    def as_json(self) -> dict[str, object]:
        """Parts by name, each with parameters and bytes, and the rest beside them."""
        parts: dict[str, object] = {
            name: {"parameters": part.parameters, "bytes": part.bytes}
            for name, part in self.sizes.parts.items()
        }
        return parts | {
            "machine": dict(self.machine),
            "extras": dict(self.extras),
            "files": {each.name: {"bytes": each.bytes, "note": each.note} for each in self.files},
            "missing": [each.name for each in self.files if each.bytes is None],
            "free_bytes": self.free,
            "needed_bytes": self.needed,
            "operations_a_second": self.rate,
            "expected_seconds": self.expected,
        }


def examine(sizes: Sizes, device: torch.device, found: list[Entry]) -> Diagnosis:
    """Reckon what the model needs, and measure how fast products are on the device."""
    needed = {
        f"{task}, batch {batch}": sizes.bytes + answering(sizes, *canvas, batch)
        for task, canvas in sizes.canvases.items()
        for batch in (1, 8)
    }
    places = min(STAGE_PLACES, sizes.backbone.max_positions)
    needed |= {
        f"training, {how}": training(sizes, how, places) for how in ("full", "lora", "qlora")
    }
    rate = measured_rate(device, sizes.dtype)
    expected = {
        task: seconds(sizes, canvas, blanks, rate)
        for task, (canvas, blanks) in sizes.canvases.items()
    }
    return Diagnosis(
        sizes, machine(device), extras(), found, memory.free_on(device), needed, rate, expected
    )


def text_of(found: Diagnosis) -> str:
    """The report as a JSON file's text."""
    return json.dumps(found.as_json(), indent=2) + "\n"


def tables(found: Diagnosis) -> list[Table]:
    """The report to look at."""
    here = _table("here", "", "")
    for name, value in (*found.machine, *found.extras):
        here.add_row(name, value)
    parts = _table("the model", "part", "parameters", "in memory")
    for name, part in found.sizes.parts.items():
        parts.add_row(name, f"{part.parameters:,}", human(part.bytes))
    parts.add_row(
        "all",
        f"{sum(p.parameters for p in found.sizes.parts.values()):,}",
        human(found.sizes.bytes),
    )
    room = _table("does it fit (estimated)", "to do", "needs", "fits")
    words = {True: "yes", False: "no", None: "not told"}
    for what, size in found.needed.items():
        room.add_row(what, human(size), words[found.fits(what)])
    clock = _table("how long (estimated)", "to do", "seconds")
    for task, took in found.expected.items():
        clock.add_row(task, f"{took:,.2f}")
    clock.caption = f"at {found.rate / 1e9:,.0f} GFLOP/s, measured here just now; other work adds"
    return [here, parts, room, clock]


def inventory(files: list[Entry]) -> Table:
    """What is there of a model, and how to get what is not."""
    table = _table("its files", "file", "size", "")
    for each in files:
        table.add_row(each.name, "" if each.bytes is None else human(each.bytes), each.note)
    return table


def _table(title: str, *columns: str) -> Table:
    table = Table(title=title, title_justify="left", show_header=any(columns))
    for column in columns:
        table.add_column(column)
    return table


def human(size: float) -> str:
    """Bytes in GiB, MiB or KiB."""
    for unit, scale in (("GiB", 2**30), ("MiB", 2**20)):
        if size >= scale:
            return f"{size / scale:.1f} {unit}"
    return f"{size / 2**10:.1f} KiB"
