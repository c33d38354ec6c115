"""`omni-diffusion data`: training data."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from omni_diffusion.cli.options import Device, ModelFolder, progress_bar
from omni_diffusion.data.defaults import (
    ENCODE_BATCH_SIZE,
    MAX_BAD_FRACTION,
    MAX_RECORDING_SECONDS,
    MAX_SPOKEN_SECONDS,
    MAX_WER,
    READERS,
    SYNTHESIS_TIMEOUT,
    VOICE_RETRIES,
)

if TYPE_CHECKING:
    from omni_diffusion.data.sdvi.quality_filter import AsrJudge

INVALID = 1  # exit code for a manifest with errors

data_app = typer.Typer(
    help="Training data: import, check, synthesize, pretokenize.", no_args_is_help=True
)

Manifest = Annotated[Path, typer.Argument(help="The manifest: JSONL, one sample a line.")]
Root = Annotated[
    Path | None,
    typer.Option(
        help="Folder that media paths are relative to (default: the folder of each manifest)."
    ),
]
Shard = Annotated[
    int | None,
    typer.Option(help="Make only this shard, from 0 to OF - 1 (default: all shards)."),
]

MaxSeconds = Annotated[float, typer.Option(help="Longest accepted recording, in seconds.")]
BadLineFraction = Annotated[
    float, typer.Option(help="Fraction of a shard's lines that may be broken, from 0 to 1.")
]
EncodeBatchSize = Annotated[
    int, typer.Option(help="Lines whose pictures are encoded together; changes no code.")
]

# sdvi
SynthesizerLine = Annotated[
    str,
    typer.Option(
        help="The speech synthesizer: a command line with {voice}, {out} and, unless it reads its"
        " input, {text}; or package.module:name key=value ..."
    ),
]
Questions = Annotated[
    Path | None, typer.Option(help="Manifest of written questions about pictures.")
]
Captions = Annotated[Path | None, typer.Option(help="Manifest of captioned pictures (task t2i).")]
Voice = Annotated[
    list[str] | None, typer.Option(help="A voice that asks questions; may be repeated.")
]
VoicesFile = Annotated[Path | None, typer.Option(help="A file of further such voices, one a line.")]
AnswerVoice = Annotated[
    str | None, typer.Option(help="The voice of all answers (default: the first voice).")
]
VoiceRetries = Annotated[
    int, typer.Option(help="Further voices to try for a question that is rejected.")
]
AsrCheck = Annotated[
    bool,
    typer.Option("--asr-check/--no-asr-check", help="Check all recordings with Whisper base."),
]
MaxWer = Annotated[
    float, typer.Option(help="Highest accepted word error rate of a recording, as a fraction.")
]
LaterTurns = Annotated[
    bool,
    typer.Option(
        "--later-turns", help="Use all questions of a conversation (default: the first only)."
    ),
]
Timeout = Annotated[
    float, typer.Option(help="Seconds a synthesizer command may take for one text.")
]
RetryFailed = Annotated[
    bool, typer.Option("--retry-failed", help="Try again the texts that failed before.")
]


@data_app.command("check")
def check_data(
    manifest: Manifest,
    root: Root = None,
    json: Annotated[
        Path | None, typer.Option(help="Write all problems and statistics to this JSON file.")
    ] = None,
    decode: Annotated[
        bool,
        typer.Option(
            "--decode", help="Decode media whole, which also finds truncated files; slow."
        ),
    ] = False,
    max_seconds: MaxSeconds = MAX_RECORDING_SECONDS,
    max_problems: Annotated[
        int, typer.Option(help="Most problems to print; --json has all of them.")
    ] = 100,
) -> None:
    """Check every line of a manifest and its media; print the problems and statistics."""
    from json import dumps

    from rich.console import Console

    from omni_diffusion.data.stats import stats_tables
    from omni_diffusion.data.validate import MediaLimits, validate
    from omni_diffusion.io import files

    if json is not None:
        files.check_writable(json)
    limits = MediaLimits(max_seconds=max_seconds)
    with progress_bar(manifest.name) as progress:
        stats = validate(manifest, root, limits=limits, decode=decode, progress=progress)
    if json is not None:
        files.write_text(json, dumps(stats.as_json(), indent=2, ensure_ascii=False) + "\n")
    for problem in stats.problems[:max_problems]:
        typer.echo(problem)
    if len(stats.problems) > max_problems:
        hidden = len(stats.problems) - max_problems
        typer.echo(f"and {hidden} more: raise --max-problems or write --json")
    screen = Console()
    for table in stats_tables(stats, "█" if screen.encoding.startswith("utf") else "#"):
        screen.print(table)
    if stats.errors:
        raise typer.Exit(INVALID)


@data_app.command("import")
def import_data(
    name: Annotated[
        str,
        typer.Argument(
            help="The corpus: librispeech, libritts, common-voice, gigaspeech, llava-onevision,"
            " blip3o, tulu-3 or voiceassistant."
        ),
    ],
    source: Annotated[Path, typer.Argument(help="The folder of the unpacked corpus.")],
    out: Annotated[
        Path, typer.Argument(help="The folder for the manifest; a started import is resumed.")
    ],
    split: Annotated[
        str | None,
        typer.Option(
            help="Import only this split, by its name in the corpus (default: train for"
            " common-voice, XL for gigaspeech, everything for the others)."
        ),
    ] = None,
) -> None:
    """Write a public corpus as a manifest; media inside archives are extracted."""
    from omni_diffusion.data.importers.catalog import importer
    from omni_diffusion.data.importers.run import SKIPPED, import_corpus
    from omni_diffusion.data.manifest import MANIFEST

    with progress_bar(name) as progress:
        record = import_corpus(importer(name), source, out, split, progress)
    typer.echo(f"wrote {out / MANIFEST}: {record.samples} samples", err=True)
    if record.skipped:
        typer.echo(f"note: skipped {record.skipped} rows, see {out / SKIPPED}", err=True)


@data_app.command("sdvi")
def sdvi_data(
    out: Annotated[Path, typer.Argument(help="The folder for the set; a started one is resumed.")],
    synthesizer: SynthesizerLine,
    vqa: Questions = None,
    captions: Captions = None,
    voice: Voice = None,
    voices: VoicesFile = None,
    answer_voice: AnswerVoice = None,
    seed: Annotated[int, typer.Option(help="Seed of the choice of a voice per question.")] = 0,
    voice_retries: VoiceRetries = VOICE_RETRIES,
    asr_check: AsrCheck = True,
    max_wer: MaxWer = MAX_WER,
    max_seconds: MaxSeconds = MAX_SPOKEN_SECONDS,
    later_turns: LaterTurns = False,
    root: Root = None,
    workers: Annotated[int, typer.Option(help="Threads that synthesize and check.")] = 1,
    shard: Shard = None,
    of: Annotated[int, typer.Option(help="Number of shards to split the samples into.")] = 1,
    timeout: Timeout = SYNTHESIS_TIMEOUT,
    retry_failed: RetryFailed = False,
) -> None:
    """Synthesize written questions, answers and captions of pictures, and check the recordings."""
    from shlex import join

    from omni_diffusion.data.manifest import MANIFEST
    from omni_diffusion.data.sdvi.build import REJECTED, SdviBuilder, VoicePool, read_voices
    from omni_diffusion.data.sdvi.quality_filter import QualityFilter
    from omni_diffusion.data.sdvi.sources import Sources
    from omni_diffusion.data.sdvi.synthesizer import SpeechSynthesizer
    from omni_diffusion.errors import DataError

    if vqa is None and captions is None:
        raise DataError("there is nothing to speak", fix="give --vqa, --captions or both")
    asking = [*(voice or ()), *(read_voices(voices) if voices is not None else ())]
    if not asking:
        raise DataError("there is no voice", fix="give --voice or --voices")
    builder = SdviBuilder(
        Sources(vqa, captions, root, later_turns),
        out,
        SpeechSynthesizer.from_line(synthesizer, timeout),
        VoicePool(asking, answer_voice or asking[0], seed, voice_retries),
        _whisper() if asr_check else None,
        QualityFilter(max_wer=max_wer, max_seconds=max_seconds),
        retry_failed,
        join(["omni-diffusion", *sys.argv[1:]]),
    )
    with progress_bar(out.name) as progress:
        result = builder.run(shard, of, workers, progress)
    typer.echo(f"synthesized {result.made} texts", err=True)
    if result.missing:
        typer.echo(f"note: {result.missing} samples remain for the other shards", err=True)
        return
    typer.echo(f"wrote {out / MANIFEST}: {result.samples} samples", err=True)
    if result.rejected:
        typer.echo(f"note: rejected {len(result.rejected)} samples, see {out / REJECTED}", err=True)


def _whisper() -> AsrJudge:
    """Whisper base as the ASR check; raises MissingDependencyError if it is not installed."""
    from omni_diffusion.data.sdvi.quality_filter import AsrJudge
    from omni_diffusion.evaluation.speech import (
        SCORING_PACKAGES,
        WHISPER_PACKAGES,
        WhisperJudge,
        require_packages,
    )
    from omni_diffusion.evaluation.speech import word_errors as compared

    require_packages(*SCORING_PACKAGES, *WHISPER_PACKAGES)

    def errors(text: str, heard: str) -> tuple[int, int]:
        score = compared(text, heard)
        return int(score.amount), int(score.of)

    return AsrJudge("Whisper base", lambda: WhisperJudge.open().transcribe, errors)


@data_app.command("pretokenize")
def pretokenize_data(
    manifest: Manifest,
    out: Annotated[Path, typer.Argument(help="The folder for the shards; finished ones are kept.")],
    shard: Shard = None,
    of: Annotated[
        int | None,
        typer.Option(help="Number of shards (default: one for each 4,096 lines)."),
    ] = None,
    root: Root = None,
    max_bad_fraction: BadLineFraction = MAX_BAD_FRACTION,
    batch_size: EncodeBatchSize = ENCODE_BATCH_SIZE,
    workers: Annotated[int, typer.Option(help="Threads that read media ahead.")] = READERS,
    ray: Annotated[
        str | None,
        typer.Option(help="Make the shards on a Ray cluster: auto, local or its address."),
    ] = None,
    model: ModelFolder = None,
    device: Device = "cpu",
) -> None:
    """Encode a manifest's pictures and speech into codes, once, with the codecs of a model."""
    from omni_diffusion.data.pretokenize_ray import PretokenizeConfig, pretokenize_on_ray
    from omni_diffusion.data.shard_store import SHARD_INDEX
    from omni_diffusion.errors import DataError
    from omni_diffusion.io.optional import require
    from omni_diffusion.models.omni import SMALL_MODEL

    require("pyarrow", "data")
    if ray is not None and shard is not None:
        raise DataError(
            f"--ray makes all shards, --shard {shard} makes one", fix="give one of them"
        )
    options = PretokenizeConfig(
        manifest, out, model or SMALL_MODEL, device, root, max_bad_fraction, batch_size, workers
    )
    with progress_bar(manifest.name) as progress:
        if ray is None:
            records = options.open().run(shard, of, progress)
        else:
            records = pretokenize_on_ray(options, of, ray, progress)
    skipped = [line for record in records for line in record.skipped]
    for line in skipped:
        typer.echo(f"skipped: {line}", err=True)
    count = sum(record.rows for record in records)
    shards = f"{len(records)} of {records[0].of} shards in {out}"
    typer.echo(f"{shards}: {count} samples, {len(skipped)} skipped", err=True)
    if not (out / SHARD_INDEX).exists():
        typer.echo("note: the index is written once all shards exist", err=True)
