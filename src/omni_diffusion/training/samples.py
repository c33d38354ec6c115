"""What a model in training answers to the same requests again and again.

Answers are decoded by the engine with the weights as they stand, between two steps. Training is
bit for bit what it is without them: no gradient, no mode and no random state is changed.
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
from omni_diffusion.training.logs import Log, Shown


class Samples:
    """A fixed list of requests to a model whose backbone is being trained.

    A request is named by its id, or by its task where it has none. The same seeds are used each
    time, so answers differ by the weights alone. Raises TrainingError for two of one name.
    """

    def __init__(self, model: OmniModel, requests: Sequence[Request]) -> None:
        self.model, self.requests = model, tuple(requests)
        self._names = [request.id or request.task_name for request in requests]
        twins = {name for name in self._names if self._names.count(name) > 1}
        if twins:
            raise TrainingError(
                f"several samples are called {', '.join(sorted(twins))}; give each its own id"
            )

    def answers(self) -> list[Shown]:
        """What the weights answer now; a request that fails says so and stops nobody."""
        # one at a time, so that roundings are those of the request alone
        engine = Engine(self.model, max_batch=1)
        with _evaluating(self.model.backbone):
            ids = [engine.add(request) for request in self.requests]
            while engine.pending:
                engine.step()
        results = (engine.result(id) for id in ids)
        return [_shown(*each) for each in zip(self._names, self.requests, results, strict=True)]

    def watch(self, every: int, logs: Sequence[Log]) -> Callable[[int], None]:
        """For the loop: called with a step's number, shows the logs the answers of every few.

        Where weights are sharded all processes must answer, and the first one has the logs.
        """

        def watching(step: int) -> None:
            if step % every == 0:
                shown = self.answers()
                for log in logs:
                    log.samples(step, shown)

        return watching


def _shown(name: str, request: Request, result: Result) -> Shown:
    asked = html.seen(request.conversation)
    return Shown(name, asked, result.parts, result.notes, _fault(result.error))


@contextmanager
def _evaluating(module: nn.Module) -> Iterator[None]:
    """The module in evaluation mode; every part of it is put back into its own mode.

    Where weights are sharded, those of the outermost part stay gathered after a forward pass that
    no backward pass follows; they are parted again.
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


def _fault(error: Exception | None) -> str | None:
    if error is None:
        return None
    return str(error) if isinstance(error, OmniError) else f"{type(error).__name__}: {error}"
