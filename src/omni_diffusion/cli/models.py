"""`omni-diffusion doctor` and `convert`: model folders."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from omni_diffusion.cli.options import (
    Device,
    Hearing,
    ImageCodec,
    ModelFolder,
    Quantized,
    SizesFile,
    SpeechDecoder,
    SpeechTokenizer,
    quantization_of,
)

if TYPE_CHECKING:
    from omni_diffusion.models.upstream import Parts


def doctor(
    model: ModelFolder = None,
    preset: Annotated[
        str | None, typer.Option(help="official: the published sizes, without any weights.")
    ] = None,
    json: Annotated[Path | None, typer.Option(help="Write the report to this file.")] = None,
    device: Device = "cpu",
    quantization: Quantized = None,
    image_codec: ImageCodec = None,
    speech_tokenizer: SpeechTokenizer = None,
    speech_decoder: SpeechDecoder = None,
    cmvn: Hearing = None,
    sizes: SizesFile = None,
) -> None:
    """Say what is here, what is missing, whether a model fits, and about how long it takes.

    The folder is ours or a published one; of the latter's other parts what is here is told too.
    """
    from rich.console import Console

    from omni_diffusion.engine import handover
    from omni_diffusion.errors import ModelError
    from omni_diffusion.io import files
    from omni_diffusion.models import doctor as doctors
    from omni_diffusion.models import files as inventory
    from omni_diffusion.models.omni import SHIPPED, place_of

    if preset not in (None, "official"):
        raise ModelError(f"no sizes are called {preset!r}; give official, or --model FOLDER")
    if preset is not None and model is not None:
        raise typer.BadParameter("give --preset or --model, not both")
    if json is not None:
        handover.in_a_folder(json)
    place = place_of(device)
    how = quantization_of(quantization)
    folder, listed, screen = model or SHIPPED, [], Console()
    if preset:
        reckoned = doctors.official(quantization=how)
    else:
        if not folder.is_dir():
            raise ModelError(f"no model at {folder}; give a folder, ours or a published one")
        parts = _parts(image_codec, speech_tokenizer, speech_decoder, cmvn, sizes)
        listed = inventory.entries(folder, parts)
        screen.print(doctors.inventory(listed))  # first: what follows needs the config.json
        reckoned = doctors.folder(folder, quantization=how, parts=parts)
    found = doctors.examine(reckoned, place, listed)
    for table in doctors.tables(found):
        screen.print(table)
    if json is not None:
        files.write_text(json, doctors.text_of(found))


def convert(
    source: Annotated[
        str, typer.Argument(help="Omni-Diffusion or Dream-7B: a folder, or owner/name on the hub.")
    ],
    out: Annotated[
        Path, typer.Argument(help="The folder to write, new or empty, in our own layout.")
    ],
    image_codec: ImageCodec = None,
    speech_tokenizer: SpeechTokenizer = None,
    speech_decoder: SpeechDecoder = None,
    cmvn: Hearing = None,
    sizes: SizesFile = None,
    dtype: Annotated[
        str | None,
        typer.Option(help="The backbone's: bfloat16, float16, float32; default: as published."),
    ] = None,
    revision: Annotated[str | None, typer.Option(help="Of SOURCE on the hub.")] = None,
) -> None:
    """Bring published files into one folder that --model takes."""
    from omni_diffusion.errors import ModelError
    from omni_diffusion.models import omni as models
    from omni_diffusion.models import upstream

    if dtype is not None and dtype not in upstream.DTYPES:
        raise typer.BadParameter(f"dtype is {dtype!r}; give one of {', '.join(upstream.DTYPES)}")
    if Path(source).resolve() == out.resolve():
        raise ModelError(f"{out} is the folder to convert; give another one to write")
    parts = _parts(image_codec, speech_tokenizer, speech_decoder, cmvn, sizes)
    wanted = None if dtype is None else upstream.DTYPES[dtype]
    models.convert(source, out, parts=parts, dtype=wanted, revision=revision)
    typer.echo(f"wrote {out}", err=True)


def _parts(
    image_codec: str | None,
    speech_tokenizer: str | None,
    speech_decoder: str | None,
    cmvn: str | None,
    sizes: Path | None,
) -> Parts:
    """Where a published folder's other parts are, by default on the hub."""
    from omni_diffusion.io import config
    from omni_diffusion.models import upstream

    places: dict[str, Any] = {
        "image_codec": image_codec,
        "speech_tokenizer": speech_tokenizer,
        "speech_decoder": speech_decoder,
        "hearing": cmvn,
        "sizes": sizes and config.load(upstream.Sizes, sizes),
    }
    return upstream.Parts(**{name: place for name, place in places.items() if place is not None})
