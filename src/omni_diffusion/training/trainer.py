"""The one training loop: draw, step, average, log, save. Knows nothing of what is trained.

An `Objective` brings the module and the loss of a step. Every random draw of a step comes from
(seed, step), so a run that was stopped and resumed is bit for bit the run that was not.
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
from omni_diffusion.training.distributed import World, gathered, whole
from omni_diffusion.training.interrupt import deferred
from omni_diffusion.training.logs import JsonLog, Log
from omni_diffusion.training.optim import OptimConfig, adamw, rate
from omni_diffusion.training.throughput import Meter


class Objective(Protocol):
    """What is trained, and how a step's loss is made."""

    @property
    def module(self) -> nn.Module:
        """Holds every weight of the run; frozen ones have requires_grad off."""
        ...

    def loss(self, step: int, generator: torch.Generator) -> tuple[Tensor, dict[str, float]]:
        """The loss of one step (a scalar that carries gradients) and figures to log."""
        ...


@runtime_checkable
class PartedObjective(Objective, Protocol):
    """One whose steps are made in parts: in micro-batches, by several processes."""

    def ahead(self, step: int, generator: torch.Generator) -> None:
        """Begin to prepare a step that comes later, while another one runs."""
        ...

    def backward(self, step: int, generator: torch.Generator) -> dict[str, float]:
        """Add a step's gradients to the weights; its figures, "loss" first, over all processes."""
        ...


@dataclass(frozen=True)
class LoopConfig:
    """How long a run is, where its seeds start, how often it logs and saves.

    average: decay of the moving average of the trained weights, which is what ships; None keeps
    none, and the weights ship as they are. save_steps: save after so many steps, beside the time.
    keep: how many states. asynchronous: go on training while a state is written. save_frozen:
    states hold frozen weights too, which an objective may change by itself, as a codebook; without
    them their sum tells whether a run goes on with the same.
    """

    steps: int
    seed: int = 0
    optim: OptimConfig = field(default_factory=OptimConfig)
    average: float | None = 0.999
    log_every: int = 50
    save_seconds: float = 120.0
    save_steps: int | None = None
    keep: int = 2
    asynchronous: bool = False
    save_frozen: bool = True


