import pytest
import torch
from tests.tiny import checkers, tone

from omni_diffusion.conversation import (
    Blank,
    Codes,
    Frames,
    Image,
    Message,
    PartialSpeech,
    Speech,
    Text,
    Turn,
)
from omni_diffusion.html import HOLE, peaks, visible
from omni_diffusion.media import Waveform
from omni_diffusion.tasks.infill import box, cloze, inpainting


def test_media_and_words_are_seen_as_they_are() -> None:
    parts = (Text("what is it?"), Image(checkers()), Speech(tone()))
    assert visible((Message("user", parts),)) == parts


def test_a_hole_is_grey() -> None:
    picture = checkers(8)
    (shown,) = (
        part
        for part in visible(inpainting(picture, box(picture, 0, 0, 3, 2), None))
        if isinstance(part, Image)
    )
    assert bool((shown.picture.pixels[:2, :3] == HOLE).all())
    assert torch.equal(shown.picture.pixels[2:], picture.pixels[2:])


def test_gaps_and_what_is_encoded_are_named() -> None:
    sound = tone()
    known = Turn("user", (Codes("image", torch.zeros(16)), Frames(torch.zeros(5, 3))))
    open_ = Message(
        "assistant", (*cloze("it is __"), Blank("speech", 4), PartialSpeech(sound, ((0.0, 0.1),)))
    )
    told = visible((known, open_))
    assert [part.text for part in told if isinstance(part, Text)] == [
        "[16 image tokens, known]",
        "[5 frames of speech]",
        "it is",
        "__",
        "[4 speech tokens, masked]",
    ]
    assert told[-1] == Speech(sound)


@pytest.mark.parametrize("samples", [3, 7, 1000])
def test_peaks_follow_the_loudness(samples: int) -> None:
    ramp = torch.linspace(0, 0.5, samples)[None]
    found = peaks(Waveform(ramp, 8_000), 5)
    assert len(found) == 5
    assert found == sorted(found)
    assert found[-1] == 1
    assert peaks(Waveform(torch.zeros(2, 10), 8_000), 5) == [0] * 5
