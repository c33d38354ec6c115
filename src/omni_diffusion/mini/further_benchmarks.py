"""Benchmarks of the small world after well-known ones, and round trips through the model itself.

`presence` is scored as POPE, `attributes` as GenEval (a prompt is judged by one attribute, and the
value is the mean of the kinds), `utterance_wer` as Seed-TTS (the mean of the utterances' rates). A
round trip needs no labels: what comes back is compared with what was sent.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping, Sequence
from functools import partial

from omni_diffusion.conversation import Image, Message, Part, Speech, Text, text_of
from omni_diffusion.evaluation.scoring import BenchmarkResult, Score, Scores, correct
from omni_diffusion.evaluation.suites.pope import presence_report, presence_scores
from omni_diffusion.mini import scenes
from omni_diffusion.mini.benchmarks import (
    BENCHMARKS,
    NEEDED,
    EvalContext,
    Sample,
    SceneBenchmark,
    draw_question,
    scene_facts,
    user,
)
from omni_diffusion.mini.judge import first_part, score_caption, score_image
from omni_diffusion.mini.scenes import Scene
from omni_diffusion.tasks.catalog import DESCRIBE
from omni_diffusion.tasks.infill import cloze

MAX_DRAWS = 10_000  # scenes drawn in search of one of a kind


# --------------------------------------------------------------------------- after known benchmarks
class PresenceBenchmark(SceneBenchmark):
    """Is there such an object? Scored as POPE; the value is the accuracy."""

    def report(self, outcomes: Sequence[tuple[Sample, Scores]]) -> BenchmarkResult:
        """Accuracy, precision, recall, F1 and the share of yes among the answers."""
        return presence_report([scores for _, scores in outcomes])


def presence(context: EvalContext) -> PresenceBenchmark:
    """Yes-or-no questions about objects, half of each."""
    kinds = list(NEEDED)
    numbers = [len(kinds) * i + kinds.index("presence") for i in range(context.samples)]
    drawn = [draw_question(context.rng, number) for number in numbers]

    def judge(expected: str, answer: Sequence[Part]) -> Scores:
        return presence_scores(expected, text_of(answer))

    samples = [
        Sample(
            user(Text(question.text), Image(scenes.render_scene(scene))),
            partial(judge, question.answer),
            scene_facts(i, scene, asked=question.text, answer=question.answer),
        )
        for i, (scene, question) in enumerate(drawn)
    ]
    return PresenceBenchmark("presence", "vqa", samples)


ATTRIBUTE_CHECKS: Mapping[str, tuple[Callable[[Scene], bool], Callable[[Scene, Scene], bool]]] = {
    "single_object": (lambda s: s.count == 1, lambda a, s: a.objects[0] == s.objects[0]),
    "two_objects": (lambda s: not s.uniform, lambda a, s: set(a.objects) == set(s.objects)),
    "counting": (
        lambda s: s.uniform and s.count > 1,
        lambda a, s: (a.count, a.objects[0]) == (s.count, s.objects[0]),
    ),
    "position": (
        lambda s: not s.uniform,
        lambda a, s: (a.layout, a.objects) == (s.layout, s.objects),
    ),
    "background": (lambda s: True, lambda a, s: a.background == s.background),
    "style": (lambda s: s.style == "twemoji", lambda a, s: a.style == s.style),
}
"""By kind of prompt: which scenes it takes, and whether a painted scene is right in that kind."""


def attributes(context: EvalContext) -> SceneBenchmark:
    """Text to image, each prompt judged by the one attribute of its kind; kinds take turns."""
    samples = []
    for i in range(context.samples):
        kind = list(ATTRIBUTE_CHECKS)[i % len(ATTRIBUTE_CHECKS)]
        scene = _scene_of(context.rng, ATTRIBUTE_CHECKS[kind][0])
        text = context.rng.choice(scenes.captions(scene))
        facts = scene_facts(i, scene, asked=text, kind=kind)
        samples.append(Sample(user(Text(text)), partial(_attribute, kind, scene), facts))
    return SceneBenchmark("attributes", "t2i", samples)


def utterance_wer(context: EvalContext) -> SceneBenchmark:
    """Speech synthesis, the mean of the utterances' word error rates: captions, answers, facts."""
    chosen = context.scenes()
    texts = []
    for i, scene in enumerate(chosen):
        options = (
            scenes.captions(scene),
            [question.sentence for question in scenes.questions(scene, context.rng)],
            [fact.sentence for fact in scenes.facts()],
        )
        texts.append(context.rng.choice(options[i % len(options)]))

    def judge(text: str, answer: Sequence[Part]) -> Scores:
        errors = context.speech_errors(text, answer)
        return {"value": Score(errors.amount / errors.of, 1), "corpus_wer": errors}

    samples = [
        Sample(user(Text(text)), partial(judge, text), {"id": str(i), "asked": text})
        for i, text in enumerate(texts)
    ]
    return SceneBenchmark("utterance_wer", "tts", samples)


