"""The eight exams of the small world: fresh held-out samples, and how each answer is judged.

A ceiling is what the same judge says when the codecs alone are at work: nobody paints better than
the picture codec can show, nobody speaks better than the speech codec.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial

from omni_diffusion.codecs.suite import CodecSuite
from omni_diffusion.conversation import Image, Message, Part, Speech, Text
from omni_diffusion.errors import EvaluationError
from omni_diffusion.evaluation.scoring import Mark, right
from omni_diffusion.evaluation.speech import Recogniser, word_errors
from omni_diffusion.media import Picture
from omni_diffusion.mini import scenes
from omni_diffusion.mini.judge import (
    Marks,
    answered,
    described,
    first,
    restored,
    shown,
    text_of,
)
from omni_diffusion.mini.recordings import Bank, Recording
from omni_diffusion.mini.scenes import Question, Scene
from omni_diffusion.tasks.encode import Spoken
from omni_diffusion.tasks.infill import box, composite, inpainting
from omni_diffusion.tasks.parts import PartialImage

NEEDED = {  # the kinds of question, and what of a scene has to be seen to answer
    "background": ("background",),
    "presence": ("objects",),
    "count": ("layout",),
    "identity": ("layout", "objects"),
    "relation": ("layout", "objects"),
}
BALANCED = {"presence": ("yes", "no"), "count": scenes.NUMBERS[1:]}  # answers asked for in turn
PATIENCE = 20_000  # scenes looked through for one that suits a question


@dataclass(frozen=True, eq=False)
class Trial:
    """One conversation to answer, and what the parts of the answer are worth."""

    conversation: Sequence[Spoken]
    judge: Callable[[Sequence[Part]], Marks]


@dataclass(frozen=True, eq=False)
class Exam:
    """All trials of one task, and the marks that the codecs alone would get."""

    task: str
    trials: Sequence[Trial]
    ceiling: Sequence[Mark]


@dataclass(frozen=True, eq=False)
class Setting:
    """What an exam is made from.

    bank: opens the recordings. recogniser: None where nobody can judge spoken answers.
    """

    codecs: CodecSuite
    bank: Callable[[], Bank]
    recogniser: Recogniser | None
    seed: int
    rng: random.Random
    samples: int

    def scenes(self) -> list[Scene]:
        """Fresh scenes, each with something that training never showed."""
        return [scenes.sample_scene(self.rng, split="test") for _ in range(self.samples)]

    def coded(self, picture: Picture, size: int) -> Picture:
        """The picture as the picture codec shows it."""
        return self.codecs.image.decode(self.codecs.image.encode(picture, size))

    def seen(self, scene: Scene) -> Scene:
        """What a scene is taken for once its picture has become codes that are looked at."""
        size = self.codecs.image.config.understanding_size
        return scenes.look(self.coded(scenes.render(scene), size))

    def painted(self, scene: Scene) -> Scene:
        """What a scene is taken for that is painted without a mistake."""
        size = self.codecs.image.config.generation_size
        return scenes.look(self.coded(scenes.render(scene), size))

    def errors(self, text: str, parts: Sequence[Part]) -> Mark:
        """Word errors of the spoken part; no speech leaves out every word."""
        spoken = first(parts, Speech)
        if self.recogniser is None:
            raise EvaluationError("nobody is there to hear spoken answers; give a recogniser")
        heard = self.recogniser.transcribe(spoken.waveform) if spoken else ""
        return word_errors(text, heard)


# ------------------------------------------------------------------------------ pictures and text
def caption(setting: Setting) -> Exam:
    """Describe a picture; any wording of the same meaning is right."""
    chosen = setting.scenes()
    trials = [Trial(_user(Image(scenes.render(s))), partial(described, s)) for s in chosen]
    return Exam("caption", trials, [right(setting.seen(s) == s) for s in chosen])


def vqa(setting: Setting) -> Exam:
    """Answer a written question; kinds of question, yes and no, and counts are balanced."""
    asked = [_ask(setting.rng, i) for i in range(setting.samples)]
    trials = [
        Trial(_user(Text(q.text), Image(scenes.render(s))), partial(answered, q.kind, q.answer))
        for s, q in asked
    ]
    return Exam("vqa", trials, [_answerable(setting, s, q) for s, q in asked])


def t2i(setting: Setting) -> Exam:
    """Paint what a caption says; every attribute has to be right."""
    chosen = setting.scenes()
    trials = [
        Trial(_user(Text(setting.rng.choice(scenes.captions(s)))), partial(shown, s))
        for s in chosen
    ]
    return Exam("t2i", trials, [right(setting.painted(s) == s) for s in chosen])


def inpaint(setting: Setting) -> Exam:
    """Paint a hidden object again; it has to be right, and every pixel outside as it was."""
    trials, ceiling = [], []
    for scene in setting.scenes():
        picture = scenes.render(scene)
        left, top, side = setting.rng.choice(scenes.LAYOUTS[scene.layout])
        given = PartialImage(picture, box(picture, left, top, left + side, top + side))
        text = setting.rng.choice(scenes.captions(scene))
        trials.append(Trial(inpainting(picture, given.hole, text), partial(restored, scene, given)))
        best = setting.coded(picture, setting.codecs.image.config.generation_size)
        ceiling.append(right(scenes.look(composite(best, given)) == scene))
    return Exam("inpaint", trials, ceiling)


# ----------------------------------------------------------------------------------------- speech
def s2i(setting: Setting) -> Exam:
    """Paint what a spoken caption says."""
    trials, ceiling = [], []
    for recording in setting.bank().sample("caption", setting.seed, setting.samples):
        scene = scenes.parse(recording.text)
        if scene is None:
            raise EvaluationError(f"the bank's caption {recording.text!r} is none; build it again")
        trials.append(Trial(_user(Speech(recording.waveform)), partial(shown, scene)))
        ceiling.append(right(setting.painted(scene) == scene))
    return Exam("s2i", trials, ceiling)


def svqa(setting: Setting) -> Exam:
    """Answer a spoken question in text, which counts, and in speech, whose word errors are told."""
    spoken: dict[str, list[Recording]] = {}
    for recording in setting.bank().sample("question", setting.seed):
        spoken.setdefault(recording.text, []).append(recording)

    def judge(question: Question, parts: Sequence[Part]) -> Marks:
        marks = dict(answered(question.kind, question.sentence, parts))
        if setting.recogniser is not None:
            marks["speech_wer"] = setting.errors(question.sentence, parts)
        return marks

    asked = [_ask(setting.rng, i, spoken) for i in range(setting.samples)]
    trials = [
        Trial(
            _user(Speech(setting.rng.choice(spoken[q.text]).waveform), Image(scenes.render(s))),
            partial(judge, q),
        )
        for s, q in asked
    ]
    return Exam("svqa", trials, [_answerable(setting, s, q) for s, q in asked])


def asr_wer(setting: Setting) -> Exam:
    """Write down captions and questions in seen voices; held-out voices are told apart."""

    def judge(name: str, text: str, parts: Sequence[Part]) -> Marks:
        return {name: word_errors(text, text_of(parts))}

    half, quarter = setting.samples // 2, setting.samples // 4
    seen = setting.bank().sample("caption", setting.seed, setting.samples - half)
    seen += setting.bank().sample("question", setting.seed, half)
    others = setting.bank().sample("caption", setting.seed, quarter, "held_out")
    others += setting.bank().sample("question", setting.seed, quarter, "held_out")
    named = [("value", r) for r in seen] + [("held_out_voices", r) for r in others]
    trials = [Trial(_user(Speech(r.waveform)), partial(judge, name, r.text)) for name, r in named]
    return Exam("asr", trials, [Mark(0, 1)])


def tts_wer(setting: Setting) -> Exam:
    """Speak captions of held-out scenes; the ceiling is real speech sent through the codec."""

    def judge(text: str, parts: Sequence[Part]) -> Marks:
        return {"value": setting.errors(text, parts)}

    texts = [setting.rng.choice(scenes.captions(scene)) for scene in setting.scenes()]
    trials = [Trial(_user(Text(text)), partial(judge, text)) for text in texts]
    codec = setting.codecs.speech
    ceiling = [
        setting.errors(r.text, (Speech(codec.decode(codec.encode(r.waveform))),))
        for r in setting.bank().sample("answer", setting.seed, setting.samples)
    ]
    return Exam("tts", trials, ceiling)


EXAMS: dict[str, Callable[[Setting], Exam]] = {
    "caption": caption,
    "vqa": vqa,
    "t2i": t2i,
    "s2i": s2i,
    "svqa": svqa,
    "inpaint": inpaint,
    "asr_wer": asr_wer,
    "tts_wer": tts_wer,
}


# ---------------------------------------------------------------------------------------- asking
def _user(*parts: Part) -> tuple[Message]:
    return (Message("user", parts),)


def _ask(
    rng: random.Random, i: int, spoken: Mapping[str, object] | None = None
) -> tuple[Scene, Question]:
    """The i-th question and its scene; kinds take turns, as do the answers of balanced kinds.

    spoken: the questions that there are recordings of, if it has to be one of them.
    """
    turn, place = divmod(i, len(NEEDED))
    kind = list(NEEDED)[place]
    answers = BALANCED.get(kind)
    for _ in range(PATIENCE):
        scene = scenes.sample_scene(rng, split="test")
        for question in scenes.questions(scene, rng):
            if (
                question.kind == kind
                and (answers is None or question.answer == answers[turn % len(answers)])
                and (spoken is None or question.text in spoken)
            ):
                return scene, question
    raise EvaluationError(f"the bank speaks too few questions of kind {kind!r}; build it again")


def _answerable(setting: Setting, scene: Scene, question: Question) -> Mark:
    seen = setting.seen(scene)
    return right(all(getattr(seen, n) == getattr(scene, n) for n in NEEDED[question.kind]))
