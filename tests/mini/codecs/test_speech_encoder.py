from pathlib import Path

import pytest
import torch
from tests.mini.codecs.tones import PITCHES, recorded, sound

from omni_diffusion.codecs import fbank
from omni_diffusion.codecs.sensevoice import SenseVoice, SenseVoiceConfig
from omni_diffusion.errors import TrainingError
from omni_diffusion.mini.codecs import ctc, speech_encoder
from omni_diffusion.mini.codecs.ctc import Clip, Words
from omni_diffusion.mini.codecs.speech_encoder import (
    SpeechEncoderObjective,
    SpeechEncoderTrainingConfig,
)
from omni_diffusion.training.optim import OptimConfig
from omni_diffusion.training.trainer import LoopConfig, Trainer

WORDS = Words(tuple(sorted(PITCHES)))
TINY = SenseVoiceConfig(dim=32, heads=2, ffn=64, blocks=2, tp_blocks=1, ctc_size=WORDS.size)


def clips() -> list[Clip]:
    return ctc.clips(recorded(), WORDS, speech_encoder.kaldi_log_mel)


def objective(seed: int = 0, dropout: float = 0.1) -> SpeechEncoderObjective:
    torch.manual_seed(seed)
    heard = clips()
    model = SenseVoice(SenseVoiceConfig(**(TINY.__dict__ | {"dropout": dropout})))
    model.cmvn = speech_encoder.clips_cmvn(model, heard)
    return SpeechEncoderObjective(model, heard, SpeechEncoderTrainingConfig(batch=8))


@pytest.mark.slow
def test_it_learns_to_hear(tmp_path: Path) -> None:
    heard = objective(dropout=0.0)
    optim = OptimConfig(lr=5e-3, warmup=10)
    Trainer(heard, LoopConfig(steps=80, optim=optim), tmp_path).fit()
    heard.model.eval()
    assert speech_encoder.word_error_rate(heard.model, heard.clips) < 0.1
    new = sound("high low high mid", seed=99)
    with torch.no_grad():
        logits = heard.model.ctc_logits(heard.model.encode(new)[heard.model.config.queries :])
    said = ctc.greedy(logits[None], torch.tensor([len(logits)]))[0]
    assert WORDS.decode(said) == "high low high mid"


def test_a_resumed_run_is_the_run(tmp_path: Path) -> None:
    whole = Trainer(objective(), LoopConfig(steps=4), tmp_path / "whole")
    whole.fit()
    first = Trainer(objective(), LoopConfig(steps=4), tmp_path / "parts")
    for _ in range(2):
        first.advance()
    first.save()
    second = Trainer(objective(seed=1), LoopConfig(steps=4), tmp_path / "parts")
    assert second.resume()
    second.fit()
    for name, value in whole.objective.module.state_dict().items():
        assert torch.equal(value, second.objective.module.state_dict()[name]), name


def test_features_are_the_encoders_own() -> None:
    heard = objective()
    wave = recorded()[0][1]
    stacked = fbank.stack_frames(speech_encoder.kaldi_log_mel(wave), TINY.lfr_m, TINY.lfr_n)
    assert heard.model.cmvn is not None
    normal = fbank.normalize(stacked, heard.model.cmvn)
    assert torch.equal(normal, heard.model.features(wave))


def test_cmvn_makes_the_clips_plain() -> None:
    heard = objective()
    rows = torch.cat([heard.model.features(wave) for _, wave in recorded()])
    assert rows.mean(0).abs().max() < 1e-3
    assert (rows.std(0) - 1).abs().max() < 1e-2


def test_logits_do_not_depend_on_the_batch() -> None:
    model = objective().model.eval()
    mels = [clip.rows for clip in clips()[:3]]
    together, counts = speech_encoder.word_logits(model, mels)
    for row, mel, count in zip(together, mels, counts.tolist(), strict=True):
        alone, _ = speech_encoder.word_logits(model, [mel])
        assert torch.allclose(row[:count], alone[0], atol=1e-5)


def test_a_model_without_head_or_cmvn_is_refused() -> None:
    with pytest.raises(TrainingError, match="head of at least"):
        SpeechEncoderObjective(
            SenseVoice(SenseVoiceConfig.mini()), clips(), SpeechEncoderTrainingConfig()
        )
