"""How much of a machine a training step uses: its matrix products against the fastest ones here.

FLOPs are counted from a config's sizes, two for each multiply-add of a matrix product; whatever
else a step does takes time and counts nothing. Trains nothing.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from functools import cache
from statistics import median

import torch

from omni_diffusion.backbone.config import DreamConfig

SIDES = {"cpu": 2048}  # of the square matrices that are timed: large enough to be at the peak
SIDE_ELSEWHERE = 8192
REPEATS = 9


@dataclass(frozen=True)
class Work:
    """What a step's forward pass goes over, as it is computed, padding and all.

    places: L times B, of rows of L places. length: L. wanted: places that pass the head, the
    masked ones. frames: speech frames that pass the adapter.
    """

    places: int
    length: int
    wanted: int
    frames: int = 0


def block_flops(config: DreamConfig, work: Work) -> int:
    """FLOPs of all blocks going forward: projections, feed-forward and attention.

    Every place attends to all of its row: segments hide places, they do not save the products.
    """
    queries = config.num_heads * config.head_dim
    keys = config.num_kv_heads * config.head_dim
    projections = config.hidden_size * (2 * queries + 2 * keys)
    feed_forward = 3 * config.hidden_size * config.intermediate_size
    attention = 2 * queries * work.length  # scores, and the mix of values
    return 2 * config.num_layers * work.places * (projections + feed_forward + attention)


def forward_flops(config: DreamConfig, work: Work) -> int:
    """FLOPs of one forward pass: blocks, head on the wanted places, adapter on the frames."""
    head = work.wanted * config.hidden_size * config.vocab_size
    adapter = work.frames * config.hidden_size * (config.speech_dim + config.hidden_size)
    return block_flops(config, work) + 2 * (head + adapter)


def training_flops(
    config: DreamConfig, work: Work, *, checkpointing: bool = False, frozen: bool = False
) -> int:
    """FLOPs of a step: forward, and going back once for what was computed, once for the weights.

    checkpointing: the blocks go forward once more. frozen: the weights have no gradients, as under
    LoRA, whose own small products are not counted.
    """
    again = block_flops(config, work) if checkpointing else 0
    return (2 if frozen else 3) * forward_flops(config, work) + again


def matmul_peak(
    device: torch.device | str = "cpu",
    dtype: torch.dtype = torch.bfloat16,
    threads: int | None = None,
) -> float:
    """FLOPs a second of large square matrix products, measured once per process.

    The median of a few. threads: of the CPU, None = as many as torch has now. Leaves the random
    state and the number of threads as they were.
    """
    return _peak(torch.device(device), dtype, threads or torch.get_num_threads())


@cache
def _peak(device: torch.device, dtype: torch.dtype, threads: int) -> float:
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        return _measured(device, dtype)
    finally:
        torch.set_num_threads(before)


def _measured(device: torch.device, dtype: torch.dtype) -> float:
    side = SIDES.get(device.type, SIDE_ELSEWHERE)
    generator = torch.Generator(device).manual_seed(0)
    a = torch.randn(side, side, generator=generator, device=device).to(dtype)
    seconds = []
    for _ in range(REPEATS):
        _wait(device)
        start = time.perf_counter()
        a @ a
        _wait(device)
        seconds.append(time.perf_counter() - start)
    return 2 * side**3 / median(seconds)


def _wait(device: torch.device) -> None:
    if device.type != "cpu":
        torch.accelerator.synchronize(device)


@dataclass(frozen=True)
class Meter:
    """Turns what was done in some seconds into rates; peak: FLOPs a second, see `matmul_peak`."""

    peak: float

    def figures(self, *, tokens: float, flops: float, seconds: float) -> dict[str, float]:
        """tokens_per_second, flops_per_second, and peak_share: the latter's share of the peak."""
        rate = flops / seconds
        return {
            "tokens_per_second": tokens / seconds,
            "flops_per_second": rate,
            "peak_share": rate / self.peak,
        }
