"""`omni-diffusion train`: the small model, or any model on your data."""

from __future__ import annotations

from dataclasses import fields
from pathlib import Path
from typing import Annotated, Any

import typer
from typer.core import TyperCommand, TyperOption

from omni_diffusion.cli.options import Device, ModelFolder, progress_bar
from omni_diffusion.errors import TrainingError

train_app = typer.Typer(
    help="Train the small model, or any model on your data.", no_args_is_help=True
)


@train_app.command("mini")
def train_mini(
    out: Annotated[Path, typer.Option(help="Folder of the run; resumed if it exists.")],
    bank: Annotated[
        Path, typer.Option(help="Folder of recorded sentences, made by `make voices`.")
    ],
) -> None:
    """Train the small model from scratch: its codecs, then the three stages."""
    from omni_diffusion.mini import recipe

    recipe.train(out, bank)


class _PlanCommand(TyperCommand):
    """Takes the numbers in its help from the library, which it imports only then."""

    def format_help(self, ctx: Any, formatter: Any) -> None:
        from omni_diffusion.training import finetune, stages

        numbers = vars(finetune) | {"STAGE_BATCH_SIZE": stages.BATCH_SIZE}
        classes = (finetune.Plan, finetune.RunOptions)
        defaults = {one.name: one.default for cls in classes for one in fields(cls)}
        for option in self.params:
            assert isinstance(option, TyperOption)
            default = defaults.get(option.name or "")
            if isinstance(default, (int, float, str)) and not isinstance(default, bool):
                option.default = default
            option.help = (option.help or "").format_map(numbers)
        super().format_help(ctx, formatter)


Data = Annotated[
    list[Path],
    typer.Option(help="A manifest, or a folder of `data pretokenize`; repeat to mix several."),
]
Out = Annotated[Path, typer.Option(help="Folder of the run; resumed if it exists.")]
Stage = Annotated[
    int | None,
    typer.Option(
        help="1, 2 or 3: learning rate, batch size, task weights and loss average of the paper's"
        " stage, where not given."
    ),
]
Steps = Annotated[int | None, typer.Option(help="Optimizer steps.")]
BatchSize = Annotated[
    int | None,
    typer.Option(
        help="Samples of a step over all processes, on average. Default: {BATCH_SIZE};"
        " {STAGE_BATCH_SIZE} with --stage."
    ),
]
Lr = Annotated[
    float | None,
    typer.Option(
        help="Peak learning rate. Default: the stage's; without one {LR:g}, or {LORA_LR:g} with"
        " --lora."
    ),
]
Warmup = Annotated[
    int | None,
    typer.Option(
        help="Steps of linear warm-up. Default: a tenth of the steps, at most {MAX_WARMUP}."
    ),
]
WeightDecay = Annotated[
    float | None, typer.Option(help="Weight decay of matrices; biases and norms are never decayed.")
]
TaskWeights = Annotated[
    str | None,
    typer.Option(
        help="Relative frequency of each task, such as t2i=4,asr=1; other tasks are left out."
        " Default: the stage's, or the number of samples of each task."
    ),
]
Lora = Annotated[
    int | None,
    typer.Option(help="Train LoRA factors of this rank instead of the weights; needs peft."),
]
Trainable = Annotated[
    list[str] | None,
    typer.Option(
        help="Name pattern of weights to train, such as model.layers.*; repeat for several."
        " Default: all."
    ),
]
Masking = Annotated[
    str | None,
    typer.Option(
        help="Mask ratios: uniform (the paper), antithetic, cosine, bell, or per_token (the"
        " published code)."
    ),
]
Gamma = Annotated[
    float | None, typer.Option(help="Padding is masked at gamma times the mask ratio, from 0 to 1.")
]
Weighting = Annotated[
    str | None,
    typer.Option(
        help="Loss weight of masked tokens: plain (the paper), elbo (1/ratio) or per_length."
    ),
]
LossAverage = Annotated[
    str | None,
    typer.Option(
        help="token: one mean loss over the step; task: a mean for each task, weighted by its"
        " share."
        " Default: token with --stage, else task."
    ),
]
Precision = Annotated[
    str | None, typer.Option(help="Precision of matrix products: float32 or bfloat16.")
]
MaxLength = Annotated[
    int | None,
    typer.Option(
        help="Tokens of a packed row. Default: {MAX_TRAINING_LENGTH}, or the most that the model"
        " takes."
    ),
]
MicroBatchTokens = Annotated[
    int | None,
    typer.Option(help="Most tokens of a micro-batch, though always one row. Default: one row."),
]
GradientCheckpointing = Annotated[
    bool | None,
    typer.Option(
        "--gradient-checkpointing",
        help="Recompute activations in the backward pass: less memory, more time.",
    ),
]
EmaDecay = Annotated[
    float | None,
    typer.Option(
        help="Decay of the moving average of the weights, which is the result; 0: the last weights."
    ),
]
MaxBadFraction = Annotated[
    float | None,
    typer.Option(help="Fraction of the samples drawn so far that may be broken or too long."),
]
Seed = Annotated[
    int | None,
    typer.Option(help="Seed of the order of samples, of the masks and of new LoRA factors."),
]
Resume = Annotated[
    str, typer.Option(help="auto: the newest checkpoint of OUT, if any; or a checkpoint's folder.")
]
LogEvery = Annotated[int | None, typer.Option(help="Steps between log records.")]
SaveSteps = Annotated[
    int | None,
    typer.Option(help="Save a checkpoint every so many steps, besides those at fixed times."),
]
KeepCheckpoints = Annotated[int | None, typer.Option(help="Number of checkpoints to keep.")]
ReportTo = Annotated[
    list[str] | None,
    typer.Option(
        help="page, tensorboard, wandb or none; repeat for several. Default: page, and tensorboard"
        " if it is installed."
    ),
]
SampleEvery = Annotated[
    int | None,
    typer.Option(
        help="Steps between answers to the first sample of each task; 0: never. Default:"
        " {SAMPLED_STEPS} times in a run."
    ),
]


