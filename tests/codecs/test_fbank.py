"""The Kaldi front end against the published numbers, brute force, and damaged CMVN files."""

import math
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file
from torch import Tensor

from omni_diffusion.codecs import fbank
from omni_diffusion.errors import MediaError, WeightsError


@pytest.fixture(scope="module")
def published(parity_dir: Path) -> dict[str, Tensor]:
    return load_file(parity_dir / "encoders" / "sensevoice_tiny_io.safetensors")


@pytest.fixture(scope="module")
def mvn_text(parity_dir: Path) -> str:
    return (parity_dir / "encoders" / "sensevoice_synthetic_am.mvn").read_text()


def test_mel_filters_are_the_published_ones(published: dict[str, Tensor]) -> None:
    torch.testing.assert_close(
        fbank.htk_mel_filters(80, 512).T, published["mel_banks_80x256"], atol=5e-5, rtol=0
    )


def test_fbank_is_the_published_one(published: dict[str, Tensor]) -> None:
    torch.testing.assert_close(
        fbank.fbank(published["waveA"]), published["waveA.fbank"], atol=1e-3, rtol=0
    )


def test_stacking_is_the_published_one(published: dict[str, Tensor]) -> None:
    rows = fbank.stack_frames(published["waveA.fbank"], 7, 6)
    torch.testing.assert_close(rows, published["waveA.lfr"], atol=0, rtol=0)


def naive_frame(samples: Tensor) -> Tensor:
    """One 25 ms frame by the textbook: float64, an explicit transform, one filter at a time."""
    x = samples.double() * 32768
    x = x - x.mean()
    x = torch.stack([x[i] - 0.97 * x[max(i - 1, 0)] for i in range(400)])
    x = (
        x
        * torch.tensor([0.54 - 0.46 * math.cos(2 * math.pi * i / 399) for i in range(400)]).double()
    )
    angles = torch.outer(torch.arange(256.0), torch.arange(400.0)).double() * (2 * math.pi / 512)
    power = (angles.cos() @ x) ** 2 + (angles.sin() @ x) ** 2
    mel = [1127 * math.log(1 + k * 31.25 / 700) for k in range(256)]
    low, high = (1127 * math.log(1 + hz / 700) for hz in (20, 8000))
    bands = []
    for band in range(80):
        left, peak, right = (low + (high - low) * (band + j) / 81 for j in range(3))
        shares = [
            max(0, min((m - left) / (peak - left), (right - m) / (right - peak))) for m in mel
        ]
        energy = sum(share * float(p) for share, p in zip(shares, power, strict=True))
        bands.append(math.log(max(energy, 1.1920929e-7)))
    return torch.tensor(bands)


def test_fbank_equals_the_textbook_frame_by_frame() -> None:
    samples = torch.rand(400 + 2 * 160) - 0.5
    rows = fbank.fbank(samples)
    for i, row in enumerate(rows):
        torch.testing.assert_close(
            row, naive_frame(samples[160 * i : 160 * i + 400]), atol=1e-3, rtol=0
        )


