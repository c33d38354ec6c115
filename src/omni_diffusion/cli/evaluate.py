"""`omni-diffusion eval`: benchmarks."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from omni_diffusion.cli.options import Device, ModelFolder, Steps, open_model


def evaluate(
    suite: Annotated[str, typer.Argument(help="What to measure: mini.")],
    seed: Annotated[int, typer.Option(help="The same seed asks the same questions.")] = 0,
    samples: Annotated[int, typer.Option(help="Questions of each task.")] = 100,
    tasks: Annotated[
        str | None, typer.Option(help="Only these, with commas: caption,vqa,t2i.")
    ] = None,
    steps: Steps = None,
    json: Annotated[Path | None, typer.Option(help="Write the scores to this file.")] = None,
    model: ModelFolder = None,
    device: Device = "cpu",
) -> None:
    """Measure a model on samples that its training never showed."""
    from rich.console import Console

    from omni_diffusion.engine import handover
    from omni_diffusion.errors import EvaluationError
    from omni_diffusion.evaluation import report
    from omni_diffusion.mini import benchmark

    if suite != "mini":
        raise EvaluationError(f"no evaluation is called {suite!r}; give mini")
    if json is not None:
        handover.in_a_folder(json)
    names = None if tasks is None else [name.strip() for name in tasks.split(",")]
    waiting = Console(stderr=True)
    with waiting.status("opening the model") as status:
        scores = benchmark.evaluate(
            open_model(model, device),
            seed,
            samples,
            names,
            steps,
            lambda name, done, total: status.update(f"{name}: {done} of {total}"),
        )
    Console().print(report.table(scores))
    if json is not None:
        report.save(scores, json)
