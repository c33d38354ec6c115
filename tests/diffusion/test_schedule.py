import json
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from omni_diffusion.diffusion.schedule import commits, share_masked
from omni_diffusion.errors import SamplingError


@given(st.integers(0, 300), st.integers(1, 400), st.sampled_from(["even", "cosine", "published"]))
def test_commits_add_up_to_the_blanks_and_none_is_idle(blanks, steps, schedule):
    counts = commits(blanks, steps, schedule)
    assert sum(counts) == blanks
    assert len(counts) <= min(steps, blanks)
    assert all(count >= 1 for count in counts)
    if schedule != "published":
        assert len(counts) == min(steps, blanks)


def test_even_differs_by_one_at_most_and_cosine_grows():
    assert max(commits(130, 16)) - min(commits(130, 16)) <= 1
    cosine = commits(256, 10, "cosine")
    assert cosine[0] < 10
    assert cosine[-1] > 30


def test_published_counts_equal_the_stored_traces(parity_dir: Path):
    traces = json.loads((parity_dir / "backbone/sampler_traces.json").read_text())
    seen = 0
    for trace in traces.values():
        if trace["alg"] == "origin" or "block_size" in trace or not trace.get("n_forward"):
            continue
        left = trace["masks_left_per_step"]
        n = trace["max_new_tokens"]
        before = [n - bool(trace.get("add_boa_token")), *left[:-1]]
        counts = tuple(a - b for a, b in zip(before, left, strict=True))
        assert commits(before[0], trace["steps"], "published") == counts
        seen += 1
    assert seen > 60


def test_share_masked_falls_from_all_to_none():
    u = torch.linspace(0, 1, 3, dtype=torch.float64)
    torch.testing.assert_close(share_masked(u), torch.tensor([1, 0.5, 0]).double())
    torch.testing.assert_close(share_masked(u, "cosine"), torch.tensor([1, 0.5**0.5, 0]).double())


def test_impossible_requests_are_refused():
    with pytest.raises(SamplingError, match="at least 1 step"):
        commits(4, 0)
    with pytest.raises(SamplingError, match="unknown schedule"):
        commits(4, 2, "steep")  # type: ignore[arg-type]
