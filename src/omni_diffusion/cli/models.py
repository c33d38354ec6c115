"""`omni-diffusion doctor` and `convert`: model folders."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from omni_diffusion.cli.options import (
    CodecSizes,
    Device,
    Dtype,
    ImageCodec,
    ModelFolder,
    Quantized,
    SpeechDecoder,
    SpeechEncoder,
    SpeechTokenizer,
    quantization_of,
)

if TYPE_CHECKING:
    from omni_diffusion.models.upstream import CodecSources


OfficialSizes = Annotated[
    str | None,
    typer.Option(
        "--preset",
        help="Report on the sizes of the published 7B model (official) without its weights, instead"
        " of on a folder.",
    ),
]
ReportFile = Annotated[
    Path | None,
    typer.Option("--json", help="Write the report to this file as well (default: none)."),
]


def doctor(
    model: ModelFolder = None,
    preset: OfficialSizes = None,
    json: ReportFile = None,
    device: Device = "cpu",
    quantization: Quantized = None,
    image_codec: ImageCodec = None,
    speech_tokenizer: SpeechTokenizer = None,
    speech_decoder: SpeechDecoder = None,
    speech_encoder: SpeechEncoder = None,
    sizes: CodecSizes = None,
    dtype: Dtype = "auto",
) -> None:
    """Report which files are here or missing, whether a model fits, and how long answers take.

    The folder has our layout or a published one. The codecs of a published folder are reported too.
    """
    from rich.console import Console

    from omni_diffusion.errors import ModelError
    from omni_diffusion.io import files
    from omni_diffusion.models.doctor import (
        diagnose,
        files_table,
        folder_size,
        official_size,
        report_tables,
    )
    from omni_diffusion.models.files import list_files
    from omni_diffusion.models.omni import SMALL_MODEL, resolve_device

    if preset not in (None, "official"):
        raise ModelError(f"no sizes are called {preset!r}", field="preset", fix="give official")
    if preset is not None and model is not None:
        raise typer.BadParameter("give --preset or --model, not both")
    if json is not None:
        files.check_writable(json)
    where = resolve_device(device)
    how = quantization_of(quantization)
    folder, listed, screen = model or SMALL_MODEL, [], Console()
    if preset:
        size = official_size(dtype, how)
    else:
        if not files.is_dir(folder):
            raise ModelError(f"no model at {folder}", field="model", fix="give a model folder")
        sources = _codec_sources(
            image_codec, speech_tokenizer, speech_decoder, speech_encoder, sizes
        )
        listed = list_files(folder, sources)
        screen.print(files_table(listed))  # first, because the sizes need config.json
        size = folder_size(folder, dtype, how, sources)
    report = diagnose(size, where, listed)
    if json is not None:
        files.write_text(json, report.as_json())
    for table in report_tables(report):
        screen.print(table)


def convert(
    source: Annotated[
        str,
        typer.Argument(
            help="The published checkpoint of Omni-Diffusion or Dream-7B: a folder, or"
            " owner/name on the hub."
        ),
    ],
    out: Annotated[
        Path, typer.Argument(help="The folder to write in our layout; it must be new or empty.")
    ],
    image_codec: ImageCodec = None,
    speech_tokenizer: SpeechTokenizer = None,
    speech_decoder: SpeechDecoder = None,
    speech_encoder: SpeechEncoder = None,
    sizes: CodecSizes = None,
    dtype: Annotated[
        str | None,
        typer.Option(
            help="Data type of the written backbone: bfloat16, float16 or float32 (default: as"
            " published)."
        ),
    ] = None,
    revision: Annotated[
        str | None,
        typer.Option(help="Branch, tag or commit of SOURCE on the hub (default: its main branch)."),
    ] = None,
) -> None:
    """Convert a published checkpoint and its codecs into one folder that --model accepts."""
    from omni_diffusion.errors import ModelError
    from omni_diffusion.models import omni
    from omni_diffusion.models.dtypes import checked_dtype

    if Path(source).resolve() == out.resolve():
        raise ModelError(f"{out} is the folder to convert", value=out, fix="write to another one")
    omni.convert(
        source,
        out,
        codec_sources=_codec_sources(
            image_codec, speech_tokenizer, speech_decoder, speech_encoder, sizes
        ),
        dtype=None if dtype is None else checked_dtype(dtype),
        revision=revision,
    )
    typer.echo(f"wrote {out}", err=True)


def _codec_sources(
    image_codec: str | None,
    speech_tokenizer: str | None,
    speech_decoder: str | None,
    speech_encoder: str | None,
    sizes: Path | None,
) -> CodecSources:
    """The codecs of a published folder; None takes the default, which is on the hub."""
    from omni_diffusion.io import config
    from omni_diffusion.models.upstream import CodecConfigs, CodecSources

    usual = CodecSources()
    return CodecSources(
        image_codec=image_codec or usual.image_codec,
        speech_tokenizer=speech_tokenizer or usual.speech_tokenizer,
        speech_decoder=speech_decoder or usual.speech_decoder,
        speech_encoder=speech_encoder or usual.speech_encoder,
        sizes=config.load(CodecConfigs, sizes) if sizes else usual.sizes,
    )
