"""The eight benchmarks of the small model: held-out samples, and how each answer is scored.

A ceiling is the score of the same judge if only the codecs are at work: no model generates better
images than the image codec can show. That of speech is of recorded sentences; phrases that are
recorded alone pass the codec better, and a model that learned from them can score above it.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial

from omni_diffusion.codecs.suite import CodecSuite
from omni_diffusion.conversation import (
    Conversation,
    Image,
    Message,
    Part,
    PartialImage,
    Speech,
    Text,
    text_of,
)
from omni_diffusion.engine.request import Request
from omni_diffusion.errors import EvaluationError
from omni_diffusion.evaluation.benchmark import Benchmark
from omni_diffusion.evaluation.scoring import Score, Scores, capped, correct
from omni_diffusion.evaluation.speech import Transcriber, word_errors
from omni_diffusion.media import Picture
from omni_diffusion.mini import scenes
from omni_diffusion.mini.judge import (
    first_part,
    score_caption,
    score_image,
    score_inpainting,
    score_text,
)
from omni_diffusion.mini.recordings import Bank, Recording
from omni_diffusion.mini.scenes import Question, Scene
from omni_diffusion.tasks.catalog import CATALOG
from omni_diffusion.tasks.infill import box, composite, inpainting

NEEDED = {  # by kind of question, the attributes of a scene that its answer depends on
    "background": ("background",),
    "presence": ("objects",),
    "count": ("layout",),
    "identity": ("layout", "objects"),
    "relation": ("layout", "objects"),
}
BALANCED = {"presence": ("yes", "no"), "count": scenes.NUMBERS[1:]}  # answers that take turns
MAX_SCENES = 20_000  # scenes drawn in search of one that suits a question


@dataclass(frozen=True, eq=False)
class Sample:
    """A conversation to answer, and the function that scores the parts of the answer.

    facts: what is asked and expected, see `Benchmark.facts`.
    """

    conversation: Conversation
    judge: Callable[[Sequence[Part]], Scores]
    facts: Mapping[str, str]


@dataclass(eq=False)
class SceneBenchmark(Benchmark[Sample]):
    """A benchmark of one task.

    steps: denoising steps of every answer; None = the model's default. relay: a second task, which
    gets the parts of the answer, and whose answer is scored; None = the answer is scored itself.
    """

    name: str
    task: str
    drawn: Sequence[Sample]
    ceiling: Sequence[Score] = ()
    steps: int | None = None
    relay: str | None = None

    def samples(self) -> Sequence[Sample]:
        """The samples in the order in which they were drawn."""
        return self.drawn

    def facts(self, sample: Sample) -> Mapping[str, str]:
        """What is asked and expected."""
        return sample.facts

    def request(self, sample: Sample) -> Request:
        """The sample's conversation as a request of the task."""
        return self._request(self.task, sample.conversation)

    def follow_up(self, sample: Sample, answer: Sequence[Part]) -> Request | None:
        """The answer as the input of the second task; None where there is none, or no answer."""
        kinds = {"text": Text, "image": Image, "speech": Speech}
        taken = () if self.relay is None else CATALOG[self.relay].inputs
        parts = [part for kind in taken for part in answer if isinstance(part, kinds[kind])]
        return None if self.relay is None or not parts else self._request(self.relay, user(*parts))

    def score(self, sample: Sample, answer: Sequence[Part]) -> Scores:
        """The scores that the sample's judge gives."""
        return sample.judge(answer)

    def _request(self, task: str, conversation: Conversation) -> Request:
        params = None if self.steps is None else {"steps": self.steps}
        return Request(task, conversation, params)


@dataclass(frozen=True, eq=False)
class EvalContext:
    """The inputs of every benchmark.

    bank: opens the recordings. transcriber: None if spoken answers cannot be transcribed. samples:
    number of samples. rng: draws them.
    """

    codecs: CodecSuite
    bank: Callable[[], Bank]
    transcriber: Transcriber | None
    seed: int
    rng: random.Random
    samples: int

    def scenes(self) -> list[Scene]:
        """Fresh scenes, each with a combination that training never showed."""
        return [scenes.sample_scene(self.rng, split="test") for _ in range(self.samples)]

    def reconstruct(self, picture: Picture, size: int) -> Picture:
        """The picture after encoding and decoding by the image codec."""
        return self.codecs.image.decode(self.codecs.image.encode(picture, size))

    def recognized_input(self, scene: Scene) -> Scene:
        """The scene recognized in an image that was encoded as an input of the model."""
        size = self.codecs.image.config.understanding_size
        return scenes.recognize_scene(self.reconstruct(scenes.render_scene(scene), size))

    def recognized_output(self, scene: Scene) -> Scene:
        """The scene recognized in a perfect output of the model."""
        size = self.codecs.image.config.generation_size
        return scenes.recognize_scene(self.reconstruct(scenes.render_scene(scene), size))

    def speech_errors(self, text: str, answer: Sequence[Part]) -> Score:
        """Word errors of the spoken part; without speech all words are errors."""
        speech = first_part(answer, Speech)
        if self.transcriber is None:
            raise EvaluationError(
                "spoken answers cannot be scored without a transcriber", field="transcriber"
            )
        transcript = self.transcriber.transcribe(speech.waveform) if speech else ""
        return word_errors(text, transcript)


