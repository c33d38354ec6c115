"""Jobs are run one by one; answers, results.json and index.html go to one folder.

Knows no tokens.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskID, TextColumn, TimeElapsedColumn

from omni_diffusion import html
from omni_diffusion.conversation import Image, Part, Speech, Text
from omni_diffusion.demo.jobs import Job, hidden
from omni_diffusion.demo.page import Card, page
from omni_diffusion.demo.replay import replay
from omni_diffusion.diffusion.params import SamplingParams
from omni_diffusion.engine import engine, handover
from omni_diffusion.engine.handover import Named
from omni_diffusion.engine.request import Request
from omni_diffusion.io import files
from omni_diffusion.models.omni import OmniModel
from omni_diffusion.tasks import catalog
from omni_diffusion.tasks.parts import Draft


@dataclass(frozen=True, eq=False)
class Order:
    """A job whose inputs were read and found to fit.

    params: None where nothing differs from the defaults. measure: what places are chosen by.
    """

    job: Job
    drafts: tuple[Draft, ...]
    params: SamplingParams | None
    measure: str


def order(job: Job, model: OmniModel, steps: int | None, seed: int) -> Order:
    """Read a job's inputs; raises an OmniError for what cannot be read or does not fit."""
    job, task = hidden(job, model.codecs.text), catalog.task(job.task)
    drafts = handover.conversation(task, job.named)
    handover.check_size(drafts, model.max_positions)
    usual = model.sampling.get(task.name, task.params)
    params = replace(usual, seed=seed) if steps is None else replace(usual, seed=seed, steps=steps)
    return Order(job, drafts, None if params == usual else params, params.confidence)


def present(
    model: OmniModel,
    jobs: Sequence[Job],
    out: Path,
    *,
    steps: int | None = None,
    seed: int = 0,
    console: Console | None = None,
) -> list[Card]:
    """Run the jobs one by one, tell how it goes, and fill the folder `out`.

    All inputs are read before the first job runs. Raises an OmniError for an input that does not
    fit or a folder that cannot be written; a job that fails says so on its card.
    """
    console = console or Console()
    orders = [order(job, model, steps, seed) for job in jobs]
    files.make_folder(out)
    cards = []
    with Progress(
        TextColumn("{task.description}"), BarColumn(), TimeElapsedColumn(),
        console=console, transient=True, disable=not console.is_terminal,
    ) as bars:  # fmt: skip
        bar = bars.add_task("", total=len(orders))
        for number, each in enumerate(orders):
            bars.update(bar, description=catalog.task(each.job.task).title)
            cards.append(_run(each, model, partial(_advance, bars, bar, number)))
            written = _write(cards[-1], out)
            line = _line(cards[-1], written)
            console.print(line, highlight=False, markup=False, no_wrap=True, overflow="ellipsis")
    _write_page(model, cards, out, seed)
    console.print(f"open {out / 'index.html'}", highlight=False, markup=False, soft_wrap=True)
    return cards


def _advance(bars: Progress, bar: TaskID, number: int, step: engine.Progress) -> None:
    bars.update(bar, completed=number + step.share)


def _run(order: Order, model: OmniModel, progress: Callable[[engine.Progress], None]) -> Card:
    job = order.job
    asked = Request(job.task, order.drafts, order.params, trace=True)
    (result,) = engine.Engine(model).run([asked], progress)
    notes = [*handover.notes(order.drafts), *result.notes]
    if job.spoken is not None:
        notes.append(f"Spoken: “{job.spoken}”")
    if job.right is not None:
        notes.append(f"A right answer: “{job.right}”")
    return Card(
        key=job.key,
        name=job.task,
        title=catalog.task(job.task).title,
        given=_given(job.named, order.drafts),
        answer=result.parts,
        seconds=result.seconds,
        steps=result.steps,
        replay=replay(result, model, order.measure),
        notes=tuple(notes),
        fault=None if result.error is None else str(result.error),
    )


def _given(named: Named, asked: Sequence[Draft]) -> tuple[Part, ...]:
    """The inputs as a person sees them, a picture with its hole."""
    words = () if named.text is None else (Text(named.text),)
    return (*words, *(part for part in html.seen(asked) if not isinstance(part, Text)))


def _write(card: Card, out: Path) -> list[str]:
    """The answer as files; returns their names."""
    names = []
    text = handover.text_of(card.answer)
    if text:
        names.append(f"{card.key}.txt")
        files.write_text(out / names[-1], text + "\n")
    kinds = {Image: ".png", Speech: ".wav"}
    for part in card.answer:
        if not isinstance(part, Text):
            names.append(card.key + kinds[type(part)])
            handover.write_media((part,), out / names[-1])
    return names


def _line(card: Card, written: Sequence[str]) -> str:
    """What the terminal says of a finished job."""
    words = " ".join(handover.text_of(card.answer).split())
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
            "text": handover.text_of(card.answer),
            "seconds": round(card.seconds, 3),
            "steps": card.steps,
            "error": card.fault,
        }
        for card in cards
    ]
    files.write_text(out / "results.json", json.dumps(results, indent=2) + "\n")
    files.write_text(out / "index.html", page("omni-diffusion", facts, cards))
