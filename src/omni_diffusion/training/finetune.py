"""Train a model on manifests or pretokenized shards: all weights, some, or LoRA factors.

The result is a model folder, OUT/model; OUT/training holds checkpoints and logs. A run resumes with
the same plan, on any number of processes.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from hashlib import blake2b
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from omni_diffusion.conversation import Message, Text
from omni_diffusion.data.defaults import MAX_BAD_FRACTION
from omni_diffusion.data.manifest import parse_sample, read_lines
from omni_diffusion.data.pretokenize import Pretokenizer, codecs_digest
from omni_diffusion.data.shard_mixture import ShardMixture, shares_of
from omni_diffusion.data.shard_store import Shards
from omni_diffusion.diffusion.loss import Weighting
from omni_diffusion.diffusion.masking import MaskingConfig, Variant
from omni_diffusion.engine.request import Request
from omni_diffusion.errors import DataError, TrainingError
from omni_diffusion.io import config, files, weights
from omni_diffusion.models.lora import add_lora, save_adapter
from omni_diffusion.models.omni import SMALL_MODEL, OmniModel
from omni_diffusion.models.sizes import MAX_TRAINING_LENGTH, matmul_peak
from omni_diffusion.tasks.prompts import detect_task
from omni_diffusion.training import stages
from omni_diffusion.training.checkpoint import Checkpoints
from omni_diffusion.training.denoising import DenoisingConfig, DenoisingObjective, LossAverage
from omni_diffusion.training.distributed import Precision, World, shard
from omni_diffusion.training.logs import default_logs, open_logs
from omni_diffusion.training.optim import OptimConfig
from omni_diffusion.training.records import Log
from omni_diffusion.training.samples import Samples
from omni_diffusion.training.throughput import ThroughputMeter
from omni_diffusion.training.trainer import LoopConfig, Trainer

if TYPE_CHECKING:
    from torch import nn

    from omni_diffusion.backbone.dream import Dream

PLAN_FILE, DATA_FILE = "plan.json", "data.json"
SEARCHED_LINES = 2000  # lines of a manifest among which sample requests are searched
BATCH_SIZE = 32  # without a stage
LR = 1e-5  # without a stage: the paper's last one, for a model that is already trained
LORA_LR = 1e-4  # factors start at zero and are few
MAX_WARMUP = 100  # steps
SAMPLED_STEPS = 5  # how often a run answers its sample requests, by default


@dataclass(frozen=True)
class Plan:
    """What the result of a run depends on. A run resumes only with the plan it started with.

    data: pretokenized folders, or manifests, which are pretokenized into OUT/shards first.
    model: folder of the model to start from; None = the shipped one.
    stage: 1, 2 or 3; takes learning rate, batch size, task weights and loss average of the paper's
    stage, where they are not given.
    steps: optimizer steps.
    batch_size: samples of a step over all processes, on average; None = 128 with a stage, else 32.
    lr: peak learning rate; None = the stage's; without one 1e-5, or 1e-4 with LoRA.
    warmup: steps of linear warm-up; None = a tenth of the steps, at most 100.
    weight_decay: of matrices; biases and norms are not decayed.
    task_weights: relative frequency of each task; empty = the stage's, or the number of samples.
    lora: rank of the factors at every linear layer of the blocks; None trains the weights.
    trainable: name patterns of the weights to train; the others are frozen.
    masking, gamma: the forward process, see `MaskingConfig`.
    weighting: weight of each masked token, see `diffusion.loss.weigh`.
    loss_average: "token", one mean over the step, or "task", see `DenoisingConfig`; None = token
    with a stage, else task.
    precision: of the matrix products.
    max_length: tokens of a packed row; None = 3,072, or the most that the model takes.
    micro_batch_tokens: most tokens of a micro-batch, though always one row; None = one row.
    gradient_checkpointing: keep only the input of each block and recompute the rest backward.
    ema_decay: decay of the moving average of the weights, which is the result; 0 or None = the
    result is the last weights.
    max_bad_fraction: fraction of the samples drawn so far that may be broken or too long.
    seed: of the order of samples, of the masks and of new LoRA factors.
    """

    data: tuple[Path, ...]
    model: Path | None = None
    stage: int | None = None
    steps: int = 1000
    batch_size: int | None = None
    lr: float | None = None
    warmup: int | None = None
    weight_decay: float = OptimConfig.weight_decay
    task_weights: dict[str, float] = field(default_factory=dict)
    lora: int | None = None
    trainable: tuple[str, ...] = ("*",)
    masking: Variant = MaskingConfig.variant
    gamma: float = MaskingConfig.gamma
    weighting: Weighting = DenoisingConfig.weighting
    loss_average: LossAverage | None = None
    precision: Precision = DenoisingConfig.precision
    max_length: int | None = None
    micro_batch_tokens: int | None = None
    gradient_checkpointing: bool = False
    ema_decay: float | None = LoopConfig.ema_decay
    max_bad_fraction: float = MAX_BAD_FRACTION
    seed: int = 0

    def __post_init__(self) -> None:
        for name in ("steps", "batch_size", "lora"):
            _at_least(name, getattr(self, name), 1)
        if not self.data:
            raise TrainingError(
                "there is no data", field="data", fix="give a manifest or a pretokenized folder"
            )
        if self.stage is not None:
            stages.paper_stage(self.stage)
        if self.lora is not None and self.trainable != Plan.trainable:
            raise TrainingError(
                "LoRA trains its factors and no other weights",
                field="trainable",
                value=self.trainable,
                fix="leave it out, or train without LoRA",
            )


@dataclass(frozen=True)
class RunOptions:
    """How a run saves, logs and samples. It may change when a run resumes.

    log_every: steps between log records. save_seconds: time between checkpoints. save_steps:
    additional checkpoints every so many steps. keep_checkpoints: number of checkpoints kept.
    report_to: names of logs besides metrics.jsonl; None = the page, and TensorBoard if it is
    installed. With any, the machine's matmul rate is measured and MFU is logged. sample_every:
    steps between answers to the first sample of each task; None = SAMPLED_STEPS times in a run,
    0 = never.
    """

    log_every: int = 10
    save_seconds: float = 600.0
    save_steps: int | None = None
    keep_checkpoints: int = LoopConfig.keep_checkpoints
    report_to: tuple[str, ...] | None = None
    sample_every: int | None = None

    def __post_init__(self) -> None:
        for name, least in (("log_every", 1), ("save_steps", 1), ("sample_every", 0)):
            _at_least(name, getattr(self, name), least)


def _at_least(name: str, value: int | None, least: int) -> None:
    if value is not None and value < least:
        raise TrainingError(
            f"{name} is {value}", field=name, value=value, fix=f"give {least} or more"
        )


def train(
    plan: Plan,
    out: Path,
    *,
    options: RunOptions | None = None,
    resume: Path | None = None,
    world: World | None = None,
    report: Callable[[int, dict[str, float]], None] | None = None,
    on_bad_sample: Callable[[str], None] | None = None,
) -> None:
    """Train to the last step; the main process writes OUT/model, and OUT/adapter with LoRA.

    resume: checkpoint to resume from; None = the newest of OUT, if any. report: gets every logged
    step and its metrics. on_bad_sample: gets a message for each sample that is broken or too long
    and therefore left out; without it such a sample raises DataError. Raises StorageError if
    another process trains in the folder.
    """
    world = world or World()
    with files.exclusive(out) if world.is_main else nullcontext():
        trainer = build_trainer(
            plan, out, options=options, resume=resume, world=world, on_bad_sample=on_bad_sample
        )
        trainer.fit(report)
        trained = trainer.weights()
        if world.is_main:
            _write(plan, trained, out)
        world.barrier()


def build_trainer(
    plan: Plan,
    out: Path,
    *,
    options: RunOptions | None = None,
    resume: Path | None = None,
    world: World | None = None,
    on_bad_sample: Callable[[str], None] | None = None,
) -> Trainer:
    """The trainer of a run, new or resumed; parameters as for `train`.

    Raises DataError for shards that were made with other codecs, TrainingError if OUT belongs to
    another plan, or the data changed since its checkpoints.
    """
    world, options = world or World(), options or RunOptions()
    loop = _loop_config(plan, options)
    masking = MaskingConfig(plan.masking, gamma=plan.gamma)
    model = _open(plan.model)
    _check_data(plan.data, model)
    if world.is_main:
        _claim_folder(plan, out)
    world.barrier()
    shards = _open_shards(plan.data, out, model, world)
    if world.is_main:
        _check_fingerprint(plan.data, shards, out)
    world.barrier()
    max_length = min(plan.max_length or MAX_TRAINING_LENGTH, model.max_positions)
    mixture = _mixture(plan, shards, model, max_length, world, on_bad_sample)
    denoising = DenoisingConfig(
        masking,
        plan.weighting,
        plan.precision,
        loss_average=plan.loss_average or ("task" if plan.stage is None else "token"),
        max_length=max_length,
        micro_batch_tokens=plan.micro_batch_tokens or max_length,
    )
    _prepare_weights(plan, model.backbone, world)
    objective = DenoisingObjective(model.backbone, model.vocabulary, mixture, denoising, world)
    names = default_logs() if options.report_to is None else options.report_to
    logs = open_logs(names, out / "training") if world.is_main else []
    tasks = [share.task for share in mixture.shares]
    trainer = Trainer(
        objective,
        loop,
        out / "training",
        world=world,
        logs=logs,
        on_step=_sampler(plan, options, model, shards, tasks, logs) if names else None,
        meter=_meter(plan, world) if names else None,
    )
    trainer.resume(resume)
    return trainer


def _loop_config(plan: Plan, options: RunOptions) -> LoopConfig:
    """Schedule, EMA and checkpoints; raises ConfigError for numbers out of range."""
    lr = plan.lr
    if lr is None and plan.stage is not None:
        lr = stages.paper_stage(plan.stage).lr
    elif lr is None:
        lr = LR if plan.lora is None else LORA_LR
    warmup = min(MAX_WARMUP, plan.steps // 10) if plan.warmup is None else plan.warmup
    return LoopConfig(
        plan.steps,
        plan.seed,
        OptimConfig(lr=lr, warmup=warmup, weight_decay=plan.weight_decay),
        plan.ema_decay or None,
        options.log_every,
        options.save_seconds,
        options.save_steps,
        options.keep_checkpoints,
        asynchronous=True,
        save_frozen=False,
    )


def _mixture(
    plan: Plan,
    shards: Sequence[Shards],
    model: OmniModel,
    max_length: int,
    world: World,
    on_bad_sample: Callable[[str], None] | None,
) -> ShardMixture:
    """Draws this process's samples of a step in the plan's or the stage's proportions."""
    batch_size, task_weights = plan.batch_size, plan.task_weights or None
    if plan.stage is not None:
        batch_size = batch_size or stages.BATCH_SIZE
        task_weights = task_weights or dict(stages.paper_stage(plan.stage).task_weights)
    return ShardMixture(
        shares_of(shards, batch_size or BATCH_SIZE, task_weights),
        shards,
        model.vocabulary,
        model.codecs.text,
        answers=model.generation.answers,
        seed=plan.seed,
        max_length=max_length,
        max_bad_fraction=plan.max_bad_fraction,
        rank=world.rank,
        ranks=world.size,
        on_bad_sample=on_bad_sample,
    )


