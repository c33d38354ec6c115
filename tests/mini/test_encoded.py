import re
from pathlib import Path

import pytest
import torch
from tests.tiny import IMAGE, tiny_suite, tone

from omni_diffusion.codecs.magvit2 import Magvit2
from omni_diffusion.errors import DataError
from omni_diffusion.io import weights
from omni_diffusion.media import Waveform
from omni_diffusion.mini import encoded, scenes, speech_plan
from omni_diffusion.mini.encoded import EncodedSpeech, SceneCodes
from omni_diffusion.mini.speech_plan import Utterance

LINES = tuple(
    Utterance(i, role, split, "af_heart", f"line {i}")
    for i, (role, split) in enumerate(
        [("caption", "train"), ("caption", "test"), ("answer", "train"), ("caption", "train")]
    )
)


@pytest.fixture
def few(monkeypatch: pytest.MonkeyPatch) -> list[scenes.Scene]:
    """A world of five scenes."""
    some = scenes.every_scene()[::11_000]
    monkeypatch.setattr(scenes, "every_scene", lambda: some)
    return some


def spoken(variants: int = 12) -> EncodedSpeech:
    frames = tuple(
        tuple(torch.full((2 + i, 3), float(100 * i + v)) for v in range(variants))
        for i in range(len(LINES))
    )
    codes = [torch.zeros(0, dtype=torch.int64) for _ in LINES]
    codes[2], codes[3] = torch.tensor([5, 16_383]), torch.tensor([7])
    return EncodedSpeech(LINES, frames, tuple(codes))


# -------------------------------------------------------------------------------------- pictures
def test_each_scene_gets_the_codes_of_its_picture(few: list[scenes.Scene], tmp_path: Path) -> None:
    codec, told = Magvit2(IMAGE).eval(), []
    path = tmp_path / "scenes.safetensors"
    encoded.encode_scenes(codec, path, batch=2, report=lambda *now: told.append(now))
    assert told == [(2, 5), (4, 5), (5, 5)]
    codes = SceneCodes.open(path)
    for scene in few:
        ids = codes.of(scene)
        assert ids.dtype == torch.int64
        assert torch.equal(ids, codec.encode(scenes.render_scene(scene), scenes.SIZE))


def test_codes_of_another_world_are_refused(few: list[scenes.Scene]) -> None:
    with pytest.raises(DataError, match="4 scenes, expected 5"):
        SceneCodes(torch.zeros(4, 16, dtype=torch.int16))


def test_a_file_without_picture_codes_is_refused(tmp_path: Path) -> None:
    weights.write_tensors({"x": torch.zeros(1)}, tmp_path / "x.safetensors")
    with pytest.raises(DataError, match="`codes`"):
        SceneCodes.open(tmp_path / "x.safetensors")


# ---------------------------------------------------------------------------------------- speech
def test_the_bank_there_and_back(tmp_path: Path) -> None:
    bank = spoken()
    bank.save(tmp_path / "bank")
    again = EncodedSpeech.open(tmp_path / "bank")
    assert again.lines == bank.lines
    for name in ("frames", "codes"):
        for ours, theirs in zip(getattr(bank, name), getattr(again, name), strict=True):
            assert [t.tolist() for t in ours] == [t.tolist() for t in theirs]
    assert again.frames[0][0].dtype == torch.float32
    assert again.codes[0].dtype == again.codes[2].dtype == torch.int64


def test_lines_by_their_use() -> None:
    bank = spoken(1)
    assert bank.where("caption", "train") == [0, 3]
    assert bank.where("caption", "train", with_codes=True) == [3]
    assert bank.where("caption", "test") == [1]
    assert bank.where("question", "train") == []


@pytest.mark.parametrize(
    ("kept", "problem"), [(3, "has codes.3 but 3 lines"), (5, "has no frames of line 4")]
)
def test_halves_of_two_banks_are_refused(tmp_path: Path, kept: int, problem: str) -> None:
    spoken(1).save(tmp_path)
    speech_plan.save_plan((LINES * 2)[:kept], tmp_path / "lines.jsonl")
    with pytest.raises(DataError, match=re.escape(problem)):
        EncodedSpeech.open(tmp_path)


def test_lines_are_heard_at_every_speed_and_answers_said(tmp_path: Path) -> None:
    codecs = tiny_suite()
    uses = [("train", "af_heart"), ("test", "am_adam"), ("train", "am_adam"), ("test", "af_heart")]
    lines = [Utterance(i, "caption", *use, "") for i, use in enumerate(uses)]
    for i in (0, 1, 3):
        tone(1.5 + i / 10, hertz=200.0 * (i + 1)).write(tmp_path / f"{i:05d}.flac")
    heard: list[int] = []
    recorded = [(lines[i], Waveform.read(tmp_path / f"{i:05d}.flac")) for i in (0, 1, 3)]
    bank = encoded.encode_speech(
        recorded, codecs.hearing, codecs.speech.tokenizer, report=heard.append
    )
    assert heard == [1, 2, 3]
    assert bank.lines == (lines[0], lines[1], lines[3])
    assert [len(variants) for variants in bank.frames] == [3, 1, 1]
    true, slow, fast = (len(frames) for frames in bank.frames[0])
    assert slow > true > fast
    for i, line in enumerate(bank.lines):
        wave = Waveform.read(tmp_path / f"{line.index:05d}.flac")
        assert torch.equal(bank.frames[i][0], codecs.hearing.encode(wave))
        said = codecs.speech.encode(wave).tolist() if line.voice == "af_heart" else []
        assert bank.codes[i].tolist() == said


@pytest.mark.slow
def test_fewer_variants_take_the_speeds_in_turn() -> None:
    codecs = tiny_suite()
    lines = [Utterance(i, "caption", "train", "am_adam", "") for i in range(3)]
    wave = tone(1.5)
    heard, said = codecs.hearing, codecs.speech.tokenizer
    one = encoded.encode_speech([(line, wave) for line in lines], heard, said, variants=1)
    every = encoded.encode_speech([(lines[0], wave)], heard, said)
    assert [len(variants) for variants in one.frames] == [1, 1, 1]
    for (single,), variant in zip(one.frames, every.frames[0], strict=True):
        assert torch.equal(single, variant)


def test_two_banks_as_one() -> None:
    both = spoken(1) + spoken(2)
    assert both.lines == LINES + LINES
    assert [len(variants) for variants in both.frames] == [1] * 4 + [2] * 4
    assert both.where("caption", "train", with_codes=True) == [3, 7]


# ------------------------------------------------------------------------------------- sentences
@pytest.mark.slow
def test_texts_hold_every_word_of_the_world() -> None:
    def words(texts: list[str]) -> set[str]:
        return {word for text in texts for word in re.findall(r"\w+|\W", text)}

    known = words(list(encoded.texts()))
    said = [caption for scene in scenes.every_scene()[::53] for caption in scenes.captions(scene)]
    assert words([*said, *speech_plan.questions(), *speech_plan.answers()]) <= known