# --------------------------------------------------------------------------------------- infilling
def infill(context: EvalContext) -> SceneBenchmark:
    """Fill an object or the background of a caption with the picture in view; details by kind."""
    samples = []
    for i, scene in enumerate(context.scenes()):
        caption = scenes.caption(scene)
        kind = ("background", "object")[i % 2]
        word = scene.background if kind == "background" else _noun(caption, scene, context.rng)
        tokens = len(context.codecs.text.encode(f" {word}"))
        given = caption.replace(f" {word}", " " + "_" * tokens, 1)
        conversation = (
            Message("user", (Text(DESCRIBE), Image(scenes.render_scene(scene)))),
            Message("assistant", cloze(given)),
        )
        facts = scene_facts(i, scene, asked=given)
        samples.append(Sample(conversation, partial(_restored, kind, caption), facts))
    return SceneBenchmark("infill", "infill", samples)


# -------------------------------------------------------------------------------------- comparisons
def t2i_of_spoken(context: EvalContext) -> SceneBenchmark:
    """Text to image on the captions that `s2i` gets as speech."""
    samples = []
    recordings = context.bank().sample("caption", context.seed, context.samples)
    for i, recording in enumerate(recordings):
        scene = scenes.parse(recording.text)
        assert scene is not None  # s2i refuses such a bank
        facts = scene_facts(i, scene, asked=recording.text)
        samples.append(Sample(user(Text(recording.text)), partial(score_image, scene), facts))
    return SceneBenchmark("t2i_of_spoken", "t2i", samples)


# -------------------------------------------------------------------------------------- round trips
def speech_text_speech(context: EvalContext) -> SceneBenchmark:
    """S -> T -> S: a recording is transcribed and spoken again; word errors of what is heard."""

    def judge(text: str, answer: Sequence[Part]) -> Scores:
        errors = context.speech_errors(text, answer)
        return {"value": errors, "exact": correct(errors.amount == 0)}

    recordings = context.bank().sample("caption", context.seed, context.samples)
    samples = [
        Sample(
            user(Speech(r.waveform)),
            partial(judge, r.text),
            {"id": str(i), "expected": r.text, "voice": r.voice},
        )
        for i, r in enumerate(recordings)
    ]
    return SceneBenchmark("speech_text_speech", "asr", samples, relay="tts")


def text_image_text(context: EvalContext) -> SceneBenchmark:
    """T -> I -> T: a caption is painted and described again; the same meaning has to come back."""
    samples = _captions(context, score_caption)
    return SceneBenchmark("text_image_text", "t2i", samples, relay="caption")


def text_speech_image(context: EvalContext) -> SceneBenchmark:
    """T -> S -> I: a caption is spoken, and painted from that speech."""
    samples = _captions(context, score_image)
    return SceneBenchmark("text_speech_image", "tts", samples, relay="s2i")


def _captions(
    context: EvalContext, score: Callable[[Scene, Sequence[Part]], Scores]
) -> list[Sample]:
    """A written caption of each scene, whose last answer `score` compares with the scene."""
    chosen = context.scenes()
    texts = [context.rng.choice(scenes.captions(scene)) for scene in chosen]
    return [
        Sample(user(Text(text)), partial(score, s), scene_facts(i, s, asked=text))
        for i, (s, text) in enumerate(zip(chosen, texts, strict=True))
    ]


FURTHER: dict[str, Callable[[EvalContext], SceneBenchmark]] = {
    "presence": presence,
    "attributes": attributes,
    "utterance_wer": utterance_wer,
    "infill": infill,
    "t2i_of_spoken": t2i_of_spoken,
    "speech_text_speech": speech_text_speech,
    "text_image_text": text_image_text,
    "text_speech_image": text_speech_image,
}
ALL_BENCHMARKS = BENCHMARKS | FURTHER


# -------------------------------------------------------------------------------------------- parts
def _scene_of(rng: random.Random, suits: Callable[[Scene], bool]) -> Scene:
    drawn = (scenes.sample_scene(rng, split="test") for _ in range(MAX_DRAWS))
    return next(scene for scene in drawn if suits(scene))


def _attribute(kind: str, scene: Scene, answer: Sequence[Part]) -> Scores:
    image = first_part(answer, Image)
    right = image is not None and ATTRIBUTE_CHECKS[kind][1](
        scenes.recognize_scene(image.picture), scene
    )
    return {"value": correct(right), kind: correct(right)}


def _noun(caption: str, scene: Scene, rng: random.Random) -> str:
    """The word of an object in the caption, in its number."""
    noun = rng.choice(scene.objects)
    return scenes.plural(noun) if f" {scenes.plural(noun)}" in caption else noun


def _restored(kind: str, caption: str, answer: Sequence[Part]) -> Scores:
    right = correct(text_of(answer) == caption)
    return {"value": right, kind: right}
