import json
from pathlib import Path

import pytest
import torch

from omni_diffusion.errors import DataError, MediaError
from omni_diffusion.media import Waveform
from omni_diffusion.mini import recordings, scenes, speech_plan
from omni_diffusion.mini.recordings import Bank
from omni_diffusion.mini.speech_plan import ANSWER_VOICE, HELD_OUT_VOICES, Utterance
from omni_diffusion.models.omni import SMALL_MODEL

LINES = [
    Utterance(0, "caption", "test", "af_bella", "a dog on a blue background"),
    Utterance(3, "caption", "test", "af_sky", "a cat on a blue background"),
    Utterance(4, "caption", "test", "am_puck", "a car, pink background"),
    Utterance(9, "question", "test", "am_puck", "is there a dog?"),
    Utterance(11, "answer", "test", ANSWER_VOICE, "a key on a blue background"),
    Utterance(12, "phrase", "train", ANSWER_VOICE, "a key,"),
]


def hum(index: int) -> Waveform:
    time = torch.arange(24_000 * (3 + index % 3) // 10) / 24_000
    return Waveform(0.5 * torch.sin(2 * torch.pi * (200 + 90 * index) * time)[None], 24_000)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for line in LINES:
        hum(line.index).write(tmp_path / f"{line.index:05d}.flac")
    recordings.build(LINES, tmp_path, tmp_path / "bank")
    return tmp_path / "bank"


def test_every_sentence_comes_back_in_its_own_voice_and_at_its_own_place(folder: Path) -> None:
    opened = Bank.open(folder)
    found = opened.sample("caption", 0) + opened.sample("caption", 0, voices="held_out")
    found += [one for role in ("question", "answer", "phrase") for one in opened.sample(role, 0)]
    by_text = {line.text: line for line in LINES}
    assert {r.text for r in found} == set(by_text)
    for recording in found:
        line = by_text[recording.text]
        assert (recording.voice, recording.role) == (line.voice, line.role)
        expected = hum(line.index).resample(16_000).samples
        assert recording.waveform.rate == 16_000
        assert recording.waveform.samples.shape == expected.shape
        both = torch.stack([expected[0], recording.waveform.samples[0]])
        assert float(torch.corrcoef(both)[0, 1]) > 0.95


def test_recordings_return_to_the_lines_they_are_of(folder: Path, tmp_path: Path) -> None:
    audio = tmp_path / "again"
    unknown = Utterance(5, "caption", "train", "af_bella", "a cat, pink background")
    lines = [*LINES, unknown]
    audio.mkdir()
    (audio / "00003.flac").write_bytes(b"is there already")
    assert recordings.restore(Bank.open(folder), lines, audio) == len(LINES) - 1
    assert {path.name for path in audio.iterdir()} == {f"{line.index:05d}.flac" for line in LINES}
    assert (audio / "00003.flac").read_bytes() == b"is there already"
    for line in LINES[2:]:
        sound = Waveform.read(audio / f"{line.index:05d}.flac")
        assert sound.samples.shape == hum(line.index).resample(16_000).samples.shape


@pytest.mark.slow
def test_the_spoken_training_lines_are_of_the_plan_and_whole() -> None:
    parts = sorted((Path(__file__).parents[2] / "assets" / "speech").iterdir())
    trained = {
        (line.role, line.voice, line.text) for line in speech_plan.plan(0) if line.split == "train"
    }
    for part in parts:
        assert (part / recordings.SOUND_FILE).stat().st_size < 16e6
        opened = Bank.open(part)
        assert {(entry.role, entry.voice, entry.text) for entry in opened.entries} <= trained


def test_samples_follow_the_seed_and_never_repeat_a_sentence(folder: Path) -> None:
    opened = Bank.open(folder)
    orders = {tuple(r.text for r in opened.sample("caption", seed)) for seed in range(20)}
    assert len(orders) == 2
    assert all(len(set(order)) == 2 for order in orders)
    assert len(opened.sample("caption", 0, 1)) == 1
    assert len(opened.sample("caption", 0, 99)) == 2
    assert [r.text for r in opened.sample("caption", 5)] == [
        r.text for r in Bank.open(folder).sample("caption", 5)
    ]


def test_what_is_not_whole_is_refused(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"no 'answer' in voices 'held_out'"):
        Bank.open(folder).sample("answer", 0, voices="held_out")
    with pytest.raises(DataError, match="manifest of a speech bank"):
        Bank.open(tmp_path)
    manifest = folder / recordings.MANIFEST_FILE
    rows = manifest.read_text().splitlines()
    manifest.write_text("\n".join(rows[:-1]))
    with pytest.raises(DataError, match="build both again"):
        Bank.open(folder)
    manifest.write_text(json.dumps({"role": "caption"}))
    with pytest.raises(DataError, match="manifest of a speech bank"):
        Bank.open(folder)
    manifest.write_text("\n".join(rows))
    (folder / recordings.SOUND_FILE).write_bytes(b"OggS")
    with pytest.raises(MediaError):
        Bank.open(folder)


@pytest.mark.slow
def test_the_selection_holds_nothing_that_training_hears() -> None:
    plan = speech_plan.plan(0)
    lines = recordings.selection(plan)
    assert lines == recordings.selection(plan)
    trained = {(line.voice, line.text) for line in plan if line.split == "train"}
    assert not trained & {(line.voice, line.text) for line in lines}
    assert len({line.index for line in lines}) == len(lines)
    assert {line.split for line in lines} == {"test"}
    for line in lines:
        if line.role in ("caption", "answer"):
            scene = scenes.parse(line.text)
            assert scene is not None
            assert scenes.held_out(scene)


def test_the_selection_covers_every_role_and_general_question() -> None:
    lines = recordings.selection(speech_plan.plan(0))
    count = {
        key: sum((line.role, line.voice in HELD_OUT_VOICES) == key for line in lines)
        for key in [("caption", False), ("caption", True), ("question", False), ("question", True)]
    }
    assert min(count.values()) >= 20
    assert count["caption", False] >= 100
    for text in recordings.GENERAL:
        spoken = {line.voice in HELD_OUT_VOICES for line in lines if line.text == text}
        assert spoken == {True, False}
    answers = [line for line in lines if line.role == "answer"]
    assert {line.voice for line in answers} == {ANSWER_VOICE}
    assert len(answers) == recordings.ANSWERS


@pytest.mark.slow
def test_the_shipped_bank_is_small_whole_and_unheard_in_training() -> None:
    folder = SMALL_MODEL / "bank"
    assert sum(path.stat().st_size for path in folder.iterdir()) < 2.5e6
    shipped = Bank.open(folder)
    trained = {(line.voice, line.text) for line in speech_plan.plan(0) if line.split == "train"}
    assert not trained & {(entry.voice, entry.text) for entry in shipped.entries}
    for recording in shipped.sample("caption", 0) + shipped.sample("answer", 0):
        scene = scenes.parse(recording.text)
        assert scene is not None
        assert scenes.held_out(scene)
        assert 1 < recording.waveform.seconds < 10
        assert recording.waveform.samples.abs().max() > 0.05
