"""Train a model further on manifests or their shards: whole or by LoRA, on one process or many.

The result is a model folder of its own, OUT/model; OUT/training holds states and logs. A run that
was stopped goes on with the same plan, on however many processes.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import torch

from omni_diffusion.conversation import Message, Text
from omni_diffusion.data.manifest import lines, sample_of
from omni_diffusion.data.packing import MAX_LENGTH
from omni_diffusion.data.pretokenize import Worker, codecs_digest
from omni_diffusion.data.shard_mixture import ShardMixture, shares_of
from omni_diffusion.data.shard_store import Shards
from omni_diffusion.diffusion.loss import Weighting
from omni_diffusion.diffusion.masking import MaskingConfig, Variant
from omni_diffusion.engine.request import Request
from omni_diffusion.errors import DataError, TrainingError
from omni_diffusion.io import config, files, weights
from omni_diffusion.models.omni import OmniModel
from omni_diffusion.tasks.prompts import recognise
from omni_diffusion.training.denoising import DenoisingConfig, DenoisingObjective
from omni_diffusion.training.distributed import Precision, World, shard
from omni_diffusion.training.logs import logs_of
from omni_diffusion.training.optim import OptimConfig
from omni_diffusion.training.samples import Samples
from omni_diffusion.training.stages import paper
from omni_diffusion.training.throughput import Meter, matmul_peak
from omni_diffusion.training.trainer import LoopConfig, Trainer

if TYPE_CHECKING:
    from torch import nn

PLAN = "plan.json"
LOOKED = 2000  # lines among which samples to show are looked for
LR = 1e-5  # the paper's last stage's, for a model that has learned already
LORA_LR = 1e-4  # factors start at nothing, and few weights move


@dataclass(frozen=True)
class Plan:
    """All that a run depends on; a run goes on with the plan that it was begun with.

    data: folders of `data pretokenize`, or manifests, whose shards are then made in OUT/shards.
    model: the folder to start from, None = the shipped one. stage: 1, 2 or 3, whose learning rate,
    mix of tasks and mean over tokens are the paper's. samples: of a step, about, all processes
    together. lr: None = the stage's; 1e-5, by LoRA 1e-4, without one. mix: by task how often it
    comes, instead of the stage's, or of how many samples there are.
    lora: rank of the factors at every projection of the blocks, None trains the weights themselves.
    trainable: patterns of the names of weights that are trained, the others are frozen.
    max_length: places of a packed row, None = 3,072 or what the model has. micro_places: of a
    micro-batch, a row at least, None = a row's. checkpointing: keep only each block's input for the
    way back.
    average: decay of the moving average that ships, None keeps none. most_bad: the share of drawn
    rows that may be left out, broken or too long.
    """

    data: tuple[Path, ...]
    model: Path | None = None
    stage: int | None = None
    steps: int = 1000
    samples: int = 32
    lr: float | None = None
    warmup: int | None = None
    weight_decay: float = 0.0
    mix: dict[str, float] = field(default_factory=dict)
    lora: int | None = None
    trainable: tuple[str, ...] = ("*",)
    masking: Variant = "uniform"
    gamma: float = 0.6
    weighting: Weighting = "plain"
    balance: Literal["task", "token"] | None = None
    precision: Precision = "float32"
    max_length: int | None = None
    micro_places: int | None = None
    checkpointing: bool = False
    average: float | None = 0.999
    most_bad: float = 0.01
    seed: int = 0

    def __post_init__(self) -> None:
        if self.steps < 1 or self.samples < 1:
            raise TrainingError(
                f"{self.steps} steps of {self.samples} samples; give 1 or more of both"
            )
        if not self.data:
            raise TrainingError("no data; give a folder of shards or a manifest")
        if self.stage is not None:
            paper(self.stage)
        if self.lora is not None and self.trainable != ("*",):
            raise TrainingError("LoRA says itself what is trained; give no other trainable parts")


@dataclass(frozen=True)
class Saving:
    """How a run saves and shows itself; it may be another when it goes on.

    logs: beside metrics.jsonl, by name. sample_every: steps between answers to the first sample of
    each task, None shows none. measure: this machine's rate of matrix products, of which the log
    then says what share is reached.
    """

    log_every: int = 10
    save_seconds: float = 600.0
    save_steps: int | None = None
    keep: int = 2
    logs: tuple[str, ...] = ()
    sample_every: int | None = None
    measure: bool = False

    def __post_init__(self) -> None:
        for name in ("log_every", "save_steps", "sample_every"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise TrainingError(f"{name} is {value}; give 1 or more")


def train(
    plan: Plan,
    out: Path,
    *,
    saving: Saving | None = None,
    resume: Path | None = None,
    world: World | None = None,
    report: Callable[[int, dict[str, float]], None] | None = None,
    told: Callable[[str], None] | None = None,
) -> None:
    """Train to the last step; the first process writes OUT/model, by LoRA OUT/adapter too.

    resume: a state to go on from, by default the newest of OUT. report: sees every logged row.
    told: hears of samples that are bad or too long, which are left out; without it they raise
    DataError.
    """
    world = world or World()
    trainer = begin(plan, out, told, saving=saving, resume=resume, world=world)
    trainer.fit(report)
    trained = trainer.weights()
    if world.first:
        _write(plan, trained, out)
    world.wait()


def begin(
    plan: Plan,
    out: Path,
    told: Callable[[str], None] | None = None,
    *,
    saving: Saving | None = None,
    resume: Path | None = None,
    world: World | None = None,
) -> Trainer:
    """The trainer, at the start or where OUT was stopped.

    Raises DataError for shards of other codecs, TrainingError where OUT has another plan.
    """
    world, saving = world or World(), saving or Saving()
    stage = None if plan.stage is None else paper(plan.stage)
    lr = plan.lr or (stage.lr if stage else LORA_LR if plan.lora else LR)
    warmup = min(100, plan.steps // 10) if plan.warmup is None else plan.warmup
    optim = OptimConfig(lr=lr, warmup=warmup, weight_decay=plan.weight_decay)
    masking = MaskingConfig(plan.masking, gamma=plan.gamma)
    model = OmniModel.open(plan.model)
    _check(plan.data, model)
    if world.first:
        _keep(plan, out)
    world.wait()
    shards = _shards(plan.data, out, model, world)
    most = min(plan.max_length or MAX_LENGTH, model.max_positions)
    mixture = ShardMixture(
        shares_of(shards, plan.samples, plan.mix or (stage.mix if stage else None)),
        shards,
        model.vocabulary,
        model.codecs.text,
        answers=model.answers,
        seed=plan.seed,
        max_length=most,
        most_bad=plan.most_bad,
        rank=world.rank,
        ranks=world.size,
        report=told,
    )
    denoising = DenoisingConfig(
        masking,
        plan.weighting,
        plan.precision,
        balance=plan.balance or ("token" if stage else "task"),
        max_length=most,
        micro_places=plan.micro_places or most,
    )
    backbone = model.backbone
    if plan.lora is not None:
        torch.manual_seed(plan.seed)  # factors start at random, in all processes alike
        _adapted(model, plan.lora)
    _freeze(backbone, plan.trainable if plan.lora is None else ("*.lora_*",))
    backbone.checkpointing(plan.checkpointing)
    shard(backbone, list(backbone.model.layers), world, plan.precision)
    loop = LoopConfig(
        plan.steps,
        plan.seed,
        optim,
        plan.average,
        saving.log_every,
        saving.save_seconds,
        saving.save_steps,
        saving.keep,
        asynchronous=True,
        save_frozen=False,
    )
    objective = DenoisingObjective(backbone, model.vocabulary, mixture, denoising, world)
    logs = logs_of(saving.logs, out / "training") if world.first else []
    watch = None
    if saving.sample_every is not None:
        asked = _requests(shards, model, [share.task for share in mixture.shares])
        watch = Samples(model, asked).watch(saving.sample_every, logs)
    meter = None
    if saving.measure:
        dtype = torch.bfloat16 if plan.precision == "bfloat16" else torch.float32
        meter = Meter(matmul_peak(world.device, dtype) * world.size)
    trainer = Trainer(
        objective, loop, out / "training", world=world, logs=logs, watch=watch, meter=meter
    )
    trainer.resume(resume)
    return trainer


def _check(data: Sequence[Path], model: OmniModel) -> None:
    """Raise DataError for data that cannot be read or was made with other codecs."""
    digest = codecs_digest(model.codecs)
    for path in data:
        if not path.is_dir():
            next(lines(path), None)
        elif Shards(path).index.shards[0].codecs != digest:
            raise DataError(
                f"{path} was made with other codecs than those of {model.config.name}; run data"
                " pretokenize with that model"
            )


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


def _shards(data: Sequence[Path], out: Path, model: OmniModel, world: World) -> list[Shards]:
    """The shards of all data; the first process makes those of manifests."""
    folders = []
    for number, path in enumerate(data):
        folder = path
        if not path.is_dir():
            folder = out / "shards" / f"{number}-{path.stem}"
            if world.first:
                Worker(path, folder, model.codecs, answers=model.answers).run()
        folders.append(folder)
    world.wait()
    return [Shards(folder) for folder in folders]


def _requests(folders: Sequence[Shards], model: OmniModel, tasks: Sequence[str]) -> list[Request]:
    """What the first line of each task asks, as far as the manifests are still there."""
    found: dict[str, Request] = {}
    for shards in folders:
        if not shards.manifest.is_file():
            continue
        for place, line in islice(lines(shards.manifest), LOOKED):
            try:
                sample = sample_of(line, place)
                prompt = recognise(sample.entries, model.answers)
                if prompt is None or prompt.task.name not in tasks or prompt.task.name in found:
                    continue
                user = sample.conversation()[-2]
            except DataError:  # a sample that training leaves out, too
                continue
            words = () if prompt.text is None else (Text(prompt.text),)
            media = tuple(part for part in user.parts if not isinstance(part, Text))
            found[prompt.task.name] = Request(prompt.task, [Message("user", (*words, *media))])
    return [found[task] for task in tasks if task in found]


def _freeze(module: nn.Module, trainable: Sequence[str]) -> None:
    """Freeze all weights but those of the patterns, of which each must name one."""
    names = [name for name, _ in module.named_parameters()]
    for pattern in trainable:
        if not any(fnmatchcase(name, pattern) for name in names):
            raise TrainingError(
                f"no weight is called {pattern!r}; names are such as {names[0]}, patterns such as"
                " model.layers.*"
            )
    for name, parameter in module.named_parameters():
        parameter.requires_grad_(any(fnmatchcase(name, pattern) for pattern in trainable))


def _adapted(model: OmniModel, rank: int) -> Any:
    """The model wrapped by peft, its backbone's projections with factors from now on."""
    from omni_diffusion.integrations.peft import lora_config
    from omni_diffusion.io.optional import need

    peft = need("peft", "lora")
    from omni_diffusion.integrations.transformers.modeling import OmniDiffusionModel

    return peft.get_peft_model(OmniDiffusionModel.from_omni(model), lora_config(rank))


def _write(plan: Plan, trained: Mapping[str, Any], out: Path) -> None:
    """Write the model with the trained weights, factors merged into it."""
    model = OmniModel.open(plan.model)
    adapted = None if plan.lora is None else _adapted(model, plan.lora)
    weights.load_into(model.backbone, trained, where="the trained weights")
    if adapted is not None:
        adapted.save_pretrained(out / "adapter")
        model = adapted.merge_and_unload().to_omni(model.codecs)
    model.save(out / "model")
