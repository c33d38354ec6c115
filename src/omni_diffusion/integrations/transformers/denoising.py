"""Rows filled side by side, all from their first step on: the loop of `generate` and the pipeline.

For requests that come and go there is `engine.engine`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from omni_diffusion.backbone.dream import Dream
from omni_diffusion.engine import runner
from omni_diffusion.engine.engine import NOT_NUMBERS
from omni_diffusion.engine.runner import Row
from omni_diffusion.errors import ModelError


def denoise(
    backbone: Dream,
    rows: Sequence[Row],
    pad: int,
    after_step: Callable[[int], bool] = lambda step: True,
) -> None:
    """Fill the rows, one forward pass for each step of the longest.

    after_step: gets the number of the step, from 0, and says whether to go on; where it does not,
    places stay blank. Raises ModelError for logits that are not numbers.
    """
    step = 0
    while going := [row for row in rows if not row.state.done]:
        logits = runner.logits(backbone, going, pad)
        if not all(runner.finite(logits)):
            raise ModelError(NOT_NUMBERS)
        runner.commit(going, logits)
        if not after_step(step):
            return
        step += 1
