import dataclasses
import random
import sys
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from tests import tiny

from omni_diffusion.conversation import Image, Part, Speech, Text
from omni_diffusion.engine.request import Request, Result
from omni_diffusion.errors import EvaluationError, MissingDependencyError, TaskError
from omni_diffusion.evaluation import speech
from omni_diffusion.media import SPEECH_RATE, Picture, Waveform
from omni_diffusion.mini import scenes, speech_plan
from omni_diffusion.mini.benchmarks import BENCHMARKS, NEEDED
from omni_diffusion.mini.evaluate import evaluate as evaluate_mini
from omni_diffusion.mini.recordings import PAUSE, Bank, BankEntry, selection
from omni_diffusion.tasks import catalog
from omni_diffusion.tasks.defaults import override

SILENT = ["caption", "vqa", "t2i", "s2i", "svqa", "inpaint"]  # judged without the extra
scoring = pytest.mark.skipif(
    bool(speech.missing(*speech.SCORING_PACKAGES)), reason="needs extra eval"
)


def spoken(text: str) -> Waveform:
    """A sound that a test can read again: a letter a sample."""
    return Waveform(torch.tensor([[ord(letter) / 128 for letter in text]]), SPEECH_RATE)


def samples_text(wave: Waveform) -> str:
    return "".join(chr(round(128 * sample)) for sample in wave.samples[0].tolist())


class Reader:
    """Hears what `spoken` says."""

    def transcribe(self, waveform: Waveform) -> str:
        return samples_text(waveform)


class Oracle:
    """Answers every request rightly, or every second one not at all."""

    def __init__(self, lazy: bool = False) -> None:
        self.lazy = lazy
        self.asked: list[Request] = []

    def run(self, requests: Sequence[Request]) -> list[Result]:
        first = len(self.asked)
        self.asked += requests
        return [
            Result("", r.task_name, self.answer(r, first + i), None, (), 0.0, 1)
            for i, r in enumerate(requests)
        ]

    def answer(self, request: Request, place: int) -> tuple[Part, ...]:
        if self.lazy and place % 2:
            return ()
        given = {type(part): part for part in request.conversation[0].parts}
        text = given[Text].text if Text in given else ""
        text = samples_text(given[Speech].waveform) if Speech in given else text
        match request.task_name:
            case "caption":
                scene = scenes.recognize_scene(given[Image].picture)
                return (Text(scenes.captions(scene)[-1]),)
            case "vqa":
                return (Text(asked(text, given[Image].picture).answer),)
            case "svqa":
                sentence = asked(text, given[Image].picture).sentence
                return (Text(sentence), Speech(spoken(sentence)))
            case "t2i" | "s2i":
                scene = scenes.parse(text)
                assert scene is not None
                return (Image(scenes.render_scene(scene)),)
            case "inpaint":
                return (Image(request.conversation[1].parts[0].picture),)
            case "asr":
                return (Text(text),)
        return (Speech(spoken(text)),)


class Broken:
    """Fails at the first `bad` requests of a run."""

    def __init__(self, bad: int) -> None:
        self.bad = bad

    def run(self, requests: Sequence[Request]) -> list[Result]:
        found = Oracle().run(requests)
        error = TaskError("too long")
        failed = [dataclasses.replace(r, parts=(), error=error) for r in found[: self.bad]]
        return failed + found[self.bad :]


def asked(text: str, picture: Picture) -> scenes.Question:
    scene = scenes.recognize_scene(picture)
    for seed in range(500):
        for question in scenes.questions(scene, random.Random(seed)):
            if question.text == text:
                return question
    raise AssertionError(f"{text} cannot be asked of {scene}")


def model(decode: Any = lambda codes: codes) -> Any:
    """Codecs whose codes are the media themselves."""
    sizes = SimpleNamespace(understanding_size=64, generation_size=64)
    image = SimpleNamespace(config=sizes, encode=lambda picture, size: picture, decode=decode)
    sound = SimpleNamespace(encode=lambda wave: wave, decode=lambda codes: codes)
    return SimpleNamespace(codecs=SimpleNamespace(image=image, speech=sound), sampling={})


