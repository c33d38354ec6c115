"""Training samples about scenes, one task at a time, laid out by the same `render` as inference.

A mixture says how many samples of which task a step holds; the three stages differ in that.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial

import torch
from torch import Tensor

from omni_diffusion.canvas import Canvas
from omni_diffusion.codecs.text import TextCodec
from omni_diffusion.conversation import Codes, EncodedPart, Frames, Text, Turn
from omni_diffusion.data.mixture import DrawnCanvas, TaskGroup, TaskShare, sample_slots
from omni_diffusion.errors import DataError
from omni_diffusion.mini import scenes, speech_plan
from omni_diffusion.mini.encoded import EncodedSpeech, SceneCodes
from omni_diffusion.mini.phrases import join_phrases
from omni_diffusion.tasks import catalog
from omni_diffusion.tasks.defaults import answer_length
from omni_diffusion.tasks.render import layout_training
from omni_diffusion.tasks.task import AnswerKinds
from omni_diffusion.vocab import Vocabulary

SPEECH = ("asr", "tts", "s2i", "sqa", "svqa")  # tasks that need recordings
TRIES = 1000  # scenes drawn in search of one with a recorded question
WRITTEN = 0.5  # fraction of text-and-image answers whose text is given and the image masked
LOST = 0.05  # fraction of speech frames that are dropped
GAP, GAPS = 4, 0.5  # longest gap in frames, fraction of recordings with one
NOISE = 0.15  # highest noise level, relative to the standard deviation of the frames
# Parts of a task as shares of their own, such as questions of one kind: they are learned last, and
# their loss and accuracy are reported apart.
# In text, a caption stands for the picture: comparing nouns is learned there with fewer tokens.
TASK_OF_SHARE = {
    "presence": "vqa",
    "spoken_presence": "svqa",
    "spoken_relation": "svqa",
    "text_presence": "chat",
    "svqa_text": "svqa",
    "svqa_text_presence": "svqa",
    "svqa_text_relation": "svqa",
}
# Of these only the text is trained, with the speech masked: it decides whether the answer is right,
# and is a tenth of its tokens.
TEXT_ALONE = ("svqa_text", "svqa_text_presence", "svqa_text_relation")


class SceneMixture:
    """Draws the groups of a step; what it draws depends on the step and its generator alone.

    tail: most pads behind an answer (the number is drawn evenly from 1). lengths: by task, the
    numbers of the rule by which the model gives an answer its length at inference; an answer that
    fits gets as many here, give or take half a tail. answers: by task, what an answer is made of
    where it differs from the task's own. null: share of the drawn pictures that are
    asked for with the null prompt, which guidance needs. augment: change what is heard a little
    each time, so that lines are not known by their sound. phrases: by phrase, the codes from which
    spoken answers are joined (default: the codes of recordings and spliced sentences).
    """

    def __init__(
        self,
        shares: Sequence[TaskShare],
        vocabulary: Vocabulary,
        text: TextCodec,
        scene_codes: SceneCodes,
        spoken: EncodedSpeech | None = None,
        *,
        tail: int = 16,
        lengths: Mapping[str, tuple[float, int]] | None = None,
        answers: Mapping[str, AnswerKinds] | None = None,
        null: float = 0.1,
        augment: bool = False,
        phrases: Mapping[str, Tensor] | None = None,
        rank: int = 0,
        ranks: int = 1,
    ) -> None:
        self.shares, self.vocabulary, self.text = tuple(shares), vocabulary, text
        self.scene_codes, self.spoken, self.tail, self.null = scene_codes, spoken, tail, null
        self.lengths, self.answers = dict(lengths or {}), dict(answers or {})
        self.augment, self.phrases, self.rank, self.ranks = augment, phrases, rank, ranks
        self._makers: dict[
            str, Callable[[random.Random], tuple[list[EncodedPart], list[EncodedPart]]]
        ] = {
            "t2i": self._t2i,
            "caption": self._caption,
            "vqa": self._vqa,
            "presence": partial(self._vqa, kind="presence"),
            "chat": self._chat,
            "asr": self._asr,
            "tts": self._tts,
            "s2i": self._s2i,
            "sqa": self._sqa,
            "svqa": self._svqa,
            "spoken_presence": partial(self._svqa, kind="presence"),
            "spoken_relation": partial(self._svqa, kind="relation"),
            "svqa_text": self._svqa,
            "svqa_text_presence": partial(self._svqa, kind="presence"),
            "svqa_text_relation": partial(self._svqa, kind="relation"),
            "text_presence": self._text_presence,
        }
        for share in shares:
            if share.task not in self._makers:
                raise DataError(
                    f"no samples of task {share.task!r}; give one of {', '.join(self._makers)}",
                    field="shares",
                    value=share.task,
                )
        if spoken is None and any(TASK_OF_SHARE.get(s.task, s.task) in SPEECH for s in shares):
            raise DataError("speech tasks need recordings; give `spoken`", field="spoken")
        self._facts = scenes.facts()
        if spoken is not None:
            self._index(spoken)
            self._check_bank()

    def draw(self, step: int, generator: torch.Generator) -> list[TaskGroup]:
        """This process's groups of a step."""
        return [
            TaskGroup(
                share.task,
                weight,
                of,
                [
                    DrawnCanvas(
                        self.sample(share.task, slot.rng), slot.rng.getrandbits(62), slot.index
                    )
                    for slot in own
                ],
            )
            for share, weight, of, own in sample_slots(
                self.shares, step, generator, self.rank, self.ranks
            )
        ]

    def sample(self, name: str, rng: random.Random) -> Canvas:
        """One sample of a share as a canvas whose answer is given."""
        task = catalog.task(TASK_OF_SHARE.get(name, name)).answering(self.answers)
        double = task.answer == ("text", "image")
        written = double and rng.random() < WRITTEN
        asked, answered = self._written(rng) if written else self._makers[name](rng)
        picture = task.answer == ("image",)
        min_length, user = 0, Turn("user", tuple(asked))
        if task.name in self.lengths:
            half = self.tail // 2
            length = answer_length(task.length, (user,), self.text, self.lengths[task.name])
            min_length = length + rng.randint(-half, half)
        canvas = layout_training(
            task,
            (user, Turn("assistant", tuple(answered))),
            self.vocabulary,
            self.text,
            tail=0 if picture else rng.randint(1, self.tail),
            min_length=min_length,
            null=picture and rng.random() < self.null,
        )
        if name in TEXT_ALONE:
            opener = _last(canvas, self.vocabulary.begin_of_audio)
            # it stays visible, because inference places it beforehand
            return self._text_alone(canvas, opener, opener + 1)
        return self._half(canvas, written) if double else canvas

    def _half(self, canvas: Canvas, written: bool) -> Canvas:
        """Train one half of a text-and-image answer: the image, or the text with the image masked.

        A visible image would reveal the text, and the model would not listen to the speech.
        """
        opener = _last(canvas, self.vocabulary.begin_of_image)
        if written:
            return replace(canvas, answer=(opener, canvas.answer[1]))
        return self._text_alone(canvas, opener, opener)

    def _text_alone(self, canvas: Canvas, end: int, masked_from: int) -> Canvas:
        """Train an answer up to `end` alone, masked from `masked_from` on as when it is written."""
        start, stop = canvas.answer
        ids = canvas.ids.clone()
        ids[masked_from:stop] = self.vocabulary.mask
        return replace(canvas, ids=ids, answer=(start, end))

    # ------------------------------------------------------------------------- text and pictures
    def _picture(self, scene: scenes.Scene) -> Codes:
        return Codes("image", self.scene_codes.of(scene))

    def _t2i(self, rng: random.Random) -> tuple[list[EncodedPart], list[EncodedPart]]:
        scene = scenes.sample_scene(rng)
        return [Text(rng.choice(scenes.captions(scene)))], [self._picture(scene)]

    def _caption(self, rng: random.Random) -> tuple[list[EncodedPart], list[EncodedPart]]:
        scene = scenes.sample_scene(rng)
        return [self._picture(scene)], [Text(scenes.caption(scene))]

    def _vqa(
        self, rng: random.Random, *, kind: str | None = None
    ) -> tuple[list[EncodedPart], list[EncodedPart]]:
        scene = scenes.sample_scene(rng)
        question = rng.choice(_questions(scene, rng, kind))
        return [Text(question.text), self._picture(scene)], [Text(question.answer)]

    def _chat(self, rng: random.Random) -> tuple[list[EncodedPart], list[EncodedPart]]:
        question = rng.choice(self._facts)
        return [Text(question.text)], [Text(question.sentence)]

    def _text_presence(self, rng: random.Random) -> tuple[list[EncodedPart], list[EncodedPart]]:
        scene = scenes.sample_scene(rng)
        question = rng.choice(_questions(scene, rng, "presence"))
        caption = rng.choice(scenes.captions(scene))
        return [Text(f"{question.text} {caption}")], [Text(question.answer)]

    # ------------------------------------------------------------------------------------ speech
    def _index(self, spoken: EncodedSpeech) -> None:
        """Index the lines by use, and questions and answers by text."""
        self._heard = spoken.where("caption", "train") + spoken.where("question", "train")
        self._said = spoken.where("caption", "train", with_codes=True)
        self._said += spoken.where("answer", "train", with_codes=True)
        self._described = [
            (i, scene)
            for i in spoken.where("caption", "train")
            if (scene := scenes.parse(spoken.lines[i].text)) is not None
        ]
        self._questions: dict[str, list[int]] = {}
        for i in spoken.where("question", "train"):
            self._questions.setdefault(spoken.lines[i].text, []).append(i)
        self._answers: dict[str, list[int]] = {}
        for i in spoken.where("answer", "train", with_codes=True):
            self._answers.setdefault(spoken.lines[i].text, []).append(i)
        self._spoken_facts = [q for q in self._facts if self._speakable(q)]

    def _check_bank(self) -> None:
        """Raise DataError if the recordings are incomplete and a task has no lines."""
        lines: dict[str, Sequence[object]] = {
            "asr": self._heard,
            "tts": self._said,
            "s2i": self._described,
            "sqa": self._spoken_facts,
        }
        for share in self.shares:
            if not lines.get(share.task, True):
                raise _unspoken(share.task)

    def _speakable(self, question: scenes.Question) -> bool:
        return question.text in self._questions and question.sentence in self._answers

    def _bank(self) -> EncodedSpeech:
        assert self.spoken is not None  # checked when the mixture was made
        return self.spoken

    def _frames(self, line: int, rng: random.Random) -> Frames:
        frames = rng.choice(self._bank().frames[line])
        return Frames(_augmented(frames, rng) if self.augment else frames)

    def _codes(self, line: int) -> Codes:
        """The codes of a line's text joined from phrases, else of the line."""
        bank = self._bank()
        if self.phrases is not None:
            return Codes("speech", join_phrases(bank.lines[line].text, self.phrases))
        return Codes("speech", bank.codes[line])

    def _asr(self, rng: random.Random) -> tuple[list[EncodedPart], list[EncodedPart]]:
        line = rng.choice(self._heard)
        return [self._frames(line, rng)], [Text(self._bank().lines[line].text)]

    def _tts(self, rng: random.Random) -> tuple[list[EncodedPart], list[EncodedPart]]:
        if self.phrases is not None:
            text = speech_plan.sentence(rng)
            return [Text(text)], [Codes("speech", join_phrases(text, self.phrases))]
        line = rng.choice(self._said)
        return [Text(self._bank().lines[line].text)], [self._codes(line)]

    def _s2i(self, rng: random.Random) -> tuple[list[EncodedPart], list[EncodedPart]]:
        line, scene = rng.choice(self._described)
        written = "text" in self.answers.get("s2i", ())
        text = [Text(self._bank().lines[line].text)] if written else []
        return [self._frames(line, rng)], [*text, self._picture(scene)]

    def _written(self, rng: random.Random) -> tuple[list[EncodedPart], list[EncodedPart]]:
        """An image after a given text; the speech is of another line, so only the text helps.

        With speech of the same line the model could recall the image and not read the text.
        """
        scene = scenes.sample_scene(rng)
        text = Text(rng.choice(scenes.captions(scene)))
        return [self._frames(rng.choice(self._heard), rng)], [text, self._picture(scene)]

    def _spoken_pair(
        self, question: scenes.Question, rng: random.Random
    ) -> tuple[Frames, list[EncodedPart]]:
        asked = self._frames(rng.choice(self._questions[question.text]), rng)
        answer = rng.choice(self._answers[question.sentence])
        return asked, [Text(question.sentence), self._codes(answer)]

    def _sqa(self, rng: random.Random) -> tuple[list[EncodedPart], list[EncodedPart]]:
        asked, answered = self._spoken_pair(rng.choice(self._spoken_facts), rng)
        return [asked], answered

    def _svqa(
        self, rng: random.Random, *, kind: str | None = None
    ) -> tuple[list[EncodedPart], list[EncodedPart]]:
        for _ in range(TRIES):
            scene = scenes.sample_scene(rng)
            found = [q for q in _questions(scene, rng, kind) if self._speakable(q)]
            if found:
                asked, answered = self._spoken_pair(rng.choice(found), rng)
                return [asked, self._picture(scene)], answered
        raise _unspoken(f"spoken_{kind}" if kind else "svqa")


def _last(canvas: Canvas, token: int) -> int:
    """The last position of a token."""
    return int((canvas.ids == token).nonzero()[-1])


def _questions(scene: scenes.Scene, rng: random.Random, kind: str | None) -> list[scenes.Question]:
    """Questions about a scene: of all kinds, or those of one, if it has any."""
    every = scenes.questions(scene, rng)
    return [question for question in every if question.kind == kind or kind is None]


def _augmented(frames: Tensor, rng: random.Random) -> Tensor:
    """Frames [n, dim] with dropped frames, noise and sometimes a gap."""
    generator = torch.Generator().manual_seed(rng.getrandbits(62))
    kept = frames[torch.rand(len(frames), generator=generator) >= LOST]
    if len(kept) == 0:
        return frames
    level = NOISE * rng.random() * kept.std(correction=0)
    noisy = kept + level * torch.randn(kept.shape, generator=generator)
    if rng.random() < GAPS:
        start = rng.randrange(len(kept))
        noisy[start : start + rng.randint(1, GAP)] = kept.mean(0)
    return noisy


def _unspoken(task: str) -> DataError:
    return DataError(
        f"no recorded training lines for task {task!r}; record and encode more",
        value=task,
    )
