"""Train a model further on pretokenized shards of a manifest; resumable at any moment.

The result is a model folder of its own, OUT/model; OUT/training holds state and log.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from omni_diffusion import config, files, weights
from omni_diffusion.data.drawing import ShardMixture, shares_of
from omni_diffusion.data.packing import MAX_LENGTH
from omni_diffusion.data.sharding import codecs_digest
from omni_diffusion.data.shards import Shards
from omni_diffusion.errors import DataError, TrainingError
from omni_diffusion.model import OmniModel
from omni_diffusion.training.denoising import DenoisingConfig, DenoisingObjective
from omni_diffusion.training.optim import OptimConfig
from omni_diffusion.training.trainer import LoopConfig, Trainer

PLAN = "plan.json"


@dataclass(frozen=True)
class Plan:
    """All that a run depends on; a run goes on with the plan that it was begun with.

    shards: a folder of `data pretokenize`. model: the folder to start from, None = the shipped one.
    samples: rows of a step, about, all tasks together. The forward process is the paper's.
    """

    shards: Path
    model: Path | None = None
    steps: int = 1000
    samples: int = 32
    lr: float = 1e-5
    seed: int = 0

    def __post_init__(self) -> None:
        if self.steps < 1 or self.samples < 1:
            raise TrainingError(
                f"{self.steps} steps of {self.samples} samples; give 1 or more of both"
            )


def train(
    plan: Plan,
    out: Path,
    *,
    report: Callable[[int, dict[str, float]], None] | None = None,
    told: Callable[[str], None] | None = None,
) -> OmniModel:
    """Train to the last step and write OUT/model.

    report: sees every logged row. told: hears of samples that are too long, which are left out;
    without it they raise DataError.
    """
    model, trainer = begin(plan, out, told)
    trainer.fit(report)
    weights.load_into(model.backbone, trainer.weights(), where="the averaged weights")
    model.save(out / "model")
    return model


def begin(
    plan: Plan, out: Path, told: Callable[[str], None] | None = None
) -> tuple[OmniModel, Trainer]:
    """The model and its trainer, at the start or where OUT was stopped.

    Raises DataError for shards of other codecs, TrainingError where OUT has another plan.
    """
    optim = OptimConfig(lr=plan.lr, warmup=min(100, plan.steps // 10))
    shards, model = Shards(plan.shards), OmniModel.open(plan.model)
    if shards.index.shards[0].codecs != codecs_digest(model.codecs):
        raise DataError(
            f"{plan.shards} was made with other codecs than those of {model.config.name}; run data"
            " pretokenize with that model"
        )
    _keep(plan, out)
    most = min(MAX_LENGTH, model.max_positions)
    mixture = ShardMixture(
        shares_of(shards, plan.samples),
        shards,
        model.vocabulary,
        model.codecs.text,
        answers=model.answers,
        seed=plan.seed,
        max_length=most,
        report=told,
    )
    objective = DenoisingObjective(
        model.backbone, model.vocabulary, mixture, DenoisingConfig(max_length=most)
    )
    trainer = Trainer(objective, LoopConfig(plan.steps, plan.seed, optim), out / "training")
    trainer.resume()
    return model, trainer


def _keep(plan: Plan, out: Path) -> None:
    """Write the plan of a new run; raises TrainingError where the folder has another."""
    files.make_folder(out)
    path = out / PLAN
    if not path.exists():
        config.save(plan, path)
        return
    begun, asked = config.to_dict(config.load(Plan, path)), config.to_dict(plan)
    other = [name for name in asked if asked[name] != begun[name]]
    if other:
        name = other[0]
        raise TrainingError(
            f"{out} was begun with {name} {begun[name]}, not {asked[name]}; give the same or"
            " another folder"
        )
