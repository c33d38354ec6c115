"""`omni-diffusion train`: the small model, or any on your data."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from omni_diffusion.cli.options import Device, ModelFolder, progress_bar
from omni_diffusion.errors import TrainingError

train_app = typer.Typer(help="Train: the small model, or any on your data.", no_args_is_help=True)


@train_app.command("mini")
def train_mini(
    out: Annotated[Path, typer.Option(help="The folder for all that is made; resumed if there.")],
    bank: Annotated[Path, typer.Option(help="The spoken sentences, made by `make voices`.")],
) -> None:
    """Train the small model from nothing: codecs, then the three stages."""
    from omni_diffusion.mini import recipe

    recipe.train(out, bank)


@train_app.command("manifest")
def train_manifest(
    data: Annotated[
        list[Path],
        typer.Option(help="A manifest, or a folder of data pretokenize; may be given again."),
    ],
    out: Annotated[Path, typer.Option(help="The folder for all that is made; resumed if there.")],
    model: ModelFolder = None,
    stage: Annotated[
        int | None, typer.Option(help="1, 2 or 3: rate, mix and loss of the paper's stage.")
    ] = None,
    steps: Annotated[int, typer.Option(help="Optimizer steps.")] = 1000,
    samples: Annotated[
        int | None, typer.Option(help="Of a step, about; default: 32, of a stage 128.")
    ] = None,
    lr: Annotated[
        float | None, typer.Option(help="Highest rate; default: the stage's; 1e-5, by LoRA 1e-4.")
    ] = None,
    warmup: Annotated[
        int | None, typer.Option(help="Steps of warm-up; default: a tenth, 100 at most.")
    ] = None,
    weight_decay: Annotated[float, typer.Option(help="Of matrices.")] = 0.0,
    mix: Annotated[
        str | None, typer.Option(help="How often each task comes: t2i=4,asr=1; others never.")
    ] = None,
    lora: Annotated[
        int | None, typer.Option(help="Rank: train factors beside the weights; needs peft.")
    ] = None,
    trainable: Annotated[
        list[str] | None,
        typer.Option(help="Names of weights to train, with *; may be given again."),
    ] = None,
    masking: Annotated[
        str,
        typer.Option(help="uniform (the paper), antithetic, cosine, per_token (published code)."),
    ] = "uniform",
    gamma: Annotated[float, typer.Option(help="Padding is masked at gamma times the ratio.")] = 0.6,
    weighting: Annotated[
        str, typer.Option(help="Of masked places: plain (the paper), elbo (1/t), per_length.")
    ] = "plain",
    balance: Annotated[
        str | None, typer.Option(help="The loss is a mean over: token (a stage's default), task.")
    ] = None,
    precision: Annotated[
        str, typer.Option(help="Of matrix products: float32, bfloat16.")
    ] = "float32",
    max_length: Annotated[
        int | None, typer.Option(help="Places of a packed row; default: 3072, or the model's.")
    ] = None,
    micro_places: Annotated[
        int | None, typer.Option(help="Places of a micro-batch, a row at least; default: a row's.")
    ] = None,
    checkpointing: Annotated[
        bool, typer.Option(help="Compute activations again on the way back: less memory.")
    ] = False,
    average: Annotated[
        float, typer.Option(help="Decay of the average of weights that ships; 0 ships the last.")
    ] = 0.999,
    most_bad: Annotated[
        float, typer.Option(help="Share of drawn samples that may be broken or too long.")
    ] = 0.01,
    seed: Annotated[int, typer.Option(help="Of order and masking.")] = 0,
    resume: Annotated[
        str, typer.Option(help="auto: from the newest state of OUT, if any; or a state's folder.")
    ] = "auto",
    log_every: Annotated[int, typer.Option(help="Steps between rows of figures.")] = 10,
    save_steps: Annotated[
        int | None, typer.Option(help="Save after so many steps, beside every ten minutes.")
    ] = None,
    keep: Annotated[int, typer.Option(help="So many states are kept.")] = 2,
    report_to: Annotated[
        list[str] | None,
        typer.Option(help="page, tensorboard, wandb, none; default: page, tensorboard if there."),
    ] = None,
    sample_every: Annotated[
        int | None,
        typer.Option(
            help="Steps between answers to a sample of each task; 0: none; default: 5 in all."
        ),
    ] = None,
    device: Device = "cpu",
) -> None:
    """Train a model further on your own data, whole or by LoRA, on one process or many.

    Many: torchrun --nproc_per_node 8 -m omni_diffusion train manifest ... --device cuda
    """
    from omni_diffusion.io import config
    from omni_diffusion.training import finetune, logs
    from omni_diffusion.training.distributed import World
    from omni_diffusion.training.stages import BATCH

    asked = {
        "data": [str(path) for path in data],
        "model": model and str(model),
        "stage": stage,
        "steps": steps,
        "samples": (32 if stage is None else BATCH) if samples is None else samples,
        "lr": lr,
        "warmup": warmup,
        "weight_decay": weight_decay,
        "mix": _ratios(mix),
        "lora": lora,
        "trainable": trainable or ["*"],
        "masking": masking,
        "gamma": gamma,
        "weighting": weighting,
        "balance": balance,
        "precision": precision,
        "max_length": max_length,
        "micro_places": micro_places,
        "checkpointing": checkpointing,
        "average": average or None,
        "most_bad": most_bad,
        "seed": seed,
    }
    plan = config.from_dict(finetune.Plan, asked, "the run")
    shown = report_to != ["none"]
    saving = finetune.Saving(
        log_every,
        save_steps=save_steps,
        keep=keep,
        logs=tuple(report_to or logs.usual()) if shown else (),
        sample_every=max(1, steps // 5) if sample_every is None else sample_every or None,
        measure=shown,
    )
    bad: set[str] = set()
    world = World.join(device)
    with progress_bar("training", shown=world.first) as show:
        finetune.train(
            plan,
            out,
            saving=saving,
            resume=None if resume == "auto" else Path(resume),
            world=world,
            report=lambda step, _: show(step / steps),
            told=bad.add,
        )
    for line in sorted(bad):
        typer.echo(f"left out: {line}", err=True)
    if world.first:
        typer.echo(f"wrote {out / 'model'}", err=True)
    world.leave()


def _ratios(mix: str | None) -> dict[str, float]:
    """Task names with numbers, "t2i=4,asr=1"."""
    found = {}
    for part in mix.split(",") if mix else ():
        task, _, ratio = part.partition("=")
        try:
            found[task.strip()] = float(ratio)
        except ValueError:
            raise TrainingError(
                f"the mix has {part!r}; give tasks with numbers, such as t2i=4,asr=1"
            ) from None
    return found
