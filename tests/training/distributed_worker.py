"""Small runs that one process and several do alike; under torchrun this is their command.

    torchrun --nproc_per_node 2 -m tests.training.distributed_worker OUT STATE

OUT gets the figures of each run and, of each process, how many samples and micro-batches it had.
STATE is what the last run goes on from.
"""

from __future__ import annotations

import json
import sys
from dataclasses import dataclass
from pathlib import Path

import torch
from tests.training.test_denoising import VOCABULARY, backbone, canvas

from omni_diffusion.data.mixture import DrawnCanvas, SampleSlot, TaskGroup, TaskShare, sample_slots
from omni_diffusion.diffusion.masking import MaskingConfig
from omni_diffusion.training.denoising import DenoisingConfig, DenoisingObjective
from omni_diffusion.training.distributed import Precision, World, shard
from omni_diffusion.training.optim import OptimConfig
from omni_diffusion.training.trainer import LoopConfig, Trainer

STEPS = 4
SAVED = 2  # the step of the state that another number of processes goes on from


@dataclass(frozen=True)
class Setting:
    """samples: of a step. uneven: every second sample takes a whole row, and so a micro-batch."""

    precision: Precision = "float32"
    samples: float = 7.5
    uneven: bool = False


SETTINGS = {
    "float32": Setting(),
    "bfloat16": Setting("bfloat16"),
    "one sample": Setting(samples=1),
    "uneven": Setting(samples=6, uneven=True),
}


class Mixture:
    """Canvases of two tasks, a function of step and slot; the second task hears."""

    def __init__(self, setting: Setting, world: World) -> None:
        self.setting, self.world = setting, world
        heard = () if setting.samples < 2 or setting.uneven else (TaskShare("b", 2.5, 1.0),)
        self.shares = (TaskShare("a", setting.samples - sum(s.samples for s in heard), 0.5), *heard)

    def draw(self, step: int, generator: torch.Generator) -> list[TaskGroup]:
        found = sample_slots(self.shares, step, generator, self.world.rank, self.world.size)
        return [
            TaskGroup(share.task, weight, of, [self._drawn(share.task, slot) for slot in own])
            for share, weight, of, own in found
        ]

    def _drawn(self, task: str, slot: SampleSlot) -> DrawnCanvas:
        rng = slot.rng
        answer = 3 + rng.randrange(9)
        if self.setting.uneven:
            answer = (30, 4)[slot.index % 2]
        pads, seed = rng.randrange(4), rng.randrange(99)
        made = canvas(2 + rng.randrange(5), answer, pads, seed=seed, heard=int(task == "b"))
        return DrawnCanvas(made, rng.getrandbits(60), slot.index)


class Recorded(DenoisingObjective):
    """Keeps how many samples and micro-batches this process had in each step."""

    def backward(self, step: int, generator: torch.Generator) -> dict[str, float]:
        drawn = self.prepare(step, torch.Generator().set_state(generator.get_state()))
        groups = self.mixture.draw(step, torch.Generator().set_state(generator.get_state()))
        self.had.append((sum(len(group.drawn) for group in groups), len(drawn.micro_batches)))
        return super().backward(step, generator)

    had: list[tuple[int, int]]


def trainer(setting: Setting, folder: Path, world: World) -> Trainer:
    model = backbone()
    shard(model, list(model.model.layers), world, setting.precision)
    config = DenoisingConfig(
        MaskingConfig("antithetic"),
        precision=setting.precision,
        loss_average="token",
        max_length=40,
        micro_batch_tokens=40 if setting.uneven else 80,
    )
    objective = Recorded(model, VOCABULARY, Mixture(setting, world), config, world)
    objective.had = []
    optim = OptimConfig(lr=1e-2, warmup=2)
    loop = LoopConfig(STEPS, optim=optim, log_every=1, asynchronous=True, save_steps=SAVED)
    return Trainer(objective, loop, folder, world=world)


def run(setting: Setting, folder: Path, world: World, state: Path | None = None) -> object:
    """Train, from a state on if there is one; what is told of it."""
    rows: list[dict[str, float]] = []
    made = trainer(setting, folder, world)
    if state is not None:
        assert made.resume(state)
    made.fit(lambda _, row: rows.append(row))
    weights = {name: value.tolist() for name, value in made.weights().items()}
    assert isinstance(made.objective, Recorded)
    (folder / f"had-{world.rank}.json").write_text(json.dumps(made.objective.had))
    return {"rows": rows, "weights": weights}


def main() -> None:
    out, state = Path(sys.argv[1]), Path(sys.argv[2])
    world = World.join()
    told = {name: run(setting, out / name, world) for name, setting in SETTINGS.items()}
    told["gone on"] = run(Setting(), out / "gone on", world, state)
    if world.is_main:
        (out / "told.json").write_text(json.dumps(told))
    world.close()


if __name__ == "__main__":
    main()
