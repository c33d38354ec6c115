"""Training the backbone to predict masked tokens: an `Objective` for the loop.

The paper's objective on canvases whose answers are all given: draw t, mask the answer, predict what
was masked. Where the canvases come from is the mixture's concern, how they are masked and laid
that of `batches`.

Dimensions: G groups, N masked places, V vocabulary.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Literal, Protocol

import torch
from torch import Tensor, nn

from omni_diffusion.backbone.dream import Dream
from omni_diffusion.data.mixture import Group
from omni_diffusion.diffusion.loss import Weighting, token_losses
from omni_diffusion.diffusion.masking import MaskingConfig, ratios
from omni_diffusion.errors import TrainingError
from omni_diffusion.training.batches import BUCKETS, KINDS, MicroBatch, mask, micro_batches
from omni_diffusion.training.distributed import Precision, World, is_sharded
from omni_diffusion.training.throughput import Work, training_flops
from omni_diffusion.vocab import Span, Vocabulary


class Mixture(Protocol):
    """Where a step's canvases come from."""

    def draw(self, step: int, generator: torch.Generator) -> list[Group]:
        """The groups of a step, a function of the two alone."""
        ...


@dataclass(frozen=True)
class DenoisingConfig:
    """The forward process, the weight of each masked place, and how rows are laid and computed.

    by_task: the forward process of tasks that have one of their own. balance: what the loss is a
    mean of: "task", each task's mean, which counts by its share; "token", all that is weighed, of
    whatever task (the paper). max_length: pack the canvases of a step into rows of so many places;
    None lays each in a row of its own. micro_places: places of a micro-batch at most, though one
    row at least; None lays all packed rows, or all rows of a task, together.
    Weights, their sums and the loss stay in float32 whatever the precision.
    """

    masking: MaskingConfig = field(default_factory=MaskingConfig)
    weighting: Weighting = "plain"
    precision: Precision = "float32"
    by_task: Mapping[str, MaskingConfig] = field(default_factory=dict)
    balance: Literal["task", "token"] = "task"
    max_length: int | None = None
    micro_places: int | None = None


@dataclass(frozen=True, eq=False)
class Prepared:
    """A process's part of a step, all drawn: names and shares of its G groups, its micro-batches.

    sums: float64 [2 G + kinds + buckets + 2], of this process: by group what its weights are to be
    divided by; by group, kind and bucket how many places are masked; how many are laid, and how
    many of those are no padding.
    """

    names: tuple[str, ...]
    shares: Tensor
    micro: tuple[MicroBatch, ...]
    sums: Tensor


