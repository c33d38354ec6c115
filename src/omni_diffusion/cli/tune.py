"""`omni-diffusion tune`: the sampling of a task that is fastest at the same quality."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from omni_diffusion.cli.options import Device, ModelFolder, open_model

if TYPE_CHECKING:
    from collections.abc import Sequence

    from omni_diffusion.evaluation.tune import TunedPoint
    from omni_diffusion.models.omni import OmniModel

# the benchmark of `eval mini` that judges a task, where it has another name
JUDGES = {"asr": "asr_wer", "tts": "tts_wer"}


def tune(
    task: Annotated[str, typer.Argument(help="t2i, s2i, inpaint, caption, vqa, svqa, asr or tts.")],
    out: Annotated[
        Path | None,
        typer.Option(help="File for the preset, with all figures (default: tuned-TASK.json)."),
    ] = None,
    samples: Annotated[int, typer.Option(help="Samples of the benchmark (1 or more).")] = 50,
    seed: Annotated[int, typer.Option(help="Seed of the samples.")] = 0,
    only: Annotated[
        str | None,
        typer.Option(help="Try only these besides the default, separated by semicolons."),
    ] = None,
    model: ModelFolder = None,
    device: Device = "cpu",
) -> None:
    """Measure quality against time over fewer-step samplings, and write the best as a preset.

    The preset is the fastest one whose score is at most one standard error below the default's.
    Use it with `omni-diffusion run TASK --preset FILE.json`.
    """
    from rich.console import Console

    from omni_diffusion.evaluation import tune as tuning
    from omni_diffusion.io import config, files
    from omni_diffusion.tasks import catalog
    from omni_diffusion.tasks.render import sampling_defaults

    known, judge = catalog.task(task), JUDGES.get(task, task)
    path = out or Path(f"tuned-{task}.json")
    files.check_writable(path)
    opened = open_model(model, device)
    tried = tuning.candidates(known, sampling_defaults(known, opened))
    if only is not None:
        names = {tuning.BASELINE, *(name.strip() for name in only.split(";"))}
        tried = [candidate for candidate in tried if candidate.name in names]
    screen = Console(stderr=True)
    points = _measure(opened, task, judge, tried, samples, seed, screen)
    chosen = tuning.fastest(points, lower_is_better=judge.endswith("_wer"))
    found = {"judge": judge, "samples": samples, "seed": seed, **_provenance(opened)}
    config.save(tuning.tuned_preset(task, chosen, tried, points, found), path)
    Console().print(_table(points, chosen.name))
    typer.echo(f"wrote {path}", err=True)


def _measure(
    model: OmniModel, task: str, judge: str, tried: Any, samples: int, seed: int, screen: Any
) -> list[TunedPoint]:
    from omni_diffusion.engine.engine import Engine
    from omni_diffusion.evaluation import tune as tuning
    from omni_diffusion.mini.evaluate import evaluate

    def report(point: TunedPoint) -> None:
        screen.print(
            f"{point.name}: {100 * point.value:.1f} %, {point.cpu_seconds:.2f} s,"
            f" {point.steps:.1f} steps",
            highlight=False,
        )

    return tuning.measure(
        task,
        tried,
        Engine(model),
        lambda runner: evaluate(model, seed, samples, [judge], engine=runner)[judge],
        report,
    )


def _provenance(model: OmniModel) -> dict[str, Any]:
    """The model, the machine and the command."""
    import platform
    from datetime import UTC, datetime

    import torch

    return {
        "model": model.config.name,
        "parameters": sum(p.numel() for p in model.backbone.parameters()),
        "device": str(model.device),
        "machine": platform.machine(),
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
        "date": datetime.now(UTC).date().isoformat(),
        "command": " ".join(["omni-diffusion", *sys.argv[1:]]),
    }


def _table(points: Sequence[TunedPoint], chosen: str) -> Any:
    from rich.table import Table

    table = Table(title="quality against time")
    for name in ("sampling", "value", "± stderr", "steps", "CPU seconds", "times faster"):
        table.add_column(name, justify="left" if name == "sampling" else "right")
    for point in points:
        row = (
            f"{100 * point.value:.1f} %",
            f"{100 * point.stderr:.1f} %",
            f"{point.steps:.1f}",
            f"{point.cpu_seconds:.2f}",
            f"{points[0].cpu_seconds / point.cpu_seconds:.1f}",
        )
        table.add_row(point.name, *row, style="bold" if point.name == chosen else None)
    return table
