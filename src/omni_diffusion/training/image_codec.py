"""Training the picture tokenizer on scenes of the small world: an `Objective` for the loop.

Reconstruction, commitment and entropy are the lookup-free quantizer's usual losses (MAGVIT-v2,
Yu et al. 2023). One term is ours: a sprite should keep its codes whatever stands beside it, since
codes that depend on the neighbourhood are needlessly hard to predict from words.
"""

from __future__ import annotations

import random
from dataclasses import dataclass, replace

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from omni_diffusion.codecs.magvit2 import Magvit2, pixels_of
from omni_diffusion.data import world


@dataclass(frozen=True)
class ImageCodecConfig:
    """Batch and loss weights."""

    batch: int = 32
    entropy: float = 0.03
    commit: float = 0.05
    steady: float = 0.1
    steady_from: int = 500  # steps; earlier it would pull all codes together
    temperature: float = 1.0  # of the soft code assignment whose entropy is measured


def entropies(z: Tensor, temperature: float) -> tuple[Tensor, Tensor]:
    """Mean entropy of the soft assignment and entropy of the mean, in nats, over all 2**bits codes.

    `z` [B, bits, h, w]. Bits are independent given z, so the first is a sum over bits; the second
    needs the joint distribution, [places, 2**bits], which small codebooks afford.
    """
    flat = z.movedim(1, -1).reshape(-1, z.shape[1])  # [N, bits]
    logits = 4 * flat / temperature  # difference of the two squared distances
    on = torch.sigmoid(logits)
    each = (F.softplus(logits) - on * logits).sum(1).mean()
    joint = flat.new_ones(flat.shape[0], 1)
    for bit in range(z.shape[1]):
        p = on[:, bit : bit + 1]
        joint = torch.cat([joint * (1 - p), joint * p], dim=1)
    mean = joint.mean(0).clamp_min(1e-9)
    return each, -(mean * mean.log()).sum()


class ImageCodecObjective:
    """The tokenizer's loss on fresh scenes; every second scene shares its first sprite."""

    def __init__(self, codec: Magvit2, config: ImageCodecConfig) -> None:
        self.codec, self.config = codec, config

    @property
    def module(self) -> nn.Module:
        """The tokenizer."""
        return self.codec

    def loss(self, step: int, generator: torch.Generator) -> tuple[Tensor, dict[str, float]]:
        """Reconstruction + entropy + commitment + steadiness on one batch."""
        rng = random.Random(int(torch.randint(2**31, (), generator=generator)))
        scenes = self._scenes(rng)
        pixels = torch.stack([pixels_of(world.render(s), world.SIZE) for s in scenes])
        z = self.codec.encode_latents(pixels)
        codes, ids = self.codec.quantize(z)
        again = self.codec.decode_latents(codes)
        difference = again - pixels
        rebuilt = difference.square().mean() + 0.3 * difference.abs().mean()
        each, spread = entropies(z, self.config.temperature)
        commit = (z - codes.detach()).square().mean()
        steady = self._steady(z, scenes)
        config = self.config
        loss = (
            rebuilt
            + config.entropy * (each - spread)
            + config.commit * commit
            + config.steady * (step >= config.steady_from) * steady
        )
        return loss, {
            "mse": float(difference.detach().square().mean()),
            "steady": float(steady.detach()),
            "entropy": float(spread.detach()),
            "codes": float(torch.unique(ids).numel()),
        }

    def _scenes(self, rng: random.Random) -> list[world.Scene]:
        scenes = []
        for _ in range(self.config.batch // 2):
            scene = world.sample_scene(rng, split=rng.choice(("train", "test")))
            scenes.append(scene)
            if scene.uniform:
                scenes.append(world.sample_scene(rng))
            else:
                other = rng.choice([o for o in world.OBJECTS if o not in scene.objects])
                scenes.append(replace(scene, objects=(scene.objects[0], other)))
        return scenes

    def _steady(self, z: Tensor, scenes: list[world.Scene]) -> Tensor:
        """Squared difference of squashed latents in the shared sprite's cells."""
        terms = []
        cell = world.SIZE // z.shape[-1]
        for i in range(0, len(scenes), 2):
            first, second = scenes[i], scenes[i + 1]
            if first.uniform or first.layout != second.layout:
                continue
            x, y, side = (value // cell for value in world.LAYOUTS[first.layout][0])
            window = (slice(None), slice(y, y + side), slice(x, x + side))
            terms.append((z[i][window].tanh() - z[i + 1][window].tanh()).square().mean())
        return torch.stack(terms).mean() if terms else z.new_zeros(())
