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
    Path | None, typer.Option("--model", help="A model folder; default: the small one shipped.")
]
Device = Annotated[str, typer.Option(help="Where to compute: cpu, cuda, cuda:1.")]
Quantized = Annotated[
    str | None,
    typer.Option("--quantization", help="int8: the blocks' weights in 8 bits; needs torchao."),
]
ImageCodec = Annotated[
    str | None,
    typer.Option(
        "--image-codec",
        help="magvitv2: a folder, or owner/name[@revision]; default: on the hub.",
    ),
]
SpeechTokenizer = Annotated[
    str | None, typer.Option("--speech-tokenizer", help="glm-4-voice-tokenizer, likewise.")
]
SpeechDecoder = Annotated[
    str | None, typer.Option("--speech-decoder", help="glm-4-voice-decoder, likewise.")
]
Hearing = Annotated[
    str | None,
    typer.Option(
        "--cmvn", help="am.mvn, or SenseVoiceSmall's folder; Dream-7B needs its model.pt too."
    ),
]
SizesFile = Annotated[
    Path | None,
    typer.Option("--sizes", help="JSON of the codecs' sizes, where not the published ones."),
]
Steps = Annotated[int | None, typer.Option(help="Denoising steps; default: the task's own.")]
ImageFile = Annotated[Path | None, typer.Option("--image", help="A picture of any size.")]
SpeechFile = Annotated[Path | None, typer.Option("--speech", help="WAV, FLAC, OGG or MP3.")]


def open_model(folder: Path | None, device: str, quantization: str | None = None) -> OmniModel:
    """The model at `folder`; None opens the small one that comes with the package."""
    from omni_diffusion.models.omni import OmniModel

    return OmniModel.open(folder, device, quantization=quantization_of(quantization))


def quantization_of(name: str | None) -> Quantization | None:
    """A quantization by its name; raises ModelError for another."""
    from omni_diffusion.backbone.quantization import quantization

    return None if name is None else quantization(name)


@contextmanager
def progress_bar(name: str, *, shown: bool = True) -> Iterator[Callable[[float], None]]:
    """A bar on stderr, moved by the share that is done."""
    from rich import progress as rich
    from rich.console import Console

    screen = Console(stderr=True)
    with rich.Progress(
        console=screen, transient=True, disable=not (shown and screen.is_terminal)
    ) as bars:
        bar = bars.add_task(name, total=1.0)
        yield lambda share: bars.update(bar, completed=share)
