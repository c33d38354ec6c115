"""`omni-diffusion eval`: benchmarks, likelihood and their report."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from omni_diffusion.cli.options import Device, Dtype, ModelFolder, Quantized, Steps, open_model
from omni_diffusion.evaluation.suites.catalog import EFFICIENCY, SUITES, suite

if TYPE_CHECKING:
    from omni_diffusion.evaluation.results import EvaluationRecord
    from omni_diffusion.evaluation.session import EvaluationSession

PULSE = 20.0  # seconds between two lines of progress where there is no terminal
EVALUATIONS = Path("runs/eval")

BenchmarkData = Annotated[
    Path, typer.Option(help="Folder of the benchmark's data, as it is distributed.")
]
Limit = Annotated[
    int | None, typer.Option(help="Answer only the first samples (default: all of them).")
]
ShardOption = Annotated[
    str | None,
    typer.Option(
        help="Answer only a part, i/n with i from 0 to n - 1, such as 0/4; any number of processes"
        " may share a folder (default: all samples)."
    ),
]
EvaluationFolder = Annotated[
    Path, typer.Option(help="Folder that keeps predictions and results; a rerun continues there.")
]
BatchSize = Annotated[
    int, typer.Option(help="Requests answered at once; 1 measures the seconds of one alone.")
]
PresetName = Annotated[
    str,
    typer.Option(
        help="Frozen prompts, lengths and sampling: paper, upstream, or model for those that the"
        " model has itself."
    ),
]
SamplingSeed = Annotated[
    int | None, typer.Option(help="Seed of the sampling (default: the preset's, 0).")
]
Guidance = Annotated[
    float | None,
    typer.Option(help="Scale of classifier-free guidance (default: the preset's; 0 is off)."),
]
Whisper = Annotated[
    str,
    typer.Option(help="The judge of speech: a size, a folder or a name on the hub; base ships."),
]
ClipSource = Annotated[
    str, typer.Option(help="The judge of pictures: a folder or a name on the hub.")
]
OTHERS = {
    "mini": "Eight benchmarks on the scenes of the small model; needs no data",
    "paper": "All figures of the small model that the documentation prints; needs no data",
    "likelihood": "Bound on -log p of the answers of a manifest",
}
CLIP_DEFAULT = "openai/clip-vit-base-patch32"


class NamedCommands(typer.core.TyperGroup):
    """A group that answers an unknown name with the nearest known ones."""

    def resolve_command(self, ctx: Any, args: list[str]) -> Any:
        """The command of the first word; raises EvaluationError for an unknown one."""
        if args and args[0][:1] != "-" and args[0] not in self.commands:
            from omni_diffusion.errors import EvaluationError
            from omni_diffusion.io.config import nearest

            raise EvaluationError(
                f"no benchmark is called {args[0]!r}",
                value=args[0],
                fix=nearest(args[0], self.commands),
            )
        return super().resolve_command(ctx, args)


eval_app = typer.Typer(
    cls=NamedCommands, help="Evaluate a model: benchmarks and their report.", no_args_is_help=True
)


@eval_app.command("list")
def list_benchmarks() -> None:
    """List the benchmarks with the data that each needs and where to get it."""
    for entry in SUITES:
        typer.echo(f"{entry.name}\n    {entry.title}")
        typer.echo(f"    data: {entry.layout}\n    from: {entry.source}")
    typer.echo(f"{EFFICIENCY}\n    Quality and seconds by steps\n    data: that of its parts")
    for name, title in OTHERS.items():
        typer.echo(f"{name}\n    {title}")


@eval_app.command("mini")
def evaluate_mini(
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
    quantization: Quantized = None,
    dtype: Dtype = "auto",
) -> None:
    """Evaluate a model of the small world on held-out scenes: eight benchmarks."""
    from rich.console import Console

    from omni_diffusion.evaluation import report
    from omni_diffusion.io import files
    from omni_diffusion.mini.evaluate import evaluate

    if json is not None:
        files.check_writable(json)
    names = None if tasks is None else [name.strip() for name in tasks.split(",")]
    with reported_progress("opening the model") as progress:
        opened = open_model(model, device, quantization, dtype)
        results = evaluate(opened, seed, samples, names, steps, progress)
    if json is not None:
        report.save_results(results, json)
    Console().print(report.results_table(results))


def evaluate_suite(
    ctx: typer.Context,
    data: BenchmarkData,
    model: ModelFolder = None,
    limit: Limit = None,
    shard: ShardOption = None,
    out: EvaluationFolder = EVALUATIONS,
    preset: PresetName = "paper",
    steps: Steps = None,
    seed: SamplingSeed = None,
    guidance: Guidance = None,
    batch: BatchSize = 8,
    whisper: Whisper = "base",
    clip: ClipSource = CLIP_DEFAULT,
    device: Device = "cpu",
    quantization: Quantized = None,
    dtype: Dtype = "auto",
) -> None:
    """Run one benchmark; what is answered already is not answered again."""
    from omni_diffusion.evaluation.runner import Shard

    part = None if shard is None else Shard.parse(shard)
    given = {"steps": steps, "seed": seed, "guidance": guidance}
    overrides = {name: value for name, value in given.items() if value is not None}
    with _session(model, device, quantization, dtype, out, batch, whisper, clip) as session:
        record = session.run_suite(
            suite(str(ctx.info_name)),
            data,
            preset=None if preset == "model" else preset,
            overrides=overrides,
            limit=_checked_limit(limit),
            shard=part,
        )
    _show(record, out)


for _entry in SUITES:
    eval_app.command(_entry.name, help=f"{_entry.title}. Data: {_entry.layout}.")(evaluate_suite)


@eval_app.command(EFFICIENCY)
def sampling_efficiency(
    data: BenchmarkData,
    model: ModelFolder = None,
    limit: Limit = None,
    out: EvaluationFolder = EVALUATIONS,
    preset: PresetName = "paper",
    batch: BatchSize = 1,
    only: Annotated[
        str | None,
        typer.Option(help="Only this part: coco-t2i, clip-s2i or libritts (default: all three)."),
    ] = None,
    whisper: Whisper = "base",
    clip: ClipSource = CLIP_DEFAULT,
    device: Device = "cpu",
    quantization: Quantized = None,
    dtype: Dtype = "auto",
) -> None:
    """Quality and seconds by steps: pictures at 256, 50 and 10, speech at 0.5, 0.25, 0.125 L."""
    from omni_diffusion.evaluation.suites.sampling_efficiency import SWEEP

    points = [point for point in SWEEP if only in (None, point.benchmark)]
    if not points:
        suite(str(only))  # an unknown name; a known one has no sweep
        raise typer.BadParameter(f"{only} is not swept over steps")
    with _session(model, device, quantization, dtype, out, batch, whisper, clip) as session:
        records = [
            session.run_suite(
                suite(point.benchmark),
                data,
                preset=None if preset == "model" else preset,
                overrides=dict(point.overrides),
                pace=point.pace,
                limit=_checked_limit(limit),
            )
            for point in points
        ]
    for record in records:
        _show(record, out)


@eval_app.command("paper")
def evaluate_paper(
    samples: Annotated[
        int,
        typer.Option(
            "--samples",
            "--limit",
            help="Samples of each benchmark; costly ones take half of them.",
        ),
    ] = 40,
    only: Annotated[
        str | None,
        typer.Option(help="Run only these benchmarks, separated by commas: t2i,infill."),
    ] = None,
    seed: Annotated[int, typer.Option(help="Seed of the samples.")] = 0,
    json: Annotated[
        Path | None,
        typer.Option(help="Also write the summary, such as benchmarks/results/paper.json."),
    ] = None,
    model: ModelFolder = None,
    out: EvaluationFolder = EVALUATIONS,
    batch: BatchSize = 8,
    whisper: Whisper = "base",
    device: Device = "cpu",
    dtype: Dtype = "auto",
) -> None:
    """Measure all that the documentation prints about the small model."""
    from rich.console import Console

    from omni_diffusion.evaluation import report
    from omni_diffusion.evaluation.session import EvaluationSession, Judges, checked_batch
    from omni_diffusion.io import files
    from omni_diffusion.mini.paper import run_paper, save_summary

    if json is not None:
        files.check_writable(json)
    names = None if only is None else [name.strip() for name in only.split(",")]
    checked = _checked_limit(samples) or samples
    with reported_progress("opening the model") as progress:
        opened = open_model(model, device, dtype=dtype)
        session = EvaluationSession.of(
            opened,
            model,
            out,
            batch=checked_batch(batch),
            judges=Judges(whisper, device=device),
            progress=progress,
        )
        records = run_paper(session, opened.codecs, seed=seed, samples=checked, only=names)
    results = {name: each.result for name, each in records.items() if each.result}
    Console().print(report.results_table(results, "eval paper"))
    if json is not None:
        save_summary(records, seed, json)


@eval_app.command("report")
def evaluation_report(
    runs: Annotated[
        list[Path] | None,
        typer.Argument(help="Folders of evaluations, or folders above them (default: runs/eval)."),
    ] = None,
    out: Annotated[
        Path, typer.Option(help="HTML page to write; a Markdown file goes beside it.")
    ] = Path("report.html"),
) -> None:
    """Write one self-contained page of results: tables, plots and galleries with sound."""
    from omni_diffusion.evaluation.report_page import write_report
    from omni_diffusion.io import files

    files.check_writable(out)
    page, markdown = write_report(runs or [EVALUATIONS], out)
    typer.echo(f"wrote {page} and {markdown}", err=True)


@eval_app.command("likelihood")
def evaluate_likelihood(
    data: Annotated[Path, typer.Option(help="Manifest whose answers are scored.")],
    model: ModelFolder = None,
    samples: Annotated[
        int,
        typer.Option(help="Masks drawn for each answer; the error falls with their square root."),
    ] = 64,
    limit: Limit = None,
    seed: Annotated[int, typer.Option(help="Seed of the masks.")] = 0,
    json: Annotated[
        Path | None, typer.Option(help="Also write the bound of each line to this file.")
    ] = None,
    device: Device = "cpu",
    dtype: Dtype = "auto",
) -> None:
    """Bound -log p of a manifest's answers: in all, by task and by modality."""
    from rich.console import Console

    from omni_diffusion.evaluation import report
    from omni_diffusion.evaluation.likelihood import bound_metrics, manifest_bounds
    from omni_diffusion.io import files

    if json is not None:
        files.check_writable(json)
    bounds = []
    with reported_progress("opening the model") as progress:
        opened = open_model(model, device, dtype=dtype)
        checked = _checked_limit(limit)
        total = checked or _lines(data)
        for line in manifest_bounds(opened, data, samples=samples, seed=seed, limit=checked):
            bounds.append(line)
            progress("likelihood", len(bounds), total)
    if not bounds:
        raise typer.BadParameter(f"{data} has no answers")
    Console().print(report.bounds_table(bound_metrics(bounds)))
    if json is not None:
        report.save_bounds(bounds, json)


