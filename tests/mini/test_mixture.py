import random
from collections import Counter
from dataclasses import dataclass

import pytest
import torch
from tests.mini.scene_oracle import truth

from omni_diffusion.canvas import Canvas
from omni_diffusion.codecs.text import TextCodec
from omni_diffusion.data.mixture import TaskShare
from omni_diffusion.errors import DataError
from omni_diffusion.mini import scenes, speech_plan
from omni_diffusion.mini.encoded import EncodedSpeech, SceneCodes
from omni_diffusion.mini.mixture import TEXT_ALONE, WRITTEN, SceneMixture
from omni_diffusion.mini.phrases import PHRASES, join_phrases
from omni_diffusion.tasks.catalog import DESCRIBE, DRAW, HEAR, SPEAK, task
from omni_diffusion.tasks.read import image_ids, speech_ids, text_ids
from omni_diffusion.tasks.task import AnswerKinds
from omni_diffusion.vocab import Vocabulary

# Codes that tell what they are: a scene's four are its number in base 16, a line's first three
# its number in base 32, and every frame of a line holds the line's number.
TEXT = TextCodec.train([], 256)
VOCABULARY = Vocabulary(text_size=256, speech_size=32, image_size=16)
EVERY = scenes.every_scene()
SCENES = SceneCodes(torch.arange(len(EVERY))[:, None] // 16 ** torch.arange(4) % 16)
TAIL = 5
PICTURES = ("t2i", "caption", "vqa", "presence", "chat")
SPOKEN = ("asr", "tts", "s2i", "sqa", "svqa", "spoken_presence", "spoken_relation")


def bank(lines: list[speech_plan.Utterance]) -> EncodedSpeech:
    def codes(i: int) -> torch.Tensor:
        number = torch.tensor([i, i // 32, i // 1024]) % 32
        return torch.cat([number, torch.zeros(i % 7, dtype=torch.int64)])

    none = torch.zeros(0, dtype=torch.int64)
    return EncodedSpeech(
        tuple(lines),
        tuple(
            (torch.full((1 + i % 3, 4), i + 0.0), torch.full((2, 4), i + 0.5))
            for i in range(len(lines))
        ),
        tuple(
            codes(i) if line.voice == speech_plan.ANSWER_VOICE else none
            for i, line in enumerate(lines)
        ),
    )


BANK = bank(speech_plan.plan(0, captions=60, rounds=1))


def mixture(*names: str, null: float = 0.0, spoken: EncodedSpeech | None = BANK) -> SceneMixture:
    shares = [TaskShare(name, 2) for name in names]
    return SceneMixture(shares, VOCABULARY, TEXT, SCENES, spoken, tail=TAIL, null=null)


WORLD = mixture(*PICTURES, *SPOKEN)


@dataclass(frozen=True)
class Sample:
    """What stands on a canvas: the words of the prompt, what is heard and seen, and the answer."""

    prompt: str
    heard: speech_plan.Utterance | None
    seen: scenes.Scene | None
    answer: torch.Tensor

    @property
    def text(self) -> str:
        return TEXT.decode(text_ids(self.answer, VOCABULARY))

    @property
    def drawn(self) -> scenes.Scene:
        return scene_of(self.answer)

    @property
    def said(self) -> str:
        begins = int((self.answer == VOCABULARY.begin_of_audio).nonzero()[0])
        codes = speech_ids(self.answer[begins:], VOCABULARY)
        assert not codes[3:].any()
        number = int((codes[:3] * 32 ** torch.arange(3)).sum())
        assert len(codes) == 3 + number % 7
        return BANK.lines[number].text


def scene_of(ids: torch.Tensor) -> scenes.Scene:
    codes = image_ids(ids[VOCABULARY.image.holds(ids)], VOCABULARY)
    return EVERY[int((codes * 16 ** torch.arange(4)).sum())]


def read(canvas: Canvas) -> Sample:
    prompt, answer = canvas.ids[: canvas.answer[0]], canvas.ids[slice(*canvas.answer)]
    words = VOCABULARY.text.lower(prompt[VOCABULARY.text.holds(prompt)])
    heard = BANK.lines[int(canvas.slots[0].frames[0, 0])] if canvas.slots else None
    seen = scene_of(prompt) if bool(VOCABULARY.image.holds(prompt).any()) else None
    return Sample(TEXT.decode(words), heard, seen, answer)


def samples(name: str, count: int = 60) -> list[Sample]:
    rng = random.Random(name)
    return [read(WORLD.sample(name, rng)) for _ in range(count)]


def user(words: str) -> str:
    return f"user\n{words}\nassistant\n"


def system(name: str) -> str:
    return f"system\n{task(name).system}\n"


# ---------------------------------------------------------------------------- the truth of samples
def test_drawing_shows_what_was_asked_for() -> None:
    for sample in samples("t2i"):
        asked = sample.prompt.removeprefix(f"user\n{DRAW}").removesuffix("\nassistant\n")
        assert scenes.parse(asked) == sample.drawn
        assert sample.prompt == user(DRAW + asked)
        assert not scenes.held_out(sample.drawn)


def test_a_caption_is_the_canonical_one_of_what_is_seen() -> None:
    for sample in samples("caption"):
        assert sample.prompt == user(DESCRIBE)
        assert sample.seen is not None
        assert sample.text == scenes.caption(sample.seen)
        assert not scenes.held_out(sample.seen)


def test_answers_are_true_of_what_is_seen() -> None:
    kinds = Counter()
    for sample in samples("vqa", 120):
        question = sample.prompt.removeprefix("user\n").removesuffix("\n\nassistant\n")
        assert sample.seen is not None
        assert sample.text == truth(sample.seen, question)[0]
        assert not scenes.held_out(sample.seen)
        kinds[question.split()[1]] += 1
    assert set(kinds) == {"color", "there", "many", "is"}


def test_questions_of_presence_have_a_share_of_their_own() -> None:
    answers = Counter()
    for sample in samples("presence", 120):
        question = sample.prompt.removeprefix("user\n").removesuffix("\n\nassistant\n")
        assert sample.seen is not None
        assert question.startswith("is there ")
        assert sample.text == truth(sample.seen, question)[0]
        answers[sample.text] += 1
    assert set(answers) == {"yes", "no"}
    assert min(answers.values()) > 40


@pytest.mark.parametrize(
    ("name", "begins"), [("spoken_presence", "is there "), ("spoken_relation", "what is ")]
)
def test_spoken_questions_of_a_kind_have_a_share_of_their_own(name: str, begins: str) -> None:
    for sample in samples(name):
        assert sample.prompt == system("svqa") + user("\n")
        assert sample.heard is not None
        assert sample.seen is not None
        assert sample.heard.text.startswith(begins)
        assert sample.seen.uniform is False or name == "spoken_presence"
        assert sample.text == sample.said == truth(sample.seen, sample.heard.text)[1]


def test_the_text_of_a_spoken_answer_can_be_trained_alone() -> None:
    world, rng = mixture(*TEXT_ALONE), random.Random(0)
    for name in TEXT_ALONE:
        for _ in range(20):
            canvas = world.sample(name, rng)
            start, stop = canvas.answer
            assert canvas.ids[stop] == VOCABULARY.begin_of_audio
            assert set(canvas.ids[stop + 1 :].tolist()) == {VOCABULARY.mask}
            sample = read(canvas)
            assert sample.heard is not None
            assert sample.seen is not None
            text = TEXT.decode(text_ids(canvas.ids[start:stop], VOCABULARY))
            assert text == truth(sample.seen, sample.heard.text)[1]
            kind = name.removeprefix("svqa_text").removeprefix("_")
            begins = {"presence": "is there ", "relation": "what is "}.get(kind, "")
            assert sample.heard.text.startswith(begins)


def test_chat_tells_facts() -> None:
    facts = {user(fact.text): fact.sentence for fact in scenes.facts()}
    for sample in samples("chat"):
        assert sample.text == facts[sample.prompt]


def test_what_is_heard_is_written() -> None:
    roles = set()
    for sample in samples("asr"):
        assert sample.prompt == user(HEAR)
        assert sample.heard is not None
        assert sample.text == sample.heard.text
        assert sample.heard.split == "train"
        roles.add(sample.heard.role)
    assert roles == {"caption", "question"}


def test_what_is_written_is_said() -> None:
    for sample in samples("tts"):
        assert sample.prompt == user(SPEAK + sample.said)


def test_a_spoken_description_is_drawn() -> None:
    for sample in samples("s2i"):
        assert sample.prompt == system("s2i") + user("\n")
        assert sample.heard is not None
        assert scenes.parse(sample.heard.text) == sample.drawn
        assert not scenes.held_out(sample.drawn)


def test_a_spoken_question_is_answered_in_text_and_speech() -> None:
    facts = {fact.text: fact.sentence for fact in scenes.facts()}
    for sample in samples("sqa"):
        assert sample.prompt == system("sqa") + user("\n")
        assert sample.heard is not None
        assert sample.text == sample.said == facts[sample.heard.text]


def test_a_spoken_question_about_a_picture_is_answered_truly() -> None:
    for sample in samples("svqa"):
        assert sample.prompt == system("svqa") + user("\n")
        assert sample.heard is not None
        assert sample.seen is not None
        assert sample.text == sample.said == truth(sample.seen, sample.heard.text)[1]
        assert not scenes.held_out(sample.seen)


def test_the_answer_is_given_and_its_tail_varies() -> None:
    rng = random.Random(0)
    tails: dict[str, set[int]] = {}
    for name in (*PICTURES, *SPOKEN):
        for _ in range(40):
            canvas = WORLD.sample(name, rng)
            assert canvas.blanks == 0
            assert canvas.answer[1] == canvas.length
            pads = canvas.ids == VOCABULARY.pad
            assert not pads[: canvas.answer[0]].any()
            closed = int((canvas.ids == VOCABULARY.im_end).nonzero()[-1])
            tails.setdefault(name, set()).add(int(pads[closed:].sum()))
    for name in ("caption", "vqa", "chat", "asr", "tts"):
        assert tails[name] == set(range(1, TAIL + 1))
    for name in ("t2i", "s2i"):
        assert tails[name] == {0}


def test_every_way_a_line_was_heard_is_used() -> None:
    rng = random.Random(0)
    frames = [WORLD.sample("asr", rng).slots[0].frames[0, 0] for _ in range(60)]
    assert {float(value % 1) for value in frames} == {0.0, 0.5}


def test_with_phrases_a_text_is_always_said_with_the_same_codes() -> None:
    takes = {phrase: torch.tensor([i // 32, i % 32]) for i, phrase in enumerate(PHRASES)}
    shares = [TaskShare(name, 1) for name in ("tts", "sqa", "svqa")]
    mix = SceneMixture(shares, VOCABULARY, TEXT, SCENES, BANK, tail=TAIL, phrases=takes)
    rng = random.Random(0)
    texts = set()
    for name in ("tts", "sqa", "svqa"):
        for _ in range(60):
            canvas = mix.sample(name, rng)
            answer = canvas.ids[slice(*canvas.answer)]
            text = TEXT.decode(text_ids(answer, VOCABULARY))
            if name == "tts":
                asked = read(canvas).prompt.removeprefix(f"user\n{SPEAK}")
                text = asked.removesuffix("\nassistant\n")
            begins = int((answer == VOCABULARY.begin_of_audio).nonzero()[0])
            codes = speech_ids(answer[begins:], VOCABULARY)
            assert codes.tolist() == join_phrases(text, takes).tolist()
            texts.add(text)
    assert len(texts - {line.text for line in BANK.lines}) > 20  # sentences that nobody recorded
    mix.phrases = {}  # a plan without phrases is no reason to speak from recordings
    with pytest.raises(DataError, match="record the phrases"):
        mix.sample("sqa", rng)


# ------------------------------------------------------------------------------------------ drawing
def drawn(mix: SceneMixture, seed: int) -> list[list[list[int]]]:
    groups = mix.draw(0, torch.Generator().manual_seed(seed))
    return [[canvas.ids.tolist() for canvas in group.canvases] for group in groups]


def test_a_draw_depends_on_the_generator_alone() -> None:
    mix = mixture(*PICTURES, *SPOKEN, null=0.5)
    random.seed(1)
    first = drawn(mix, 5)
    drawn(mix, 6)  # what was drawn before does not matter, nor do the global generators
    random.seed(2)
    torch.manual_seed(2)
    assert drawn(mix, 5) == first
    assert drawn(mixture(*PICTURES, *SPOKEN, null=0.5), 5) == first
    assert drawn(mix, 7) != first


def test_a_draw_goes_on_with_its_generator() -> None:
    generator = torch.Generator().manual_seed(0)
    first, second = (WORLD.draw(0, generator)[0].canvases[0].ids.tolist() for _ in range(2))
    assert first != second


def test_groups_follow_the_shares() -> None:
    mix = SceneMixture([TaskShare("chat", 3, 0.1), TaskShare("t2i", 1)], VOCABULARY, TEXT, SCENES)
    groups = mix.draw(0, torch.Generator())
    assert [(g.name, g.weight, len(g.canvases)) for g in groups] == [
        ("chat", 0.1, 3),
        ("t2i", 1.0, 1),
    ]


def test_answers_get_the_room_that_they_have_at_inference() -> None:
    lengths = {"vqa": (0.0, 60), "tts": (9.0, 7), "svqa": (0.0, 3)}
    shares = [TaskShare(name, 1) for name in lengths]
    mix = SceneMixture(shares, VOCABULARY, TEXT, SCENES, BANK, tail=4, lengths=lengths)

    def answers(name: str) -> list[tuple[int, int]]:
        drawn = [mix.sample(name, random.Random(i)) for i in range(60)]
        asked = [len(TEXT.encode(read(canvas).prompt.split("\n")[2])) for canvas in drawn]
        spans = [canvas.answer for canvas in drawn]
        return [(n, stop - start) for n, (start, stop) in zip(asked, spans, strict=True)]

    assert {places for _, places in answers("vqa")} == {58, 59, 60, 61, 62}
    assert {places - 9 * n for n, places in answers("tts")} == {5, 6, 7, 8, 9}
    # an answer that does not fit is as long as it has to be
    assert min(places for _, places in answers("svqa")) > 8


def test_what_is_heard_may_be_written_before_it_is_drawn() -> None:
    shares = [TaskShare("s2i", 1)]
    answers: dict[str, AnswerKinds] = {"s2i": ("text", "image")}
    mix = SceneMixture(shares, VOCABULARY, TEXT, SCENES, BANK, tail=4, answers=answers, null=1.0)
    rng = random.Random(0)
    canvases = [mix.sample("s2i", rng) for _ in range(200)]
    others = 0
    pictures = 0
    for canvas in canvases:
        sample = read(canvas)
        assert sample.heard is not None
        start, stop = canvas.answer
        if canvas.ids[start] == VOCABULARY.begin_of_image:  # the text is given before it
            written = sample.prompt.split("assistant\n")[-1]
            assert sample.drawn == scenes.parse(written)
            assert canvas.ids[stop - 3] == VOCABULARY.end_of_image
            others += written != sample.heard.text
            pictures += 1
        else:  # the text is asked while its picture is hidden
            assert sample.text == sample.heard.text
            assert canvas.ids[stop:].unique().tolist() == [VOCABULARY.mask]
            assert canvas.length - stop == 4 + 2 + 2
    assert others > 80  # the sound is another line's: only the text tells
    assert pictures / len(canvases) == pytest.approx(WRITTEN, abs=0.1)


def test_distortion_changes_what_is_heard_and_nothing_else() -> None:
    line = speech_plan.Utterance(0, "caption", "train", "am_adam", "a dog on a blue background")
    frames = torch.randn(40, 4, generator=torch.Generator().manual_seed(0))
    one = EncodedSpeech((line,), ((frames,),), (torch.zeros(0, dtype=torch.int64),))

    def heard(augment: bool, seed: int) -> torch.Tensor:
        mix = SceneMixture([TaskShare("asr", 1)], VOCABULARY, TEXT, SCENES, one, augment=augment)
        canvas = mix.sample("asr", random.Random(seed))
        answer = canvas.ids[slice(*canvas.answer)]
        assert TEXT.decode(text_ids(answer, VOCABULARY)) == line.text
        return canvas.slots[0].frames

    assert torch.equal(heard(False, 0), frames)
    changed = [heard(True, seed) for seed in range(30)]
    assert torch.equal(changed[0], heard(True, 0))
    assert 36 < sum(map(len, changed)) / 30 < 40  # a twentieth is left out
    kept = [rows for rows in changed if len(rows) == 40]
    for rows in kept:
        assert 0 < float((rows - frames).square().mean()) < 0.5
    flat = [float((rows[1:] - rows[:-1]).abs().amin()) == 0 for rows in changed]
    assert 5 < sum(flat) < 20  # a gap longer than a frame, in some


@pytest.mark.slow
@pytest.mark.parametrize("name", ["t2i", "s2i"])
def test_some_pictures_are_drawn_for_no_words(name: str) -> None:
    mix, rng = mixture(name, null=0.1), random.Random(0)
    canvases = [mix.sample(name, rng) for _ in range(600)]
    nothing = user(task(name).null_prompt)
    null = [read(c) for c in canvases if read(c).prompt.endswith(nothing) and not c.slots]
    assert len(null) / 600 == pytest.approx(0.1, abs=0.04)
    assert len({sample.drawn for sample in null}) > len(null) / 2  # still pictures of all kinds


def test_only_pictures_are_asked_for_with_no_words() -> None:
    mix, rng = mixture("caption", "asr", null=1.0), random.Random(0)
    assert read(mix.sample("caption", rng)).seen is not None
    assert read(mix.sample("asr", rng)).heard is not None


# ------------------------------------------------------------------------------------------- errors
def test_an_unknown_task_is_named() -> None:
    with pytest.raises(DataError, match="'inpaint'; give one of t2i, caption"):
        mixture("t2i", "inpaint")


@pytest.mark.parametrize("name", SPOKEN)
def test_spoken_tasks_need_the_bank(name: str) -> None:
    with pytest.raises(DataError, match="`spoken`"):
        mixture("t2i", name, spoken=None)


@pytest.mark.parametrize("name", SPOKEN)
def test_a_bank_without_a_tasks_lines_is_refused(name: str) -> None:
    tested = bank([line for line in BANK.lines if line.split == "test"])
    with pytest.raises(DataError, match=f"task '{name}'"):
        mixture(name, spoken=tested).draw(0, torch.Generator())
