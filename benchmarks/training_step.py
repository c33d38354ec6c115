"""FLOP rate of a training step at hidden size 512, as a fraction of the bfloat16 matmul rate.

    python -m benchmarks.training_step [--rounds 5] [--json FILE]

The matmul rate and the step are measured alternately, since other load slows both; fractions are
medians over the rounds. `share` is of wall-clock time. `share_of_cpu_seconds` is of the CPU time of
this process, with the time in which one thread waits for the other. `packed`: every row holds three
segments that do not attend to one another.
"""

from __future__ import annotations

import argparse
import json
import os
import time
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from statistics import median
from typing import Any

import torch
from torch import Tensor, nn
from torch.profiler import ProfilerActivity, profile

from omni_diffusion.backbone.config import DreamConfig
from omni_diffusion.backbone.dream import Dream
from omni_diffusion.io import files
from omni_diffusion.models.sizes import Work
from omni_diffusion.training.optim import OptimConfig, adamw
from omni_diffusion.training.throughput import training_flops

ROWS, LENGTH, MASKED, SEGMENTS = 16, 300, 0.35, 3
SIZES = DreamConfig(
    vocab_size=4096,
    hidden_size=512,
    num_layers=8,
    num_heads=8,
    num_kv_heads=4,
    head_dim=64,
    intermediate_size=1536,
    speech_dim=64,
    scale_residuals=True,
)
SIDE = 2048  # of the square matrices that measure the matmul rate
PRODUCTS = 6  # matrix products timed before and after a step
MATMULS = ("aten::mm", "aten::addmm", "aten::bmm")  # names in the profile
LISTED = 12  # other operations shown of the profile


class Step:
    """Repeats one optimizer step on the same batch."""

    def __init__(self, packed: bool) -> None:
        torch.manual_seed(0)
        self.model = Dream(SIZES).train()
        self.optimizer = adamw([self.model], OptimConfig())
        self.ids = torch.randint(0, SIZES.vocab_size, (ROWS, LENGTH))
        self.masked = torch.rand(ROWS, LENGTH) < MASKED
        segments = torch.arange(LENGTH) // (LENGTH // SEGMENTS) + 1
        self.segments = segments.expand(ROWS, LENGTH) if packed else None
        self.flops = training_flops(SIZES, Work(ROWS * LENGTH, LENGTH, int(self.masked.sum())))

    def parts(self) -> Iterator[str]:
        """Run a step, and yield the name of each part after it."""
        with torch.autocast("cpu", torch.bfloat16):
            logits = self.model(self.ids, segments=self.segments, logits_at=self.masked)
        loss = nn.functional.cross_entropy(logits.float(), self.ids[self.masked])
        yield "forward"
        loss.backward()
        yield "backward"
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        yield "adamw"


def now() -> Tensor:
    """Wall-clock seconds, and CPU seconds of all threads."""
    return torch.tensor([time.perf_counter(), time.process_time()], dtype=torch.float64)


class Round:
    """A step between two series of matrix products, timed with `now`."""

    def __init__(self, step: Step, a: Tensor) -> None:
        before = products(a)
        start = last = now()
        self.seconds: dict[str, float] = {}
        for part in step.parts():
            self.seconds[part] = float((now() - last)[0])
            last = now()
        spent = last - start
        product = (before + products(a)) / 2
        self.matmul = float(2 * SIDE**3 / product[0])  # FLOPs a second
        self.tokens = ROWS * LENGTH / float(spent[0])
        share = step.flops / spent / (2 * SIDE**3 / product)
        self.share, self.cpu_share = share.tolist()


def products(a: Tensor) -> Tensor:
    """Mean times of a square matrix product."""
    start = now()
    for _ in range(PRODUCTS):
        a @ a
    return (now() - start) / PRODUCTS


def measure(threads: int, packed: bool, count: int) -> dict[str, Any]:
    """Medians over the rounds, as JSON values."""
    torch.set_num_threads(threads)
    step, a = Step(packed), torch.randn(SIDE, SIDE).bfloat16()
    Round(step, a)
    rounds = [Round(step, a) for _ in range(count)]
    shares = sorted(one.share for one in rounds)
    return {
        "threads": threads,
        "packed": packed,
        "step_gflop": round(step.flops / 1e9, 1),
        "matmul_gflops": round(median(one.matmul for one in rounds) / 1e9, 1),
        "seconds": {
            part: round(median(one.seconds[part] for one in rounds), 3)
            for part in rounds[0].seconds
        },
        "tokens_per_second": round(median(one.tokens for one in rounds)),
        "share": round(median(shares), 3),
        "shares": [round(share, 3) for share in shares],
        "share_of_cpu_seconds": round(median(one.cpu_share for one in rounds), 3),
        "load": round(os.getloadavg()[0], 1),
        "profile": profiled(step),
    }


def profiled(step: Step) -> dict[str, float]:
    """Fractions of a step's CPU time: all matrix products, then the largest others."""
    with profile(activities=[ProfilerActivity.CPU]) as trace:
        list(step.parts())
    times = {event.key: event.self_cpu_time_total for event in trace.key_averages()}
    total = sum(times.values())
    multiplied = sum(times.pop(name, 0.0) for name in MATMULS)
    rest = sorted(times.items(), key=lambda item: -item[1])[:LISTED]
    return {"matrix products": round(multiplied / total, 3)} | {
        name: round(value / total, 3) for name, value in rest
    }


def processor() -> str:
    lines = Path("/proc/cpuinfo").read_text().splitlines()
    return next((line.partition(":")[2].strip() for line in lines if "model name" in line), "?")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--json", type=Path, default=Path("benchmarks/results/training-step.json"))
    options = parser.parse_args()
    results: dict[str, Any] = {
        "processor": processor(),
        "torch": torch.__version__,
        "sizes": asdict(SIZES),
        "rows": ROWS,
        "length": LENGTH,
        "masked": MASKED,
        "rounds": options.rounds,
        "runs": [],
    }
    for packed in (False, True):
        for threads in (1, 2):
            run = measure(threads, packed, options.rounds)
            results["runs"].append(run)
            print({name: run[name] for name in run if name != "profile"}, flush=True)
            files.write_text(options.json, json.dumps(results, indent=1) + "\n")


if __name__ == "__main__":
    main()
