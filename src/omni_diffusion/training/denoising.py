"""The training objective: masked cross-entropy of the backbone on canvases with given answers.

The paper's objective: draw a mask ratio t, mask the answer, predict the masked tokens. The mixture
supplies the canvases; `batches` masks them and lays them into micro-batches.

Dimensions: G groups, N masked tokens, V vocabulary size.
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
from omni_diffusion.data.mixture import TaskGroup
from omni_diffusion.diffusion.loss import Weighting, token_losses
from omni_diffusion.diffusion.masking import MaskingConfig, ratios
from omni_diffusion.errors import TrainingError
from omni_diffusion.models.sizes import Work
from omni_diffusion.training.batches import (
    BUCKETS,
    TOKEN_KINDS,
    MicroBatch,
    mask_answer,
    micro_batches,
)
from omni_diffusion.training.distributed import Precision, World, is_sharded
from omni_diffusion.training.throughput import training_flops
from omni_diffusion.vocab import Span, Vocabulary

LossAverage = Literal["task", "token"]
"""What the loss is a mean over, see `DenoisingConfig`."""


class Mixture(Protocol):
    """Supplies the canvases of a step."""

    def draw(self, step: int, generator: torch.Generator) -> list[TaskGroup]:
        """The groups of a step; they depend only on `step` and `generator`."""
        ...


@dataclass(frozen=True)
class DenoisingConfig:
    """How answers are masked, how the loss is weighted, and how rows are laid and computed.

    masking: the forward process. weighting: weight of each masked token. precision: of the matrix
    products; weights, their sums and the loss stay in float32. by_task: forward process of single
    tasks, instead of `masking`. loss_average: "task" takes the mean of each task and weights it by
    its share; "token" takes one mean over all tasks (the paper). max_length: pack the canvases of a
    step into rows of this many tokens; None lays each in its own row. micro_batch_tokens: most
    tokens of a micro-batch, though always one row; None lays all packed rows, or all rows of a
    task, together.
    """

    masking: MaskingConfig = field(default_factory=MaskingConfig)
    weighting: Weighting = "plain"
    precision: Precision = "float32"
    by_task: Mapping[str, MaskingConfig] = field(default_factory=dict)
    loss_average: LossAverage = "task"
    max_length: int | None = None
    micro_batch_tokens: int | None = None


@dataclass(frozen=True, eq=False)
class PreparedStep:
    """A process's part of a step, before the weights are needed.

    names, shares: of the G groups. micro_batches: of this process. sums: float64
    [2 G + kinds + buckets + 2], of this process: the loss normaliser of each group, the number of
    masked tokens of each group, kind and bucket, the number of tokens with padding, and without.
    """

    names: tuple[str, ...]
    shares: Tensor
    micro_batches: tuple[MicroBatch, ...]
    sums: Tensor


class DenoisingObjective:
    """Masked cross-entropy of a step. The next step is drawn while one is computed.

    world: the processes that train together; the mixture of each draws its part of a step.

    Metrics, over all processes:
    TASK_loss, TASK_accuracy: mean weighted loss, and top-1 accuracy on masked tokens, of each task.
    KIND_loss, masked_BUCKET_loss: mean loss by kind of token and by masked part of the answer.
    padding: fraction of the tokens that is padding. tokens: tokens without padding.
    flops: of the matrix products. data_wait_s: seconds spent waiting for data.
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
        self._prefetched: dict[int, Future[PreparedStep]] = {}

    @property
    def module(self) -> nn.Module:
        """The backbone."""
        return self.backbone

    def prefetch(self, step: int, generator: torch.Generator) -> None:
        """Start to draw a step in the background thread, which draws one step after another."""
        if step not in self._prefetched:
            self._prefetched[step] = self._pool.submit(self.prepare, step, generator)

    def backward(self, step: int, generator: torch.Generator) -> dict[str, float]:
        """Accumulate the gradients of a step; returns the metrics of the class docstring."""

        def accumulate(loss: Tensor) -> None:
            # FSDP averages gradients over the processes; the loss is a sum over them
            (loss * self.world.size).backward()  # type: ignore[no-untyped-call]

        return self._run(step, generator, accumulate)

    def loss(self, step: int, generator: torch.Generator) -> tuple[Tensor, dict[str, float]]:
        """This process's part of the loss, with the graphs of all micro-batches; and metrics."""
        losses: list[Tensor] = []
        metrics = self._run(step, generator, losses.append)
        return torch.stack(losses).sum(), metrics

    def prepare(self, step: int, generator: torch.Generator) -> PreparedStep:
        """Draw, mask and lay this process's part of a step; raises DataError for bad samples."""
        config, vocabulary = self.config, self.vocabulary
        groups = self.mixture.draw(step, generator)
        examples = []
        for number, group in enumerate(groups):
            masking = config.by_task.get(group.name, config.masking)
            # ratios of all processes, so that antithetic ones are even over the whole step
            t = ratios(masking, group.total, generator)
            examples += [
                mask_answer(drawn, number, t, masking, config.weighting, vocabulary)
                for drawn in group.drawn
            ]
        laid = tuple(
            micro_batches(
                examples,
                vocabulary.pad,
                max_length=config.max_length,
                max_tokens=config.micro_batch_tokens,
            )
        )
        normalisers = torch.zeros(len(groups), dtype=torch.float64)
        for example in examples:
            normalisers[example.group] += example.normaliser
        counts = torch.zeros(len(groups) + len(TOKEN_KINDS) + len(BUCKETS), dtype=torch.float64)
        for micro in laid:
            labels = (
                *((micro.group, len(groups)), (micro.kind, len(TOKEN_KINDS))),
                (micro.bucket, len(BUCKETS)),
            )
            counts += torch.cat([label.bincount(minlength=size) for label, size in labels])
        tokens = (sum(m.batch.ids.numel() for m in laid), sum(e.length for e in examples))
        sums = torch.cat([normalisers, counts, torch.tensor(tokens)])
        return PreparedStep(
            tuple(group.name for group in groups),
            torch.tensor([group.weight for group in groups]),
            laid,
            sums,
        )

    def _take(self, step: int, generator: torch.Generator) -> PreparedStep:
        """The step, prefetched or drawn now; earlier prefetched steps are dropped."""
        self.prefetch(step, generator)
        prepared = self._prefetched.pop(step)
        self._prefetched = {at: later for at, later in self._prefetched.items() if at > step}
        return prepared.result()

    def _run(
        self, step: int, generator: torch.Generator, on_loss: Callable[[Tensor], None]
    ) -> dict[str, float]:
        """Pass the loss of each of this process's micro-batches to `on_loss`; return the metrics.

        Raises TrainingError if the step has no usable sample.
        """
        start = time.monotonic()
        prepared = self._take(step, generator)
        waited = time.monotonic() - start
        sums = self.world.sum(prepared.sums)
        counts, (padded_tokens, tokens) = sums[:-2], sums[-2:].tolist()
        factors = self._factors(step, prepared, counts[: len(prepared.names)])
        totals = torch.zeros_like(counts)
        flops = 0
        # every process runs equally many passes, since each pass gathers sharded weights from all
        for number in range(self.world.max([len(prepared.micro_batches)])[0]):
            micro = MicroBatch.empty(self.vocabulary.pad)
            if number < len(prepared.micro_batches):
                micro = prepared.micro_batches[number]
            loss, parts = self._loss(micro.to(self.world.device), factors)
            on_loss(loss)
            totals += parts
            flops += self._flops(micro)
        totals = self.world.sum(torch.cat([totals, totals.new_tensor([flops])]))
        totals, flops = totals[:-1], int(totals[-1])
        metrics = {"loss": float((factors * totals[: len(factors)]).sum())}
        for name, total, count in zip(
            _ratio_metrics(prepared.names), totals.tolist(), counts.tolist(), strict=True
        ):
            if count:
                metrics[name] = total / count
        return metrics | {
            "padding": 1 - tokens / padded_tokens,
            "tokens": tokens,
            "flops": float(flops),
            "data_wait_s": waited,
        }

    def _factors(self, step: int, prepared: PreparedStep, normalisers: Tensor) -> Tensor:
        """What the sum of weighted losses of each group is multiplied by, [G]."""
        if not bool(normalisers.any()):
            raise TrainingError(
                f"step {step} has no usable sample",
                field="batch_size",
                fix="use more samples a step, or longer rows",
            )
        if self.config.loss_average == "token":
            return torch.ones_like(normalisers) / normalisers.sum()
        # a task without a usable sample does not count
        return torch.where(normalisers > 0, prepared.shares / normalisers, 0.0)

    def _flops(self, micro: MicroBatch) -> int:
        work = Work(
            micro.batch.ids.numel(),
            micro.batch.ids.shape[1],
            int(micro.queried.sum()),
            sum(len(slot.frames) for _, slot in micro.batch.slots),
        )
        backbone = self.backbone
        frozen = not backbone.model.embed_tokens.weight.requires_grad
        return training_flops(
            backbone.config,
            work,
            gradient_checkpointing=backbone.model.checkpointing,
            frozen=frozen,
        )

    def _loss(self, micro: MicroBatch, factors: Tensor) -> tuple[Tensor, Tensor]:
        """A micro-batch's part of the loss, and of the numerators of `_ratio_metrics`."""
        batch = micro.batch
        # FSDP casts sharded weights itself when it gathers them
        reduced = self.config.precision == "bfloat16" and not is_sharded(self.backbone)
        with torch.autocast(batch.ids.device.type, torch.bfloat16, enabled=reduced):
            logits = self.backbone(
                batch.ids, slots=batch.slots, segments=batch.segments, logits_at=micro.queried
            )
        counted = micro.masked[micro.queried]
        targets = torch.zeros_like(counted, dtype=torch.int64)
        targets[counted] = micro.targets
        losses = token_losses(logits, targets)[counted]
        weighted = losses * micro.weights
        loss = (weighted * factors.float().to(losses.device)[micro.group]).sum()
        correct = (logits.detach().argmax(-1)[counted] == micro.targets).double()
        parts = [
            _sum_by(micro.group, weighted, len(factors)),
            _sum_by(micro.group, correct, len(factors)),
            _sum_by(micro.kind, losses, len(TOKEN_KINDS)),
            _sum_by(micro.bucket, losses, len(BUCKETS)),
        ]
        return loss, torch.cat(parts).cpu()


