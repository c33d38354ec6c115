"""Options that several commands share, and what they open."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from omni_diffusion.backbone.quantization import Quantization
    from omni_diffusion.models.omni import OmniModel

ModelFolder = Annotated[
    Path | None,
    typer.Option(
        "--model", help="Folder of the model (default: the small model shipped with the package)."
    ),
]
Device = Annotated[
    str, typer.Option(help="Device to compute on: cpu, or a GPU such as cuda or cuda:1.")
]
Dtype = Annotated[
    str,
    typer.Option(
        "--dtype",
        help="Data type that the transformer computes in: float32, bfloat16, float16, or auto: the"
        " one in the model's config.json, but bfloat16 instead of float32 where this machine is"
        " much faster in it (default: auto).",
    ),
]
Quantized = Annotated[
    str | None,
    typer.Option(
        "--quantization",
        help="Store the weights of the transformer blocks in 8 or 4 bits: int8 or int4 (default:"
        " no quantization).",
    ),
]
ImageCodec = Annotated[
    str | None,
    typer.Option(
        "--image-codec",
        help="Source of magvitv2: a folder, or owner/name[@revision] on the hub (default:"
        " showlab/magvitv2).",
    ),
]
SpeechTokenizer = Annotated[
    str | None,
    typer.Option(
        "--speech-tokenizer",
        help="Source of glm-4-voice-tokenizer: a folder, or owner/name[@revision] on the hub"
        " (default: THUDM/glm-4-voice-tokenizer).",
    ),
]
SpeechDecoder = Annotated[
    str | None,
    typer.Option(
        "--speech-decoder",
        help="Source of glm-4-voice-decoder: a folder, or owner/name[@revision] on the hub"
        " (default: THUDM/glm-4-voice-decoder).",
    ),
]
SpeechEncoder = Annotated[
    str | None,
    typer.Option(
        "--speech-encoder",
        help="Source of SenseVoiceSmall: a folder, owner/name[@revision] on the hub, or its file"
        " am.mvn; Dream-7B needs its model.pt too (default: FunAudioLLM/SenseVoiceSmall).",
    ),
]
CodecSizes = Annotated[
    Path | None,
    typer.Option(
        "--sizes", help="JSON file with the sizes of the codecs (default: the published sizes)."
    ),
]
Steps = Annotated[
    int | None,
    typer.Option(
        help="Number of denoising steps (default: that of the task); an answer that is filled in"
        " blocks takes at least one for each block."
    ),
]
ImageFile = Annotated[
    Path | None,
    typer.Option("--image", help="Image file of any size, as input; - reads standard input."),
]
SpeechFile = Annotated[
    Path | None,
    typer.Option(
        "--speech",
        help="Speech file as input: WAV, FLAC, OGG or MP3; - reads standard input.",
    ),
]


def open_model(
    folder: Path | None, device: str, quantization: str | None = None, dtype: str = "auto"
) -> OmniModel:
    """Open the model at `folder`; None opens the small model that comes with the package.

    A dtype that was chosen by measurement is named on stderr.
    """
    from omni_diffusion.models.dtypes import AUTO, bfloat16_speedup
    from omni_diffusion.models.omni import SMALL_MODEL, OmniModel, read_dtype

    model = OmniModel.open(folder, device, dtype, quantization_of(quantization))
    if dtype == AUTO and model.dtype != read_dtype(folder or SMALL_MODEL):
        speedup = bfloat16_speedup(model.device)
        typer.echo(f"computing in bfloat16, {speedup:.1f} times as fast as float32 here", err=True)
    return model


def quantization_of(name: str | None) -> Quantization | None:
    """The quantization of that name; raises ModelError for an unknown name."""
    from omni_diffusion.backbone.quantization import quantization

    return None if name is None else quantization(name)


@contextmanager
def progress_bar(name: str, *, shown: bool = True) -> Iterator[Callable[[float], None]]:
    """A progress bar on stderr, moved by the fraction that is done."""
    from rich import progress as rich
    from rich.console import Console

    screen = Console(stderr=True)
    with rich.Progress(
        console=screen, transient=True, disable=not (shown and screen.is_terminal)
    ) as bars:
        bar = bars.add_task(name, total=1.0)
        yield lambda fraction: bars.update(bar, completed=fraction)
