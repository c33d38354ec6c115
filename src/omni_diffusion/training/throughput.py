"""FLOPs of a training step, and model FLOPs utilization (MFU) against the matmul rate."""

from __future__ import annotations

from dataclasses import dataclass

from omni_diffusion.backbone.config import DreamConfig
from omni_diffusion.models.sizes import Work, block_flops, forward_flops


def training_flops(
    config: DreamConfig, work: Work, *, gradient_checkpointing: bool = False, frozen: bool = False
) -> int:
    """FLOPs of forward and backward, which costs one pass for activations and one for weights.

    gradient_checkpointing: the blocks run forward a second time. frozen: weights have no gradients,
    as with LoRA, whose own small products are not counted.
    """
    recomputed = block_flops(config, work) if gradient_checkpointing else 0
    return (2 if frozen else 3) * forward_flops(config, work) + recomputed


@dataclass(frozen=True)
class ThroughputMeter:
    """Turns counts into rates. peak: FLOPs per second of the machine, see `sizes.matmul_peak`."""

    peak: float

    def metrics(self, *, tokens: float, flops: float, seconds: float) -> dict[str, float]:
        """tokens_per_second, flops_per_second, and mfu = flops_per_second / peak."""
        rate = flops / seconds
        return {
            "tokens_per_second": tokens / seconds,
            "flops_per_second": rate,
            "mfu": rate / self.peak,
        }
