import hashlib
import random
import sys
from collections import Counter
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from omni_diffusion.errors import DataError, MediaError, MissingDependencyError
from omni_diffusion.media import Waveform
from omni_diffusion.mini import kokoro, scenes, speech_plan
from omni_diffusion.mini.phrases import PHRASES
from omni_diffusion.mini.speech_plan import ANSWER_VOICE, HELD_OUT_VOICES, VOICES, Utterance

PLAN = speech_plan.plan(3, captions=120, rounds=2)
ALONE = PLAN[-len(PHRASES) :]
SENTENCES = PLAN[: -len(ALONE)]
NOUNS = SENTENCES[-len(speech_plan.noun_lines(4)) :]
SHUFFLED = SENTENCES[: -len(NOUNS)]
ASKED, SAID = set(speech_plan.questions()), set(speech_plan.answers())


class Hum:
    """Stands in for the synthesizer: every line is a hum; some texts make it fail."""

    def __init__(self, fails: str = "", sample: float = 0.5) -> None:
        self.fails, self.sample, self.said = fails, sample, list[str]()

    def speak(self, text: str, voice: str) -> Waveform:
        if text == self.fails:
            raise RuntimeError("out of breath")
        self.said.append(text)
        return Waveform(torch.full((1, 800), self.sample), 16_000)


def lines(count: int) -> list[Utterance]:
    return [Utterance(i, "caption", "train", "af_sky", f"line {i}") for i in range(count)]