def _sum_by(labels: Tensor, values: Tensor, size: int) -> Tensor:
    """Sums of values [N] for each label, float64 [size]."""
    sums = torch.zeros(size, dtype=torch.float64, device=values.device)
    return sums.index_add(0, labels, values.detach().double())


def _ratio_metrics(tasks: Sequence[str]) -> list[str]:
    """Names of the metrics that are a sum divided by a count, in the order of the sums."""
    return [
        *(f"{task}_loss" for task in tasks),
        *(f"{task}_accuracy" for task in tasks),
        *(f"{kind}_loss" for kind in TOKEN_KINDS),
        *(f"masked_{bucket}_loss" for bucket in BUCKETS),
    ]


@torch.no_grad()
def init_code_embeddings(
    backbone: Dream, span: Span, vectors: Tensor, *, scale: float, generator: torch.Generator
) -> None:
    """Initialise the embedding and head rows of a token span from its codec's code vectors.

    vectors: [len(span), d]. They are centred, divided by their standard deviation after a random
    projection to the hidden size, and multiplied by `scale`. Codes with similar vectors therefore
    start with similar rows, and what the model learns of a code transfers to its neighbours.
    """
    centred = vectors.float() - vectors.float().mean(0)
    width = backbone.config.hidden_size
    projection = torch.randn(centred.shape[1], width, generator=generator)
    rows = centred @ projection
    rows = rows / rows.std().clamp_min(1e-6) * scale
    ids = slice(span.start, span.stop)
    backbone.model.embed_tokens.weight[ids] = rows
    if not backbone.config.tie_embeddings:
        backbone.lm_head.weight[ids] = rows
