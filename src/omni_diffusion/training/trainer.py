"""The training loop: compute a step, update the EMA, log, save.

An `Objective` supplies the module and the loss. All random numbers of a step follow from
(seed, step), so a run that was stopped and resumed equals the uninterrupted run bit for bit.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol, runtime_checkable

import torch
from torch import Tensor, nn

from omni_diffusion.errors import TrainingError
from omni_diffusion.training.checkpoint import Checkpoints
from omni_diffusion.training.distributed import World, full_tensor, gather_to_main
from omni_diffusion.training.interrupt import deferred_signals
from omni_diffusion.training.logs import JsonLog
from omni_diffusion.training.optim import OptimConfig, adamw, learning_rate
from omni_diffusion.training.records import Log
from omni_diffusion.training.throughput import ThroughputMeter


class Objective(Protocol):
    """A module to train, and the loss of a step."""

    @property
    def module(self) -> nn.Module:
        """Holds all weights of the run; frozen ones have requires_grad off."""
        ...

    def loss(self, step: int, generator: torch.Generator) -> tuple[Tensor, dict[str, float]]:
        """The loss of a step (a scalar with gradients), and metrics to log."""
        ...


@runtime_checkable
class AccumulatingObjective(Objective, Protocol):
    """An objective that accumulates the gradients of a step itself, and draws steps in advance."""

    def prefetch(self, step: int, generator: torch.Generator) -> None:
        """Start to prepare a later step in the background."""
        ...

    def backward(self, step: int, generator: torch.Generator) -> dict[str, float]:
        """Accumulate the gradients of a step; returns metrics over all processes, with "loss"."""
        ...


@dataclass(frozen=True)
class LoopConfig:
    """Length of a run, its seed, and how often it logs and saves.

    ema_decay: decay of the exponential moving average (EMA) of the weights, which is the result of
    the run; None keeps no average, and the result is the last weights. log_every: steps between log
    records. save_seconds: time between checkpoints. save_steps: additional checkpoints every so
    many steps. keep_checkpoints: number of checkpoints kept. asynchronous: write checkpoints in the
    background. save_frozen: checkpoints hold frozen weights too, which is needed if the objective
    changes them itself, such as a codebook; otherwise `resume` compares their sum.
    """

    steps: int
    seed: int = 0
    optim: OptimConfig = field(default_factory=OptimConfig)
    ema_decay: float | None = 0.999
    log_every: int = 50
    save_seconds: float = 120.0
    save_steps: int | None = None
    keep_checkpoints: int = 2
    asynchronous: bool = False
    save_frozen: bool = True


class Trainer:
    """Trains an objective; its folder holds `checkpoints` and `metrics.jsonl`.

    world: the processes that train together; each makes its own Trainer. logs: in addition to
    `metrics.jsonl`. on_step: called after every step with its number, on all processes. meter: adds
    throughput to the metrics of an objective that reports `tokens` and `flops`.
    """

    def __init__(
        self,
        objective: Objective,
        config: LoopConfig,
        folder: Path,
        *,
        world: World | None = None,
        logs: Sequence[Log] = (),
        on_step: Callable[[int], None] | None = None,
        meter: ThroughputMeter | None = None,
    ) -> None:
        self.objective, self.config, self.folder = objective, config, folder
        self.world, self.on_step, self.meter = world or World(), on_step, meter
        folder.mkdir(parents=True, exist_ok=True)
        self.optimizer = adamw([objective.module], config.optim)
        self.ema = {} if config.ema_decay is None else _float_copies(self._tracked())
        self.checkpoints = Checkpoints(folder / "checkpoints", self.world, config.keep_checkpoints)
        self.logs: list[Log] = [JsonLog(folder), *logs]
        if not self.world.is_main:
            self.logs = []
        self.step = 0
        self._saved_step: int | None = None  # of the newest checkpoint
        untracked = dict(objective.module.named_parameters()).keys() - self._tracked().keys()
        frozen = (objective.module.get_parameter(name) for name in sorted(untracked))
        self._frozen_sum = sum(float(full_tensor(p.abs().sum(dtype=torch.float64))) for p in frozen)

    def resume(self, path: Path | None = None) -> bool:
        """Load the newest checkpoint, or the one at `path`; returns whether there was one.

        Raises TrainingError if the checkpoint does not fit the module or its frozen weights.
        """
        path = path or self.checkpoints.newest()
        if path is None:
            return False
        state = self._state()
        frozen = float(state["frozen"])
        self.checkpoints.restore(path, state)
        self.step = self._saved_step = int(state["step"])
        if not math.isclose(frozen, float(state["frozen"]), rel_tol=1e-9):
            raise TrainingError(
                f"checkpoint {path} was made with other frozen weights",
                value=path,
                fix="start from the same model, or use another folder",
            )
        return True

    def save(self, *, wait: bool = True) -> None:
        """Write a checkpoint now; with `wait` off, in the background."""
        self.checkpoints.save(self._state(), self.step, wait=wait)
        self._saved_step = self.step

    def weights(self) -> dict[str, Tensor]:
        """The result: the EMA if there is one, gathered on the CPU of the main process."""
        state = self.objective.module.state_dict()
        return gather_to_main({**state, **self.ema}, self.world)

    def fit(self, report: Callable[[int, dict[str, float]], None] | None = None) -> None:
        """Train to the last step; `report` gets every logged step and its metrics.

        SIGINT and SIGTERM take effect after the running step and a checkpoint. Log records beyond
        the current step, from a run that was killed, are deleted.
        """
        for log in self.logs:
            log.truncate(self.step)
        with deferred_signals() as stopping:
            self._run(report, stopping)
            if self._saved_step != self.step:
                self.save()
            self.checkpoints.finish()
        for log in self.logs:
            log.close()
        if self.step < self.config.steps:  # stopped by a signal that the caller handles itself
            raise TrainingError(
                f"training was stopped after {self.step} of {self.config.steps} steps, its"
                f" checkpoint is {self.checkpoints.newest()}",
                fix="resume it to continue",
            )

    def _run(
        self,
        report: Callable[[int, dict[str, float]], None] | None,
        stopping: Callable[[], bool],
    ) -> None:
        config = self.config
        saved_at = logged_at = time.monotonic()
        history: list[dict[str, float]] = []
        stop = 0
        while self.step < config.steps and not stop:
            history.append(self.advance())
            if self.step % config.log_every == 0 or self.step == config.steps:
                now = time.monotonic()
                self._log(history, now - logged_at, report)
                history, logged_at = [], now
            if self.on_step:
                before = time.monotonic()
                self.on_step(self.step)
                logged_at += time.monotonic() - before  # its time is not counted as step time
            timed = time.monotonic() - saved_at > config.save_seconds
            # all processes stop and save at the same step, whichever got the signal
            flags = [int(stopping()), int(timed), int(self.checkpoints.writing)]
            stop, due, writing = self.world.max(flags)
            if not writing:  # a checkpoint without its final name is lost if the run dies
                self.checkpoints.finish()
            if due or (config.save_steps and self.step % config.save_steps == 0):
                self.save(wait=not config.asynchronous)
                saved_at = time.monotonic()

    def _log(
        self,
        history: Sequence[dict[str, float]],
        seconds: float,
        report: Callable[[int, dict[str, float]], None] | None,
    ) -> None:
        """Log the mean of each metric over the steps that have it, and their throughput."""
        values: dict[str, list[float]] = {}
        for step in history:
            for name, value in step.items():
                values.setdefault(name, []).append(value)
        metrics = {name: sum(column) / len(column) for name, column in values.items()}
        metrics["seconds_per_step"] = seconds / len(history)
        if self.meter and {"tokens", "flops"} <= metrics.keys():
            metrics |= self.meter.metrics(
                tokens=metrics["tokens"],
                flops=metrics["flops"],
                seconds=metrics["seconds_per_step"],
            )
        for log in self.logs:
            log.record(self.step, metrics)
        if report:
            report(self.step, metrics)

    def advance(self) -> dict[str, float]:
        """One optimizer step; returns its metrics.

        Raises TrainingError before the update if the loss or the gradient norm is not finite.
        """
        config, module, objective = self.config, self.objective.module, self.objective
        # dropout and other users of the global state must not repeat the draws of the generator
        torch.manual_seed(self._seed(self.step) + 2**40)
        for group in self.optimizer.param_groups:
            group["lr"] = learning_rate(self.step, config.steps, config.optim)
        module.train()
        if isinstance(objective, AccumulatingObjective):
            for step in (self.step, self.step + 1):  # this step is prefetched already, but at first
                if step < config.steps:
                    objective.prefetch(step, self._generator(step))
            metrics = objective.backward(self.step, self._generator(self.step))
        else:
            loss, metrics = objective.loss(self.step, self._generator(self.step))
            metrics = {"loss": float(loss.detach())} | metrics
            loss.backward()  # type: ignore[no-untyped-call]
        self._check("loss", metrics["loss"])
        trained = [p for p in module.parameters() if p.requires_grad]
        norm = float(full_tensor(nn.utils.clip_grad_norm_(trained, config.optim.clip)))
        self._check("gradient norm", norm)
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        self.step += 1
        self._update_ema()
        return {"loss": metrics["loss"], "gradient_norm": norm} | metrics

    def _seed(self, step: int) -> int:
        return self.config.seed * 1_000_003 + step

    def _generator(self, step: int) -> torch.Generator:
        return torch.Generator().manual_seed(self._seed(step))

    def _check(self, name: str, value: float) -> None:
        if math.isfinite(value):
            return
        self.optimizer.zero_grad(set_to_none=True)
        self.checkpoints.finish()
        newest = self.checkpoints.newest()
        raise TrainingError(
            f"the {name} of step {self.step} is {value}, "
            f"{f'the last checkpoint is {newest}' if newest else 'there is no checkpoint yet'}",
            fix="lower the learning rate or check the data",
        )

    @torch.no_grad()
    def _update_ema(self) -> None:
        if self.config.ema_decay is None:
            return
        # the decay grows with the step, so that the random first weights fade quickly
        decay = min(self.config.ema_decay, (1 + self.step) / (10 + self.step))
        for name, value in self._tracked().items():
            if value.is_floating_point():
                self.ema[name].lerp_(value.float(), 1 - decay)
            else:
                self.ema[name].copy_(value)

    def _tracked(self) -> dict[str, Tensor]:
        """The module's state in checkpoints and EMA: all but frozen weights that are not saved."""
        module, state = self.objective.module, self.objective.module.state_dict()
        if self.config.save_frozen:
            return state
        frozen = {name for name, p in module.named_parameters() if not p.requires_grad}
        return {name: value for name, value in state.items() if name not in frozen}

    def _state(self) -> dict[str, Tensor]:
        """The state of a checkpoint, as views of the live tensors."""
        state = {f"model.{name}": value for name, value in self._tracked().items()}
        state |= {f"ema.{name}": value for name, value in self.ema.items()}
        for name, weight in self.objective.module.named_parameters():
            for key, value in self.optimizer.state.get(weight, {}).items():
                state[f"optim.{name}.{key}"] = value
        state["step"] = torch.tensor(self.step)
        state["frozen"] = torch.tensor([self._frozen_sum], dtype=torch.float64)
        # torch's reader slices tensors, and a scalar has no dimension to slice
        return {name: value.view(1) if value.ndim == 0 else value for name, value in state.items()}


def _float_copies(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """Copies in float32; integer tensors keep their type."""
    return {
        name: value.clone().float() if value.is_floating_point() else value.clone()
        for name, value in state.items()
    }
