"""HiFT against the published code's numbers, its randomness and its source cache."""

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from omni_diffusion.codecs.glm_voice.loading import fold_weight_norm
from omni_diffusion.codecs.glm_voice.vocoder import HiFT, HiFTConfig, Randomness

CLOSE = 3e-4


@pytest.fixture(scope="module")
def numbers(folder: Path) -> dict[str, Tensor]:
    return load_file(folder / "hift_tiny_io.safetensors")


def randomness(numbers: dict[str, Tensor], case: str) -> Randomness:
    if case == "zero":
        return Randomness.none(1, numbers["zero.mel"].shape[-1])
    return Randomness(numbers[f"{case}.phase"], numbers[f"{case}.noise"])


@pytest.mark.parametrize("case", ["zero", "rand", "cached"])
@torch.no_grad()
def test_pitch_source_and_sound(hift: HiFT, numbers: dict[str, Tensor], case: str) -> None:
    mel = numbers[f"{case}.mel"]
    wave, source = hift(mel, randomness(numbers, case), numbers.get(f"{case}.cache_source"))
    found = {"f0": hift.f0_predictor(mel), "source": source, "wav": wave}
    for name, value in found.items():
        torch.testing.assert_close(value, numbers[f"{case}.{name}"], atol=CLOSE, rtol=0)


@torch.no_grad()
def test_inside_the_filter(hift: HiFT, numbers: dict[str, Tensor]) -> None:
    seen: dict[str, Tensor] = {}
    parts = {
        "conv_pre": hift.conv_pre,
        "ups0": hift.ups[0],
        "ups1": hift.ups[1],
        "source_down0": hift.source_downs[0],
        "source_down1": hift.source_downs[1],
        "source_res0": hift.source_resblocks[0],
        "source_res1": hift.source_resblocks[1],
        "resblock0": hift.resblocks[0],
        "conv_post": hift.conv_post,
    }
    hooks = [
        part.register_forward_hook(lambda _, given, out, name=name: seen.update({name: out}))
        for name, part in parts.items()
    ]
    hift(numbers["zero.mel"], randomness(numbers, "zero"))
    for hook in hooks:
        hook.remove()
    assert len(seen) == len(parts)
    for name, value in seen.items():
        torch.testing.assert_close(value, numbers[f"zero.{name}"], atol=CLOSE, rtol=0)


def test_weight_norm_is_folded(hift: HiFT, folder: Path) -> None:
    published = load_file(folder / "hift_tiny_misc.safetensors")
    torch.testing.assert_close(
        hift.conv_pre.weight.detach(), published["conv_pre_effective_weight"]
    )
    torch.testing.assert_close(hift.ups[0].weight.detach(), published["ups0_effective_weight"])


def test_official_names_and_shapes(folder: Path) -> None:
    with torch.device("meta"):
        full = HiFT(HiFTConfig.official())
    published = json.loads((folder / "keys_hift_full.json").read_text())
    kept = {name: torch.empty(shape, device="meta") for name, (shape, _) in published.items()}
    folded = {name: tensor.shape for name, tensor in fold_weight_norm(kept).items()}
    assert {name: tensor.shape for name, tensor in full.state_dict().items()} == folded


def test_our_own_folded_weights_load_again(hift: HiFT) -> None:
    again = HiFT.load(hift.state_dict(), hift.config)
    mel = torch.randn(16, 4)
    assert torch.equal(again.decode(mel).samples, hift.decode(mel).samples)


def test_sound_follows_the_generator_and_stays_below_the_peak(hift: HiFT) -> None:
    mel = torch.randn(16, 5)
    first = hift.decode(mel)
    assert first.samples.shape == (1, 5 * 256)
    assert first.rate == 22_050
    assert first.samples.abs().max() <= 0.99
    assert torch.equal(first.samples, hift.decode(mel).samples)
    other = hift.decode(mel, torch.Generator().manual_seed(7))
    assert not torch.equal(first.samples, other.samples)
    assert hift.decode(torch.zeros(16, 0)).samples.shape == (1, 0)


def test_the_tail_becomes_the_head_of_the_next_source(hift: HiFT) -> None:
    _, tail = hift.decode_after(None, torch.randn(16, 4))
    assert tail.shape == (1, 1, 256)
    with torch.no_grad():
        _, source = hift(torch.randn(1, 16, 4), Randomness.draw(1, 4), tail)
    assert torch.equal(source[..., :256], tail)


def test_mini_is_small() -> None:
    mini = HiFT(HiFTConfig.mini())
    assert sum(p.numel() for p in mini.parameters()) < 500_000
    assert mini.decode(torch.zeros(80, 3)).samples.shape == (1, 768)