class DenoisingObjective:
    """Masked cross-entropy of a step, drawn while the step before is computed.

    Figures, over all processes: for each task its loss and `right`, the share of masked places
    whose best token is right; the loss by kind of token and by how much of the answer is masked,
    each place counting once; `pads`, the share of places that is padding; `tokens`, how many are
    none; `flops` of the matrix products; `waited_seconds` for data.
    world: the processes that train together, whose mixtures draw each its part.
    """

    def __init__(
        self,
        backbone: Dream,
        vocabulary: Vocabulary,
        mixture: Mixture,
        config: DenoisingConfig,
        world: World | None = None,
    ) -> None:
        self.backbone, self.vocabulary = backbone, vocabulary
        self.mixture, self.config, self.world = mixture, config, world or World()
        self._pool = ThreadPoolExecutor(1, "batches")
        self._coming: dict[int, Future[Prepared]] = {}

    @property
    def module(self) -> nn.Module:
        """The backbone."""
        return self.backbone

    def ahead(self, step: int, generator: torch.Generator) -> None:
        """Draw a later step in a thread of its own, in which all steps are drawn one by one."""
        if step not in self._coming:
            self._coming[step] = self._pool.submit(self.prepare, step, generator)

    def backward(self, step: int, generator: torch.Generator) -> dict[str, float]:
        """Add the step's gradients to the weights; see the class for its figures."""

        def descend(loss: Tensor) -> None:
            # sharded gradients are a mean over the processes
            (loss * self.world.size).backward()  # type: ignore[no-untyped-call]

        return self._run(step, generator, descend)

    def loss(self, step: int, generator: torch.Generator) -> tuple[Tensor, dict[str, float]]:
        """This process's loss of the whole step, with the graphs of all micro-batches; figures."""
        losses: list[Tensor] = []
        figures = self._run(step, generator, losses.append)
        return torch.stack(losses).sum(), figures

    def prepare(self, step: int, generator: torch.Generator) -> Prepared:
        """Draw, mask and lay this process's part of a step; knows no weights."""
        config, vocabulary = self.config, self.vocabulary
        groups = self.mixture.draw(step, generator)
        examples = []
        for number, group in enumerate(groups):
            masking = config.by_task.get(group.name, config.masking)
            # of all processes, so that antithetic ratios are even over the step
            t = ratios(masking, group.of, generator)
            examples += [
                mask(drawn, number, t, masking, config.weighting, vocabulary)
                for drawn in group.drawn
            ]
        micro = tuple(
            micro_batches(
                examples,
                vocabulary.pad,
                max_length=config.max_length,
                places=config.micro_places,
            )
        )
        normalisers = torch.zeros(len(groups), dtype=torch.float64)
        for example in examples:
            normalisers[example.group] += example.normaliser
        counts = torch.zeros(len(groups) + len(KINDS) + len(BUCKETS), dtype=torch.float64)
        for each in micro:
            labels = (each.group, len(groups)), (each.kind, len(KINDS)), (each.bucket, len(BUCKETS))
            counts += torch.cat([label.bincount(minlength=size) for label, size in labels])
        places = (sum(m.batch.ids.numel() for m in micro), sum(e.length for e in examples))
        sums = torch.cat([normalisers, counts, torch.tensor(places)])
        return Prepared(
            tuple(group.name for group in groups),
            torch.tensor([group.share for group in groups]),
            micro,
            sums,
        )

    def _taken(self, step: int, generator: torch.Generator) -> Prepared:
        """The step, drawn ahead or now; what was drawn for another is forgotten."""
        self.ahead(step, generator)
        drawn = self._coming.pop(step)
        self._coming = {at: coming for at, coming in self._coming.items() if at > step}
        return drawn.result()

    def _run(
        self, step: int, generator: torch.Generator, each: Callable[[Tensor], None]
    ) -> dict[str, float]:
        """Hand the losses of this process's micro-batches to `each`, one by one; the figures."""
        start = time.monotonic()
        prepared = self._taken(step, generator)
        waited = time.monotonic() - start
        sums = self.world.sum(prepared.sums)
        counts, (laid, tokens) = sums[:-2], sums[-2:].tolist()
        normalisers = counts[: len(prepared.names)]
        if not bool(normalisers.any()):
            raise TrainingError(
                f"none of the samples of step {step} could be used; more of them a step, or longer"
                " rows"
            )
        if self.config.balance == "token":
            factors = torch.ones_like(normalisers) / normalisers.sum()
        else:  # a task whose samples were all left out counts nothing
            factors = torch.where(normalisers > 0, prepared.shares / normalisers, 0.0)
        found = torch.zeros_like(counts)
        flops = 0
        # every process takes as many turns as any: each gathers weights from all
        for turn in range(self.world.most([len(prepared.micro)])[0]):
            own = turn < len(prepared.micro)
            micro = prepared.micro[turn] if own else MicroBatch.empty(self.vocabulary.pad)
            loss, parts = self._loss(micro.to(self.world.device), factors)
            each(loss)
            found += parts
            flops += self._flops(micro)
        found = self.world.sum(torch.cat([found, found.new_tensor([flops])]))
        found, flops = found[:-1], int(found[-1])
        figures = {"loss": float((factors * found[: len(factors)]).sum())}
        for name, value, count in zip(
            _names(prepared.names), found.tolist(), counts.tolist(), strict=True
        ):
            if count:
                figures[name] = value / count
        return figures | {
            "pads": 1 - tokens / laid,
            "tokens": tokens,
            "flops": float(flops),
            "waited_seconds": waited,
        }

    def _flops(self, micro: MicroBatch) -> int:
        work = Work(
            micro.batch.ids.numel(),
            micro.batch.ids.shape[1],
            len(micro.targets),
            sum(len(slot.frames) for _, slot in micro.batch.slots),
        )
        backbone = self.backbone
        frozen = not backbone.model.embed_tokens.weight.requires_grad
        return training_flops(
            backbone.config, work, checkpointing=backbone.model.checkpointing, frozen=frozen
        )

    def _loss(self, micro: MicroBatch, factors: Tensor) -> tuple[Tensor, Tensor]:
        """A micro-batch's part of the loss, and of what the figures are the quotients of."""
        batch = micro.batch
        # sharded weights are cast as they are gathered
        reduced = self.config.precision == "bfloat16" and not is_sharded(self.backbone)
        with torch.autocast(batch.ids.device.type, torch.bfloat16, enabled=reduced):
            logits = self.backbone(
                batch.ids, slots=batch.slots, segments=batch.segments, rows=micro.masked
            )
        losses = token_losses(logits, micro.targets)
        weighed = losses * micro.weights
        loss = (weighed * factors.float().to(losses.device)[micro.group]).sum()
        right = (logits.detach().argmax(-1) == micro.targets).double()
        parts = [
            _by(micro.group, weighed, len(factors)),
            _by(micro.group, right, len(factors)),
            _by(micro.kind, losses, len(KINDS)),
            _by(micro.bucket, losses, len(BUCKETS)),
        ]
        return loss, torch.cat(parts).cpu()


def _by(labels: Tensor, values: Tensor, size: int) -> Tensor:
    """Sums of values [N] by label, float64 [size]."""
    sums = torch.zeros(size, dtype=torch.float64, device=values.device)
    return sums.index_add(0, labels, values.detach().double())


def _names(tasks: Sequence[str]) -> list[str]:
    """The figures that are quotients, in their order."""
    return [
        *(f"{task}_loss" for task in tasks),
        *(f"{task}_right" for task in tasks),
        *(f"{kind}_loss" for kind in KINDS),
        *(f"masked_{bucket}_loss" for bucket in BUCKETS),
    ]


@torch.no_grad()
def give_geometry(
    backbone: Dream, span: Span, vectors: Tensor, *, scale: float, generator: torch.Generator
) -> None:
    """Start a span's rows of embedding and head from its codes' own vectors [len(span), d].

    Codes that decode alike then begin alike, so that what is learned of one is at once known of its
    neighbours. Vectors are centred and scaled to unit variance, then projected at random to
    the hidden size; the rows have standard deviation `scale`.
    """
    centred = vectors.float() - vectors.float().mean(0)
    width = backbone.config.hidden_size
    projection = torch.randn(centred.shape[1], width, generator=generator)
    rows = centred @ projection
    rows = rows / rows.std().clamp_min(1e-6) * scale
    places = slice(span.start, span.stop)
    backbone.model.embed_tokens.weight[places] = rows
    if not backbone.config.tie_embeddings:
        backbone.lm_head.weight[places] = rows