@train_app.command("manifest", cls=_PlanCommand)
def train_manifest(
    data: Data,
    out: Out,
    model: ModelFolder = None,
    stage: Stage = None,
    steps: Steps = None,
    batch_size: BatchSize = None,
    lr: Lr = None,
    warmup: Warmup = None,
    weight_decay: WeightDecay = None,
    task_weights: TaskWeights = None,
    lora: Lora = None,
    trainable: Trainable = None,
    masking: Masking = None,
    gamma: Gamma = None,
    weighting: Weighting = None,
    loss_average: LossAverage = None,
    precision: Precision = None,
    max_length: MaxLength = None,
    micro_batch_tokens: MicroBatchTokens = None,
    gradient_checkpointing: GradientCheckpointing = None,
    ema_decay: EmaDecay = None,
    max_bad_fraction: MaxBadFraction = None,
    seed: Seed = None,
    resume: Resume = "auto",
    log_every: LogEvery = None,
    save_steps: SaveSteps = None,
    keep_checkpoints: KeepCheckpoints = None,
    report_to: ReportTo = None,
    sample_every: SampleEvery = None,
    device: Device = "cpu",
) -> None:
    """Train a model on your own data, with all weights or LoRA, in one process or several.

    Several: torchrun --nproc_per_node 8 -m omni_diffusion train manifest ... --device cuda
    """
    given = {name: value for name, value in locals().items() if value is not None}
    given["task_weights"] = _task_weights(task_weights)
    if report_to == ["none"]:
        given["report_to"] = []
    _train(given, out, None if resume == "auto" else Path(resume), device)


def _train(given: dict[str, Any], out: Path, resume: Path | None, device: str) -> None:
    """Train with the given fields of `Plan` and `RunOptions`; the others have their defaults."""
    from omni_diffusion.training import finetune
    from omni_diffusion.training.distributed import World

    plan = _from_given(finetune.Plan, given)
    options = _from_given(finetune.RunOptions, given)
    bad_samples: set[str] = set()
    world = World.join(device)
    with progress_bar("training", shown=world.is_main) as show:
        finetune.train(
            plan,
            out,
            options=options,
            resume=resume,
            world=world,
            report=lambda step, _: show(step / plan.steps),
            on_bad_sample=bad_samples.add,
        )
    for line in sorted(bad_samples):
        typer.echo(f"left out: {line}", err=True)
    if world.is_main:
        typer.echo(f"wrote {out / 'model'}", err=True)
    world.close()


def _from_given(cls: type[Any], given: dict[str, Any]) -> Any:
    """A config from the given values of its fields; raises ConfigError for a wrong one."""
    from omni_diffusion.io import config

    def plain(value: Any) -> Any:
        if isinstance(value, list):
            return [plain(item) for item in value]
        return str(value) if isinstance(value, Path) else value

    names = [one.name for one in fields(cls) if one.name in given]
    return config.from_dict(cls, {name: plain(given[name]) for name in names}, "the run")


def _task_weights(text: str | None) -> dict[str, float]:
    """Numbers by task name, from a text such as "t2i=4,asr=1"."""
    weights = {}
    for part in text.split(",") if text else ():
        task, _, number = part.partition("=")
        try:
            weights[task.strip()] = float(number)
        except ValueError:
            raise TrainingError(
                f"{part!r} is not a task with a number",
                field="task_weights",
                value=part,
                fix="give tasks such as t2i=4,asr=1",
            ) from None
    return weights
