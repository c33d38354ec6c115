"""Training objective of the image tokenizer, on rendered scenes.

Reconstruction, commitment and entropy are the usual losses of lookup-free quantization (MAGVIT-v2,
Yu et al. 2023). A consistency loss is added: a sprite should have the same codes at every position,
beside every neighbour and on every background. Without it the tokenizer encodes the surroundings
into the codes of a sprite, and the language model has to learn every variant.
"""

from __future__ import annotations

import random
from contextlib import nullcontext
from dataclasses import dataclass, replace

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from omni_diffusion.codecs.magvit2 import Magvit2, pixels_of
from omni_diffusion.mini import scenes


@dataclass(frozen=True)
class ImageCodecConfig:
    """Batch size, loss weights and schedule."""

    batch: int = 32
    entropy: float = 0.02
    commit: float = 0.05
    steady: float = 1.5
    steady_from: int = 500  # step; earlier the consistency loss would merge all codes
    codes_until: int | None = None  # step; from then on only the decoder is trained
    temperature: float = 1.0  # of the soft code assignment whose entropy is measured


@dataclass(frozen=True)
class ScenePair:
    """Two scenes with the same sprite at the same size, in box `at[i]` of scene i."""

    scenes: tuple[scenes.Scene, scenes.Scene]
    at: tuple[int, int]


def assignment_entropies(z: Tensor, temperature: float) -> tuple[Tensor, Tensor]:
    """Mean entropy of the soft assignment and entropy of the mean, in nats, over all 2**bits codes.

    `z` [B, bits, h, w]. Bits are independent given z, so the first is a sum over bits; the second
    needs the joint distribution, [positions, 2**bits], which is affordable for small codebooks.
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
    """The tokenizer's loss on random scenes, drawn in pairs that share a sprite."""

    def __init__(self, codec: Magvit2, config: ImageCodecConfig) -> None:
        self.codec, self.config = codec, config

    @property
    def module(self) -> nn.Module:
        """The tokenizer."""
        return self.codec

    def loss(self, step: int, generator: torch.Generator) -> tuple[Tensor, dict[str, float]]:
        """Reconstruction + entropy + commitment + consistency on one batch."""
        rng = random.Random(int(torch.randint(2**31, (), generator=generator)))
        pairs = [sample_pair(rng) for _ in range(self.config.batch // 2)]
        chosen = [scene for each in pairs for scene in each.scenes]
        pixels = torch.stack([pixels_of(scenes.render_scene(s), scenes.SIZE) for s in chosen])
        config = self.config
        final = config.codes_until is not None and step >= config.codes_until
        with torch.no_grad() if final else nullcontext():
            z = self.codec.encode_latents(pixels)
        codes, ids = self.codec.quantize(z)
        rebuilt_pixels = self.codec.decode_latents(codes)
        difference = rebuilt_pixels - pixels
        rebuilt = difference.square().mean() + 0.3 * difference.abs().mean()
        each, spread = assignment_entropies(z, config.temperature)
        commit = (z - codes.detach()).square().mean()
        steady = sprite_consistency(z, pixels, pairs) + 0.5 * background_consistency(z, pixels)
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


def sample_pair(rng: random.Random) -> ScenePair:
    """A scene of any split, and another with its first sprite in the same style and size.

    Layout, neighbours and, in 60 % of the cases, the background of the second are drawn again.
    """
    scene = scenes.sample_scene(rng, split=rng.choice(("train", "test")))
    noun = scene.objects[0]
    same = rng.random() < 0.4
    background = scene.background if same else rng.choice(list(scenes.BACKGROUNDS))
    layout = rng.choice([name for name in scenes.LAYOUTS if _side(name) == _side(scene.layout)])
    count = len(scenes.LAYOUTS[layout])
    at = rng.randrange(count)
    objects = [noun] * count
    if layout in ("row", "column"):
        objects[1 - at] = rng.choice([o for o in scenes.OBJECTS if o != noun])
    other = replace(scene, layout=layout, objects=tuple(objects), background=background)
    return ScenePair((scene, other), (0, at))


def sprite_consistency(z: Tensor, pixels: Tensor, pairs: list[ScenePair]) -> Tensor:
    """Squared difference of tanh latents between the two occurrences of each pair's sprite.

    z [B, bits, h, w] and pixels [B, 3, H, W] of the pairs' scenes in order. A cell is weighted by
    the fraction of its pixels that are equal in both, so cells of background do not count.
    """
    cell = pixels.shape[-1] // z.shape[-1]
    squashed = z.tanh()
    gap, count = z.new_zeros(()), z.new_zeros(())
    for i, each in enumerate(pairs):
        shown, coded = [], []
        for j in range(2):
            x, y, side = scenes.LAYOUTS[each.scenes[j].layout][each.at[j]]
            shown.append(pixels[2 * i + j, :, y : y + side, x : x + side])
            x, y, side = x // cell, y // cell, side // cell
            coded.append(squashed[2 * i + j, :, y : y + side, x : x + side])
        alike = (shown[0] == shown[1]).all(0)
        weight = F.avg_pool2d(alike[None].to(z.dtype), cell)[0]
        gap = gap + (weight * (coded[0] - coded[1]).square().mean(0)).sum()
        count = count + weight.sum()
    return gap / count.clamp(min=1)


def background_consistency(z: Tensor, pixels: Tensor) -> Tensor:
    """Variance of tanh latents [B, bits, h, w] among cells of the same plain colour."""
    cell = pixels.shape[-1] // z.shape[-1]
    cells = pixels.unfold(2, cell, cell).unfold(3, cell, cell).flatten(4).movedim(1, 3)
    plain = (cells.amax(-1) == cells.amin(-1)).all(-1)  # [B, h, w]
    squashed = z.tanh().movedim(1, -1)[plain]  # [n, bits]
    if not len(squashed):
        return z.new_zeros(())
    _, color = torch.unique(cells[plain][..., 0], dim=0, return_inverse=True)
    colors = int(color.max()) + 1
    count = squashed.new_zeros(colors).index_add(0, color, squashed.new_ones(len(color)))
    mean = squashed.new_zeros(colors, z.shape[1]).index_add(0, color, squashed) / count[:, None]
    return (squashed - mean[color]).square().mean()


def _side(layout: str) -> int:
    return scenes.LAYOUTS[layout][0][2]
