"""The one training loop: draw, step, average, log, save. Knows nothing of what is trained.

An `Objective` brings the module and the loss of a step. Every random draw of a step comes from
(seed, step), so a run that was stopped and resumed is bit for bit the run that was not.
"""

from __future__ import annotations

import json
import math
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

import torch
from torch import Tensor, nn

from omni_diffusion import files
from omni_diffusion.errors import TrainingError
from omni_diffusion.training import checkpoint
from omni_diffusion.training.interrupt import deferred
from omni_diffusion.training.optim import OptimConfig, adamw, rate


class Objective(Protocol):
    """What is trained, and how a step's loss is made."""

    @property
    def module(self) -> nn.Module:
        """Holds every weight of the run; frozen ones have requires_grad off."""
        ...

    def loss(self, step: int, generator: torch.Generator) -> tuple[Tensor, dict[str, float]]:
        """The loss of one step (a scalar that carries gradients) and figures to log."""
        ...


@dataclass(frozen=True)
class LoopConfig:
    """How long a run is, where its seeds start, how often it logs and saves."""

    steps: int
    seed: int = 0
    optim: OptimConfig = field(default_factory=OptimConfig)
    average: float = 0.999  # decay of the moving average of the weights, which is what ships
    log_every: int = 50
    save_seconds: float = 120.0


class Trainer:
    """Runs an objective; the folder holds `state.safetensors` and `metrics.jsonl`."""

    def __init__(self, objective: Objective, config: LoopConfig, folder: Path) -> None:
        self.objective, self.config, self.folder = objective, config, folder
        folder.mkdir(parents=True, exist_ok=True)
        self.optimizer = adamw([objective.module], config.optim)
        self.average = {
            k: v.detach().clone().float() if v.is_floating_point() else v.detach().clone()
            for k, v in objective.module.state_dict().items()
        }
        self.step = 0

    @property
    def state_path(self) -> Path:
        """The latest whole training state."""
        return self.folder / "state.safetensors"

    def resume(self) -> bool:
        """Go on from the folder's state if it holds one; says whether it did."""
        if not self.state_path.exists():
            return False
        self.step = checkpoint.restore(
            self.state_path, self.objective.module, self.average, self.optimizer
        )
        return True

    def save(self) -> None:
        """Write the state now."""
        module = self.objective.module
        checkpoint.save(self.state_path, module, self.average, self.optimizer, self.step)

    def fit(self, report: Callable[[int, dict[str, float]], None] | None = None) -> None:
        """Train to the last step; `report` sees every logged row (for a progress bar).

        SIGINT and SIGTERM are obeyed after the running step, once the state is saved. Rows of the
        log beyond the current step, left by a run that was killed, are dropped.
        """
        self._forget_rows()
        with deferred() as stopping:
            self._run(report, stopping)
            self.save()
        if self.step < self.config.steps:  # the caller's handler of the signal let us go on
            raise TrainingError(
                f"training was stopped after {self.step} of {self.config.steps} steps: "
                f"its state is {self.state_path}; resume to go on"
            )

    def _run(
        self,
        report: Callable[[int, dict[str, float]], None] | None,
        stopping: Callable[[], bool],
    ) -> None:
        saved = logged = time.monotonic()
        sums: dict[str, float] = {}
        count = 0
        while self.step < self.config.steps and not stopping():
            figures = self.advance()
            count += 1
            for name, value in figures.items():
                sums[name] = sums.get(name, 0.0) + value
                sums[f"#{name}"] = sums.get(f"#{name}", 0.0) + 1
            if self.step % self.config.log_every == 0 or self.step == self.config.steps:
                now = time.monotonic()
                row = {k: v / sums[f"#{k}"] for k, v in sums.items() if k[0] != "#"}
                row["seconds_a_step"] = (now - logged) / count
                self._log(row)
                if report:
                    report(self.step, row)
                sums, count, logged = {}, 0, now
            if time.monotonic() - saved > self.config.save_seconds:
                self.save()
                saved = time.monotonic()

    def advance(self) -> dict[str, float]:
        """One optimizer step; raises TrainingError instead of stepping where nothing is finite."""
        config, module = self.config, self.objective.module
        seed = config.seed * 1_000_003 + self.step
        # Dropout, and whatever else draws globally, must not repeat the draws of the generator.
        torch.manual_seed(seed + 2**40)
        generator = torch.Generator().manual_seed(seed)
        for group in self.optimizer.param_groups:
            group["lr"] = rate(self.step, config.steps, config.optim)
        module.train()
        loss, figures = self.objective.loss(self.step, generator)
        value = float(loss.detach())
        self._check("loss", value)
        loss.backward()  # type: ignore[no-untyped-call]
        norm = nn.utils.clip_grad_norm_(
            [p for p in module.parameters() if p.requires_grad], config.optim.clip
        )
        self._check("gradient norm", float(norm))
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        self.step += 1
        self._average()
        return {"loss": value, "gradient_norm": float(norm), **figures}

    def _check(self, name: str, value: float) -> None:
        if math.isfinite(value):
            return
        self.optimizer.zero_grad(set_to_none=True)
        saved = self.state_path.exists()
        raise TrainingError(
            f"the {name} of step {self.step} is {value}: "
            f"{f'the last good state is {self.state_path}' if saved else 'no state is saved yet'}; "
            "lower the learning rate or look at the data"
        )

    @torch.no_grad()
    def _average(self) -> None:
        # The decay grows with the step so that the first weights, which are noise, fade soon.
        decay = min(self.config.average, (1 + self.step) / (10 + self.step))
        for name, value in self.objective.module.state_dict().items():
            if value.is_floating_point():
                self.average[name].lerp_(value.float(), 1 - decay)
            else:
                self.average[name].copy_(value)

    @property
    def _log_path(self) -> Path:
        return self.folder / "metrics.jsonl"

    def _log(self, row: dict[str, float]) -> None:
        line = {"step": self.step} | {k: round(v, 6) for k, v in row.items()}
        with self._log_path.open("a") as file:
            file.write(json.dumps(line) + "\n")

    def _forget_rows(self) -> None:
        """Drop the rows that are going to be written anew, and one that was cut off in writing."""
        if not self._log_path.exists():
            return
        rows = self._log_path.read_text().splitlines(keepends=True)
        kept = [r for r in rows if r.endswith("\n") and json.loads(r)["step"] <= self.step]
        if kept != rows:
            files.write_text(self._log_path, "".join(kept))
