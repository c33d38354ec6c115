"""Streamed speech against the published code's numbers, and what any cut into blocks must keep."""

from itertools import pairwise

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from omni_diffusion.codecs.glm_voice.flow import Flow
from omni_diffusion.codecs.glm_voice.griffin_lim import GriffinLim
from omni_diffusion.codecs.glm_voice.stream import VoiceStream
from omni_diffusion.codecs.glm_voice.vocoder import HiFT, Randomness, Vocoder
from omni_diffusion.errors import ModelError, VocabularyError

CLOSE = 3e-4


@pytest.fixture
def quiet(monkeypatch: pytest.MonkeyPatch) -> None:
    """The numbers were made with all of the vocoder's randomness at zero."""
    silent = classmethod(lambda cls, rows, frames, generator=None: cls.none(rows, frames))
    monkeypatch.setattr(Randomness, "draw", silent)


@pytest.mark.slow
@pytest.mark.usefixtures("quiet")
def test_blocks_as_published(flow: Flow, hift: HiFT, decoded: dict[str, Tensor]) -> None:
    ids = decoded["tokens"][0]
    stream = VoiceStream(flow, hift, upstream=True)
    pieces = [stream.push(ids[:10]), stream.push(ids[10:20]), stream.finish(ids[20:])]
    for number, piece in enumerate(pieces):
        wanted = decoded[f"stream.block{number}.wav"]
        torch.testing.assert_close(piece.samples, wanted, atol=CLOSE, rtol=0)
    whole = torch.cat([piece.samples for piece in pieces], dim=1)
    torch.testing.assert_close(whole, decoded["stream.wav"], atol=CLOSE, rtol=0)


@pytest.mark.slow
@pytest.mark.usefixtures("quiet")
def test_without_the_flaw_no_frame_is_lost(
    flow: Flow, hift: HiFT, decoded: dict[str, Tensor]
) -> None:
    ids = decoded["tokens"][0]
    stream = VoiceStream(flow, hift)
    pieces = [stream.push(ids[:10]), stream.push(ids[10:20]), stream.finish(ids[20:])]
    assert sum(piece.samples.shape[1] for piece in pieces) == decoded["offline.wav"].shape[1]
    # the first block cannot know of the flaw yet
    wanted = decoded["stream.block0.wav"]
    torch.testing.assert_close(pieces[0].samples, wanted, atol=CLOSE, rtol=0)


@settings(max_examples=12, deadline=None)
@given(cuts=st.lists(st.integers(0, 30), max_size=6), quick=st.booleans())
@pytest.mark.slow
def test_any_cut_lasts_as_long_as_the_whole(
    flow: Flow, hift: HiFT, cuts: list[int], quick: bool
) -> None:
    ids = torch.arange(30)
    vocoder: Vocoder = GriffinLim(iterations=1, mel_iterations=1) if quick else hift
    stream = VoiceStream(flow, vocoder, steps=1)
    pieces = [stream.push(ids[a:b]) for a, b in pairwise([0, *sorted(cuts), 30])]
    pieces.append(stream.finish())
    whole = torch.cat([piece.samples for piece in pieces], dim=1)
    assert whole.shape == (1, 256 * flow.lengths(30))
    assert whole.isfinite().all()


def test_nothing_pushed_nothing_said(flow: Flow) -> None:
    assert VoiceStream(flow, GriffinLim()).finish().samples.shape == (1, 0)


def test_refusals(flow: Flow) -> None:
    stream = VoiceStream(flow, GriffinLim())
    with pytest.raises(VocabularyError, match="from -1 to -1"):
        stream.push(torch.tensor([-1]))
    stream.finish()
    with pytest.raises(ModelError, match="finished"):
        stream.push(torch.tensor([1]))
