from pathlib import Path

import pytest
import torch
from tests.mini.codecs.tones import recorded

from omni_diffusion.codecs.glm_voice.estimator import EstimatorConfig
from omni_diffusion.codecs.glm_voice.flow import Flow, FlowConfig
from omni_diffusion.codecs.glm_voice.token_encoder import TokenEncoderConfig
from omni_diffusion.codecs.glm_voice.tokenizer import SpeechTokenizer, SpeechTokenizerConfig
from omni_diffusion.errors import DataError
from omni_diffusion.mini.codecs import speech_flow
from omni_diffusion.mini.codecs.speech_flow import FlowClip, FlowObjective, FlowTrainingConfig
from omni_diffusion.training.optim import OptimConfig
from omni_diffusion.training.trainer import LoopConfig, Trainer

TINY = FlowConfig(
    vocab_size=16,
    encoder=TokenEncoderConfig(input_size=16, width=16, heads=2, ffn=32, blocks=1),
    estimator=EstimatorConfig(channels=16, heads=2, head_dim=8, n_blocks=1, mid_blocks=1),
)


def tokenizer() -> SpeechTokenizer:
    torch.manual_seed(5)
    return SpeechTokenizer(
        SpeechTokenizerConfig(
            d_model=16, heads=2, ffn=16, layers=1, n_mels=80, max_positions=200, codebook_size=16
        )
    )


def objective(seed: int = 0) -> FlowObjective:
    encoder = tokenizer()
    torch.manual_seed(seed)
    flow = Flow(TINY)
    clips = speech_flow.flow_clips((wave for _, wave in recorded(6)), encoder, flow)
    speech_flow.start_at_mean(flow, clips)
    return FlowObjective(flow, clips, FlowTrainingConfig(batch=4))


def test_mels_are_as_long_as_the_decoder_draws_them() -> None:
    speak = objective()
    for clip in speak.clips:
        assert clip.mel.shape == (80, speak.flow.lengths(len(clip.codes)))


def test_no_clip_is_an_error() -> None:
    speak = objective()
    with pytest.raises(DataError, match="answer voice"):
        speech_flow.flow_clips([], SpeechTokenizer(SpeechTokenizerConfig.mini()), speak.flow)


def test_joined_sentences_have_the_codes_and_sounds_of_their_phrases() -> None:
    speak = objective()
    encoder = tokenizer().eval()
    (_, cat), (_, blue), *_ = recorded(6)
    takes = {"a cat": cat, "on blue": blue}
    apart = speech_flow.flow_clips(takes.values(), encoder, speak.flow)
    joined = speech_flow.joined_clips(["a cat on blue"], takes, encoder, speak.flow)[0]
    assert torch.equal(joined.codes, torch.cat([clip.codes for clip in apart]))
    assert joined.mel.shape == (80, speak.flow.lengths(len(joined.codes)))
    first = apart[0].mel.shape[1] - 8  # frames that see nothing of the second phrase
    torch.testing.assert_close(joined.mel[:, :first], apart[0].mel[:, :first])
    with pytest.raises(DataError, match="no take of 'on pink'"):
        speech_flow.joined_clips(["a cat on pink"], takes, encoder, speak.flow)


@pytest.mark.slow
def test_it_starts_at_the_mean_spectrum_and_learns(tmp_path: Path) -> None:
    speak = objective()
    mels = torch.cat([clip.mel for clip in speak.clips], dim=1)
    from_mean = float((mels - mels.mean(1, keepdim=True)).abs().mean())
    before = speech_flow.measure_flow(speak.flow.eval(), speak.clips, steps=4)
    assert before["means"] == pytest.approx(from_mean, rel=0.2)
    Trainer(speak, LoopConfig(steps=60, optim=OptimConfig(lr=5e-3, warmup=10)), tmp_path).fit()
    after = speech_flow.measure_flow(speak.flow.eval(), speak.clips, steps=4)
    assert after["means"] < before["means"]
    assert after["drawn"] < before["drawn"]


@pytest.mark.slow
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


def test_a_batch_pads_codes_and_mels() -> None:
    clips = [
        FlowClip(torch.tensor([3, 1]), torch.ones(80, 13)),
        FlowClip(torch.tensor([2]), torch.zeros(80, 6)),
    ]
    codes, mel, n_codes, n_frames = speech_flow.batch_of(clips)
    assert codes.tolist() == [[3, 1], [2, 0]]
    assert mel.shape == (2, 80, 13)
    assert n_codes.tolist() == [2, 1]
    assert n_frames.tolist() == [13, 6]


@pytest.mark.slow
def test_the_prior_ignores_padding() -> None:
    speak = objective()
    clips = sorted(speak.clips, key=lambda clip: len(clip.codes))
    flow = speak.flow.eval()
    together = speech_flow.prior_loss(flow, *speech_flow.batch_of([clips[0], clips[-1]]))
    alone = [
        speech_flow.prior_loss(flow, *speech_flow.batch_of([c])) for c in clips[:: len(clips) - 1]
    ]
    frames = torch.tensor([clips[0].mel.shape[1], clips[-1].mel.shape[1]]).float()
    expected = (torch.stack(alone) * frames).sum() / frames.sum()
    assert torch.allclose(together, expected, atol=1e-5)
