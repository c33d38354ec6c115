"""Every benchmark of the paper in miniature: gold is perfect, another order is chance."""

import random
from pathlib import Path

import pytest
from tests.evaluation.suites.miniature import MINIATURES, Answers, Deaf, Miniature
from tests.tiny import tiny_model

from omni_diffusion.engine.engine import Engine
from omni_diffusion.errors import EvaluationError
from omni_diffusion.evaluation import speech
from omni_diffusion.evaluation.runner import run_benchmark
from omni_diffusion.evaluation.suites.catalog import SUITES
from omni_diffusion.tasks.presets import ASK_LETTER, ASK_WORD, PRESETS

pytestmark = pytest.mark.skipif(
    bool(speech.missing(*speech.SCORING_PACKAGES)), reason="needs extra eval"
)
each = pytest.mark.parametrize("miniature", MINIATURES, ids=lambda m: m.name)


def test_every_benchmark_has_its_miniature() -> None:
    assert [m.name for m in MINIATURES] == [entry.name for entry in SUITES]


@each
def test_gold_is_perfect(miniature: Miniature, tmp_path: Path) -> None:
    miniature.write(tmp_path)
    benchmark = miniature.open(tmp_path)
    answers = Answers([miniature.right(item) for item in benchmark.samples()])
    result = run_benchmark(benchmark, answers)
    assert result["value"] == pytest.approx(miniature.perfect, abs=1e-5)
    details = {name: metric["value"] for name, metric in result["details"].items()}
    for name in ("clip_i", "precision", "recall", "f1", "loose_accuracy", "Chart", "Art"):
        assert details.get(name, 1) == pytest.approx(1)
    assert details.get("speech", miniature.perfect) == pytest.approx(miniature.perfect)


@each
def test_right_answers_in_another_order_are_chance(miniature: Miniature, tmp_path: Path) -> None:
    miniature.write(tmp_path)
    benchmark = miniature.open(tmp_path)
    answers = [miniature.right(item) for item in benchmark.samples()]
    random.Random(1).shuffle(answers)
    low, high = miniature.chance
    result = run_benchmark(benchmark, Answers(answers))
    assert low < result["value"] < high
    assert result["stderr"] > 0


@each
def test_no_answer_is_wrong(miniature: Miniature, tmp_path: Path) -> None:
    miniature.write(tmp_path)
    benchmark = miniature.open(tmp_path)
    result = run_benchmark(benchmark, Answers([()] * len(benchmark.samples())), limit=6)
    assert result["value"] == (1 if miniature.perfect == 0 else 0)


@each
def test_missing_data_is_one_line_with_what_was_looked_for_and_its_source(
    miniature: Miniature, tmp_path: Path
) -> None:
    entry = next(entry for entry in SUITES if entry.name == miniature.name)
    with pytest.raises(EvaluationError) as raised:
        miniature.open(tmp_path)
    error = raised.value
    assert (error.field, error.value) == ("data", str(tmp_path))
    message = str(error)
    assert message.startswith(f"{miniature.name}: no ")
    assert entry.layout in message
    assert entry.source in message
    assert "\n" not in message


@each
def test_the_real_engine_answers_a_sample_of_each(miniature: Miniature, tmp_path: Path) -> None:
    miniature.write(tmp_path)
    benchmark = miniature.open(tmp_path, overrides={"steps": 2}, transcriber=Deaf)
    result = run_benchmark(benchmark, Engine(tiny_model()), limit=1)
    assert "failed" not in result["details"]
    assert result["n"] == 1


def test_prompts_are_those_of_the_presets(tmp_path: Path) -> None:
    tails = {"pope": ASK_WORD, "mme": "", "seed-bench-2-plus": ASK_LETTER, "mmmu": ASK_LETTER}
    for miniature in MINIATURES:
        if miniature.name in tails:
            miniature.write(tmp_path / miniature.name)
            benchmark = miniature.open(tmp_path / miniature.name)
            request = benchmark.request(benchmark.samples()[0])
            assert (request.preset, request.setting) == ("paper", miniature.name)
            setting = PRESETS["paper"].of(miniature.name)
            assert setting.tail == tails[miniature.name]
            text = benchmark.samples()[0].text
            assert text is not None
            assert text.endswith(setting.tail)
    assert PRESETS["paper"].of("mme").length is not None
