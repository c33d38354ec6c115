"""The two log-mels: filters against the published table, lengths, and what a tone looks like."""

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from omni_diffusion.codecs.glm_voice import mel
from omni_diffusion.errors import MediaError
from omni_diffusion.media import SPEECH_RATE


def test_filters_equal_the_published_table(folder: Path) -> None:
    published = load_file(folder / "whisper_mel_filters_128.safetensors")["mel_filters"]
    assert torch.equal(mel.slaney_mel_filters(128, mel.WHISPER_FFT, SPEECH_RATE), published)


def test_settings_equal_the_published_extractor(folder: Path) -> None:
    settings = json.loads((folder / "feature_extractor.json").read_text())
    assert (settings["sampling_rate"], settings["n_fft"], settings["hop_length"]) == (
        SPEECH_RATE,
        mel.WHISPER_FFT,
        mel.WHISPER_HOP,
    )


def test_filters_serve_training_after_inference_mode() -> None:
    mel.slaney_mel_filters.cache_clear()
    with torch.inference_mode():
        mel.voice_log_mel(torch.randn(2048))
    samples = torch.randn(2048, requires_grad=True)
    mel.voice_log_mel(samples).sum().backward()
    assert samples.grad is not None
    assert samples.grad.isfinite().all()


@pytest.mark.parametrize("samples", [385, 511, 512, 22_050])
def test_one_frame_for_every_256_samples(samples: int) -> None:
    assert mel.voice_log_mel(torch.randn(3, samples)).shape == (3, 80, samples // 256)


def test_a_tone_lights_the_band_around_it() -> None:
    tone = torch.sin(2 * torch.pi * 1000 * torch.arange(22_050) / 22_050)
    bands = mel.voice_log_mel(tone)[:, 40]
    filters = mel.slaney_mel_filters(80, mel.VOICE_FFT, mel.VOICE_RATE, 8000.0)
    frequency = torch.linspace(0, 11_025, 513)[filters[:, bands.argmax()].argmax()]
    assert abs(frequency.item() - 1000) < 60


def test_silence_is_the_floor_everywhere() -> None:
    # sqrt(1e-9) per bin, weighted by the filters, lies under the floor of 1e-5
    assert torch.allclose(mel.voice_log_mel(torch.zeros(4096)), torch.tensor(1e-5).log())


def test_frames_are_centred_128_samples_into_their_hop() -> None:
    click = torch.zeros(256 * 20)
    click[256 * 9 + 128] = 1.0
    energy = mel.voice_stft(click).abs().sum(0)
    assert energy.argmax() == 9
    assert torch.allclose(energy[8], energy[10], rtol=1e-4)


def test_whisper_floor_is_eight_below_the_loudest_of_each_row() -> None:
    waves = torch.stack([torch.randn(1600), 0.1 * torch.randn(1600)])
    waves[:, 800:] = 0.0
    features = mel.whisper_log_mel(waves)
    depth = (features.amax((1, 2)) - features.amin((1, 2))) * 4
    assert torch.allclose(depth, torch.tensor([8.0, 8.0]), atol=1e-4)


def test_too_short_a_clip_is_named() -> None:
    with pytest.raises(MediaError, match="384 samples is too short"):
        mel.voice_log_mel(torch.zeros(384))
