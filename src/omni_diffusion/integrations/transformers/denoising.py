"""The denoising loop of `generate` and the diffusers pipeline, for a batch that starts together.

`engine.engine` is the loop for requests that come and go.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from omni_diffusion.backbone.dream import Dream
from omni_diffusion.engine import runner
from omni_diffusion.engine.engine import NON_FINITE
from omni_diffusion.engine.runner import GuidedCanvas
from omni_diffusion.errors import ModelError


def denoise(
    backbone: Dream,
    canvases: Sequence[GuidedCanvas],
    after_step: Callable[[int], bool] = lambda step: True,
) -> None:
    """Fill the canvases in place, with one forward pass per step.

    after_step: takes the number of the step, from 0, and returns whether to continue; if not,
    positions stay masked. Raises ModelError for logits that are not finite.
    """
    step = 0
    while active := [canvas for canvas in canvases if not canvas.state.done]:
        if None in runner.commit(active, runner.logits(backbone, active)):
            raise ModelError(NON_FINITE)
        if not after_step(step):
            return
        step += 1