def test_a_batch_gives_what_each_wave_gives_alone() -> None:
    waves = torch.rand(2, 3, 2000) - 0.5
    alone = torch.stack([fbank.fbank(wave) for wave in waves.flatten(0, 1)]).unflatten(0, (2, 3))
    torch.testing.assert_close(fbank.fbank(waves), alone, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize(
    ("samples", "frames"),
    [(2, 1), (399, 1), (400, 1), (559, 1), (560, 2), (1600, 8), (16_000, 98), (160_000, 998)],
)
def test_frame_count_is_what_fbank_gives(samples: int, frames: int) -> None:
    assert fbank.frame_count(samples) == frames == len(fbank.fbank(torch.zeros(samples)))


@pytest.mark.parametrize("samples", [0, 1])
def test_too_few_samples_are_refused(samples: int) -> None:
    with pytest.raises(MediaError, match="at least 2"):
        fbank.fbank(torch.zeros(samples))


def test_silence_and_very_short_waves_stay_finite() -> None:
    for samples in (2, 3, 100, 256, 257, 1600):
        assert (fbank.fbank(torch.zeros(samples)) == math.log(fbank.FLOOR)).all()
        assert fbank.fbank(torch.rand(samples)).isfinite().all()


def test_dither_follows_its_generator() -> None:
    wave = torch.zeros(1600)
    first, again, other = (
        fbank.fbank(wave, dither=1.0, generator=torch.Generator().manual_seed(seed))
        for seed in (1, 1, 2)
    )
    assert torch.equal(first, again)
    assert not torch.equal(first, other)
    assert first.min() > math.log(fbank.FLOOR)


@settings(max_examples=60, deadline=None)
@given(N=st.integers(1, 70), size=st.integers(1, 9), stride=st.integers(1, 8))
def test_stacking_equals_padding_and_slicing(N: int, size: int, stride: int) -> None:
    frames = torch.arange(N * 2.0).reshape(N, 2)
    left = (size - 1) // 2
    padded = [frames[0]] * left + list(frames) + [frames[-1]] * (stride + size)
    expected = [
        torch.cat(padded[stride * i : stride * i + size]) for i in range(math.ceil(N / stride))
    ]
    rows = fbank.stack_frames(frames, size, stride)
    assert torch.equal(rows, torch.stack(expected))
    assert len(rows) == fbank.stacked_count(N, stride)
    assert torch.equal(fbank.stack_frames(frames.expand(3, -1, -1), size, stride)[2], rows)


def test_cmvn_reads_the_published_layout(parity_dir: Path, published: dict[str, Tensor]) -> None:
    cmvn = fbank.read_cmvn(parity_dir / "encoders" / "sensevoice_synthetic_am.mvn")
    assert torch.equal(cmvn, published["cmvn"])


def test_cmvn_survives_a_write_and_a_read(tmp_path: Path) -> None:
    cmvn = torch.randn(2, 560) * torch.logspace(-20, 20, 560)
    fbank.write_cmvn(cmvn, tmp_path / "am.mvn")
    assert torch.equal(fbank.read_cmvn(tmp_path / "am.mvn"), cmvn)


def test_measured_cmvn_makes_mean_zero_and_variance_one() -> None:
    rows = [torch.randn(n, 5) * torch.tensor([1, 2, 3, 4, 0]) - 7 for n in (30, 50)]
    out = fbank.normalize(torch.cat(rows), fbank.measure_cmvn(rows))
    torch.testing.assert_close(out.mean(0), torch.zeros(5), atol=1e-4, rtol=0)
    torch.testing.assert_close(
        out.std(0, correction=0), torch.tensor([1.0, 1, 1, 1, 0]), atol=1e-4, rtol=0
    )


@pytest.mark.parametrize(
    ("old", "new", "says"),
    [
        ("<Rescale>", "<Scale>", "no <Rescale> group"),
        ("<AddShift> 560", "<AddShift> 561", "has 560 values, expected 561"),
        ("-9.184857", "nan", "finite"),
        ("-9.184857", "-9.x", "not a number"),
        ("]\n</Nnet>", "", "no <Rescale> group"),
    ],
)
def test_a_damaged_cmvn_file_is_named(
    tmp_path: Path, mvn_text: str, old: str, new: str, says: str
) -> None:
    assert old in mvn_text
    path = tmp_path / "am.mvn"
    path.write_text(mvn_text.replace(old, new))
    with pytest.raises(WeightsError, match=says) as caught:
        fbank.read_cmvn(path)
    assert str(path) in str(caught.value)


def test_shift_and_scale_of_different_widths_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "am.mvn"
    fbank.write_cmvn(torch.ones(2, 3), path)
    path.write_text(
        path.read_text().replace("<Rescale> 3 3", "<Rescale> 2 2").replace("1 1 ]\n</", "1 ]\n</")
    )
    with pytest.raises(WeightsError, match="3 shifts but 2 scales"):
        fbank.read_cmvn(path)


def test_a_missing_or_binary_cmvn_file_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "am.mvn"
    with pytest.raises(WeightsError, match=r"am\.mvn"):
        fbank.read_cmvn(path)
    path.write_bytes(b"\xff\xfe\x00\x80")
    with pytest.raises(WeightsError, match="cannot be read"):
        fbank.read_cmvn(path)
