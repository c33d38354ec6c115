"""Weights in 8 and 4 bits on this CPU: memory, seconds, agreement and scores of the small model.

    python -m benchmarks.quantization [--samples 50] [--tasks caption,vqa,t2i] [--json FILE]

Every format answers the same requests; agreement is the part of the answers' tokens that equal
those of float32. A block of the 7B shape is timed alone with random weights (`--no-block` leaves it
out). Times are CPU seconds of all threads, which other load changes less than the clock.
"""

from __future__ import annotations

import argparse
import json
import os
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from statistics import median
from typing import Any

import torch
from benchmarks.full_size import processor
from benchmarks.gpu_parts import agreement, requests_of_the_small_model
from torch import nn

from omni_diffusion.backbone.config import DreamConfig
from omni_diffusion.backbone.dream import Dream
from omni_diffusion.backbone.quantization import Quantization, quantize
from omni_diffusion.canvas import Canvas
from omni_diffusion.engine.engine import Engine
from omni_diffusion.io import files
from omni_diffusion.mini.evaluate import evaluate
from omni_diffusion.models.omni import OmniModel

FORMATS: dict[str, tuple[torch.dtype, Quantization | None]] = {
    "float32": (torch.float32, None),
    "bfloat16": (torch.bfloat16, None),
    "int8": (torch.float32, "int8"),
    "int4": (torch.float32, "int4"),
}
REQUESTS = 16
TOKENS = {"speech": 70, "picture": 320}  # of a pass of the 7B block


def bytes_of(module: nn.Module) -> int:
    return sum(tensor.nbytes for tensor in (*module.parameters(), *module.buffers()))


def small_model(
    name: str, expected: list[Canvas | None] | None, samples: int, tasks: list[str]
) -> tuple[dict[str, Any], list[Canvas | None]]:
    """The figures of one format of the small model, and its answers."""
    dtype, how = FORMATS[name]
    model = OmniModel.open(dtype=dtype, quantization=how)
    start = time.process_time()
    answers = [r.canvas for r in Engine(model).run(requests_of_the_small_model(REQUESTS))]
    row: dict[str, Any] = {
        "blocks_mb": round(bytes_of(model.backbone.model.layers) / 1e6, 2),
        "cpu_seconds": round((time.process_time() - start) / REQUESTS, 3),
        "agreement": round(agreement(answers, expected or answers), 4),
    }
    if samples:
        results = evaluate(model, samples=samples, tasks=tasks)
        row["scores"] = {
            task: {key: round(result[key], 4) for key in ("value", "stderr", "n")}  # type: ignore[literal-required]
            for task, result in results.items()
        }
    return row, answers


def block_seconds(name: str) -> dict[str, float]:
    """CPU seconds of a pass through one block of the 7B shape, and its bytes."""
    dtype, how = FORMATS[name]
    config = replace(DreamConfig.dream_7b(), vocab_size=64, num_layers=1)
    backbone = Dream(config).to(dtype).eval()
    if how is not None:
        quantize(backbone, how)
    row = {"gb": round(bytes_of(backbone.model.layers) / 1e9, 3)}
    for kind, tokens in TOKENS.items():
        ids = torch.arange(tokens)[None] % 64
        row[f"{kind}_s"] = round(cpu_seconds(lambda ids=ids: backbone.hidden(ids)), 3)
    return row


@torch.no_grad()
def cpu_seconds(work: Callable[[], Any], runs: int = 3) -> float:
    times = []
    for _ in range(runs):
        start = time.process_time()
        work()
        times.append(time.process_time() - start)
    return median(times)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--samples", type=int, default=50, help="of each task; 0 = no scores")
    parser.add_argument("--tasks", default="caption,vqa,t2i")
    parser.add_argument("--formats", default=",".join(FORMATS), help="float32 comes first")
    parser.add_argument("--block", action=argparse.BooleanOptionalAction, default=True)
    parser.add_argument("--json", type=Path, default=Path("benchmarks/results/quantization.json"))
    given = parser.parse_args()
    results: dict[str, Any] = {
        "processor": processor(),
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
        "load": round(os.getloadavg()[0], 1),
        "requests": REQUESTS,
        "small_model": {},
        "block_7b": {},
    }
    expected: list[Canvas | None] | None = None
    for name in given.formats.split(","):
        row, answers = small_model(name, expected, given.samples, given.tasks.split(","))
        expected = expected or answers
        results["small_model"][name] = row
        if given.block:
            results["block_7b"][name] = block_seconds(name)
        print(json.dumps({name: row, "block": results["block_7b"].get(name)}), flush=True)
        files.write_text(given.json, json.dumps(results, indent=1) + "\n")


if __name__ == "__main__":
    main()
