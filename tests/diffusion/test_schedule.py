import json
from pathlib import Path

import torch
from hypothesis import given
from hypothesis import strategies as st

from omni_diffusion.diffusion import upstream
from omni_diffusion.diffusion.schedule import Schedule, commit_count, masked_fraction


def commits(masked: int, steps: int, schedule: Schedule = "even") -> tuple[int, ...]:
    """How many positions each step commits, with at most one step for each position."""
    steps = min(steps, masked)
    counts: list[int] = []
    while left := masked - sum(counts):
        counts.append(commit_count(left, len(counts), steps, schedule))
    return tuple(counts)


def upstream_commits(masked: int, steps: int) -> tuple[int, ...]:
    """The same by the published code's rule."""
    counts: list[int] = []
    while left := masked - sum(counts):
        counts.append(upstream.commit_count(left, len(counts), steps))
    return tuple(counts)


@given(st.integers(0, 300), st.integers(1, 400), st.sampled_from(["even", "cosine", "upstream"]))
def test_commits_add_up_to_the_blanks_and_none_is_idle(blanks, steps, schedule):
    if schedule == "upstream":
        counts = upstream_commits(blanks, steps)
    else:
        counts = commits(blanks, steps, schedule)
    assert sum(counts) == blanks
    assert len(counts) <= min(steps, blanks)
    assert all(count >= 1 for count in counts)
    if schedule != "upstream":
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
        assert upstream_commits(before[0], trace["steps"]) == counts
        seen += 1
    assert seen > 60


def test_masked_fraction_falls_from_all_to_none():
    u = torch.linspace(0, 1, 3, dtype=torch.float64)
    torch.testing.assert_close(masked_fraction(u), torch.tensor([1, 0.5, 0]).double())
    torch.testing.assert_close(
        masked_fraction(u, "cosine"), torch.tensor([1, 0.5**0.5, 0]).double()
    )
