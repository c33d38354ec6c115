"""Answers of a model in training to a fixed list of requests.

The engine answers them between two steps with the current weights. Gradients, training modes and
random states do not change, so training with samples equals training without bit for bit.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

from torch import nn
from torch.distributed.fsdp import FSDPModule

from omni_diffusion import html
from omni_diffusion.engine.engine import Engine
from omni_diffusion.engine.request import Request, Result
from omni_diffusion.errors import OmniError, TrainingError
from omni_diffusion.models.omni import OmniModel
from omni_diffusion.training.records import Log, SampleRecord


class Samples:
    """A fixed list of requests to a model in training.

    The name of a request is its id, or its task if it has no id. Seeds are the same each time, so
    answers depend only on the weights. Raises TrainingError for two requests with one name.
    """

    def __init__(self, model: OmniModel, requests: Sequence[Request]) -> None:
        self.model, self.requests = model, tuple(requests)
        self._names = [request.id or request.task_name for request in requests]
        duplicates = sorted({name for name in self._names if self._names.count(name) > 1})
        if duplicates:
            raise TrainingError(
                f"several samples have the name {', '.join(duplicates)}",
                field="requests",
                value=duplicates,
                fix="give each request its own id",
            )

    def answers(self) -> list[SampleRecord]:
        """Answer all requests; an error of one is in its record, and the others continue."""
        # one at a time, because batching would change the rounding of an answer
        engine = Engine(self.model, max_batch=1)
        with _evaluating(self.model.backbone):
            ids = [engine.add(request) for request in self.requests]
            while engine.pending:
                engine.step()
        results = (engine.result(id) for id in ids)
        pairs = zip(self._names, self.requests, results, strict=True)
        return [_record(name, request, result) for name, request, result in pairs]

    def every(self, steps: int, logs: Sequence[Log]) -> Callable[[int], None]:
        """For `Trainer.on_step`: answers the requests every so many steps and logs the answers.

        With sharded weights all processes must call it, and only the main one has logs.
        """

        def on_step(step: int) -> None:
            if step % steps == 0:
                records = self.answers()
                for log in logs:
                    log.samples(step, records)

        return on_step


def _record(name: str, request: Request, result: Result) -> SampleRecord:
    prompt = html.visible(request.conversation)
    return SampleRecord(name, prompt, result.parts, result.notes, _error_text(result.error))


@contextmanager
def _evaluating(module: nn.Module) -> Iterator[None]:
    """Evaluation mode inside the block; afterwards every submodule has its own mode again.

    A forward pass without a backward pass leaves the root weights of FSDP gathered; they are
    sharded again.
    """
    modes = {part: part.training for part in module.modules()}
    module.eval()
    try:
        yield
    finally:
        for part, mode in modes.items():
            part.training = mode
            if isinstance(part, FSDPModule):
                part.reshard()


def _error_text(error: Exception | None) -> str | None:
    if error is None:
        return None
    return str(error) if isinstance(error, OmniError) else f"{type(error).__name__}: {error}"