@contextmanager
def _session(
    model: Path | None,
    device: str,
    quantization: str | None,
    dtype: str,
    out: Path,
    batch: int,
    whisper: str,
    clip: str,
) -> Iterator[EvaluationSession]:
    """A session whose progress is shown."""
    from omni_diffusion.evaluation.session import EvaluationSession, Judges, checked_batch

    with reported_progress("opening the model") as progress:
        yield EvaluationSession.of(
            open_model(model, device, quantization, dtype),
            model,
            out,
            batch=checked_batch(batch),
            judges=Judges(whisper, clip, device),
            progress=progress,
        )


@contextmanager
def reported_progress(first: str) -> Iterator[Callable[[str, int, int], None]]:
    """Progress on stderr: a status line on a terminal, else a line every 20 seconds."""
    from rich.console import Console

    console = Console(stderr=True)
    if console.is_terminal:
        with console.status(first) as status:
            yield lambda name, done, total: status.update(f"{name}: {done} of {total}")
        return
    began = last = time.monotonic()

    def line(name: str, done: int, total: int) -> None:
        nonlocal last
        now = time.monotonic()
        if now - last >= PULSE or done == total:
            last = now
            print(f"{name}: {done} of {total}, {now - began:.0f} s", file=sys.stderr, flush=True)

    yield line


def _lines(path: Path) -> int:
    """The lines of a file; 0 for one that is not there, which is refused later."""
    if not path.is_file():
        return 0
    with path.open("rb") as file:
        return sum(1 for _ in file)


def _checked_limit(limit: int | None) -> int | None:
    from omni_diffusion.errors import EvaluationError

    if limit is not None and limit < 1:
        raise EvaluationError(
            f"a limit of {limit}", field="limit", value=limit, fix="give 1 or more"
        )
    return limit


def _show(record: EvaluationRecord, out: Path) -> None:
    """The result as a table, and where it is kept."""
    from rich.console import Console

    from omni_diffusion.evaluation import report

    where = record.folder(out)
    if record.result is None:
        typer.echo(f"{record.samples} answers so far in {where}; run the other shards", err=True)
        return
    Console().print(report.record_table(record))
    typer.echo(f"wrote {where}", err=True)
