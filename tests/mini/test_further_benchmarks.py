"""Benchmarks after well-known ones and round trips: an oracle is perfect, silence is wrong."""

import json
import random
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from tests.mini.test_benchmarks import Oracle, Reader, model, scoring, whole_bank
from tests.tiny import tiny_suite

from omni_diffusion.conversation import Image, Part, Text
from omni_diffusion.engine.request import Request
from omni_diffusion.errors import EvaluationError
from omni_diffusion.evaluation.results import find_records
from omni_diffusion.evaluation.runner import run_benchmark
from omni_diffusion.evaluation.session import EvaluationSession
from omni_diffusion.mini import paper, scenes
from omni_diffusion.mini.benchmarks import BENCHMARKS, EvalContext
from omni_diffusion.mini.further_benchmarks import ALL_BENCHMARKS, ATTRIBUTE_CHECKS, FURTHER
from omni_diffusion.mini.paper import PAPER_RUNS, PICTURE_STEPS, PaperRun, run_paper, save_summary

pytestmark = scoring
WRONG_IS_ONE = ("utterance_wer", "speech_text_speech")  # error rates


class AnyOracle(Oracle):
    """Fills gaps as well."""

    def answer(self, request: Request, place: int) -> tuple[Part, ...]:
        if request.task_name == "infill" and not (self.lazy and place % 2):
            image = next(p for p in request.conversation[0].parts if isinstance(p, Image))
            return (Text(scenes.caption(scenes.recognize_scene(image.picture))),)
        return super().answer(request, place)


class Mute(Oracle):
    """Answers nothing."""

    def answer(self, request: Request, place: int) -> tuple[Part, ...]:
        return ()


def codecs() -> Any:
    parts = model().codecs
    return SimpleNamespace(image=parts.image, speech=parts.speech, text=tiny_suite().text)


def context(samples: int = 12, seed: int = 0) -> EvalContext:
    rng = random.Random(seed)
    return EvalContext(codecs(), whole_bank, Reader(), seed, rng, samples)


@pytest.mark.parametrize("name", FURTHER)
def test_an_oracle_is_perfect(name: str) -> None:
    benchmark = FURTHER[name](context())
    result = run_benchmark(benchmark, AnyOracle())
    assert result["value"] == (0 if name in WRONG_IS_ONE else 1)
    assert result["n"] == 12


@pytest.mark.parametrize("name", FURTHER)
def test_no_answer_is_wrong(name: str) -> None:
    result = run_benchmark(FURTHER[name](context()), Mute())
    assert result["value"] == (1 if name in WRONG_IS_ONE else 0)


def test_presence_is_balanced_and_counts_the_predictions() -> None:
    result = run_benchmark(FURTHER["presence"](context(40)), AnyOracle())
    assert result["details"]["yes_share"]["value"] == 0.5
    assert result["details"]["f1"]["value"] == 1


def test_a_prompt_of_attributes_is_judged_by_its_kind_alone() -> None:
    benchmark = FURTHER["attributes"](context(12))
    kinds = [sample.facts["kind"] for sample in benchmark.samples()]
    assert kinds == 2 * list(ATTRIBUTE_CHECKS)
    for sample in benchmark.samples():
        scene = scenes.parse(sample.facts["expected"])
        assert scene is not None
        other = scenes.Scene("one", ("key",), "white", "noto")
        right = sample.judge((Image(scenes.render_scene(scene)),))
        wrong = sample.judge((Image(scenes.render_scene(other)),))
        assert right["value"].amount == 1
        agrees = ATTRIBUTE_CHECKS[sample.facts["kind"]][1](other, scene)
        assert bool(wrong["value"].amount) == agrees


def test_round_trips_hand_on_only_what_the_second_task_takes() -> None:
    benchmark = FURTHER["text_speech_image"](context(1))
    (sample,) = benchmark.samples()
    oracle = AnyOracle()
    first = oracle.run([benchmark.request(sample)])[0].parts
    request = benchmark.follow_up(sample, (Text("extra"), *first))
    assert request is not None
    assert request.task_name == "s2i"
    assert request.conversation[0].parts == first
    assert benchmark.follow_up(sample, (Text("no speech"),)) is None


def test_gaps_are_one_word_of_the_caption() -> None:
    for sample in FURTHER["infill"](context(12)).samples():
        given, whole = sample.facts["asked"].split(), sample.facts["expected"].split()
        gaps = [i for i, word in enumerate(given) if set(word) == {"_"}]
        assert len(gaps) == 1
        assert given[: gaps[0]] + given[gaps[0] + 1 :] == whole[: gaps[0]] + whole[gaps[0] + 1 :]


# ---------------------------------------------------------------------------------------- the paper
@pytest.fixture
def session(tmp_path: Path) -> Callable[[], EvaluationSession]:
    said = {"name": "mini", "digest": "d"}
    return lambda: EvaluationSession(AnyOracle(), said, tmp_path / "out")


@pytest.mark.slow
def test_the_paper_runs_everything_and_continues(
    session: Callable[[], EvaluationSession], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from omni_diffusion.mini.recordings import Bank

    monkeypatch.setattr(Bank, "open", lambda folder: whole_bank())
    options = {"samples": 6, "transcriber": Hearing()}
    first = session()
    records = run_paper(first, codecs(), **options)
    assert list(records) == [run.name for run in PAPER_RUNS]
    assert {run.benchmark for run in PAPER_RUNS} == set(ALL_BENCHMARKS) > set(BENCHMARKS)
    second = session()
    again = run_paper(second, codecs(), **options)
    assert second.engine.asked == []  # type: ignore[attr-defined]
    assert {name: r.result for name, r in again.items()} == {
        name: r.result for name, r in records.items()
    }
    assert len(find_records([tmp_path])) == len(PAPER_RUNS)
    save_summary(records, 0, tmp_path / "paper.json")
    saved = json.loads((tmp_path / "paper.json").read_text())
    assert saved["runs"]["t2i@4"]["value"] == 1
    assert saved["runs"]["t2i@4"]["costs"]["forward_passes"] == 1
    assert saved["judges"] == {"whisper": "hearing"}


class Hearing(Reader):
    """A reader with a version."""

    version = "hearing"


def test_steps_are_swept_up_to_those_of_a_picture() -> None:
    assert PICTURE_STEPS[-1] == 64  # the last point has a step for each token
    assert PaperRun("t2i", 4).name == "t2i@4"
    assert PaperRun("t2i").name == "t2i"


def test_an_unknown_run_is_named(session: Callable[[], EvaluationSession]) -> None:
    with pytest.raises(EvaluationError, match=r"'t3i'.*t2i") as raised:
        run_paper(session(), codecs(), only=["t3i"], transcriber=Hearing())
    assert raised.value.field == "only"
    with pytest.raises(EvaluationError, match="no run"):
        paper.summary({}, 0)
