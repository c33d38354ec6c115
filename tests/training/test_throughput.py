import torch
from torch.utils.flop_counter import FlopCounterMode

from omni_diffusion.backbone.config import DreamConfig
from omni_diffusion.backbone.dream import Dream
from omni_diffusion.canvas import FeatureSlot
from omni_diffusion.models.sizes import Work, block_flops, forward_flops
from omni_diffusion.training.throughput import ThroughputMeter, training_flops

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
ROWS, LENGTH, HEAD_TOKENS, FRAMES = 3, 12, 17, 5
WORK = Work(ROWS * LENGTH, LENGTH, HEAD_TOKENS, FRAMES)


def counted(*, backward: bool, checkpointing: bool = False, packed: bool = False) -> int:
    """What torch counts in a step in bfloat16."""
    model = Dream(SIZES).train()
    model.checkpointing(checkpointing)
    ids = torch.randint(0, 50, (ROWS, LENGTH))
    rows = torch.zeros(ROWS * LENGTH, dtype=torch.bool)
    rows[:HEAD_TOKENS] = True
    slots = [(1, FeatureSlot(2, torch.randn(FRAMES, 10)))]
    segments = torch.arange(LENGTH).div(5, rounding_mode="floor").expand_as(ids) + 1
    with FlopCounterMode(display=False) as counter, torch.autocast("cpu", torch.bfloat16):
        logits = model(
            ids, logits_at=rows.view_as(ids), slots=slots, segments=segments if packed else None
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
    told = training_flops(SIZES, WORK, gradient_checkpointing=True)
    assert told - training_flops(SIZES, WORK) == block_flops(SIZES, WORK)
    # torch leaves out each block's last product, which nobody needs again
    last = 2 * SIZES.num_layers * WORK.tokens * SIZES.intermediate_size * SIZES.hidden_size
    assert found == told - last


def test_a_meter_gives_rates() -> None:
    assert ThroughputMeter(peak=1000.0).metrics(tokens=30, flops=4000, seconds=10.0) == {
        "tokens_per_second": 3.0,
        "flops_per_second": 400.0,
        "mfu": 0.4,
    }