# ------------------------------------------------------------------------------ images and text
def caption(context: EvalContext) -> SceneBenchmark:
    """Describe an image; any wording with the same meaning is correct."""
    chosen = context.scenes()
    samples = [
        Sample(user(Image(scenes.render_scene(s))), partial(score_caption, s), scene_facts(i, s))
        for i, s in enumerate(chosen)
    ]
    ceiling = [correct(context.recognized_input(s) == s) for s in chosen]
    return SceneBenchmark("caption", "caption", samples, ceiling)


def vqa(context: EvalContext) -> SceneBenchmark:
    """Answer a written question; kinds of question, yes and no, and counts are balanced."""
    chosen = [draw_question(context.rng, i) for i in range(context.samples)]
    samples = [
        Sample(
            user(Text(q.text), Image(scenes.render_scene(s))),
            partial(score_text, q.kind, q.answer),
            scene_facts(i, s, asked=q.text, answer=q.answer),
        )
        for i, (s, q) in enumerate(chosen)
    ]
    return SceneBenchmark("vqa", "vqa", samples, [_answerable(context, s, q) for s, q in chosen])


def t2i(context: EvalContext) -> SceneBenchmark:
    """Generate the image of a caption; every attribute has to be correct."""
    chosen = context.scenes()
    texts = [context.rng.choice(scenes.captions(scene)) for scene in chosen]
    samples = [
        Sample(user(Text(text)), partial(score_image, s), scene_facts(i, s, asked=text))
        for i, (s, text) in enumerate(zip(chosen, texts, strict=True))
    ]
    ceiling = [correct(context.recognized_output(s) == s) for s in chosen]
    return SceneBenchmark("t2i", "t2i", samples, ceiling)


def inpaint(context: EvalContext) -> SceneBenchmark:
    """Restore a hidden object; every pixel outside the hole has to stay as it was."""
    samples, ceiling = [], []
    for i, scene in enumerate(context.scenes()):
        picture = scenes.render_scene(scene)
        left, top, side = context.rng.choice(scenes.LAYOUTS[scene.layout])
        given = PartialImage(picture, box(picture, left, top, left + side, top + side))
        text = context.rng.choice(scenes.captions(scene))
        judge = partial(score_inpainting, scene, given)
        facts = scene_facts(i, scene, asked=text, hole=f"{left},{top},{side}")
        samples.append(Sample(inpainting(picture, given.hole, text), judge, facts))
        best = context.reconstruct(picture, context.codecs.image.config.generation_size)
        ceiling.append(correct(scenes.recognize_scene(composite(best, given)) == scene))
    return SceneBenchmark("inpaint", "inpaint", samples, ceiling)


# ----------------------------------------------------------------------------------------- speech
def s2i(context: EvalContext) -> SceneBenchmark:
    """Generate the image of a spoken caption."""
    samples, ceiling = [], []
    recordings = context.bank().sample("caption", context.seed, context.samples)
    for i, recording in enumerate(recordings):
        scene = scenes.parse(recording.text)
        if scene is None:
            raise EvaluationError(
                f"the bank's caption {recording.text!r} does not describe a scene; build the bank"
                " again",
                value=recording.text,
            )
        facts = scene_facts(i, scene, asked=recording.text, voice=recording.voice)
        judge = partial(score_image, scene)
        samples.append(Sample(user(Speech(recording.waveform)), judge, facts))
        ceiling.append(correct(context.recognized_output(scene) == scene))
    return SceneBenchmark("s2i", "s2i", samples, ceiling)


