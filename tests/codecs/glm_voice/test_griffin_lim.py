"""Griffin-Lim inverts the log-mel it is defined by, always in the same way."""

import pytest
import torch
from torch import Tensor

from omni_diffusion.codecs.glm_voice.griffin_lim import GriffinLim, magnitudes, synthesize
from omni_diffusion.codecs.glm_voice.mel import slaney_mel_filters, voice_log_mel, voice_stft
from omni_diffusion.codecs.glm_voice.vocoder import Vocoder
from omni_diffusion.errors import ConfigError


@pytest.fixture(scope="module")
def voice() -> Tensor:
    """A second of a buzzing, gliding tone."""
    pitch = 140 + 40 * torch.sin(2 * torch.pi * 2 * torch.arange(22_050) / 22_050)
    phase = 2 * torch.pi * torch.cumsum(pitch / 22_050, 0)
    return 0.1 * sum((torch.sin(k * phase) / k for k in range(1, 25)), torch.zeros(22_050))


def error(vocoder: Vocoder, mel: Tensor) -> float:
    back = voice_log_mel(vocoder.decode(mel).samples[0]).exp()
    return ((back - mel.exp()).norm() / mel.exp().norm()).item()


def test_the_mel_comes_back(voice: Tensor) -> None:
    mel = voice_log_mel(voice)
    sound = GriffinLim().decode(mel)
    assert sound.rate == 22_050
    assert sound.samples.shape == (1, 256 * mel.shape[1])
    assert error(GriffinLim(), mel) < 0.15
    assert error(GriffinLim(), mel) < error(GriffinLim(iterations=1), mel)


def test_synthesis_inverts_the_spectrum(voice: Tensor) -> None:
    back = synthesize(voice_stft(voice))
    torch.testing.assert_close(back, voice[: len(back)], atol=1e-5, rtol=0)


def test_magnitudes_are_positive_and_fit_the_mel(voice: Tensor) -> None:
    mel = voice_log_mel(voice)
    size = magnitudes(mel, 100)
    assert (size >= 0).all()
    fit = slaney_mel_filters(80, 1024, 22_050, 8000.0).T @ size
    assert (fit - mel.exp()).norm() < 0.01 * mel.exp().norm()


def test_the_same_generator_gives_the_same_sound(voice: Tensor) -> None:
    mel, quick = voice_log_mel(voice)[:, :10], GriffinLim(iterations=2)
    assert torch.equal(quick.decode(mel).samples, quick.decode(mel).samples)
    other = quick.decode(mel, torch.Generator().manual_seed(1))
    assert not torch.equal(quick.decode(mel).samples, other.samples)


@pytest.mark.parametrize("frames", [0, 1, 2, 3])
def test_very_short_mels(frames: int) -> None:
    sound = GriffinLim().decode(torch.zeros(80, frames))
    assert sound.samples.shape == (1, 256 * frames)
    assert sound.samples.isfinite().all()


def test_the_tail_fades_into_the_next_sound(voice: Tensor) -> None:
    quick, mel = GriffinLim(iterations=2), voice_log_mel(voice)
    _, tail = quick.decode_after(None, mel[:, :8])
    joined, _ = quick.decode_after(tail, mel[:, 7:14])
    assert torch.equal(joined.samples[:, 0], tail[:, 0])
    assert torch.equal(joined.samples[:, 256:], quick.decode(mel[:, 7:14]).samples[:, 256:])


def test_refusals() -> None:
    with pytest.raises(ConfigError, match="iterations is 0; give 1 to"):
        GriffinLim(iterations=0)
    with pytest.raises(ConfigError, match=r"momentum is 1\.0; give 0 to"):
        GriffinLim(momentum=1.0)
