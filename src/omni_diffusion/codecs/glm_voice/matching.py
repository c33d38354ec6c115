"""Conditional flow matching: from noise to mel along a learned velocity, and its loss.

Knows conditions and frames, not where they come from. Dimension key: B batch, M mel frames, C mel
bins. Symbols follow Lipman et al., "Flow Matching for Generative Modeling" (x_t on the straight
path from noise z to mel x_1); guidance and time schedule follow CosyVoice's published decoder.
"""

import math
from dataclasses import dataclass
from itertools import pairwise

import torch
from torch import Tensor, nn

from omni_diffusion.codecs.glm_voice.estimator import Estimator
from omni_diffusion.codecs.glm_voice.masks import hide
from omni_diffusion.errors import SamplingError


@dataclass(frozen=True)
class Conditions:
    """What the velocity is given beside x and t."""

    mu: Tensor
    """[B, C, M], from the codes."""
    speaker: Tensor
    """[B, C]."""
    cond: Tensor
    """[B, C, M], the known mel at the start; zero elsewhere."""

    def keep(self, rows: Tensor) -> "Conditions":
        """The same with every condition of the rows that are 0 in [B] put to zero."""
        wide = rows[:, None, None]
        return Conditions(self.mu * wide, self.speaker * rows[:, None], self.cond * wide)

    def doubled(self) -> "Conditions":
        """[2B, ...]: the given conditions, then none at all."""
        parts = (self.mu, self.speaker, self.cond)
        return Conditions(*(torch.cat([part, torch.zeros_like(part)]) for part in parts))


class FlowMatching(nn.Module):
    """The ordinary differential equation from noise to mel, and its regression loss."""

    def __init__(self, estimator: Estimator, sigma_min: float, condition_dropout: float) -> None:
        super().__init__()
        self.estimator = estimator
        self.sigma_min = sigma_min
        self.condition_dropout = condition_dropout

    def velocity(
        self, x: Tensor, t: Tensor, given: Conditions, mask: Tensor | None = None
    ) -> Tensor:
        """dx/dt [B, C, M] at x [B, C, M] and t [B]."""
        v: Tensor = self.estimator(x, t, given.mu, given.speaker, given.cond, mask)
        return v

    def solve(self, z: Tensor, given: Conditions, steps: int, guidance: float) -> Tensor:
        """Euler's method from noise z [B, C, M]; v = (1 + g) v(given) - g v(nothing)."""
        points = time_points(steps).to(z)
        both = given.doubled() if guidance else given
        copies = 2 if guidance else 1
        x = z
        for t, following in pairwise(points):
            v = self.velocity(x.repeat(copies, 1, 1), t.repeat(copies * len(x)), both).to(x)
            if guidance:
                guided, free = v.chunk(2)
                v = (1.0 + guidance) * guided - guidance * free
            x = x + (following - t) * v
        return x

    def loss(
        self,
        mel: Tensor,
        given: Conditions,
        mask: Tensor | None,
        generator: torch.Generator | None,
    ) -> Tensor:
        """Mean squared error of the velocity over real frames, a scalar.

        x_t = (1 - (1 - s) t) z + t x_1 has the velocity x_1 - (1 - s) z, where s is `sigma_min`;
        t = 1 - cos(pi u / 2) with uniform u, one per row.
        """
        rows, device = len(mel), mel.device
        u = torch.rand(rows, generator=generator, device=device)
        t = 1.0 - torch.cos(u * (math.pi / 2))
        z = torch.randn(mel.shape, generator=generator, device=device)
        chance = torch.rand(rows, generator=generator, device=device)
        given = given.keep((chance > self.condition_dropout).to(mel))
        shrink, wide = 1.0 - self.sigma_min, t[:, None, None]
        x_t = (1.0 - shrink * wide) * z + wide * mel
        error = self.velocity(x_t, t, given, mask) - (mel - shrink * z)
        frames = mel.shape[0] * mel.shape[2] if mask is None else mask.sum()
        return hide(error, mask).square().sum() / (frames * mel.shape[1])


def time_points(steps: int) -> Tensor:
    """t_k = 1 - cos(pi k / 2n) for k = 0 ... n, [steps + 1] float32."""
    if steps < 1:
        raise SamplingError(f"{steps} steps: the flow decoder needs at least 1")
    return 1.0 - torch.cos(torch.linspace(0, 1, steps + 1) * (0.5 * math.pi))
