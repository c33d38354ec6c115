from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from omni_diffusion.backbone.adapter import SpeechAdapter, insert_slots
from omni_diffusion.canvas import FeatureSlot
from omni_diffusion.errors import ModelError

PREFIX = "model.audio_projection."


@pytest.fixture
def published(parity_dir: Path) -> SpeechAdapter:
    stored = load_file(parity_dir / "encoders/sensevoice_tiny_weights.safetensors")
    adapter = SpeechAdapter(64, 96)
    adapter.load_state_dict(
        {name.removeprefix(PREFIX): w for name, w in stored.items() if name.startswith(PREFIX)}
    )
    return adapter.requires_grad_(False)


@pytest.fixture
def sounds(parity_dir: Path) -> dict[str, Tensor]:
    return load_file(parity_dir / "encoders/sensevoice_tiny_io.safetensors")


def test_projects_one_clip_as_published(
    published: SpeechAdapter, sounds: dict[str, Tensor]
) -> None:
    got = published(sounds["A.encoder_out"])
    assert torch.allclose(got, sounds["A.projected"], atol=1e-5)


def test_projects_a_batch_as_published(published: SpeechAdapter, sounds: dict[str, Tensor]) -> None:
    got = published(sounds["AB.encoder_out"])
    for row, length in enumerate(sounds["AB.encoder_lens"].tolist()):
        assert torch.allclose(got[row, :length], sounds["AB.projected"][row, :length], atol=1e-5)


def test_projects_in_bfloat16_as_published(
    published: SpeechAdapter, sounds: dict[str, Tensor]
) -> None:
    got = published.to(torch.bfloat16)(sounds["A.bf16.encoder_out"])
    assert got.dtype == torch.bfloat16
    assert torch.allclose(got.float(), sounds["A.bf16.projected"].float(), atol=0.02)


def test_projects_with_the_backbones_own_weights(parity_dir: Path) -> None:
    stored = load_file(parity_dir / "backbone/tiny_weights.safetensors")
    io = load_file(parity_dir / "backbone/forward.safetensors")
    adapter = SpeechAdapter(512, 64)
    adapter.load_state_dict(
        {name.removeprefix(PREFIX): w for name, w in stored.items() if name.startswith(PREFIX)}
    )
    assert torch.allclose(adapter(io["audio_proj_in"]), io["audio_proj_out"], atol=1e-5)


def test_slots_replace_their_places_and_no_others() -> None:
    adapter = SpeechAdapter(8, 16)
    embedded = torch.randn(3, 10, 16)
    frames = torch.randn(4, 8), torch.randn(1, 8), torch.randn(2, 8)
    slots = [
        (2, FeatureSlot(6, frames[0])),
        (0, FeatureSlot(0, frames[1])),
        (2, FeatureSlot(1, frames[2])),
    ]
    expected = embedded.clone()
    for row, slot in slots:
        expected[row, slot.start : slot.start + len(slot.frames)] = adapter(slot.frames)
    before = embedded.clone()
    assert torch.allclose(insert_slots(embedded, slots, adapter), expected, atol=1e-6)
    assert torch.equal(embedded, before)


def test_frames_of_another_dtype_are_cast() -> None:
    adapter = SpeechAdapter(8, 16).to(torch.bfloat16)
    slot = FeatureSlot(0, torch.randn(2, 8))
    got = insert_slots(torch.zeros(1, 3, 16, dtype=torch.bfloat16), [(0, slot)], adapter)
    assert got.dtype == torch.bfloat16


@pytest.mark.parametrize(
    ("row", "start", "width", "words"),
    [
        (0, 3, 8, "positions 3..5 of a canvas of 5"),
        (0, -1, 8, "positions -1..1"),
        (1, 0, 8, "row 1 in a batch of 1"),
        (0, 0, 9, r"\[n, 8\]"),
    ],
)
def test_slots_that_do_not_fit_are_refused(row: int, start: int, width: int, words: str) -> None:
    slot = FeatureSlot(start, torch.randn(3, width))
    with pytest.raises(ModelError, match=words):
        insert_slots(torch.zeros(1, 5, 16), [(row, slot)], SpeechAdapter(8, 16))