@cache
def whole_bank() -> Bank:
    entries, sounds, start = [], [], 0
    for line in selection(speech_plan.plan(0)):
        sounds += [spoken(line.text).samples, torch.zeros(1, PAUSE)]
        stop = start + len(line.text)
        role: Any = line.role
        entries.append(BankEntry(role, line.voice, line.text, start, stop))
        start = stop + PAUSE
    return Bank(entries, Waveform(torch.cat(sounds, 1), SPEECH_RATE))


@pytest.fixture(autouse=True)
def _bank(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Bank, "open", lambda folder: whole_bank())


@pytest.fixture(scope="module")
def oracle_results() -> Any:
    """What an oracle reaches with seed 0 in all benchmarks that can be scored here; run once."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Bank, "open", lambda folder: whole_bank())
        silent = bool(speech.missing(*speech.SCORING_PACKAGES))
        return evaluate(Oracle(), tasks=SILENT if silent else None)


def evaluate(engine: Any, **options: Any) -> Any:
    options.setdefault("tasks", SILENT)
    options.setdefault("samples", 12)
    options.setdefault("transcriber", Reader())
    if speech.missing(*speech.SCORING_PACKAGES):
        options["transcriber"] = None
    return evaluate_mini(options.pop("model", model()), engine=engine, **options)


@pytest.mark.slow
@pytest.mark.parametrize("seed", [0, 7])
def test_an_oracle_is_right_everywhere(seed: int, oracle_results: Any) -> None:
    shared = {name: oracle_results[name] for name in SILENT}
    scores = evaluate(Oracle(), seed=seed) if seed else shared
    assert list(scores) == SILENT
    for score in scores.values():
        assert (score["value"], score["stderr"], score["n"], score["ceiling"]) == (1, 0, 12, 1)
        details = {n: m["value"] for n, m in score["details"].items() if "speech_wer" not in n}
        assert set(details.values()) == {1.0}


@scoring
@pytest.mark.slow
def test_all_eight_and_their_word_errors(oracle_results: Any) -> None:
    scores = oracle_results
    assert list(scores) == list(BENCHMARKS)
    for name in ("asr_wer", "tts_wer"):
        assert (scores[name]["value"], scores[name]["ceiling"], scores[name]["n"]) == (0, 0, 12)
    assert scores["asr_wer"]["details"]["held_out_voices"] == {"value": 0, "stderr": 0, "n": 6}
    assert scores["svqa"]["details"]["speech_wer"]["value"] == 0
    assert scores["svqa"]["details"]["speech_wer_capped"]["value"] == 0
    assert scores["tts_wer"]["details"] == {"capped": {"value": 0, "stderr": 0, "n": 12}}


@pytest.mark.slow
def test_no_answer_is_a_wrong_answer() -> None:
    for name, score in evaluate(Oracle(lazy=True), tasks=SILENT).items():
        assert score["value"] == 0.5, name
        assert score["stderr"] == pytest.approx(0.5 / 12**0.5)
        assert score["ceiling"] == 1


@scoring
def test_no_speech_and_no_transcript_leave_out_every_word() -> None:
    scores = evaluate(Oracle(lazy=True), tasks=["asr_wer", "tts_wer"])
    for score in scores.values():
        assert 0.3 < score["value"] < 0.7
        assert 0.05 < score["stderr"] < 0.2


@pytest.mark.slow
def test_the_ceiling_is_what_the_codec_lets_through() -> None:
    def blind(picture: Picture) -> Picture:  # the left half is all it keeps
        pixels = picture.pixels.clone()
        pixels[:, 32:] = pixels[0, 0]
        return Picture(pixels)

    scores = evaluate(Oracle(), model=model(blind))
    for name in ("caption", "t2i", "s2i", "inpaint"):
        assert scores[name]["ceiling"] < 0.8, name
    assert scores["caption"]["ceiling"] < scores["vqa"]["ceiling"] < 1


@pytest.mark.slow
def test_a_seed_asks_the_same_and_another_seed_asks_afresh() -> None:
    def said(seed: int, tasks: list[str]) -> list[str]:
        oracle = Oracle()
        evaluate(oracle, seed=seed, tasks=tasks)
        return [r.conversation[0].parts[0].text for r in oracle.asked if r.task_name == "t2i"]

    assert said(1, ["t2i"]) == said(1, ["caption", "t2i"])
    assert len(set(said(1, ["t2i"])) & set(said(2, ["t2i"]))) < 5
    for text in said(3, ["t2i"]):
        scene = scenes.parse(text)
        assert scene is not None
        assert scenes.held_out(scene)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["vqa", "svqa"])
def test_questions_and_their_answers_are_balanced(name: str) -> None:
    oracle = Oracle()
    score = evaluate(oracle, tasks=[name], samples=40)[name]
    kinds = {n: f["n"] for n, f in score["details"].items() if n in NEEDED}
    assert kinds == dict.fromkeys(NEEDED, 8)
    answers = [oracle.answer(request, 0)[0].text.split(",")[0] for request in oracle.asked]
    assert answers.count("yes") == answers.count("no") == 4
    if name == "vqa":
        assert [answers.count(number) for number in scenes.NUMBERS[1:]] == [2, 2, 2, 2]


def test_steps_are_handed_on_with_the_tasks_own_parameters() -> None:
    oracle = Oracle()
    evaluate(oracle, tasks=["t2i"], samples=1)
    evaluate(oracle, tasks=["t2i"], samples=1, steps=10)
    default, ten = (request.params for request in oracle.asked)
    assert default is None
    merged = override(catalog.task("t2i").params, ten)
    assert (merged.steps, merged.position_penalty) == (10, 2.0)


def test_progress_is_told() -> None:
    told: list[tuple[str, int, int]] = []
    evaluate(Oracle(), tasks=["t2i"], samples=40, progress=lambda *done: told.append(done))
    assert told == [("t2i", 32, 40), ("t2i", 40, 40)]


def test_failed_requests_are_wrong_and_counted_but_not_all_may_fail() -> None:
    score = evaluate(Broken(bad=5), tasks=["t2i"], samples=20)["t2i"]
    assert score["value"] == 0.75
    assert score["details"]["failed"]["value"] == 0.25
    with pytest.raises(EvaluationError, match="every request of benchmark 't2i' failed: too long"):
        evaluate(Broken(bad=20), tasks=["t2i"])


def test_mistakes_are_named() -> None:
    with pytest.raises(EvaluationError, match=r"'asr'.*caption, vqa") as unknown:
        evaluate(Oracle(), tasks=["asr"])
    assert (unknown.value.field, unknown.value.value) == ("tasks", "asr")
    with pytest.raises(EvaluationError, match="1 or more") as none:
        evaluate(Oracle(), samples=0)
    assert (none.value.field, none.value.value) == ("samples", 0)
    with pytest.raises(EvaluationError, match=r"8 x 8 pixels.*64 x 64"):
        evaluate_mini(tiny.tiny_model(), tasks=["t2i"])


def test_missing_packages_are_told_before_any_work(monkeypatch: pytest.MonkeyPatch) -> None:
    for package in (*speech.SCORING_PACKAGES, *speech.WHISPER_PACKAGES):
        monkeypatch.setitem(sys.modules, package, None)
    oracle = Oracle()
    with pytest.raises(MissingDependencyError, match=r"omni-diffusion\[eval\]"):
        evaluate_mini(model(), samples=1, engine=oracle)
    assert not oracle.asked
    score = evaluate_mini(model(), samples=5, tasks=["svqa"], engine=oracle)["svqa"]
    assert "speech_wer" not in score["details"]


def test_a_bank_that_is_not_there_matters_to_spoken_tasks_alone(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    def absent(folder: Path) -> Bank:
        raise AssertionError(folder)

    monkeypatch.setattr(Bank, "open", absent)
    assert evaluate(Oracle(), tasks=["caption"], bank=tmp_path)["caption"]["value"] == 1
    with pytest.raises(AssertionError, match=tmp_path.name):
        evaluate(Oracle(), tasks=["s2i"], bank=tmp_path)


def test_a_model_of_random_weights_is_wrong_through_the_real_engine_but_keeps_pixels(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    levels = (1, 1, 1, 1)
    image = dataclasses.replace(
        tiny.IMAGE,
        multipliers=levels,
        encoder_blocks=levels,
        decoder_blocks=levels,
        understanding_size=64,
        generation_size=64,
    )
    monkeypatch.setattr(tiny, "IMAGE", image)
    tasks = ["caption", "vqa", "t2i", "inpaint"]
    scores = evaluate_mini(tiny.tiny_model(), samples=2, tasks=tasks, steps=2)
    for score in scores.values():
        assert score["value"] == 0
        assert "failed" not in score["details"]
    assert scores["inpaint"]["details"]["kept"]["value"] == 1
