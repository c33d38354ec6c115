"""The report of `omni-diffusion doctor`: what is here, what fits in memory, and how long it takes.

Sizes and times are estimates. Only the rate of matrix products is measured.
"""

from __future__ import annotations

import importlib.util
import json
import os
import platform
from dataclasses import dataclass, replace
from pathlib import Path
from typing import get_args

import torch
from rich.table import Table

from omni_diffusion.backbone.config import DreamConfig
from omni_diffusion.backbone.quantization import Quantization
from omni_diffusion.codecs.glm_voice.codec import CONFIG_FILE as SPEECH_CONFIG
from omni_diffusion.codecs.glm_voice.codec import GlmVoiceConfig
from omni_diffusion.codecs.suite import SPEECH_FOLDER, SuiteConfig
from omni_diffusion.io import config as configs
from omni_diffusion.io import memory
from omni_diffusion.models import upstream
from omni_diffusion.models.dtypes import DtypeChoice, compute_dtype
from omni_diffusion.models.files import ModelFile, is_ours
from omni_diffusion.models.omni import SMALL_MODEL, read_config, read_dtype
from omni_diffusion.models.sizes import (
    MAX_TRAINING_LENGTH,
    ModelSize,
    TrainingMethod,
    Work,
    forward_bytes,
    forward_flops,
    matmul_peak,
    model_size,
    training_bytes,
)
from omni_diffusion.models.upstream import CodecSources

EXTRAS = {  # what each optional library is for, and what installs it
    "faster_whisper": ("judging speech in `eval`", "pip install omni-diffusion[eval]"),
    "jiwer": ("word errors in `eval`", "pip install omni-diffusion[eval]"),
    "huggingface_hub": ("opening a model by its hub id", "pip install huggingface_hub"),
    "transformers": ("AutoModel and AutoProcessor", "pip install omni-diffusion[hub]"),
    "pyarrow": ("pretokenized shards, corpora in parquet", "pip install omni-diffusion[data]"),
    "tensorboard": ("training seen in TensorBoard", "pip install omni-diffusion[tensorboard]"),
    "peft": ("training with LoRA", "pip install omni-diffusion[lora]"),
    "diffusers": ("the diffusers pipeline", "pip install omni-diffusion[diffusers]"),
}
MATMUL_SIDE = 512  # of the timed matrices: the report shall not wait for larger ones


def official_size(dtype: DtypeChoice = None, quantization: Quantization | None = None) -> ModelSize:
    """The size of the published model; `dtype`: of backbone and projector, None = bfloat16.

    quantization: as in `OmniModel.from_pretrained`.
    """
    configs = (DreamConfig.dream_7b(), SuiteConfig.official(), GlmVoiceConfig.official())
    return model_size(*configs, compute_dtype(dtype, torch.bfloat16), quantization)


def folder_size(
    folder: Path | None = None,
    dtype: DtypeChoice = None,
    quantization: Quantization | None = None,
    codec_sources: CodecSources | None = None,
) -> ModelSize:
    """The size of the model in a folder, in our layout or a published one, from its configs only.

    dtype: see `models.dtypes`; None = as it opens by default. codec_sources: of a published folder.
    Raises ModelError if there is no model, and ConfigError.
    """
    folder = SMALL_MODEL if folder is None else Path(folder)
    if not is_ours(folder):
        published = upstream.read_configs(folder, codec_sources or CodecSources())
        return model_size(
            published.backbone,
            published.codecs,
            published.voice,
            compute_dtype(dtype, published.dtype),
            quantization,
        )
    config = read_config(folder)
    voice = configs.load(GlmVoiceConfig, folder / SPEECH_FOLDER / SPEECH_CONFIG)
    chosen = compute_dtype(dtype, read_dtype(folder))
    return model_size(config.backbone, config.codecs, voice, chosen, quantization)


def typical_canvases(size: ModelSize) -> dict[str, tuple[int, int]]:
    """By task, the tokens of a typical canvas, and how many of them are masked.

    A sentence for an image or about one; five seconds of speech as input or answer.
    """
    made, seen = size.generation_tokens, size.understanding_tokens
    return {"t2i": (made + 64, made), "vqa": (seen + 96, 64), "asr": (160, 32), "tts": (160, 120)}


def seconds(size: ModelSize, tokens: int, masked: int, rate: float) -> float:
    """Seconds of an answer at `rate` FLOPs per second, with one step for each masked token.

    Each step counts the logits of all `masked` tokens, which is an upper bound.
    """
    return masked * forward_flops(size.backbone, Work(tokens, tokens, masked)) / rate


def machine_info(device: torch.device) -> list[tuple[str, str]]:
    """Names and values of what computes here."""
    free = memory.free_on(device)
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else platform.machine()
    attention = "fused kernel" if device.type == "cuda" else "fused kernel, plain under bfloat16"
    return [
        ("python", platform.python_version()),
        ("torch", torch.__version__),
        ("device", f"{device} ({name}, {os.cpu_count()} cores)"),
        ("free memory", "unknown" if free is None else human_bytes(free)),
        ("attention", attention),
    ]


