"""The loops that are compared do the same: tokens of one step."""

import torch
from benchmarks.denoising_step import FILTERS, TINY, Clock, canvases, ours, published, start, tuned

from omni_diffusion.backbone.dream import Dream


def test_the_compared_loops_choose_the_same_tokens() -> None:
    torch.manual_seed(0)
    dream = Dream(TINY.config).eval()
    dream.lm_head.weight.data.mul_(30)
    for canvas in canvases(TINY):
        ids = canvas.ids[None]
        with torch.no_grad():
            tokens, sure = published(dream, ids, TINY.prompt, TINY.mask, Clock())
            other, as_sure = tuned(dream, ids, TINY.prompt, TINY.mask, Clock())
        assert torch.equal(tokens, other)
        torch.testing.assert_close(sure, as_sure, atol=1e-5, rtol=1e-4)
        options = {"rules": "upstream", "constrain": False, "steps": 1, **FILTERS}
        guided = start(canvas, TINY.mask, **options)
        guided.state.steps_done = 1  # the published rules penalize what the prompt's answer holds
        ours(dream, guided, Clock())
        assert torch.equal(guided.canvas.ids[canvas.blank], tokens)
