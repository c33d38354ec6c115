import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from omni_diffusion.backbone.config import DreamConfig
from omni_diffusion.backbone.dream import Dream
from omni_diffusion.canvas import FeatureSlot
from omni_diffusion.training import throughput
from omni_diffusion.training.throughput import (
    Meter,
    Work,
    block_flops,
    forward_flops,
    matmul_peak,
    training_flops,
)

SIZES = DreamConfig(
    vocab_size=50,
    hidden_size=32,
    num_layers=3,
    num_heads=4,
    num_kv_heads=2,
    head_dim=16,  # the heads together are wider than the stream
    intermediate_size=56,
    speech_dim=10,
)
ROWS, LENGTH, WANTED, FRAMES = 3, 12, 17, 5
WORK = Work(ROWS * LENGTH, LENGTH, WANTED, FRAMES)


def counted(*, backward: bool, checkpointing: bool = False, packed: bool = False) -> int:
    """What torch counts in a step in bfloat16."""
    model = Dream(SIZES).train()
    model.checkpointing(checkpointing)
    ids = torch.randint(0, 50, (ROWS, LENGTH))
    rows = torch.zeros(ROWS * LENGTH, dtype=torch.bool)
    rows[:WANTED] = True
    slots = [(1, FeatureSlot(2, torch.randn(FRAMES, 10)))]
    segments = torch.arange(LENGTH).div(5, rounding_mode="floor").expand_as(ids) + 1
    with FlopCounterMode(display=False) as counter, torch.autocast("cpu", torch.bfloat16):
        logits = model(
            ids, rows=rows.view_as(ids), slots=slots, segments=segments if packed else None
        )
        if backward:
            logits.float().logsumexp(-1).sum().backward()
    return int(counter.get_total_flops())


def test_a_forward_pass_is_what_torch_counts() -> None:
    assert forward_flops(SIZES, WORK) == counted(backward=False)
    assert forward_flops(SIZES, WORK) == counted(backward=False, packed=True)


def test_a_step_is_what_torch_counts() -> None:
    assert training_flops(SIZES, WORK) == counted(backward=True)


def test_checkpointing_is_one_more_pass_through_the_blocks() -> None:
    found = counted(backward=True, checkpointing=True)
    told = training_flops(SIZES, WORK, checkpointing=True)
    assert told - training_flops(SIZES, WORK) == block_flops(SIZES, WORK)
    # torch leaves out each block's last product, which nobody needs again
    last = 2 * SIZES.num_layers * WORK.places * SIZES.intermediate_size * SIZES.hidden_size
    assert found == told - last


def test_the_peak_is_measured_once_and_leaves_the_random_state(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setitem(throughput.SIDES, "cpu", 64)
    throughput._peak.cache_clear()
    threads, state = torch.get_num_threads(), torch.get_rng_state()
    first = matmul_peak("cpu", torch.float32, 1)
    assert first > 0
    assert matmul_peak("cpu", torch.float32, 1) == first
    assert matmul_peak(torch.device("cpu"), torch.float64, 1) != first
    assert torch.equal(torch.get_rng_state(), state)
    assert torch.get_num_threads() == threads
    throughput._peak.cache_clear()


def test_a_meter_gives_rates() -> None:
    assert Meter(peak=1000.0).figures(tokens=30, flops=4000, seconds=10.0) == {
        "tokens_per_second": 3.0,
        "flops_per_second": 400.0,
        "peak_share": 0.4,
    }
