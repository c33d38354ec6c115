"""Likelihood: an upper bound on -log p of a known answer given its prompt, with its error.

A masked diffusion model gives no log p, but the paper's loss weighted by 1/t bounds -log p from
above (Ou et al., arXiv 2406.03736; Sahoo et al., 2406.07524). It is estimated by drawing masks, so
every number has a standard error. All values are in nats.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from torch import Tensor

from omni_diffusion.canvas import Canvas
from omni_diffusion.conversation import Message, Text
from omni_diffusion.data.examples import training_examples
from omni_diffusion.data.manifest import SourceLine, read_samples
from omni_diffusion.diffusion.loss import bound_masks, token_losses
from omni_diffusion.engine.ask import Inputs, conversation
from omni_diffusion.errors import EvaluationError
from omni_diffusion.evaluation.scoring import Metric, Score, aggregate
from omni_diffusion.models.omni import OmniModel
from omni_diffusion.tasks import catalog
from omni_diffusion.tasks.encode import encode
from omni_diffusion.tasks.render import layout_training
from omni_diffusion.vocab import Vocabulary

MASKED_ROWS = 16  # masked copies of a sequence in one forward pass


@dataclass(frozen=True)
class BoundEstimate:
    """The bound of some tokens: nats in all, the standard error of the estimate, their number."""

    nats: float
    stderr: float
    tokens: int

    @property
    def per_token(self) -> float:
        """Nats of a token."""
        return self.nats / self.tokens


@dataclass(frozen=True)
class SequenceBound:
    """The bound of one answer, and its parts by kind: text, image, speech and special tokens."""

    total: BoundEstimate
    kinds: dict[str, BoundEstimate]


@dataclass(frozen=True)
class LineBound:
    """The bound of an answer of a manifest."""

    source: SourceLine
    task: str
    bound: SequenceBound


@dataclass(frozen=True)
class OptionChoice:
    """The option with the lowest bound, and the bounds of all.

    margin: by how many standard errors of the difference it is below the next one.
    """

    index: int
    margin: float
    bounds: tuple[SequenceBound, ...]


def sequence_bound(
    model: OmniModel, canvas: Canvas, *, samples: int = 64, seed: int = 0
) -> SequenceBound:
    """The bound of the answer of a canvas without masks, given all before it.

    samples: masks drawn; the error falls with their square root. seed: of the masks.
    """
    if samples < 2:
        raise EvaluationError(
            f"{samples} samples give no error", field="samples", value=samples, fix="give 2 or more"
        )
    answer = torch.zeros(canvas.length, dtype=torch.bool)
    answer[canvas.answer[0] : canvas.answer[1]] = True
    generator = torch.Generator().manual_seed(seed)
    masked, weights = bound_masks(answer, samples, generator)
    losses = torch.cat(
        [_losses(model, canvas, rows) for rows in torch.split(masked, MASKED_ROWS)]
    )  # [S, L]
    weighted = losses * weights[:, None]
    kinds = {
        name: _estimate(weighted, where & answer)
        for name, where in _kinds(canvas.ids, model.vocabulary).items()
        if bool((where & answer).any())
    }
    return SequenceBound(_estimate(weighted, answer), kinds)


def manifest_bounds(
    model: OmniModel,
    manifest: str | Path,
    *,
    samples: int = 64,
    seed: int = 0,
    limit: int | None = None,
) -> Iterator[LineBound]:
    """The bound of every answer of a manifest, line by line; `limit`: only the first lines.

    Raises DataError for a broken line, naming it.
    """
    for number, sample in enumerate(read_samples(manifest)):
        if number == limit:
            return
        with torch.no_grad():
            examples = training_examples(sample, model)
        for example in examples:
            canvas = example.canvas(model.vocabulary, model.codecs.text)
            bound = sequence_bound(model, canvas, samples=samples, seed=seed)
            yield LineBound(example.source, example.task.name, bound)


def bound_metrics(bounds: Sequence[LineBound]) -> dict[str, Metric]:
    """Nats of a token, in all, by task and by kind of token, as "all", "task tts", "text".

    The error is that of the mean over sequences, in which the error of drawing masks is contained.
    """
    columns: dict[str, list[Score]] = {"all": []}
    for line in bounds:
        total = line.bound.total
        score = Score(total.nats, total.tokens)
        columns["all"].append(score)
        columns.setdefault(f"task {line.task}", []).append(score)
        for name, part in line.bound.kinds.items():
            columns.setdefault(name, []).append(Score(part.nats, part.tokens))
    return {name: aggregate(scores) for name, scores in columns.items()}


def choose_option(
    model: OmniModel,
    task: str,
    inputs: Inputs,
    options: Sequence[str],
    *,
    samples: int = 64,
    seed: int = 0,
    per_token: bool = False,
) -> OptionChoice:
    """Multiple choice: the option whose text has the lowest bound as the answer of a task.

    Masks of all options are drawn with the same seed. per_token: compare nats of a token, which
    favours no short option. Raises EvaluationError for fewer than two options.
    """
    if len(options) < 2:
        raise EvaluationError(
            "a choice among fewer than two options", field="options", value=list(options)
        )
    canvases = [answer_canvas(model, task, inputs, option) for option in options]
    bounds = tuple(sequence_bound(model, each, samples=samples, seed=seed) for each in canvases)
    parts = [
        replace(b.total, nats=b.total.per_token, stderr=b.total.stderr / b.total.tokens)
        if per_token
        else b.total
        for b in bounds
    ]
    order = sorted(range(len(parts)), key=lambda i: parts[i].nats)
    best, second = parts[order[0]], parts[order[1]]
    spread = math.hypot(best.stderr, second.stderr)
    margin = (second.nats - best.nats) / spread if spread else math.inf
    return OptionChoice(order[0], margin, bounds)


@torch.no_grad()
def answer_canvas(model: OmniModel, task: str, inputs: Inputs, answer: str) -> Canvas:
    """The canvas of a task with a known answer in text; raises TaskError where it does not fit."""
    known = catalog.task(task).answering(model.generation.answers)
    messages = (*conversation(known, inputs), Message("assistant", (Text(answer),)))
    turns = encode(messages, model.codecs)
    return layout_training(known, turns, model.vocabulary, model.codecs.text)


@torch.no_grad()
def _losses(model: OmniModel, canvas: Canvas, masked: Tensor) -> Tensor:
    """-log p of each masked token, float32 [S, L] with 0 elsewhere; masked: bool [S, L]."""
    device = model.device
    ids = canvas.ids.expand(masked.shape)
    noisy = torch.where(masked, model.vocabulary.mask, ids).to(device)
    slots = [(row, slot) for row in range(len(masked)) for slot in canvas.slots]
    logits = model.backbone(noisy, slots=slots, logits_at=masked.to(device))
    losses = torch.zeros(masked.shape)
    losses[masked] = token_losses(logits, ids[masked].to(device)).cpu()
    return losses


def _kinds(ids: Tensor, vocabulary: Vocabulary) -> dict[str, Tensor]:
    """Which of the tokens [L] are of each kind."""
    spans = {"text": vocabulary.text, "image": vocabulary.image, "speech": vocabulary.speech}
    return {name: span.holds(ids) for name, span in spans.items()} | {
        "special": vocabulary.specials.holds(ids)
    }


def _estimate(weighted: Tensor, where: Tensor) -> BoundEstimate:
    """The estimate for the tokens `where` [L] of weighted losses [S, L]."""
    draws = weighted[:, where].double().sum(1)
    stderr = float(draws.std()) / math.sqrt(len(draws))
    return BoundEstimate(float(draws.mean()), stderr, int(where.sum()))
