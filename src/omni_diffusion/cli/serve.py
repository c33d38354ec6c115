"""`omni-diffusion serve`: every task over HTTP, and a page."""

from __future__ import annotations

import socket
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from omni_diffusion.cli.options import Device, Dtype, ModelFolder, Quantized, open_model

if TYPE_CHECKING:
    from omni_diffusion.engine.ask import Inputs
    from omni_diffusion.models.omni import OmniModel
    from omni_diffusion.serving.limits import Limits

KEY_VARIABLE = "OMNI_DIFFUSION_API_KEY"
ABOUT_SMALL = (
    "The small model knows drawn scenes of one to four things out of 40, on 8 backgrounds: it draws"
    " them, describes them, answers questions about them, and hears and speaks such sentences."
)

Host = Annotated[
    str, typer.Option(help="Address to listen on; 0.0.0.0 lets other machines in, so give a key.")
]
Port = Annotated[int, typer.Option(help="Port to listen on; 0 takes a free one.", min=0, max=65535)]
ApiKey = Annotated[
    str | None,
    typer.Option(
        "--api-key",
        envvar=KEY_VARIABLE,
        help="Key that clients send as `Authorization: Bearer KEY` (default: none is asked for).",
        show_envvar=True,
    ),
]
KeyFile = Annotated[
    Path | None, typer.Option(help="File with the key, which other users then cannot see.")
]
ServedName = Annotated[
    str | None,
    typer.Option(
        "--served-model-name", help="Name of the model for clients (default: the model's own)."
    ),
]
MaxBatch = Annotated[int, typer.Option(help="Requests that are denoised at once.", min=1)]
CodecThreads = Annotated[
    int, typer.Option(help="Threads that encode and decode media beside the engine.", min=1)
]
Origins = Annotated[
    list[str] | None,
    typer.Option(
        "--allowed-origin",
        help="Address of a web page that may call the server from a browser, such as"
        " https://example.org; may be repeated (default: only its own page).",
    ),
]


def serve(
    model: ModelFolder = None,
    host: Host = "127.0.0.1",
    port: Port = 8000,
    api_key: ApiKey = None,
    api_key_file: KeyFile = None,
    served_model_name: ServedName = None,
    max_batch: MaxBatch = 8,
    codec_threads: CodecThreads = 2,
    device: Device = "cpu",
    dtype: Dtype = "auto",
    quantization: Quantized = None,
    allowed_origin: Origins = None,
    max_queue: Annotated[
        int, typer.Option(help="Requests that may wait; further ones get 429.", min=1)
    ] = 64,
    max_body: Annotated[int, typer.Option(help="Bytes of a request.", min=1024)] = 25 * 2**20,
    max_pixels: Annotated[int, typer.Option(help="Pixels of a picture.", min=1)] = 20_000_000,
    max_audio_seconds: Annotated[float, typer.Option(help="Seconds of a recording.")] = 120.0,
    timeout: Annotated[
        float, typer.Option(help="Seconds after which a request is given up with 504.")
    ] = 300.0,
    drain_timeout: Annotated[
        float, typer.Option(help="Seconds that running requests get when the server is stopped.")
    ] = 30.0,
) -> None:
    """Serve every task over HTTP in the API of OpenAI, and a page at /."""
    from omni_diffusion.io.optional import require
    from omni_diffusion.serving.limits import Limits

    require("uvicorn", "serve")
    require("fastapi", "serve")
    limits = Limits(
        body=max_body,
        pixels=max_pixels,
        audio_seconds=max_audio_seconds,
        queue=max_queue,
        deadline=timeout,
        drain=drain_timeout,
    )
    key = _key(api_key, api_key_file)
    listening = listen(host, port)  # before the model is opened, which takes a while
    with listening:
        opened = open_model(model, device, quantization, dtype)
        small = model is None
        _run(opened, listening, limits, key, served_model_name, max_batch, codec_threads,
             tuple(allowed_origin or ()), small)  # fmt: skip


def _key(key: str | None, file: Path | None) -> str | None:
    """The key of the option, the variable or the file; raises ConfigError for an empty one."""
    from omni_diffusion.errors import ConfigError

    if file is not None:
        try:
            key = file.read_text(encoding="utf-8-sig").strip()
        except OSError as error:
            raise ConfigError(
                f"cannot read {file}: {error.strerror}", field="api_key_file", fix="check the path"
            ) from error
    if key is not None and not key.strip():
        raise ConfigError(
            "the key is empty", field="api_key", fix="give some characters or omit it"
        )
    return key


def listen(host: str, port: int) -> socket.socket:
    """A socket that listens; raises ConfigError where the address is taken or unknown."""
    from omni_diffusion.errors import ConfigError

    try:
        family, kind, _, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        listening = socket.socket(family, kind)
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listening.bind(address)
        listening.listen(2048)
    except OSError as error:
        raise ConfigError(
            f"cannot listen on {host}:{port}: {error.strerror}",
            field="port",
            value=port,
            fix="give another port or host, or stop the other server",
        ) from error
    return listening


def _run(
    model: OmniModel,
    listening: socket.socket,
    limits: Limits,
    key: str | None,
    name: str | None,
    max_batch: int,
    codec_threads: int,
    origins: tuple[str, ...],
    small: bool,
) -> None:
    """Serve until SIGTERM or Ctrl-C, then finish what runs."""
    from omni_diffusion.serving.app import create_app, open_service
    from omni_diffusion.serving.run import serve_app

    service = open_service(
        model,
        name=name,
        limits=limits,
        max_batch=max_batch,
        codec_threads=codec_threads,
        examples=_examples(model) if small else None,
        about=ABOUT_SMALL if small else None,
    )
    host, port = listening.getsockname()[:2]
    local = host in ("127.0.0.1", "::1")
    shown = f"[{host}]" if ":" in host else host
    typer.echo(f"model {service.name!r} at http://{shown}:{port} (Ctrl-C stops)", err=True)
    if key is None and not local:
        typer.echo("warning: other machines may call this server without a key", err=True)
    serve_app(create_app(service, key=key, origins=origins, local=local), service, listening)


def _examples(model: OmniModel) -> dict[str, list[Inputs]]:
    """The demo's inputs, which the small model can answer."""
    from omni_diffusion.demo.jobs import DEMO_JOBS, with_gaps

    examples: dict[str, list[Inputs]] = {}
    for job in DEMO_JOBS:
        inputs = with_gaps(job, model.codecs.text).inputs.read()
        examples.setdefault(job.task, []).append(inputs)
    return examples
