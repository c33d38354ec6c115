from dataclasses import replace
from pathlib import Path

import pytest
import torch
from tests.mini.codecs.tones import PITCHES, recorded

from omni_diffusion.codecs.glm_voice.tokenizer import SpeechTokenizer, SpeechTokenizerConfig
from omni_diffusion.mini.codecs import ctc, speech_codec
from omni_diffusion.mini.codecs.augment import Augmentation
from omni_diffusion.mini.codecs.codebook import CodebookConfig
from omni_diffusion.mini.codecs.ctc import Words
from omni_diffusion.mini.codecs.speech_codec import (
    TokenizerConfig,
    TokenizerObjective,
    TokenizerTraining,
)
from omni_diffusion.mini.speech_plan import ANSWER_VOICE
from omni_diffusion.training.optim import OptimConfig
from omni_diffusion.training.trainer import LoopConfig, Trainer

WORDS = Words(tuple(sorted(PITCHES)))
TINY = SpeechTokenizerConfig(
    d_model=32, heads=2, ffn=64, layers=2, n_mels=80, max_positions=200, codebook_size=32
)
SETTINGS = TokenizerConfig(
    batch=6,
    quantize_from=2,
    restart_until=100,
    codebook=CodebookConfig(decay=0.9, restart_every=5),
    augmentation=Augmentation(chance=0.5, gaps=0),
)


def objective(seed: int = 0, settings: TokenizerConfig = SETTINGS) -> TokenizerObjective:
    torch.manual_seed(seed)
    tokenizer = SpeechTokenizer(TINY)
    clips = ctc.clips(recorded(), WORDS, lambda wave: speech_codec.clip_log_mel(tokenizer, wave))
    training = TokenizerTraining(tokenizer, WORDS.size, settings.codebook, width=32)
    return TokenizerObjective(training, clips, settings)


@pytest.mark.slow
def test_the_codes_come_to_carry_words_and_sound(tmp_path: Path) -> None:
    heard = objective(settings=replace(SETTINGS, quantize_from=60, steady=0.1))
    before = speech_codec.measure_codes(heard.training.eval(), heard.clips)
    loop = LoopConfig(steps=160, optim=OptimConfig(lr=4e-3, warmup=10))
    Trainer(heard, loop, tmp_path).fit()
    after = speech_codec.measure_codes(heard.training.eval(), heard.clips)
    assert after["word_errors"] < 0.15
    assert after["sketch"] < 0.6 * before["sketch"]
    assert after["codes"] > 8
    assert after["perplexity"] <= after["codes"]


def test_a_resumed_run_is_the_run(tmp_path: Path) -> None:
    whole = Trainer(objective(), LoopConfig(steps=6), tmp_path / "whole")
    whole.fit()
    first = Trainer(objective(), LoopConfig(steps=6), tmp_path / "parts")
    for _ in range(4):  # past the first quantised step
        first.advance()
    first.save()
    second = Trainer(objective(seed=1), LoopConfig(steps=6), tmp_path / "parts")
    assert second.resume()
    second.fit()
    for name, value in whole.objective.module.state_dict().items():
        assert torch.equal(value, second.objective.module.state_dict()[name]), name


def test_what_is_told_to_codes_reaches_the_encoder_and_not_the_table() -> None:
    heard = objective()
    generator = torch.Generator().manual_seed(0)
    for step in (2, 3):
        loss, figures = heard.loss(step, generator)
    loss.backward()
    tokenizer = heard.training.tokenizer
    assert tokenizer.conv1.weight.grad is not None
    assert tokenizer.conv1.weight.grad.abs().sum() > 0
    assert tokenizer.codebook.weight.grad is None
    assert figures["perplexity"] > 1


def test_codes_of_the_batch_are_those_of_encode() -> None:
    """But for the last, half of which is padding: a batch only resembles true silence."""
    heard = objective()
    generator = torch.Generator().manual_seed(0)
    heard.loss(SETTINGS.quantize_from, generator)  # fills the table
    tokenizer = heard.training.tokenizer.eval()
    mels = [clip.rows for clip in heard.clips]
    batch = speech_codec.speech_batch(tokenizer, mels, mels, [])
    ids = tokenizer(batch.given.mT, batch.frames)
    for row, keep, (_, wave) in zip(ids, batch.codes, recorded(), strict=True):
        codes = tokenizer.encode(wave)
        assert int(keep.sum()) == len(codes)
        assert torch.equal(row[keep][:-1], codes[:-1])


def test_the_answer_voice_is_drawn_by_its_share() -> None:
    heard = objective(settings=replace(SETTINGS, answer_share=0.9))
    own = torch.tensor([clip.line.voice == ANSWER_VOICE for clip in heard.clips])
    assert float(heard.weights[own].sum()) == pytest.approx(0.9)
    assert float(heard.weights.sum()) == pytest.approx(1.0)


def test_steadiness_is_nothing_where_nothing_far_is_heard() -> None:
    heard = objective()
    for layer in heard.training.tokenizer.layers:  # attention and positions see far: silence them
        torch.nn.init.zeros_(layer.self_attn.out_proj.weight)
        torch.nn.init.zeros_(layer.self_attn.out_proj.bias)
    generator = torch.Generator().manual_seed(0)
    batch = heard._batch(generator)
    tokenizer = heard.training.tokenizer

    def steady() -> float:
        z = tokenizer.pool(batch.given.mT, batch.frames)
        return float(heard._steady(batch, z, torch.Generator().manual_seed(1)).detach())

    assert steady() > 1e-3  # the positions are still there
    torch.nn.init.zeros_(tokenizer.embed_positions.weight)
    assert steady() < 1e-8


def test_clips_too_short_for_a_piece_cost_nothing() -> None:
    heard = objective()
    mel = torch.randn(16, 80)
    batch = speech_codec.speech_batch(heard.training.tokenizer, [mel] * 4, [mel] * 4, [])
    z = torch.randn(4, 2, TINY.d_model)
    assert float(heard._steady(batch, z, torch.Generator())) == 0
