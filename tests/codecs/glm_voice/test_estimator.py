"""The U-Net against the published code's numbers, and what padding may do to it."""

from dataclasses import replace
from pathlib import Path
from typing import Literal

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from omni_diffusion.codecs.glm_voice.estimator import Estimator, EstimatorConfig
from omni_diffusion.codecs.glm_voice.flow import Flow
from omni_diffusion.errors import ConfigError

CLOSE = 2e-5


@pytest.fixture(scope="module")
def numbers(folder: Path) -> dict[str, Tensor]:
    found = load_file(folder / "flow_tiny_io.safetensors")
    return {name[4:]: value for name, value in found.items() if name.startswith("est.")}


def estimator(flow: Flow, padding: Literal["hidden", "upstream"]) -> Estimator:
    twin = Estimator(replace(flow.config.estimator, padding=padding), flow.config.mel_bins)
    twin.load_state_dict(flow.decoder.estimator.state_dict())
    return twin.eval()


def ask(network: Estimator, n: dict[str, Tensor], masked: bool = True) -> Tensor:
    mask = n["mask"] if masked else None
    out: Tensor = network(n["x"], n["t"], n["mu"], n["spks"], n["cond"], mask)
    return out


@torch.no_grad()
def test_upstream_padding_repeats_the_published_leak(
    flow: Flow, numbers: dict[str, Tensor]
) -> None:
    network = estimator(flow, "upstream")
    seen: dict[str, Tensor] = {}
    parts = {
        "time_mlp": network.time_mlp,
        "down0_resnet": network.down_blocks[0][0],
        "down0_tb0": network.down_blocks[0][1][0],
        "down0_downsample": network.down_blocks[0][2],
        "mid0_resnet": network.mid_blocks[0][0],
        "up0_upsample": network.up_blocks[0][2],
        "final_block": network.final_block,
    }
    for name, part in parts.items():
        part.register_forward_hook(lambda _, given, out, name=name: seen.update({name: out}))
    seen["out"] = ask(network, numbers)
    for name, value in seen.items():
        torch.testing.assert_close(value, numbers[name], atol=CLOSE, rtol=0)


@torch.no_grad()
def test_hidden_padding_keeps_each_row_equal_to_its_run_alone(
    flow: Flow, numbers: dict[str, Tensor]
) -> None:
    network = estimator(flow, "hidden")
    together = ask(network, numbers)
    long = {name: value[:1] for name, value in numbers.items()}
    short = {name: value[1:, ..., :14] if value.ndim == 3 else value[1:]
             for name, value in numbers.items()}  # fmt: skip
    torch.testing.assert_close(together[:1], ask(network, long, masked=False), atol=CLOSE, rtol=0)
    alone = ask(network, short, masked=False)
    torch.testing.assert_close(together[1:, :, :14], alone, atol=CLOSE, rtol=0)
    assert not together[1, :, 14:].any()
    leaking = ask(estimator(flow, "upstream"), numbers)
    assert (leaking[1:, :, :14] - alone).abs().max() > 1.0


@pytest.mark.parametrize("padding", ["hidden", "upstream"])
@torch.no_grad()
def test_a_full_mask_is_no_mask(
    flow: Flow, numbers: dict[str, Tensor], padding: Literal["hidden", "upstream"]
) -> None:
    network = estimator(flow, padding)
    full = {**numbers, "mask": torch.ones_like(numbers["mask"])}
    torch.testing.assert_close(
        ask(network, full), ask(network, full, masked=False), atol=CLOSE, rtol=0
    )


@pytest.mark.parametrize("frames", [1, 2, 3, 8])
@torch.no_grad()
def test_odd_and_even_lengths_come_back_whole(flow: Flow, frames: int) -> None:
    x = torch.randn(1, 16, frames)
    out = flow.decoder.estimator(x, torch.zeros(1), x, torch.zeros(1, 16), x)
    assert out.shape == x.shape


def test_channels_must_fill_the_norm_groups() -> None:
    with pytest.raises(ConfigError, match="channels 30"):
        EstimatorConfig(channels=30)
