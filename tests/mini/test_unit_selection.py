"""Words are stood in for by tones: what is said can then be read back from the sound."""

import random
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from omni_diffusion.errors import DataError
from omni_diffusion.media import SPEECH_RATE, Waveform
from omni_diffusion.mini import scenes, speech_plan, unit_selection
from omni_diffusion.mini.speech_plan import ANSWER_VOICE, Utterance
from omni_diffusion.mini.unit_selection import RecordedLine, UnitSelector

SECONDS, PAUSE = 0.2, 0.02  # of a word, and of the silence that parts it from the next
TEXTS = (
    "a dog on a blue background",
    "a cat, white background",
    "two dogs on pink",
    "is there a cat?",
    "a picture of a cat over a dog on white",
)
SPOKEN = sorted({word for text in TEXTS for word in unit_selection.split_words(text)})


def sound(word: str) -> torch.Tensor:
    """A level that only this word has, then a pause."""
    level = (1 + SPOKEN.index(word)) / (len(SPOKEN) + 1)
    loud = torch.full((int(SECONDS * SPEECH_RATE),), level)
    return torch.cat([loud, torch.zeros(int(PAUSE * SPEECH_RATE))])


def wave(text: str) -> Waveform:
    return Waveform(
        torch.cat([sound(word) for word in unit_selection.split_words(text)])[None], SPEECH_RATE
    )


def cuts(text: str, error: float = 0.03) -> list[float]:
    """Measured a little off, as cuts are."""
    rng = random.Random(text)
    words = unit_selection.split_words(text)
    return [
        max(0.0, i * (SECONDS + PAUSE) - PAUSE / 2 + rng.uniform(-error, error))
        for i in range(len(words))
    ]


def words_in(heard: Waveform) -> list[str]:
    """The words of a sound, by the level of each stretch between two pauses."""
    samples = heard.samples[0]
    loud = (samples > 0.5 / (len(SPOKEN) + 1)).int()
    edges = torch.diff(loud, prepend=torch.zeros(1), append=torch.zeros(1)).nonzero().flatten()
    found = []
    for start, stop in edges.reshape(-1, 2).tolist():
        if stop - start > 0.8 * SECONDS * SPEECH_RATE:
            level = float(samples[start:stop].median())
            found.append(SPOKEN[round(level * (len(SPOKEN) + 1)) - 1])
    return found


def selector(
    texts: tuple[str, ...] = TEXTS, voice: str = "am_adam", first: int = 0
) -> UnitSelector:
    lines = [
        (Utterance(first + i, "caption", "train", voice, text), wave(text))
        for i, text in enumerate(texts)
    ]
    return UnitSelector(lines, {line.index: cuts(line.text) for line, _ in lines})


def test_a_line_is_cut_in_its_pauses() -> None:
    line = RecordedLine.of(TEXTS[0], wave(TEXTS[0]), cuts(TEXTS[0]))
    assert line.words == ("|", "a", "dog", "on", "a", "blue", "background", "|")
    whole = line.sound(0, len(line.words))
    assert torch.equal(whole, wave(TEXTS[0]).samples[0])
    for i, word in enumerate(line.words[1:-1], 1):
        assert words_in(Waveform(line.sound(i, i + 1)[None], SPEECH_RATE)) == [word]
    assert len(line.sound(0, 1)) == len(line.sound(7, 8)) == 0


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 2**32))
def test_new_sentences_say_their_words_in_order(seed: int) -> None:
    rng = random.Random(seed)
    for text in (
        "a cat on pink",
        "is there a dog on white",
        "two dogs over a cat, blue background",
    ):
        said = selector().synthesize(text, "am_adam", rng)
        assert said is not None
        assert words_in(said) == unit_selection.split_words(text)


def test_joints_fade_and_lose_nothing_else() -> None:
    said = selector().synthesize("a picture of a dog on pink", "am_adam", random.Random(0))
    assert said is not None
    assert said.rate == SPEECH_RATE
    seconds = 7 * (SECONDS + PAUSE)
    assert seconds - 7 * unit_selection.FADE - 0.1 < said.seconds < seconds + 0.1
    assert float(said.samples.abs().max()) <= 1


def test_a_sentence_is_joined_in_many_ways_and_the_same_way_for_the_same_seed() -> None:
    one = selector()

    def said(seed: int) -> tuple[float, ...]:
        heard = one.synthesize("a cat on a blue background", "am_adam", random.Random(seed))
        assert heard is not None
        return tuple(heard.samples[0].tolist())

    assert len({said(seed) for seed in range(20)}) > 1
    assert said(3) == said(3)


@pytest.mark.parametrize(
    ("text", "voice"), [("a snowman on white", "am_adam"), ("a cat on pink", "af_sky")]
)
def test_what_a_voice_has_no_words_for_is_not_said(text: str, voice: str) -> None:
    assert selector().synthesize(text, voice, random.Random(0)) is None


def test_the_plan_keeps_to_training_scenes_and_to_each_voices_words() -> None:
    chosen = [scenes.sample_scene(random.Random(i)) for i in range(60)]
    texts = {
        "am_adam": [scenes.caption(scene) for scene in chosen] + speech_plan.questions()[:40],
        ANSWER_VOICE: [scenes.caption(scene) for scene in chosen[:30]] + speech_plan.answers()[:40],
    }
    known = {
        v: {w for text in said for w in unit_selection.split_words(text)}
        for v, said in texts.items()
    }
    said = [(voice, text) for voice in texts for text in texts[voice]]
    lines = [
        (
            Utterance(i, "caption", "train", voice, text),
            Waveform(torch.ones(1, SPEECH_RATE), SPEECH_RATE),
        )
        for i, (voice, text) in enumerate(said)
    ]
    even = {
        i: [j / 20 for j in range(len(unit_selection.split_words(t)))]
        for i, (_, t) in enumerate(said)
    }
    one = UnitSelector(lines, even)
    made = [
        line
        for line, _ in unit_selection.plan_spliced(
            one, 500, captions=12, questions=6, said=9, seed=1
        )
    ]
    assert [line.index for line in made] == list(range(500, 527))
    roles = [(line.role, line.voice == ANSWER_VOICE) for line in made]
    assert roles[:18] == [("caption", False)] * 12 + [("question", False)] * 6
    assert roles[18:] == [("answer", True), ("caption", True), ("caption", True)] * 3
    assert len({line.text for line in made[:12]}) > 6
    for line in made:
        assert line.split == "train"
        assert set(unit_selection.split_words(line.text)) <= known[line.voice]
        if line.role == "caption":
            scene = scenes.parse(line.text)
            assert scene is not None
            assert not scenes.held_out(scene)


def test_cuts_there_and_back(tmp_path: Path) -> None:
    path = tmp_path / "cuts.jsonl"
    unit_selection.save_cuts({7: [0.0, 0.25], 3: [0.1]}, path)
    assert unit_selection.load_cuts(path) == {3: [0.1], 7: [0.0, 0.25]}
    path.write_text('{"a": 1}\n')
    with pytest.raises(DataError, match="no cuts"):
        unit_selection.load_cuts(path)


def test_cuts_of_other_lines_are_refused() -> None:
    with pytest.raises(DataError, match="2 cuts for the 4 words of 'is there a cat\\?'"):
        RecordedLine.of("is there a cat?", wave("is there a cat?"), [0.0, 0.2])
    line = Utterance(4, "caption", "train", "am_adam", TEXTS[0])
    with pytest.raises(DataError, match="line 4 has no cuts"):
        UnitSelector([(line, wave(TEXTS[0]))], {})