def svqa(context: EvalContext) -> SceneBenchmark:
    """Answer a spoken question in text, which is the value, and in speech.

    Details `speech_wer` and `speech_wer_capped`: word errors of the spoken answer, all of them and
    at most as many as the sentence has words. `speech_exact`: spoken answers without a word error.
    """
    recorded: dict[str, list[Recording]] = {}
    for recording in context.bank().sample("question", context.seed):
        recorded.setdefault(recording.text, []).append(recording)

    def judge(question: Question, answer: Sequence[Part]) -> Scores:
        scores = dict(score_text(question.kind, question.sentence, answer))
        if context.transcriber is not None:
            errors = context.speech_errors(question.sentence, answer)
            scores |= {"speech_wer": errors, "speech_wer_capped": capped(errors)}
            scores["speech_exact"] = correct(errors.amount == 0)
        return scores

    chosen = [draw_question(context.rng, i, recorded) for i in range(context.samples)]
    spoken = [context.rng.choice(recorded[question.text]) for _, question in chosen]
    samples = [
        Sample(
            user(Speech(r.waveform), Image(scenes.render_scene(s))),
            partial(judge, q),
            scene_facts(i, s, asked=q.text, answer=q.sentence, voice=r.voice),
        )
        for i, ((s, q), r) in enumerate(zip(chosen, spoken, strict=True))
    ]
    return SceneBenchmark("svqa", "svqa", samples, [_answerable(context, s, q) for s, q in chosen])


def asr_wer(context: EvalContext) -> SceneBenchmark:
    """Transcribe captions and questions in seen voices; detail `held_out_voices`: in others."""

    def judge(name: str, text: str, answer: Sequence[Part]) -> Scores:
        return {name: word_errors(text, text_of(answer))}

    half, quarter = context.samples // 2, context.samples // 4
    seen = context.bank().sample("caption", context.seed, context.samples - half)
    seen += context.bank().sample("question", context.seed, half)
    others = context.bank().sample("caption", context.seed, quarter, "held_out")
    others += context.bank().sample("question", context.seed, quarter, "held_out")
    named = [("value", r) for r in seen] + [("held_out_voices", r) for r in others]
    samples = [
        Sample(
            user(Speech(r.waveform)),
            partial(judge, name, r.text),
            {"id": str(i), "expected": r.text, "voice": r.voice},
        )
        for i, (name, r) in enumerate(named)
    ]
    return SceneBenchmark("asr_wer", "asr", samples, [Score(0, 1)])


def tts_wer(context: EvalContext) -> SceneBenchmark:
    """Speak captions of held-out scenes; the ceiling is real speech sent through the codec.

    The value counts every word error. Detail `capped`: at most as many errors as the caption has
    words, so that one endless transcript does not dominate.
    """

    def judge(text: str, answer: Sequence[Part]) -> Scores:
        errors = context.speech_errors(text, answer)
        return {"value": errors, "capped": capped(errors)}

    texts = [context.rng.choice(scenes.captions(scene)) for scene in context.scenes()]
    samples = [
        Sample(user(Text(text)), partial(judge, text), {"id": str(i), "asked": text})
        for i, text in enumerate(texts)
    ]
    codec = context.codecs.speech
    ceiling = [
        context.speech_errors(r.text, (Speech(codec.decode(codec.encode(r.waveform))),))
        for r in context.bank().sample("answer", context.seed, context.samples)
    ]
    return SceneBenchmark("tts_wer", "tts", samples, ceiling)


BENCHMARKS: dict[str, Callable[[EvalContext], SceneBenchmark]] = {
    "caption": caption,
    "vqa": vqa,
    "t2i": t2i,
    "s2i": s2i,
    "svqa": svqa,
    "inpaint": inpaint,
    "asr_wer": asr_wer,
    "tts_wer": tts_wer,
}


# -------------------------------------------------------------------------------------- questions
def user(*parts: Part) -> tuple[Message]:
    """A conversation of one message."""
    return (Message("user", parts),)


def scene_facts(i: int, scene: Scene, **more: str) -> dict[str, str]:
    """The facts of a sample about a scene."""
    return {"id": str(i), "expected": scenes.caption(scene), **more}


def draw_question(
    rng: random.Random, i: int, recorded: Mapping[str, object] | None = None
) -> tuple[Scene, Question]:
    """The i-th question and its scene; kinds take turns, as do the answers of balanced kinds.

    recorded: texts of the questions that may be drawn; None = all.
    """
    turn, index = divmod(i, len(NEEDED))
    kind = list(NEEDED)[index]
    answers = BALANCED.get(kind)
    for _ in range(MAX_SCENES):
        scene = scenes.sample_scene(rng, split="test")
        for question in scenes.questions(scene, rng):
            if (
                question.kind == kind
                and (answers is None or question.answer == answers[turn % len(answers)])
                and (recorded is None or question.text in recorded)
            ):
                return scene, question
    raise EvaluationError(
        f"the bank has too few questions of kind {kind!r}; build it again", value=kind
    )


def _answerable(context: EvalContext, scene: Scene, question: Question) -> Score:
    """Whether all that the answer depends on survives the image codec."""
    recognized = context.recognized_input(scene)
    needed = NEEDED[question.kind]
    return correct(all(getattr(recognized, n) == getattr(scene, n) for n in needed))
