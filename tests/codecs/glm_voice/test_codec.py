"""The joined codec: published sound end to end, its folder, and what it refuses."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from tests.tiny import tiny_suite
from torch import Tensor

from omni_diffusion.codecs.base import TokenCodec
from omni_diffusion.codecs.glm_voice.codec import GlmVoice, GlmVoiceConfig
from omni_diffusion.codecs.glm_voice.flow import Flow, FlowConfig
from omni_diffusion.codecs.glm_voice.griffin_lim import GriffinLim
from omni_diffusion.codecs.glm_voice.tokenizer import SpeechTokenizer, SpeechTokenizerConfig
from omni_diffusion.codecs.glm_voice.vocoder import HiFT, Randomness
from omni_diffusion.errors import ConfigError, VocabularyError, WeightsError
from omni_diffusion.media import Waveform

CLOSE = 3e-4


@pytest.fixture(scope="module")
def small(tokenizer: SpeechTokenizer, flow: Flow) -> GlmVoice:
    """A codec whose two sides agree in size; the numbers' tokenizer has more codes."""
    twin = SpeechTokenizer(replace(tokenizer.config, codebook_size=64)).eval()
    return GlmVoice(twin, flow, GriffinLim(iterations=2))


@pytest.fixture
def voice(tokenizer: SpeechTokenizer, flow: Flow, hift: HiFT) -> GlmVoice:
    return GlmVoice(tokenizer, flow, hift)


def test_decode_as_published_with_its_seed(voice: GlmVoice, decoded: dict[str, Tensor]) -> None:
    sound = voice.decode(decoded["tokens"][0])
    torch.testing.assert_close(sound.samples, decoded["offline_seeded.wav"], atol=CLOSE, rtol=0)
    assert sound.rate == 22_050


def test_decode_as_published_without_randomness(
    voice: GlmVoice, decoded: dict[str, Tensor], monkeypatch: pytest.MonkeyPatch
) -> None:
    silent = classmethod(lambda cls, rows, frames, generator=None: cls.none(rows, frames))
    monkeypatch.setattr(Randomness, "draw", silent)
    sound = voice.decode(decoded["tokens"][0])
    torch.testing.assert_close(sound.samples, decoded["offline.wav"], atol=CLOSE, rtol=0)


def test_it_is_a_token_codec(small: GlmVoice) -> None:
    codec: TokenCodec[Waveform] = small
    ids = codec.encode(Waveform(torch.randn(1, 16_000), 16_000))
    assert len(ids) == 13
    assert ids.max() < codec.vocabulary_size == 64
    assert codec.decode(ids).seconds == pytest.approx(13 / 12.5, abs=0.02)
    assert small.codes_per_second == 12.5


def test_seed_and_steps_matter_and_repeat(small: GlmVoice) -> None:
    ids = torch.arange(4)
    first = small.decode(ids, steps=2).samples
    assert torch.equal(first, small.decode(ids, steps=2).samples)
    assert not torch.equal(first, small.decode(ids, steps=2, seed=1).samples)
    assert not torch.equal(first, small.decode(ids, steps=3).samples)


def test_streaming_gives_as_much_as_decoding(small: GlmVoice) -> None:
    blocks = [torch.arange(n) for n in (12, 0, 9)]
    pieces = list(small.decode_stream(iter(blocks), steps=1))
    assert len(pieces) == 4
    whole = small.decode(torch.cat(blocks), steps=1)
    assert sum(piece.samples.shape[1] for piece in pieces) == whole.samples.shape[1]


def test_nothing_in_nothing_out(small: GlmVoice) -> None:
    assert len(small.encode(Waveform(torch.zeros(1, 0), 16_000))) == 0
    assert small.decode(torch.empty(0, dtype=torch.long)).samples.shape == (1, 0)


def test_a_folder_keeps_all_of_it(small: GlmVoice, hift: HiFT, tmp_path: Path) -> None:
    ids = torch.arange(5)
    for name, vocoder in [("plain", GriffinLim(iterations=2)), ("learned", hift)]:
        codec = GlmVoice(small.tokenizer, small.flow, vocoder)
        codec.save(tmp_path / name)
        again = GlmVoice.load(tmp_path / name)
        assert again.config == codec.config
        assert not again.training
        assert torch.equal(again.decode(ids, steps=1).samples, codec.decode(ids, steps=1).samples)


def test_mini_and_official_agree_with_themselves() -> None:
    assert GlmVoiceConfig.official().tokenizer.codebook_size == 16_384
    mini = GlmVoiceConfig.mini()
    assert mini.tokenizer.codebook_size == mini.flow.vocab_size == 1024
    assert mini.tokenizer.code_rate == mini.flow.code_rate == 25


def test_refusals(small: GlmVoice, voice: GlmVoice, tmp_path: Path) -> None:
    with pytest.raises(VocabularyError, match="from 64 to 64"):
        small.decode(torch.tensor([64]))
    with pytest.raises(ConfigError, match="256 codes, the flow decoder 64"):
        voice.config  # noqa: B018
    with pytest.raises(ConfigError, match=r"25 codes a second, the flow decoder takes 12\.5"):
        GlmVoiceConfig(
            SpeechTokenizerConfig.mini(), replace(FlowConfig.mini(), code_rate=12.5), GriffinLim()
        )
    with pytest.raises(ConfigError, match=r"config\.json"):
        GlmVoice.load(tmp_path)
    small.save(tmp_path)
    (tmp_path / "flow.safetensors").unlink()
    with pytest.raises(WeightsError, match=r"flow\.safetensors"):
        GlmVoice.load(tmp_path)


def test_its_speed_is_set_without_a_new_codec() -> None:
    speech = tiny_suite().speech
    before = speech.flow.config
    speech.set_speed()
    assert speech.flow.config == before
    speech.set_speed(steps=3, guided_steps=1)
    assert speech.flow.config == replace(before, steps=3, guided_steps=1)
    for changes in ({"steps": 0}, {"guided_steps": -1}):
        with pytest.raises(ConfigError):
            speech.set_speed(**changes)
    assert speech.flow.config.steps == 3
