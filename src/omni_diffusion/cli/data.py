"""`omni-diffusion data`: training data."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from omni_diffusion.cli.options import Device, ModelFolder, progress_bar

if TYPE_CHECKING:
    from omni_diffusion.data.sdvi.quality_filter import Judge

UNSOUND = 1  # exit code of a manifest that has errors

data_app = typer.Typer(
    help="Training data: import, check, speak, pretokenize.", no_args_is_help=True
)


@data_app.command("check")
def check_data(
    manifest: Annotated[Path, typer.Argument(help="JSONL: one sample a line.")],
    root: Annotated[
        Path | None,
        typer.Option(help="What paths are relative to; default: the manifest's folder."),
    ] = None,
    json: Annotated[Path | None, typer.Option(help="Write the report to this file.")] = None,
    decode: Annotated[
        bool, typer.Option("--decode", help="Read media whole, not their headers alone: slow.")
    ] = False,
    max_seconds: Annotated[float, typer.Option(help="The longest sound.")] = 180.0,
    most: Annotated[int, typer.Option(help="Problems to show; --json has all.")] = 100,
) -> None:
    """Look for mistakes in a manifest, line by line, and count what is in it."""
    from json import dumps

    from rich.console import Console

    from omni_diffusion.data import stats as reports
    from omni_diffusion.data.validate import Limits, check
    from omni_diffusion.engine import handover
    from omni_diffusion.io import files

    if json is not None:
        handover.in_a_folder(json)
    limits = Limits(max_seconds=max_seconds)
    with progress_bar(manifest.name) as show:
        found = check(manifest, root, limits=limits, decode=decode, progress=show)
    for problem in found.problems[:most]:
        typer.echo(problem)
    if len(found.problems) > most:
        typer.echo(f"and {len(found.problems) - most} more: --most or --json shows them")
    for table in reports.tables(found):
        Console().print(table)
    if json is not None:
        files.write_text(json, dumps(found.as_json(), indent=2, ensure_ascii=False) + "\n")
    if found.errors:
        raise typer.Exit(UNSOUND)


@data_app.command("import")
def import_data(
    name: Annotated[
        str,
        typer.Argument(
            help="librispeech, libritts, common-voice, gigaspeech, llava-onevision, blip3o, tulu-3"
            " or voiceassistant."
        ),
    ],
    source: Annotated[Path, typer.Argument(help="The corpus's folder, as it was unpacked.")],
    out: Annotated[Path, typer.Argument(help="The folder to fill; resumed if it was begun.")],
    split: Annotated[
        str | None, typer.Option(help="A part of the corpus alone, by the corpus's own name.")
    ] = None,
) -> None:
    """Write a public corpus as a manifest; media stay where they are, or leave their archives."""
    from omni_diffusion.data.importers.catalog import importer
    from omni_diffusion.data.importers.run import MANIFEST, SKIPPED, run

    with progress_bar(name) as show:
        record = run(importer(name), source, out, split, show)
    typer.echo(f"wrote {out / MANIFEST}: {record.samples} samples", err=True)
    if record.skipped:
        typer.echo(f"note: {record.skipped} rows are no samples, see {out / SKIPPED}", err=True)


@data_app.command("sdvi")
def sdvi_data(
    out: Annotated[Path, typer.Argument(help="The folder to fill; resumed if it was begun.")],
    synthesizer: Annotated[
        str,
        typer.Option(
            help="What speaks: a command line with {voice}, {out} and, if it does not read its"
            " input, {text}; or package.module:name key=value .."
        ),
    ],
    vqa: Annotated[
        Path | None, typer.Option(help="JSONL: written questions about pictures.")
    ] = None,
    captions: Annotated[
        Path | None, typer.Option(help="JSONL: captions with their pictures, as for t2i.")
    ] = None,
    voice: Annotated[
        list[str] | None, typer.Option(help="Who asks; give it as often as you like.")
    ] = None,
    voices: Annotated[Path | None, typer.Option(help="A file of more, one a line.")] = None,
    answer_voice: Annotated[
        str | None, typer.Option(help="Who says all answers; default: the first voice.")
    ] = None,
    seed: Annotated[int, typer.Option(help="Draws each question's voice.")] = 0,
    again: Annotated[
        int, typer.Option(help="Further voices for a question that came out badly.")
    ] = 2,
    hear: Annotated[
        bool, typer.Option("--hear/--no-hear", help="Let Whisper base listen to all of it.")
    ] = True,
    most_errors: Annotated[
        float, typer.Option(help="Share of a text's words that may be misheard.")
    ] = 0.2,
    max_seconds: Annotated[float, typer.Option(help="The longest sound.")] = 60.0,
    later_turns: Annotated[
        bool, typer.Option("--later-turns", help="All questions of a conversation, not the first.")
    ] = False,
    root: Annotated[
        Path | None,
        typer.Option(help="What paths are relative to; default: each manifest's folder."),
    ] = None,
    workers: Annotated[int, typer.Option(help="Threads that speak and listen.")] = 1,
    shard: Annotated[
        int | None, typer.Option(help="Make this share alone, counted from 0; default: all.")
    ] = None,
    of: Annotated[int, typer.Option(help="How many shares.")] = 1,
    timeout: Annotated[float, typer.Option(help="Seconds a command may take for a text.")] = 120.0,
    retry_failed: Annotated[
        bool, typer.Option("--retry-failed", help="Say again what the synthesizer failed at.")
    ] = False,
) -> None:
    """Speak written questions, answers and captions of pictures, and check what was said."""
    from shlex import join

    from omni_diffusion.data.sdvi.build import LEFT, MANIFEST, Builder, Voices, voices_of
    from omni_diffusion.data.sdvi.quality_filter import Gate
    from omni_diffusion.data.sdvi.sources import Sources
    from omni_diffusion.data.sdvi.synthesizer import Synthesizer
    from omni_diffusion.errors import DataError

    if vqa is None and captions is None:
        raise DataError("there is nothing to speak; give --vqa, --captions or both")
    asking = [*(voice or ()), *(voices_of(voices) if voices is not None else ())]
    if not asking:
        raise DataError("there is nobody to speak; give --voice or --voices")
    builder = Builder(
        Sources(vqa, captions, root, later_turns),
        out,
        Synthesizer.named(synthesizer, timeout),
        Voices(asking, answer_voice or asking[0], seed, again),
        _whisper() if hear else None,
        Gate(most_errors=most_errors, max_seconds=max_seconds),
        retry_failed,
        join(["omni-diffusion", *sys.argv[1:]]),
    )
    with progress_bar(out.name) as show:
        done = builder.run(shard, of, workers, show)
    typer.echo(f"said {done.made} texts", err=True)
    if done.missing:
        typer.echo(f"note: {done.missing} lines are left for the other shares", err=True)
        return
    typer.echo(f"wrote {out / MANIFEST}: {done.samples} samples", err=True)
    if done.left:
        typer.echo(f"note: {len(done.left)} lines are left out, see {out / LEFT}", err=True)


def _whisper() -> Judge:
    """Whisper base as a judge of synthesized speech; raises EvaluationError where it is not."""
    from omni_diffusion.data.sdvi.quality_filter import Judge
    from omni_diffusion.evaluation.speech import RECOGNISING, SCORING, WhisperJudge, require
    from omni_diffusion.evaluation.speech import word_errors as compared

    require(*SCORING, *RECOGNISING)

    def errors(text: str, heard: str) -> tuple[int, int]:
        mark = compared(text, heard)
        return mark.amount, mark.of

    return Judge("Whisper base", lambda: WhisperJudge.open().transcribe, errors)


@data_app.command("pretokenize")
def pretokenize_data(
    manifest: Annotated[Path, typer.Argument(help="JSONL: one sample a line.")],
    out: Annotated[Path, typer.Argument(help="The folder of the shards; resumed if begun.")],
    shard: Annotated[
        int | None, typer.Option(help="Make this one alone, counted from 0; default: all.")
    ] = None,
    of: Annotated[
        int | None, typer.Option(help="How many shards; default: one for each 4,096 lines.")
    ] = None,
    root: Annotated[
        Path | None,
        typer.Option(help="What paths are relative to; default: the manifest's folder."),
    ] = None,
    most_bad: Annotated[
        float, typer.Option(help="The share of a shard's lines that may be broken.")
    ] = 0.01,
    batch: Annotated[
        int, typer.Option(help="Lines whose pictures are encoded together; changes no code.")
    ] = 8,
    workers: Annotated[int, typer.Option(help="Threads that read media ahead.")] = 4,
    ray: Annotated[
        str | None,
        typer.Option(help="Spread the shards over a Ray cluster: auto, local or its address."),
    ] = None,
    model: ModelFolder = None,
    device: Device = "cpu",
) -> None:
    """Turn a manifest's pictures and speech into codes, once, by a model's codecs."""
    from omni_diffusion.data import pretokenize_ray
    from omni_diffusion.data.shard_store import INDEX
    from omni_diffusion.errors import DataError
    from omni_diffusion.io.optional import need
    from omni_diffusion.models.omni import SHIPPED

    need("pyarrow", "data")
    if ray is not None and shard is not None:
        raise DataError(f"--ray makes all shards, --shard {shard} one; give one of the two")
    order = pretokenize_ray.Order(
        manifest, out, model or SHIPPED, device, root, most_bad, batch, workers
    )
    with progress_bar(manifest.name) as show:
        if ray is None:
            records = order.worker().run(shard, of, show)
        else:
            records = pretokenize_ray.run(order, of, ray, show)
    skipped = [line for record in records for line in record.skipped]
    for line in skipped:
        typer.echo(f"left out: {line}", err=True)
    rows = sum(record.rows for record in records)
    told = f"{len(records)} of {records[0].of} shards in {out}: {rows} samples"
    typer.echo(f"{told}, {len(skipped)} left out", err=True)
    if not (out / INDEX).exists():
        typer.echo("note: the index is written when all shards are there", err=True)
