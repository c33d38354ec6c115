"""Tuning: every candidate is run as a preset file, and the fastest that is as good is chosen."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pytest
from tests.tiny import tiny_model

from omni_diffusion import Engine, Inputs, ask, demo
from omni_diffusion.diffusion.params import SamplingParams
from omni_diffusion.engine.request import Request, Result
from omni_diffusion.errors import ConfigError
from omni_diffusion.evaluation import tune
from omni_diffusion.evaluation.runner import RequestRunner
from omni_diffusion.evaluation.scoring import BenchmarkResult
from omni_diffusion.io import config as configs
from omni_diffusion.tasks import presets
from omni_diffusion.tasks.catalog import TASKS
from omni_diffusion.tasks.presets import TunedPreset, TunedSampling
from omni_diffusion.tasks.task import Task

INPUTS = Path(demo.__file__).parent / "inputs"


def point(name: str, value: float, seconds: float) -> tune.TunedPoint:
    return tune.TunedPoint(name, value, 0.05, 50, seconds, seconds, 10)


def test_the_fastest_within_one_standard_error_is_chosen() -> None:
    points = [point("default", 0.9, 4), point("a", 0.86, 2), point("b", 0.8, 1)]
    assert tune.fastest(points, lower_is_better=False).name == "a"
    assert tune.fastest(points, lower_is_better=True).name == "b"
    assert tune.fastest([points[0], point("c", 0.9, 5)], lower_is_better=False) == points[0]


@pytest.mark.parametrize("bound", [None, 0.1, 1.0])
@pytest.mark.parametrize("task", TASKS, ids=lambda task: task.name)
def test_candidates_have_different_names_and_samplings(task: Task, bound: float | None) -> None:
    params = replace(task.params, entropy_bound=bound)
    tried = tune.candidates(task, params)
    assert tried[0] == tune.Candidate(tune.BASELINE, TunedSampling(params))
    assert (tune.ALL_STEPS in [one.name for one in tried]) == (bound is not None)
    assert len({one.name for one in tried}) == len(tried)
    assert all(tried[i].sampling != tried[j].sampling for i in range(len(tried)) for j in range(i))


def test_every_request_runs_under_the_candidate(tmp_path: Path) -> None:
    model = tiny_model()
    seen: list[Request] = []

    class Spy:
        def run(self, requests: Sequence[Request]) -> list[Result]:
            seen.extend(requests)
            return Engine(model).run(requests)

    def score(runner: RequestRunner) -> BenchmarkResult:
        [result] = runner.run([ask("t2i", Inputs("a dog"), steps=9)])
        assert result.error is None
        assert result.params is not None
        return BenchmarkResult(value=1.0, stderr=0.0, n=1, ceiling=1.0)

    sampling = {"default": SamplingParams(), "quick": SamplingParams(steps=2, seed=5)}
    tried = [tune.Candidate(name, TunedSampling(one)) for name, one in sampling.items()]
    points = tune.measure("t2i", tried, Spy(), score)
    assert [p.name for p in points] == ["default", "quick"]
    assert [p.steps for p in points] == [16, 2]
    assert all(request.params is None for request in seen)
    found = tune.tuned_preset("t2i", points[1], tried, points, {"model": "tiny"})
    configs.save(found, tmp_path / "quick.json")
    again = presets.preset(str(tmp_path / "quick.json")).of("t2i")
    assert again.params == sampling["quick"]
    assert configs.load(TunedPreset, tmp_path / "quick.json").provenance["chosen"] == "quick"


def test_steps_follow_the_pace_of_a_file(tmp_path: Path) -> None:
    path = tmp_path / "pace.json"
    configs.save(TunedPreset("half", {"vqa": TunedSampling(SamplingParams(), 0.5)}), path)
    picture = Inputs.read(image=INPUTS / "penguin-cow.png").image
    [result] = Engine(tiny_model()).run(
        [ask("vqa", Inputs("what is it?", picture), preset=str(path))]
    )
    assert result.error is None
    assert result.params is not None
    assert result.params.steps == 32  # of the 64 tokens of such an answer


def test_a_file_that_is_no_preset_is_named(tmp_path: Path) -> None:
    path = tmp_path / "other.json"
    path.write_text('{"nam": "x"}')
    with pytest.raises(ConfigError, match=r"other\.json has an unknown key 'nam'"):
        presets.preset(str(path))