def _prepare_weights(plan: Plan, backbone: Dream, world: World) -> None:
    """Add LoRA factors, freeze what is not trained, and shard the backbone over the processes."""
    trainable = plan.trainable
    if plan.lora is not None:
        torch.manual_seed(plan.seed)  # random factors must be the same on all processes
        add_lora(backbone, plan.lora)
        trainable = ("*.lora_*",)
    _freeze(backbone, trainable)
    backbone.checkpointing(plan.gradient_checkpointing)
    shard(backbone, list(backbone.model.layers), world, plan.precision)


def _sampler(
    plan: Plan,
    options: RunOptions,
    model: OmniModel,
    shards: Sequence[Shards],
    tasks: Sequence[str],
    logs: Sequence[Log],
) -> Callable[[int], None] | None:
    """Answers a sample request of each task every few steps; None if the run takes no samples."""
    every = options.sample_every
    if every is None:
        every = max(1, plan.steps // SAMPLED_STEPS)
    if not every:
        return None
    return Samples(model, _sample_requests(shards, model, tasks)).every(every, logs)


def _meter(plan: Plan, world: World) -> ThroughputMeter:
    dtype = torch.bfloat16 if plan.precision == "bfloat16" else torch.float32
    return ThroughputMeter(matmul_peak(world.device, dtype) * world.size)


def _check_data(data: Sequence[Path], model: OmniModel) -> None:
    """Raise DataError for data that cannot be read or was made with other codecs."""
    digest = codecs_digest(model.codecs)
    for path in data:
        if not files.is_dir(path):
            next(read_lines(path), None)
        elif Shards(path).index.shards[0].codecs != digest:
            raise DataError(
                f"{path} was pretokenized with other codecs than those of {model.config.name}",
                field="data",
                value=path,
                fix="pretokenize it with this model",
            )


def _claim_folder(plan: Plan, out: Path) -> None:
    """Write the plan of a new run; raises TrainingError if the folder belongs to another plan."""
    files.make_folder(out)
    path = out / PLAN_FILE
    if not files.exists(path):
        config.save(plan, path)
        return
    saved, given = config.to_dict(config.load(Plan, path)), config.to_dict(plan)
    for name, value in given.items():
        if value != saved[name]:
            raise TrainingError(
                f"the run in {out} has {name} {saved[name]}, not {value}",
                field=name,
                value=value,
                fix="give the same plan or another folder",
            )


def _open_shards(data: Sequence[Path], out: Path, model: OmniModel, world: World) -> list[Shards]:
    """The shards of all data; the main process pretokenizes the manifests."""
    folders = []
    for number, path in enumerate(data):
        folder = path
        if not files.is_dir(path):
            folder = out / "shards" / f"{number}-{path.stem}"
            if world.is_main:
                Pretokenizer(path, folder, model.codecs, answers=model.generation.answers).run()
        folders.append(folder)
    world.barrier()
    return [Shards(folder) for folder in folders]


def _check_fingerprint(data: Sequence[Path], shards: Sequence[Shards], out: Path) -> None:
    """Note what the data hold; raises TrainingError if that changed since the last checkpoint."""
    path, fingerprints = out / "training" / DATA_FILE, {}
    for source, opened in zip(data, shards, strict=True):
        digests = [record.digest for record in opened.index.shards]
        fingerprints[str(source)] = blake2b(repr(digests).encode(), digest_size=16).hexdigest()
    known: dict[str, str] = json.loads(path.read_bytes()) if path.exists() else fingerprints
    if Checkpoints(out / "training" / "checkpoints").newest() is not None:
        for name, fingerprint in fingerprints.items():
            if known.get(name) != fingerprint:
                raise TrainingError(
                    f"{name} or its media changed since the run in {out} began",
                    field="data",
                    value=name,
                    fix="restore them, or give another folder for a new run",
                )
    if known != fingerprints or not path.exists():
        files.make_folder(path.parent)
        files.write_text(path, json.dumps(fingerprints, indent=2) + "\n")


def _sample_requests(
    folders: Sequence[Shards], model: OmniModel, tasks: Sequence[str]
) -> list[Request]:
    """The prompt of the first sample of each task, where the shards' manifests still exist."""
    requests: dict[str, Request] = {}
    for shards in folders:
        if not files.is_file(shards.manifest):
            continue
        for source, line in islice(read_lines(shards.manifest), SEARCHED_LINES):
            try:
                sample = parse_sample(line, source)
                prompt = detect_task(sample.messages, model.generation.answers)
                if prompt is None or prompt.task.name not in tasks or prompt.task.name in requests:
                    continue
                user = sample.conversation()[-2]
            except DataError:  # training leaves this sample out too
                continue
            text = () if prompt.text is None else (Text(prompt.text),)
            media = tuple(part for part in user.parts if not isinstance(part, Text))
            requests[prompt.task.name] = Request(prompt.task, [Message("user", (*text, *media))])
    return [requests[task] for task in tasks if task in requests]


def _freeze(module: nn.Module, trainable: Sequence[str]) -> None:
    """Freeze all weights without a matching pattern; each pattern must match a weight."""
    names = [name for name, _ in module.named_parameters()]
    for pattern in trainable:
        if not any(fnmatchcase(name, pattern) for name in names):
            raise TrainingError(
                f"no weight matches {pattern!r}, the first weight is {names[0]}",
                field="trainable",
                value=pattern,
                fix="give a pattern such as model.layers.*",
            )
    for name, parameter in module.named_parameters():
        parameter.requires_grad_(any(fnmatchcase(name, pattern) for pattern in trainable))


def _open(folder: Path | None) -> OmniModel:
    """The model to train: weights and their sums are float32, whatever the folder computes in."""
    return OmniModel.open(folder, dtype=torch.float32)


def _write(plan: Plan, trained: Mapping[str, Any], out: Path) -> None:
    """Write the model with the trained weights; with LoRA, the adapter and the merged model."""
    model = _open(plan.model)
    adapted = None if plan.lora is None else add_lora(model.backbone, plan.lora)
    weights.load_into(model.backbone, trained, where="the trained weights")
    if adapted is not None:
        save_adapter(adapted, out / "adapter", plan.model or SMALL_MODEL)
        adapted.merge_and_unload()
    model.save(out / "model")
