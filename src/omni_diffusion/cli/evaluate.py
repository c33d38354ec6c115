"""`omni-diffusion eval`: benchmarks."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from omni_diffusion.cli.options import Device, Dtype, ModelFolder, Steps, open_model


def evaluate(
    suite: Annotated[str, typer.Argument(help="Suite to run: mini, eight benchmarks on scenes.")],
    seed: Annotated[
        int, typer.Option(help="Seed of the samples; a seed always draws the same ones.")
    ] = 0,
    samples: Annotated[int, typer.Option(help="Samples of each benchmark (1 or more).")] = 100,
    tasks: Annotated[
        str | None,
        typer.Option(help="Run only these benchmarks, separated by commas: caption,vqa,t2i."),
    ] = None,
    steps: Steps = None,
    json: Annotated[Path | None, typer.Option(help="Also write the results to this file.")] = None,
    model: ModelFolder = None,
    device: Device = "cpu",
    dtype: Dtype = "auto",
) -> None:
    """Evaluate a model on held-out samples."""
    from rich.console import Console

    from omni_diffusion.errors import EvaluationError
    from omni_diffusion.evaluation import report
    from omni_diffusion.io import files
    from omni_diffusion.mini.evaluate import evaluate as evaluate_mini

    if suite != "mini":
        raise EvaluationError(f"unknown suite {suite!r}; give mini", field="suite", value=suite)
    if json is not None:
        files.check_writable(json)
    names = None if tasks is None else [name.strip() for name in tasks.split(",")]
    with Console(stderr=True).status("opening the model") as status:
        results = evaluate_mini(
            open_model(model, device, dtype=dtype),
            seed,
            samples,
            names,
            steps,
            lambda name, done, total: status.update(f"{name}: {done} of {total}"),
        )
    if json is not None:
        report.save_results(results, json)
    Console().print(report.results_table(results))