def files_in(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


# --------------------------------------------------------------------------------------- sentences
@settings(deadline=None, max_examples=150)
@given(st.sampled_from(scenes.every_scene()), st.integers(0, 2**32))
def test_all_that_can_be_asked_and_answered_is_in_the_bank(scene: scenes.Scene, seed: int) -> None:
    for question in scenes.questions(scene, random.Random(seed)):
        assert question.text in ASKED
        assert question.sentence in SAID


def test_facts_are_in_the_bank_and_nothing_twice() -> None:
    assert {q.text for q in scenes.facts()} <= ASKED
    assert {q.sentence for q in scenes.facts()} <= SAID
    assert len(speech_plan.questions()) == len(ASKED)
    assert len(speech_plan.answers()) == len(SAID)


# -------------------------------------------------------------------------------------------- plan
def test_the_plan_is_fixed_by_its_seed() -> None:
    random.seed(99)  # the global generator has no say
    assert speech_plan.plan(3, captions=120, rounds=2) == PLAN
    assert speech_plan.plan(4, captions=120, rounds=2) != PLAN
    assert [line.index for line in PLAN] == list(range(len(PLAN)))


def test_held_out_voices_are_never_trained_on() -> None:
    assert not set(HELD_OUT_VOICES) & set(VOICES)
    assert {line.voice for line in PLAN if line.split == "train"} == set(VOICES)
    assert {line.voice for line in PLAN if line.split == "test"} >= set(HELD_OUT_VOICES)


def test_captions_are_of_their_splits_scenes() -> None:
    captions = [line for line in SHUFFLED if line.role == "caption"]
    assert Counter(line.split for line in captions) == {"train": 120, "test": 12}
    for line in captions:
        scene = scenes.parse(line.text)
        assert scene is not None
        assert scenes.held_out(scene) == (line.split == "test")
    trained = [line.voice for line in captions if line.split == "train"]
    assert trained.count(ANSWER_VOICE) >= 40


def test_questions_are_asked_in_some_voices_and_tested_in_others() -> None:
    heard: dict[str, set[str]] = {}
    for line in PLAN:
        if (line.role, line.split) == ("question", "train"):
            heard.setdefault(line.text, set()).add(line.voice)
    assert heard.keys() == ASKED
    assert all(len(asking) == 2 for asking in heard.values())
    tested = [line for line in PLAN if (line.role, line.split) == ("question", "test")]
    assert len(tested) == 120
    assert not any(line.voice in heard[line.text] for line in tested)


def test_each_answer_is_said_once_in_the_answer_voice() -> None:
    answers = [line for line in PLAN if line.role == "answer"]
    assert sorted(line.text for line in answers) == sorted(SAID)
    assert {(line.voice, line.split) for line in answers} == {(ANSWER_VOICE, "train")}


def test_the_beginning_of_a_plan_is_a_sample_of_all_of_it() -> None:
    first = Counter(line.role for line in SHUFFLED[:200])
    whole = Counter(line.role for line in SHUFFLED)
    for role in ("caption", "question", "answer"):
        assert first[role] / 200 == pytest.approx(whole[role] / len(SHUFFLED), abs=0.12)


@pytest.mark.slow
def test_every_noun_follows_in_every_voice_singular_and_plural() -> None:
    said = Counter[tuple[str, bool, str]]()
    for line in NOUNS:
        scene = scenes.parse(line.text)
        assert scene is not None
        assert not scenes.held_out(scene)
        assert (line.role, line.split) == ("caption", "train")
        several = scene.uniform and scene.count > 1
        for noun in set(scene.objects):
            said[noun, several, line.voice] += 1
    every = [(noun, voice) for noun in scenes.OBJECTS for voice in VOICES]
    assert all(said[noun, False, voice] for noun, voice in every)
    plurals = {
        (s.objects[0], voice)
        for s in scenes.every_scene()
        if s.uniform and s.count > 1 and not scenes.held_out(s)
        for voice in VOICES
    }
    assert all(said[noun, True, voice] == ((noun, voice) in plurals) for noun, voice in every)
    assert len(plurals) > 0.9 * len(every)
    assert len(NOUNS) == 2 * len(every)


def test_nouns_leave_the_lines_before_them_and_are_fixed() -> None:
    lines = [line.text for line in speech_plan.plan()[5646 : -len(PHRASES)]]
    assert len(lines) == 1840
    digest = hashlib.sha256("|".join(lines).encode()).hexdigest()
    assert digest.startswith("08468b28d4e70ee1")


def test_phrases_are_last_each_alone_in_the_answer_voice() -> None:
    assert [line.text for line in ALONE] == [f"{phrase}," for phrase in PHRASES]
    assert {(line.role, line.split, line.voice) for line in ALONE} == {
        ("phrase", "train", ANSWER_VOICE)
    }
    assert not any(line.role == "phrase" for line in SENTENCES)


def test_a_plan_there_and_back(tmp_path: Path) -> None:
    speech_plan.save_plan(PLAN, tmp_path / "plan.jsonl")
    assert speech_plan.load_plan(tmp_path / "plan.jsonl") == PLAN


@pytest.mark.parametrize("content", ["{", '{"index": 1}\n', "3\n", None])
def test_what_is_no_plan_is_named(tmp_path: Path, content: str | None) -> None:
    path = tmp_path / "plan.jsonl"
    if content is not None:
        path.write_text(content)
    with pytest.raises(DataError, match=r"plan\.jsonl"):
        speech_plan.load_plan(path)


# ---------------------------------------------------------------------------------------- speaking
def test_speaking_goes_on_where_it_was_stopped(tmp_path: Path) -> None:
    folder = tmp_path / "new" / "audio"
    first = Hum(fails="line 2")
    done: list[Utterance] = []
    with pytest.raises(RuntimeError, match="out of breath"):
        done.extend(speech_plan.speak(lines(4), folder, first))
    assert files_in(folder) == ["00000.flac", "00001.flac"]
    before = (folder / "00000.flac").read_bytes()

    second = Hum(sample=0.25)
    assert list(speech_plan.speak(lines(4), folder, second)) == lines(4)
    assert second.said == ["line 2", "line 3"]
    assert (folder / "00000.flac").read_bytes() == before
    assert Waveform.read(folder / "00003.flac").samples.mean() == pytest.approx(0.25, abs=1e-3)


def test_a_line_is_yielded_once_its_file_is_whole(tmp_path: Path) -> None:
    for line in speech_plan.speak(lines(3), tmp_path, Hum()):
        assert files_in(tmp_path)[-1] == f"{line.index:05d}.flac"
        assert Waveform.read(tmp_path / f"{line.index:05d}.flac").seconds == pytest.approx(0.05)


def test_what_cannot_be_written_leaves_nothing(tmp_path: Path) -> None:
    with pytest.raises(MediaError, match="not finite"):
        list(speech_plan.speak(lines(1), tmp_path, Hum(sample=float("nan"))))
    assert files_in(tmp_path) == []


def test_the_synthesizers_packages_are_asked_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    with pytest.raises(MissingDependencyError, match="pip install kokoro-onnx"):
        kokoro.Kokoro(tmp_path / "m.onnx", tmp_path, tmp_path / "v.json")


# ------------------------------------------------------------------------------------------- quiet
def click(before: int, after: int, *, value: float = 0.5) -> Waveform:
    samples = torch.zeros(1, before + 10 + after)
    samples[:, before : before + 10] = value
    samples[:, :before] = 0.004 * value  # hiss below the floor
    return Waveform(samples, 1000)


def test_quiet_ends_are_cut_to_the_margin() -> None:
    cut = kokoro.trim(click(300, 500))
    assert cut.samples.shape == (1, 60 + 10 + 60)
    assert cut.samples[0, 60:70].eq(0.5).all()


def test_ends_that_are_short_already_stay() -> None:
    assert kokoro.trim(click(20, 30)).samples.shape == (1, 20 + 10 + 30)


def test_no_margin_keeps_all_that_is_loud() -> None:
    assert kokoro.trim(click(300, 500), margin=0).samples.tolist() == [[0.5] * 10]


def test_what_is_too_loud_is_clipped_and_silence_is_left_alone() -> None:
    assert kokoro.trim(click(0, 0, value=-1.5)).samples.min() == -1
    silence = Waveform(torch.zeros(2, 100), 1000)
    assert kokoro.trim(silence) is silence