class Trainer:
    """Runs an objective; the folder holds `checkpoints` and `metrics.jsonl`.

    world: the processes that train together; all of them run the same. logs: further ones than
    `metrics.jsonl`. watch: called after every step with its number, by all processes. meter: adds
    rates to the rows of an objective that counts `tokens` and `flops`.
    """

    def __init__(
        self,
        objective: Objective,
        config: LoopConfig,
        folder: Path,
        *,
        world: World | None = None,
        logs: Sequence[Log] = (),
        watch: Callable[[int], None] | None = None,
        meter: Meter | None = None,
    ) -> None:
        self.objective, self.config, self.folder = objective, config, folder
        self.world, self.watch, self.meter = world or World(), watch, meter
        folder.mkdir(parents=True, exist_ok=True)
        self.optimizer = adamw([objective.module], config.optim)
        self.average = {} if config.average is None else _copies(self._live())
        self.checkpoints = Checkpoints(folder / "checkpoints", self.world, config.keep)
        self.logs: list[Log] = [JsonLog(folder), *logs]
        if not self.world.first:
            self.logs = []
        self.step = 0
        self._saved: int | None = None  # the step of the newest state
        left = dict(objective.module.named_parameters()).keys() - self._live().keys()
        frozen = (objective.module.get_parameter(name) for name in sorted(left))
        self._frozen = sum(float(whole(p.abs().sum(dtype=torch.float64))) for p in frozen)

    def resume(self, path: Path | None = None) -> bool:
        """Go on from the folder's newest state, or that at `path`; says whether there was one."""
        path = path or self.checkpoints.newest()
        if path is None:
            return False
        state = self._state()
        frozen = float(state["frozen"])
        self.checkpoints.restore(path, state)
        self.step = self._saved = int(state["step"])
        if not math.isclose(frozen, float(state["frozen"]), rel_tol=1e-9):
            raise TrainingError(
                f"{path} was made with other frozen weights than those given; start from the same"
                " model, or begin in another folder"
            )
        return True

    def save(self, *, wait: bool = True) -> None:
        """Write the state now; with `wait` off, while the run goes on."""
        self.checkpoints.save(self._state(), self.step, wait=wait)
        self._saved = self.step

    def weights(self) -> dict[str, Tensor]:
        """What ships, whole, on the CPU of the first process: the average where one is kept."""
        state = self.objective.module.state_dict()
        return gathered({**state, **self.average}, self.world)

    def fit(self, report: Callable[[int, dict[str, float]], None] | None = None) -> None:
        """Train to the last step; `report` sees every logged row (for a progress bar).

        SIGINT and SIGTERM are obeyed after the running step, once the state is saved. Rows of the
        log beyond the current step, left by a run that was killed, are dropped.
        """
        for log in self.logs:
            log.forget(self.step)
        with deferred() as stopping:
            self._run(report, stopping)
            if self._saved != self.step:
                self.save()
            self.checkpoints.finish()
        for log in self.logs:
            log.close()
        if self.step < self.config.steps:  # the caller's handler of the signal let us go on
            raise TrainingError(
                f"training was stopped after {self.step} of {self.config.steps} steps: "
                f"its state is {self.checkpoints.newest()}; resume to go on"
            )

    def _run(
        self,
        report: Callable[[int, dict[str, float]], None] | None,
        stopping: Callable[[], bool],
    ) -> None:
        config = self.config
        saved = logged = time.monotonic()
        sums: dict[str, float] = {}
        count = stop = 0
        while self.step < config.steps and not stop:
            figures = self.advance()
            count += 1
            for name, value in figures.items():
                sums[name] = sums.get(name, 0.0) + value
                sums[f"#{name}"] = sums.get(f"#{name}", 0.0) + 1
            if self.step % config.log_every == 0 or self.step == config.steps:
                now = time.monotonic()
                row = {k: v / sums[f"#{k}"] for k, v in sums.items() if k[0] != "#"}
                row["seconds_a_step"] = seconds = (now - logged) / count
                if self.meter and {"tokens", "flops"} <= row.keys():
                    row |= self.meter.figures(
                        tokens=row["tokens"], flops=row["flops"], seconds=seconds
                    )
                for log in self.logs:
                    log.row(self.step, row)
                if report:
                    report(self.step, row)
                sums, count, logged = {}, 0, now
            if self.watch:
                before = time.monotonic()
                self.watch(self.step)
                logged += time.monotonic() - before  # no time of a step's
            due = time.monotonic() - saved > config.save_seconds
            # all processes stop and save at the same step, whichever of them was told to
            now_here = [int(stopping()), int(due), int(self.checkpoints.writing)]
            stop, due_now, writing = self.world.most(now_here)
            if not writing:  # named at once: what has no name is lost with the run
                self.checkpoints.finish()
            if due_now or (config.save_steps and self.step % config.save_steps == 0):
                self.save(wait=not config.asynchronous)
                saved = time.monotonic()

    def advance(self) -> dict[str, float]:
        """One optimizer step; raises TrainingError instead of stepping where nothing is finite."""
        config, module, objective = self.config, self.objective.module, self.objective
        # Dropout, and whatever else draws globally, must not repeat the draws of the generator.
        torch.manual_seed(self._seed(self.step) + 2**40)
        for group in self.optimizer.param_groups:
            group["lr"] = rate(self.step, config.steps, config.optim)
        module.train()
        if isinstance(objective, PartedObjective):
            for step in (self.step, self.step + 1):  # that of this one is there but for the first
                if step < config.steps:
                    objective.ahead(step, self._generator(step))
            figures = objective.backward(self.step, self._generator(self.step))
        else:
            loss, figures = objective.loss(self.step, self._generator(self.step))
            figures = {"loss": float(loss.detach())} | figures
            loss.backward()  # type: ignore[no-untyped-call]
        self._check("loss", figures["loss"])
        trained = [p for p in module.parameters() if p.requires_grad]
        norm = float(whole(nn.utils.clip_grad_norm_(trained, config.optim.clip)))
        self._check("gradient norm", norm)
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        self.step += 1
        self._average()
        return {"loss": figures["loss"], "gradient_norm": norm} | figures

    def _seed(self, step: int) -> int:
        return self.config.seed * 1_000_003 + step

    def _generator(self, step: int) -> torch.Generator:
        return torch.Generator().manual_seed(self._seed(step))

    def _check(self, name: str, value: float) -> None:
        if math.isfinite(value):
            return
        self.optimizer.zero_grad(set_to_none=True)
        self.checkpoints.finish()
        good = self.checkpoints.newest()
        raise TrainingError(
            f"the {name} of step {self.step} is {value}: "
            f"{f'the last good state is {good}' if good else 'no state is saved yet'}; "
            "lower the learning rate or look at the data"
        )

    @torch.no_grad()
    def _average(self) -> None:
        if self.config.average is None:
            return
        # The decay grows with the step so that the first weights, which are noise, fade soon.
        decay = min(self.config.average, (1 + self.step) / (10 + self.step))
        for name, value in self._live().items():
            if value.is_floating_point():
                self.average[name].lerp_(value.float(), 1 - decay)
            else:
                self.average[name].copy_(value)

    def _live(self) -> dict[str, Tensor]:
        """What states hold and averages follow: all of the module's but unsaved frozen weights."""
        module, state = self.objective.module, self.objective.module.state_dict()
        if self.config.save_frozen:
            return state
        frozen = {name for name, p in module.named_parameters() if not p.requires_grad}
        return {name: value for name, value in state.items() if name not in frozen}

    def _state(self) -> dict[str, Tensor]:
        """All that exact resume needs but unsaved frozen weights; views of the tensors in use."""
        state = {f"model.{name}": value for name, value in self._live().items()}
        state |= {f"average.{name}": value for name, value in self.average.items()}
        for name, weight in self.objective.module.named_parameters():
            for key, value in self.optimizer.state.get(weight, {}).items():
                state[f"optim.{name}.{key}"] = value
        state["step"] = torch.tensor(self.step)
        state["frozen"] = torch.tensor([self._frozen], dtype=torch.float64)
        # torch's reader parts tensors into slices, of which a scalar has none
        return {name: value.view(1) if value.ndim == 0 else value for name, value in state.items()}


def _copies(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """Copies of their own, in float32."""
    return {
        name: value.clone().float() if value.is_floating_point() else value.clone()
        for name, value in state.items()
    }