def extras_info() -> list[tuple[str, str]]:
    """Optional libraries: installed, or what they are for and how to install them."""
    rows = []
    for name, (purpose, command) in EXTRAS.items():
        installed = importlib.util.find_spec(name) is not None
        rows.append((name, "installed" if installed else f"missing, for {purpose}: {command}"))
    return rows


@dataclass(frozen=True)
class Diagnosis:
    """The whole report.

    free: free bytes of the device, None if unknown. needed: by use, bytes with all weights
    (training: with the backbone's only). rate: FLOPs per second, measured. expected: by task,
    seconds at that rate; other operations take longer.
    """

    size: ModelSize
    machine: list[tuple[str, str]]
    extras: list[tuple[str, str]]
    files: list[ModelFile]
    free: int | None
    needed: dict[str, int]
    rate: float
    expected: dict[str, float]

    def fits(self, use: str) -> bool | None:
        """Whether the device has room for a use now; None if unknown."""
        return None if self.free is None else self.needed[use] <= self.free

    def as_json(self) -> str:
        """The text of a JSON file: parameters and bytes of each component, and the rest."""
        components: dict[str, object] = {
            name: {"parameters": part.parameters, "bytes": part.bytes}
            for name, part in self.size.components.items()
        }
        report = components | {
            "machine": dict(self.machine),
            "extras": dict(self.extras),
            "files": {file.name: {"bytes": file.bytes, "note": file.note} for file in self.files},
            "missing": [file.name for file in self.files if file.bytes is None],
            "free_bytes": self.free,
            "needed_bytes": self.needed,
            "operations_a_second": self.rate,
            "expected_seconds": self.expected,
        }
        return json.dumps(report, indent=2) + "\n"


def diagnose(size: ModelSize, device: torch.device, files: list[ModelFile]) -> Diagnosis:
    """Estimate memory and time of the model, and measure the rate of matrix products."""
    canvases = typical_canvases(size)
    needed = {
        f"{task}, batch {batch}": size.bytes + forward_bytes(size, *canvas, batch)
        for task, canvas in canvases.items()
        for batch in (1, 8)
    }
    tokens = min(MAX_TRAINING_LENGTH, size.backbone.max_positions)
    methods: tuple[TrainingMethod, ...] = get_args(TrainingMethod)
    trained = replace(size, dtype=torch.float32)  # training opens every folder in float32
    needed |= {f"training, {m}": training_bytes(trained, m, tokens) for m in methods}
    rate = matmul_peak(device, size.dtype, side=MATMUL_SIDE)
    expected = {task: seconds(size, *canvas, rate) for task, canvas in canvases.items()}
    machine, extras = machine_info(device), extras_info()
    return Diagnosis(size, machine, extras, files, memory.free_on(device), needed, rate, expected)


def report_tables(report: Diagnosis) -> list[Table]:
    """The report as tables to print."""
    environment = _table("environment", "", "")
    for name, value in (*report.machine, *report.extras):
        environment.add_row(name, value)
    model = _table("the model", "part", "parameters", "in memory")
    components = report.size.components
    for name, part in components.items():
        model.add_row(name, f"{part.parameters:,}", human_bytes(part.bytes))
    total = sum(part.parameters for part in components.values())
    model.add_row("all", f"{total:,}", human_bytes(report.size.bytes))
    room = _table("does it fit (estimated)", "use", "needs", "fits")
    words = {True: "yes", False: "no", None: "unknown"}
    for use, size in report.needed.items():
        room.add_row(use, human_bytes(size), words[report.fits(use)])
    clock = _table("how long (estimated)", "task", "seconds")
    for task, estimate in report.expected.items():
        clock.add_row(task, f"{estimate:,.2f}")
    clock.caption = f"at {report.rate / 1e9:,.0f} GFLOP/s, measured now; other operations add to it"
    return [environment, model, room, clock]


def files_table(files: list[ModelFile]) -> Table:
    """The files of a model, and how to get the missing ones."""
    table = _table("files", "file", "size", "")
    for file in files:
        size = "" if file.bytes is None else human_bytes(file.bytes)
        table.add_row(file.name, size, file.note)
    return table


def _table(title: str, *columns: str) -> Table:
    table = Table(title=title, title_justify="left", show_header=any(columns))
    for column in columns:
        table.add_column(column)
    return table


def human_bytes(size: float) -> str:
    """Bytes in GiB, MiB or KiB."""
    for unit, scale in (("GiB", 2**30), ("MiB", 2**20)):
        if size >= scale:
            return f"{size / scale:.1f} {unit}"
    return f"{size / 2**10:.1f} KiB"
