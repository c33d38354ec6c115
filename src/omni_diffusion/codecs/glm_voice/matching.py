"""Conditional flow matching: from noise to mel along a learned velocity, and its loss.

Symbols follow Lipman et al., "Flow Matching for Generative Modeling" (x_t on the straight path from
noise z to mel x_1). Guidance and time schedule follow CosyVoice's published decoder.

Dimensions: B batch, M mel frames, C mel bins.
"""

from __future__ import annotations

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
    """Inputs of the velocity beside x and t.

    mu: [B, C, M], from the codes. speaker: [B, C]. cond: [B, C, M], the known mel at the start,
    zero elsewhere.
    """

    mu: Tensor
    speaker: Tensor
    cond: Tensor

    def masked(self, rows: Tensor) -> Conditions:
        """Conditions times rows [B], which is 1 to keep those of a row and 0 to zero them."""
        wide = rows[:, None, None]
        return Conditions(self.mu * wide, self.speaker * rows[:, None], self.cond * wide)

    def doubled(self) -> Conditions:
        """[2B, ...]: these conditions, then zeros."""
        parts = (self.mu, self.speaker, self.cond)
        return Conditions(*(torch.cat([part, torch.zeros_like(part)]) for part in parts))


class FlowMatching(nn.Module):
    """The differential equation from noise to mel, and its regression loss."""

    def __init__(self, estimator: Estimator, sigma_min: float, condition_dropout: float) -> None:
        super().__init__()
        self.estimator = estimator
        self.sigma_min = sigma_min
        self.condition_dropout = condition_dropout

    def velocity(
        self, x: Tensor, t: Tensor, conditions: Conditions, mask: Tensor | None = None
    ) -> Tensor:
        """dx/dt [B, C, M] at x [B, C, M] and t [B]."""
        v: Tensor = self.estimator(x, t, conditions.mu, conditions.speaker, conditions.cond, mask)
        return v

    def solve(
        self,
        z: Tensor,
        conditions: Conditions,
        steps: int,
        guidance: float,
        guided_steps: int | None = None,
    ) -> Tensor:
        """Euler's method from noise z [B, C, M]; v = (1 + g) v(conditions) - g v(zeros).

        guided_steps: how many of the last steps are guided (None = all); each of the others takes
        v(conditions) and half of the time. The last steps are the longest.
        """
        points = time_points(steps).to(z)
        guided_steps = steps if guided_steps is None else min(guided_steps, steps)
        unguided = steps - guided_steps if guidance else steps
        both = conditions.doubled() if unguided < steps else conditions
        x = z
        for number, (t, following) in enumerate(pairwise(points)):
            guides = number >= unguided
            copies, given = (2, both) if guides else (1, conditions)
            v = self.velocity(x.repeat(copies, 1, 1), t.repeat(copies * len(x)), given).to(x)
            if guides:
                guided, free = v.chunk(2)
                v = (1.0 + guidance) * guided - guidance * free
            x = x + (following - t) * v
        return x

    def loss(
        self,
        mel: Tensor,
        conditions: Conditions,
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
        conditions = conditions.masked((chance > self.condition_dropout).to(mel))
        shrink, wide = 1.0 - self.sigma_min, t[:, None, None]
        x_t = (1.0 - shrink * wide) * z + wide * mel
        error = self.velocity(x_t, t, conditions, mask) - (mel - shrink * z)
        frames = mel.shape[0] * mel.shape[2] if mask is None else mask.sum()
        return hide(error, mask).square().sum() / (frames * mel.shape[1])


def time_points(steps: int) -> Tensor:
    """t_k = 1 - cos(pi k / 2n) for k = 0 ... n, [steps + 1] float32."""
    if steps < 1:
        raise SamplingError(
            f"{steps} steps of the flow decoder", field="steps", value=steps, fix="give at least 1"
        )
    return 1.0 - torch.cos(torch.linspace(0, 1, steps + 1) * (0.5 * math.pi))
