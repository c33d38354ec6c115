"""`omni-diffusion run` and `demo`: tasks on a person's own inputs."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from omni_diffusion.cli.options import (
    Device,
    Dtype,
    ImageFile,
    ModelFolder,
    Quantized,
    SpeechFile,
    Steps,
    open_model,
    progress_bar,
)

if TYPE_CHECKING:
    from omni_diffusion.engine.request import Request, Result
    from omni_diffusion.models.omni import OmniModel

NO_MEDIA = 1  # exit code of an answer without the picture or sound that the task is for

TaskName = Annotated[
    str,
    typer.Argument(help="chat, asr, tts, t2i, caption, vqa, s2i, svqa, sqa, inpaint or infill."),
]
Prompt = Annotated[
    str | None, typer.Argument(help="The text; for infill, with _ for each masked token.")
]
TextOption = Annotated[str | None, typer.Option("--text", help="The text, instead of PROMPT.")]
MaskOption = Annotated[
    str | None,
    typer.Option(
        "--mask",
        help="Hole for inpaint: left,top,right,bottom in pixels, or a picture that is white in the"
        " hole.",
    ),
]
OutFile = Annotated[
    Path | None,
    typer.Option("--out", help="File for the picture or sound; default: TASK.png or TASK.wav."),
]
TraceFile = Annotated[
    Path | None,
    typer.Option("--trace", help="File for the tokens of each denoising step, as JSON."),
]
MaxTokens = Annotated[
    int | None,
    typer.Option(help="Length of a text or speech answer in tokens; default: the task's rule."),
]
SpeechSteps = Annotated[
    int | None,
    typer.Option(help="Steps of the speech decoder (1 to 1000); default: the model's, 10."),
]
SeedOption = Annotated[
    int | None,
    typer.Option("--seed", help="Seed of the answer; the same seed gives the same answer."),
]
GuidanceWeight = Annotated[
    float | None,
    typer.Option(help="Weight of classifier-free guidance, 0 or more; 0 turns it off."),
]
ConfidenceName = Annotated[
    str | None,
    typer.Option(
        help="Order in which tokens are committed: entropy, margin, max_probability, random, or"
        " halton for pictures; default: entropy."
    ),
]
SamplingFields = Annotated[
    list[str] | None,
    typer.Option(
        "--sampling",
        metavar="NAME=VALUE",
        help="Any other sampling parameter, such as entropy_bound=0.5, end_early=true or"
        " guidance_until=0.5 (see docs/fewer-steps.md); repeat for several.",
    ),
]
PresetName = Annotated[
    str | None,
    typer.Option(help="Sampling of the paper (paper) or of the published code (upstream)."),
]


def demo(
    out: Annotated[Path, typer.Option(help="Folder to write the page and the answers to.")] = Path(
        "demo-out"
    ),
    image: ImageFile = None,
    speech: SpeechFile = None,
    text: Annotated[str | None, typer.Option(help="Text for the tasks that take text.")] = None,
    steps: Steps = None,
    seed: Annotated[int, typer.Option(help="Seed of every answer.")] = 0,
    model: ModelFolder = None,
    device: Device = "cpu",
    quantization: Quantized = None,
    dtype: Dtype = "auto",
) -> None:
    """Run every task on shipped inputs, and on yours, and show the answers on one page."""
    from omni_diffusion.demo.demo import present
    from omni_diffusion.demo.jobs import DEMO_JOBS, InputFiles, yours

    jobs = [*yours(InputFiles(text, image, speech)), *DEMO_JOBS]
    opened = open_model(model, device, quantization, dtype)
    present(opened, jobs, out, steps=steps, seed=seed)


def run(
    task: TaskName,
    prompt: Prompt = None,
    text: TextOption = None,
    image: ImageFile = None,
    speech: SpeechFile = None,
    mask: MaskOption = None,
    out: OutFile = None,
    trace: TraceFile = None,
    steps: Steps = None,
    max_tokens: MaxTokens = None,
    speech_steps: SpeechSteps = None,
    seed: SeedOption = None,
    guidance: GuidanceWeight = None,
    confidence: ConfidenceName = None,
    sampling: SamplingFields = None,
    preset: PresetName = None,
    model: ModelFolder = None,
    device: Device = "cpu",
    quantization: Quantized = None,
    dtype: Dtype = "auto",
) -> None:
    """Run one task on your own files: text to stdout, a picture or sound to a file."""
    from omni_diffusion.cli.outputs import output_path
    from omni_diffusion.engine.ask import Inputs, ask
    from omni_diffusion.errors import TaskError
    from omni_diffusion.io import files
    from omni_diffusion.tasks import catalog

    if prompt is not None and text is not None:
        raise typer.BadParameter("give the text once, as PROMPT or as --text")
    options = {"steps": steps, "seed": seed, "guidance": guidance, "confidence": confidence}
    overrides: dict[str, Any] = {k: v for k, v in options.items() if v is not None}
    overrides |= _sampling(sampling or ())
    # What can be checked without a model is checked first.
    known = catalog.task(task)
    path = output_path(known, out)
    if trace is not None:
        files.check_writable(trace)
        if trace == path:
            raise TaskError(f"{trace} is also the answer's file", field="trace", fix="name another")
    inputs = Inputs.read(text if prompt is None else prompt, image, speech, mask)
    request = ask(
        known.name,
        inputs,
        preset=preset,
        max_tokens=max_tokens,
        trace=trace is not None,
        **overrides,
    )
    opened = open_model(model, device, quantization, dtype)
    opened.codecs.speech.set_speed(speech_steps)
    _hand_back(_answer(opened, request), path, trace)


def _sampling(words: Sequence[str]) -> dict[str, Any]:
    """NAME=VALUE as a field of the sampling parameters; values are JSON, or text."""
    from omni_diffusion.errors import SamplingError
    from omni_diffusion.io.config import nearest
    from omni_diffusion.tasks.defaults import FIELDS

    fields: dict[str, Any] = {}
    for word in words:
        name, equals, value = word.partition("=")
        if not equals or name not in FIELDS:
            raise SamplingError(
                f"{word!r} does not set a sampling parameter",
                field="sampling",
                value=word,
                fix=f"give NAME=VALUE; {nearest(name, FIELDS)}",
            )
        try:
            fields[name] = json.loads(value)
        except ValueError:
            fields[name] = value
    return fields


def _answer(model: OmniModel, request: Request) -> Result:
    """Run one request; raises its error."""
    from omni_diffusion.engine.engine import Engine

    with progress_bar(request.task_name) as show:
        (result,) = Engine(model).run([request], lambda progress: show(progress.fraction))
    if result.error is not None:
        raise result.error
    return result


def _hand_back(result: Result, path: Path | None, trace: Path | None) -> None:
    """Media to `path` and the trace first, then text to stdout and notes to stderr."""
    from omni_diffusion.cli.outputs import hand_over
    from omni_diffusion.conversation import Text, text_of

    refused = hand_over(result, path, trace)
    text = text_of(result.parts)
    if text:
        typer.echo(text)
    for note in result.notes:
        typer.echo(f"note: {note}", err=True)
    if refused is not None:
        raise refused
    if path is not None:
        if all(isinstance(part, Text) for part in result.parts):
            raise typer.Exit(NO_MEDIA)
        typer.echo(f"wrote {path}", err=True)
    typer.echo(f"{result.steps} steps in {result.seconds:.2f} s", err=True)
