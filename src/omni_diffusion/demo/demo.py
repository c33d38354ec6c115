"""Run jobs one by one and write answers, results.json and index.html to one folder."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskID, TextColumn, TimeElapsedColumn

from omni_diffusion import html
from omni_diffusion.conversation import Image, Part, Speech, Text, text_of
from omni_diffusion.demo.jobs import Job, with_gaps
from omni_diffusion.demo.page import Card, page
from omni_diffusion.demo.replay import replay
from omni_diffusion.engine import engine
from omni_diffusion.engine.ask import ask
from omni_diffusion.engine.request import Request
from omni_diffusion.io import files
from omni_diffusion.models.omni import OmniModel
from omni_diffusion.tasks import catalog


def request_of(job: Job, steps: int | None, seed: int) -> Request:
    """The request of a job; raises an OmniError for inputs that cannot be read or do not fit."""
    overrides: dict[str, Any] = {"seed": seed} if steps is None else {"seed": seed, "steps": steps}
    return ask(job.task, job.inputs.read(), trace=True, **overrides)


def present(
    model: OmniModel,
    jobs: Sequence[Job],
    out: Path,
    *,
    steps: int | None = None,
    seed: int = 0,
    console: Console | None = None,
) -> list[Card]:
    """Run the jobs one by one, report each, and fill the folder `out`.

    All inputs are read before the first job runs. Raises an OmniError for an input that does not
    fit or a folder that cannot be written; the error of a job is shown on its card.
    """
    console = console or Console()
    jobs = [with_gaps(job, model.codecs.text) for job in jobs]
    requests = [request_of(job, steps, seed) for job in jobs]
    files.make_folder(out)
    files.check_writable(out / "index.html")
    cards = []
    with Progress(
        TextColumn("{task.description}"), BarColumn(), TimeElapsedColumn(),
        console=console, transient=True, disable=not console.is_terminal,
    ) as bars:  # fmt: skip
        bar = bars.add_task("", total=len(requests))
        for number, (job, request) in enumerate(zip(jobs, requests, strict=True)):
            bars.update(bar, description=catalog.task(job.task).title)
            progress = partial(_advance, bars, bar, number)
            cards.append(_run(job, request, model, progress))
            written = _write(cards[-1], out)
            line = _line(cards[-1], written)
            console.print(line, highlight=False, markup=False, no_wrap=True, overflow="ellipsis")
    _write_page(model, cards, out, seed)
    console.print(f"open {out / 'index.html'}", highlight=False, markup=False, soft_wrap=True)
    return cards


def _advance(bars: Progress, bar: TaskID, number: int, step: engine.Progress) -> None:
    bars.update(bar, completed=number + step.fraction)


def _run(
    job: Job,
    request: Request,
    model: OmniModel,
    progress: Callable[[engine.Progress], None],
) -> Card:
    (result,) = engine.Engine(model).run([request], progress)
    notes = list(result.notes)
    if job.spoken is not None:
        notes.append(f"Spoken: “{job.spoken}”")
    if job.right is not None:
        notes.append(f"A right answer: “{job.right}”")
    return Card(
        key=job.key,
        name=job.task,
        title=catalog.task(job.task).title,
        given=_given(job, request),
        answer=result.parts,
        seconds=result.seconds,
        steps=result.steps,
        replay=replay(result, model),
        notes=tuple(notes),
        fault=None if result.error is None else str(result.error),
    )


def _given(job: Job, request: Request) -> tuple[Part, ...]:
    """The inputs as a person sees them, a picture with its hole."""
    text = () if job.inputs.text is None else (Text(job.inputs.text),)
    parts = html.visible(request.conversation)
    return (*text, *(part for part in parts if not isinstance(part, Text)))


def _write(card: Card, out: Path) -> list[str]:
    """The answer as files; returns their names."""
    names = []
    text = text_of(card.answer)
    if text:
        names.append(f"{card.key}.txt")
        files.write_text(out / names[-1], text + "\n")
    kinds = {Image: ".png", Speech: ".wav"}
    for part in card.answer:
        if not isinstance(part, Text):
            names.append(card.key + kinds[type(part)])
            media = part.picture if isinstance(part, Image) else part.waveform
            media.write(out / names[-1])
    return names


def _line(card: Card, written: Sequence[str]) -> str:
    """The line of a finished job."""
    words = " ".join(text_of(card.answer).split())
    words = "".join(sign if sign.isprintable() else "?" for sign in words)  # no terminal codes
    said = card.fault or words or ", ".join(written) or "no answer"
    return f"{card.key:13} {card.seconds:6.2f} s {card.steps:4} steps  {said}"


def _write_page(model: OmniModel, cards: Sequence[Card], out: Path, seed: int) -> None:
    parameters = sum(p.numel() for p in model.backbone.parameters())
    seconds = sum(card.seconds for card in cards)
    facts = (
        f"model “{model.config.name}”, {parameters:,} parameters",
        f"on {model.device}",
        f"{len(cards)} tasks in {seconds:.1f} s",
        f"seed {seed}",
    )
    results = [
        {
            "task": card.name,
            "key": card.key,
            "text": text_of(card.answer),
            "seconds": round(card.seconds, 3),
            "steps": card.steps,
            "error": card.fault,
        }
        for card in cards
    ]
    files.write_text(out / "results.json", json.dumps(results, indent=2) + "\n")
    files.write_text(out / "index.html", page("omni-diffusion", facts, cards))
