"""The measured rate of matrix products."""

from __future__ import annotations

import pytest
import torch

from omni_diffusion.models import sizes
from omni_diffusion.models.sizes import matmul_peak


def test_the_peak_is_measured_once_and_leaves_the_random_state(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setitem(sizes.MATMUL_SIDES, "cpu", 64)
    sizes._peak.cache_clear()
    threads, state = torch.get_num_threads(), torch.get_rng_state()
    first = matmul_peak("cpu", torch.float32, 1)
    assert first > 0
    assert matmul_peak("cpu", torch.float32, 1) == first
    assert matmul_peak(torch.device("cpu"), torch.float64, 1) != first
    assert torch.equal(torch.get_rng_state(), state)
    assert torch.get_num_threads() == threads
    sizes._peak.cache_clear()
