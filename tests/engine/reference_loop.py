"""The denoising loop as plainly as it can be written; the engine must give the same tokens.

One canvas at a time. Every step computes the logits of every id at every position, sorts whole
distributions and goes through positions and tokens one by one. `rules="upstream"` follows the
published code; its quirks are those that `diffusion.upstream` lists.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field

import torch
from torch import Tensor

from omni_diffusion.backbone.dream import Dream
from omni_diffusion.canvas import Canvas
from omni_diffusion.diffusion.params import SamplingParams
from omni_diffusion.diffusion.schedule import commit_count, spread_steps

NEAR = 1e-4  # a choice by less may differ between two orders of summation


@dataclass
class Reference:
    """A decoding in progress; `close` tells whether rounding may have decided something."""

    backbone: Dream
    canvas: Canvas
    uncond: Canvas | None
    params: SamplingParams
    mask_id: int
    close: bool = False
    written: list[int] = field(default_factory=list)

    def decode(self) -> Tensor:
        """Fill the canvas: ids [L]."""
        self.generator = torch.Generator().manual_seed(self.params.seed)
        self.ids, self.masked = self.canvas.ids.tolist(), self.canvas.blank.tolist()
        places = [i for i, masked in enumerate(self.masked) if masked]
        self.first = min(self.canvas.answer[0], places[0])
        self.last = max(self.canvas.answer[1], places[-1] + 1)
        upstream = self.params.rules == "upstream"
        self.forwards = 0
        for start, stop, steps in self._blocks():
            for i in range(steps):
                if not any(self.masked if upstream else self.masked[start:stop]):
                    break
                self._step(start, stop, i, steps)
        return torch.tensor(self.ids)

    def _blocks(self) -> list[tuple[int, int, int]]:
        size, masks = self.last - self.first, sum(self.masked)
        length = max(1, min(self.params.block_length or size, size))
        edges = [(at, min(at + length, self.last)) for at in range(self.first, self.last, length)]
        if self.params.rules == "paper":
            counts = [sum(self.masked[a:b]) for a, b in edges]
            steps = spread_steps(self.params.steps or masks, counts)
            return [(a, b, n) for (a, b), n in zip(edges, steps, strict=True)]
        steps = min(self.params.steps or size, size)
        edges = edges[: math.ceil(masks / length)]
        return [(a, b, int((b - a) / size * steps)) for a, b in edges]

    def _step(self, start: int, stop: int, i: int, steps: int) -> None:
        upstream = self.params.rules == "upstream"
        inside = range(len(self.ids)) if upstream else range(start, stop)
        places = [place for place in inside if self.masked[place]]
        logits = self._logits()
        uniforms = [None] * len(places)
        if self.params.temperature > 0:
            uniforms = torch.rand(
                len(places), dtype=torch.float64, generator=self.generator
            ).tolist()
        chosen = [
            self._choose(logits[place], place, rank, uniforms[rank])
            for rank, place in enumerate(places)
        ]
        self.forwards += 1
        order = sorted(
            range(len(places)),
            key=lambda j: (-chosen[j][1] if start <= places[j] < stop else math.inf, places[j]),
        )
        left = sum(self.masked[start:stop])
        count = self._count(left, i, steps)
        if count < len(order) and chosen[order[count - 1]][1] != 0:
            gap = chosen[order[count - 1]][1] - chosen[order[count]][1]
            self.close |= 0 <= gap < NEAR
        for j in order[:count]:
            if chosen[j][0] != self.mask_id:
                self.ids[places[j]], self.masked[places[j]] = chosen[j][0], False
                self.written.append(chosen[j][0])

    def _count(self, left: int, i: int, steps: int) -> int:
        if self.params.rules == "paper":
            return commit_count(left, i, steps, self.params.schedule)
        if i == steps - 1:
            return max(1, left)
        t = torch.linspace(1, 0.001, steps + 1)
        return max(1, int(left * (1 - t[i + 1] / t[i])))

    def _logits(self) -> Tensor:
        """[L, V] of the canvas as it is, guided."""
        conditional = self._forward(self.canvas, self.ids)
        if self.params.guidance == 0:
            return conditional
        assert self.uncond is not None
        (first, last), (start, stop) = self.canvas.answer, self.uncond.answer
        ids = self.uncond.ids.tolist()
        ids[start:stop] = self.ids[first:last]
        unconditional = self._forward(self.uncond, ids)[start:stop]
        joined = conditional.clone()
        joined[first:last] = unconditional + (self.params.guidance + 1) * (
            conditional[first:last] - unconditional
        )
        return joined

    def _forward(self, canvas: Canvas, ids: list[int]) -> Tensor:
        slots = [(0, slot) for slot in canvas.slots]
        with torch.no_grad():
            return self.backbone(torch.tensor([ids]), slots=slots)[0]

    def _choose(
        self, logits: Tensor, place: int, rank: int, uniform: float | None
    ) -> tuple[int, float]:
        """Token and confidence of one position, from logits [V]."""
        params, low = self.params, 0
        z = logits.clone()
        if params.constrain or params.rules == "paper":
            z[self.mask_id] = -torch.inf
        if params.constrain:
            low, high = self.canvas.allowed[place].tolist()
            z = z[low:high]
        draw = z
        if params.rules == "paper":
            self._repeat(z, low, set(self.written))
            z = z * self._scale(place)
            draw = z
            if uniform is not None:
                draw = self._filter(z / params.temperature)
        else:
            z = self._filter(z if uniform is None else z / params.temperature)
            known = {*self.ids[self.first : self.last]} - {0, self.mask_id}
            self._repeat(z, low, known if self.forwards else set())
            factor = self._upstream_factor(rank)
            z = torch.where(z < 0, z * factor, z / factor)
            draw = z
        if uniform is None:
            token = int(draw.argmax())
            best = draw.topk(min(2, len(draw))).values.tolist()
            self.close |= len(best) > 1 and best[0] - best[1] < NEAR
        else:
            mass = draw.softmax(0).double().cumsum(0)
            target = uniform * mass[-1]
            token = int((mass <= target).sum())
            self.close |= bool(((mass - target).abs() < NEAR * 0.01).any())
        return low + token, self._confidence(z, token)

    def _filter(self, z: Tensor) -> Tensor:
        """-inf outside of top-p, then of top-k."""
        order = z.sort(descending=True, stable=True).indices.tolist()
        p, mass, kept = z.softmax(0).tolist(), 0.0, z.clone()
        top_p, top_k = self.params.top_p or 2.0, self.params.top_k or len(order)
        for place, token in enumerate(order):
            self.close |= abs(mass - top_p) < NEAR * 0.01
            if mass > top_p or place >= top_k:
                kept[order[place:]] = -torch.inf
                break
            mass += p[token]
        return kept

    def _repeat(self, z: Tensor, low: int, tokens: set[int]) -> None:
        for token in tokens:
            if low <= token < low + len(z):
                value = z[token - low]
                penalty = self.params.repetition_penalty
                z[token - low] = value * penalty if value < 0 else value / penalty

    def _scale(self, place: int) -> float:
        """The paper's: 1 over the first 100 positions, then falling to 1 / penalty."""
        at, length = place - self.first, self.last - self.first
        if sum(self.masked) <= 100 or length <= 101 or at <= 100:
            return 1.0
        return 1 - (1 - 1 / self.params.position_penalty) * (at - 100) / (length - 101)

    def _upstream_factor(self, rank: int) -> float:
        masks = sum(self.masked)
        if masks <= 100 or rank < 100:
            return 1.0
        return 1 + (self.params.position_penalty - 1) * (rank - 100) / (masks - 100)

    def _confidence(self, z: Tensor, token: int) -> float:
        p = z.softmax(0)
        if self.params.confidence == "entropy":
            return float((p * (p + 1e-10).log()).sum())
        if self.params.confidence == "margin":
            best = p.topk(min(2, len(p))).values.tolist()
            return best[0] - best[1] if len(best) == 2 else best[0]
        return float(p[token])
