"""The speech tokenizer against the published code's numbers, and what batching may not change."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file
from torch import Tensor

from omni_diffusion.codecs.glm_voice.tokenizer import SpeechTokenizer, SpeechTokenizerConfig
from omni_diffusion.errors import ConfigError, MediaError, WeightsError
from omni_diffusion.media import Resampling, Waveform

CLOSE = 1e-5
CASES = ["batch", "single0", "single1", "long"]


@pytest.fixture(scope="module")
def numbers(folder: Path) -> dict[str, Tensor]:
    return load_file(folder / "tokenizer_tiny_io.safetensors")


def clips(numbers: dict[str, Tensor], case: str) -> list[Tensor]:
    return [numbers[f"{case}.wav{i}"] for i in range(2) if f"{case}.wav{i}" in numbers]


def sound(samples: Tensor, rate: int = 16_000) -> Waveform:
    return Waveform(samples.reshape(1, -1), rate)


@pytest.mark.parametrize("case", CASES)
def test_features_and_mask(
    tokenizer: SpeechTokenizer, numbers: dict[str, Tensor], case: str
) -> None:
    features, mask = tokenizer.features(clips(numbers, case))
    torch.testing.assert_close(features, numbers[f"{case}.input_features"], atol=CLOSE, rtol=0)
    assert torch.equal(mask.long(), numbers[f"{case}.attention_mask"])


@pytest.mark.parametrize("case", CASES)
@torch.no_grad()
def test_pooled_vectors_and_codes(
    tokenizer: SpeechTokenizer, numbers: dict[str, Tensor], case: str
) -> None:
    features, mask = numbers[f"{case}.input_features"], numbers[f"{case}.attention_mask"]
    pooled = tokenizer.pool(features, mask)
    torch.testing.assert_close(pooled, numbers[f"{case}.pooled"], atol=CLOSE, rtol=0)
    ids = tokenizer(features, mask)
    assert torch.equal(ids, numbers[f"{case}.token_ids"])
    state = tokenizer.codebook(ids) + tokenizer.embed_positions2.weight[: ids.shape[1]]
    torch.testing.assert_close(state, numbers[f"{case}.last_hidden_state"], atol=CLOSE, rtol=0)


@torch.no_grad()
def test_inside_the_encoder(tokenizer: SpeechTokenizer, numbers: dict[str, Tensor]) -> None:
    seen: dict[str, Tensor] = {}
    parts = {
        "conv1_out": tokenizer.conv1,
        "conv2_out": tokenizer.conv2,
        "layer0_out": tokenizer.layers[0],
        "layer1_out": tokenizer.layers[1],
    }
    hooks = [
        part.register_forward_hook(lambda _, given, out, name=name: seen.update({name: out}))
        for name, part in parts.items()
    ]
    hooks.append(
        tokenizer.layers[0].register_forward_pre_hook(
            lambda _, given: seen.update(layers_in=given[0], attn_allowed=given[1])
        )
    )
    tokenizer.pool(numbers["batch.input_features"], numbers["batch.attention_mask"])
    for hook in hooks:
        hook.remove()
    assert torch.equal(seen.pop("attn_allowed"), numbers["batch.attn_allowed"].bool())
    for name, value in seen.items():
        torch.testing.assert_close(value, numbers[f"batch.{name}"], atol=CLOSE, rtol=0)


@pytest.mark.parametrize("case", CASES)
def test_encode_keeps_the_codes_that_stand_on_sound(
    tokenizer: SpeechTokenizer, numbers: dict[str, Tensor], case: str
) -> None:
    waves = clips(numbers, case)
    expected = [numbers[f"{case}.tokens{i}"] for i in range(len(waves))]
    together = tokenizer.encode_batch([sound(wave) for wave in waves])
    alone = [tokenizer.encode(sound(wave)) for wave in waves]
    for want, a, b in zip(expected, together, alone, strict=True):
        assert torch.equal(a, want)
        assert torch.equal(b, want)


def test_the_block_size_is_honoured(folder: Path, numbers: dict[str, Tensor]) -> None:
    config = SpeechTokenizerConfig(
        d_model=32, heads=4, ffn=64, layers=2, max_positions=480, codebook_size=256
    )
    wide = SpeechTokenizer.load(folder / "tokenizer_tiny.safetensors", config)
    codes = wide.encode(sound(numbers["long.wav0"]))
    assert torch.equal(codes, numbers["long_block200.token_ids"][0])


def test_official_names_and_shapes(folder: Path) -> None:
    with torch.device("meta"):
        full = SpeechTokenizer(SpeechTokenizerConfig.official())
    published = json.loads((folder / "keys_tokenizer_full.json").read_text())
    del published["ema_count"], published["ema_weight"]
    ours = {name: list(tensor.shape) for name, tensor in full.state_dict().items()}
    assert ours == {name: shape for name, (shape, _) in published.items()}


def test_mini_is_small_and_gives_twice_the_published_codes() -> None:
    config = SpeechTokenizerConfig.mini()
    mini = SpeechTokenizer(config).eval()
    assert sum(p.numel() for p in mini.parameters()) < 2_500_000
    assert config.block_size == SpeechTokenizerConfig.official().block_size
    codes = mini.encode(sound(torch.randn(16_000)))
    assert len(codes) == config.code_rate == 2 * SpeechTokenizerConfig.official().code_rate == 25
    assert codes.max() < config.codebook_size


@settings(max_examples=15, deadline=None)
@given(samples=st.integers(1, 20_000))
def test_a_code_for_every_1280_samples(tokenizer: SpeechTokenizer, samples: int) -> None:
    assert len(tokenizer.encode(sound(torch.zeros(samples)))) == -(-samples // 1280)


def test_windows_of_thirty_seconds_know_nothing_of_one_another() -> None:
    config = SpeechTokenizerConfig(
        d_model=8, heads=2, ffn=8, layers=1, n_mels=16, max_positions=1500, codebook_size=64
    )
    small = SpeechTokenizer(config).eval()
    long = torch.randn(480_000 + 5000)
    codes = small.encode(sound(long))
    assert len(codes) == 375 + 4
    assert torch.equal(codes[:375], small.encode(sound(long[:480_000])))
    assert torch.equal(codes[375:], small.encode(sound(long[480_000:])))


@pytest.mark.slow
def test_seventy_seconds_are_three_windows_one_by_one_or_in_any_batch() -> None:
    config = SpeechTokenizerConfig(
        d_model=8, heads=2, ffn=8, layers=1, n_mels=16, max_positions=1500, codebook_size=64
    )
    small = SpeechTokenizer(config).eval()
    long, short = torch.randn(70 * 16_000), torch.randn(20_000)
    codes = small.encode(sound(long))
    one_by_one = [small.encode(sound(cut)) for cut in torch.split(long, 480_000)]
    assert [len(each) for each in one_by_one] == [375, 375, 125]
    assert torch.equal(codes, torch.cat(one_by_one))
    for batch_size in (1, 2, 128):
        both = small.encode_batch([sound(short), sound(long)], batch_size=batch_size)
        assert torch.equal(both[0], small.encode(sound(short)))
        assert torch.equal(both[1], codes)


@pytest.mark.parametrize("method", ["soxr", "sinc"])
def test_the_config_says_how_other_rates_are_heard(
    tokenizer: SpeechTokenizer, method: Resampling
) -> None:
    other = SpeechTokenizer(replace(tokenizer.config, resampling=method)).eval()
    other.load_state_dict(tokenizer.state_dict())
    noise = Waveform(torch.randn(2, 44_100), 44_100)
    heard = noise.first_channel().resample(16_000, method)
    assert torch.equal(other.encode(noise), tokenizer.encode(heard))
    assert SpeechTokenizerConfig.official().resampling == "sinc"
    assert SpeechTokenizerConfig.mini().resampling == "soxr"


def test_only_the_first_channel_is_heard_at_any_rate(
    tokenizer: SpeechTokenizer, numbers: dict[str, Tensor]
) -> None:
    left = numbers["single1.wav1" if "single1.wav1" in numbers else "single1.wav0"]
    stereo = Waveform(torch.stack([left, torch.randn_like(left)]), 16_000)
    assert torch.equal(tokenizer.encode(stereo), numbers["single1.tokens0"])
    assert len(tokenizer.encode(Waveform(torch.randn(2, 44_100), 44_100))) == 13


def test_no_sound_no_codes(tokenizer: SpeechTokenizer) -> None:
    empty, some = Waveform(torch.zeros(1, 0), 44_100), sound(torch.randn(1280))
    assert [len(codes) for codes in tokenizer.encode_batch([empty, some, empty])] == [0, 1, 0]
    assert tokenizer.encode(empty).dtype == torch.long
    with pytest.raises(MediaError, match="no samples"):
        tokenizer.features([])


def test_gradients_reach_the_encoder_but_not_the_fixed_positions() -> None:
    mini = SpeechTokenizer(replace(SpeechTokenizerConfig.mini(), layers=1))
    mini.pool(*mini.features([torch.randn(2000)])).square().sum().backward()
    assert mini.conv1.weight.grad is not None
    assert not mini.embed_positions.weight.requires_grad


def test_refusals(tokenizer: SpeechTokenizer, folder: Path) -> None:
    with pytest.raises(ConfigError, match="30 with 4 heads"):
        SpeechTokenizerConfig(d_model=30, heads=4)
    with pytest.raises(MediaError, match="at most 480"):
        tokenizer.pool(torch.zeros(1, 128, 968), torch.ones(1, 968))
    with pytest.raises(WeightsError, match=r"layers\.1\.fc1"):
        SpeechTokenizer.load(
            folder / "tokenizer_tiny.safetensors", replace(tokenizer.config, layers=1)
        )
