"""`omni-diffusion run` and `demo`: tasks on a person's own inputs."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from omni_diffusion.cli.options import (
    Device,
    ImageFile,
    ModelFolder,
    Quantized,
    SpeechFile,
    Steps,
    open_model,
    progress_bar,
)

if TYPE_CHECKING:
    from omni_diffusion.diffusion.params import SamplingParams
    from omni_diffusion.engine.request import Request, Result
    from omni_diffusion.media import Waveform
    from omni_diffusion.models.omni import OmniModel

NO_MEDIA = 1  # exit code of an answer without the picture or sound that the task is for


def demo(
    out: Annotated[Path, typer.Option(help="The folder to fill.")] = Path("demo-out"),
    image: ImageFile = None,
    speech: SpeechFile = None,
    text: Annotated[str | None, typer.Option(help="Your words.")] = None,
    steps: Steps = None,
    seed: Annotated[int, typer.Option(help="The same seed gives the same answers.")] = 0,
    model: ModelFolder = None,
    device: Device = "cpu",
) -> None:
    """Run every task on shipped inputs, and on yours, and show all of it on one page."""
    from omni_diffusion.demo.demo import present
    from omni_diffusion.demo.jobs import SHIPPED, yours
    from omni_diffusion.engine.handover import Named

    jobs = [*yours(Named(text, image, speech)), *SHIPPED]
    present(open_model(model, device), jobs, out, steps=steps, seed=seed)


def run(
    task: Annotated[
        str,
        typer.Argument(
            help="chat, asr, tts, t2i, caption, vqa, s2i, svqa, sqa, inpaint or infill."
        ),
    ],
    prompt: Annotated[
        str | None, typer.Argument(help="The words; for infill, with _ for each unknown token.")
    ] = None,
    text: Annotated[str | None, typer.Option(help="The words, another way.")] = None,
    image: ImageFile = None,
    speech: SpeechFile = None,
    mask: Annotated[
        str | None,
        typer.Option(help="For inpaint: left,top,right,bottom, or a picture with a white hole."),
    ] = None,
    out: Annotated[
        Path | None, typer.Option(help="For a picture or sound; default: TASK.png or TASK.wav.")
    ] = None,
    trace: Annotated[
        Path | None, typer.Option(help="Write what each step committed, as JSON.")
    ] = None,
    steps: Steps = None,
    length: Annotated[
        int | None, typer.Option(help="Places of the answer; default: the task's own rule.")
    ] = None,
    seed: Annotated[int | None, typer.Option(help="The same seed gives the same answer.")] = None,
    guidance: Annotated[
        float | None, typer.Option(help="Weight of classifier-free guidance; 0 is off.")
    ] = None,
    sampler: Annotated[
        str | None,
        typer.Option(help="Whose surest places come first: entropy, margin, max_probability."),
    ] = None,
    preset: Annotated[
        str | None,
        typer.Option(help="official: the paper's settings; upstream: the published code's."),
    ] = None,
    model: ModelFolder = None,
    device: Device = "cpu",
    quantization: Quantized = None,
) -> None:
    """Run one task on your own files: words to stdout, a picture or sound to a file."""
    from dataclasses import replace

    from omni_diffusion.engine import handover
    from omni_diffusion.engine.request import Request
    from omni_diffusion.tasks import catalog, presets
    from omni_diffusion.tasks.chunking import spoken_passages

    if prompt is not None and text is not None:
        raise typer.BadParameter("give the words once, as PROMPT or as --text")
    asked = {"steps": steps, "seed": seed, "guidance": guidance, "confidence": sampler}
    changes: dict[str, Any] = {key: value for key, value in asked.items() if value is not None}
    # All that can be checked without a model comes first.
    found = catalog.task(task)
    setting = None if preset is None else presets.preset(preset).of(task)
    replace(found.params, **changes)
    named = handover.Named(text if prompt is None else prompt, image, speech, mask)
    drafts = handover.conversation(found, named)
    path = handover.plan_out(found, out)
    if trace is not None:
        handover.in_a_folder(trace)
    opened = open_model(model, device, quantization)
    handover.check_size(drafts, opened.max_positions)
    params = replace(opened.sampling.get(task, found.params), **changes) if changes else None
    if setting is not None:
        settled, length = setting.settle(drafts, opened, length)
        params = replace(settled, **changes)
    if task == "tts" and named.text and path and not (setting or length or trace):
        passages = spoken_passages(named.text, opened, most=opened.config.generation.longest)
        if len(passages) > 1:
            _recite(opened, passages, params).write(path)
            typer.echo(f"wrote {path}, spoken in {len(passages)} passages", err=True)
            return
    result = _answer(opened, Request(task, drafts, params, length, trace is not None))
    if trace is not None:
        handover.write_trace(result, trace)
    _hand_back(result, path, handover.notes(drafts))


def _answer(model: OmniModel, request: Request) -> Result:
    """Run one request; raises what befell it."""
    from omni_diffusion.engine.engine import Engine

    with progress_bar(request.task_name) as show:
        (result,) = Engine(model).run([request], lambda progress: show(progress.share))
    if result.error is not None:
        raise result.error
    return result


def _recite(model: OmniModel, passages: Sequence[str], params: SamplingParams | None) -> Waveform:
    """Speak a text that is too long for one canvas."""
    from omni_diffusion.engine.engine import Engine
    from omni_diffusion.engine.long_speech import recite_passages

    with progress_bar("tts") as show:
        return recite_passages(
            Engine(model), passages, params, progress=lambda progress: show(progress.share)
        )


def _hand_back(result: Result, path: Path | None, notes: list[str]) -> None:
    """Words to stdout, media to `path`, everything else to stderr."""
    from omni_diffusion.engine import handover

    words = handover.text_of(result.parts)
    if words:
        typer.echo(words)
    for note in (*notes, *result.notes):
        typer.echo(f"note: {note}", err=True)
    if path is not None:
        if not handover.write_media(result.parts, path):
            raise typer.Exit(NO_MEDIA)
        typer.echo(f"wrote {path}", err=True)
    typer.echo(f"{result.steps} steps in {result.seconds:.2f} s", err=True)
