"""What a request changes of a model's sampling."""

from __future__ import annotations

from typing import Any

import pytest

from omni_diffusion.diffusion.params import SamplingParams
from omni_diffusion.tasks.defaults import override

BOUND = SamplingParams(guidance=1.0, entropy_bound=1.0)
SURE = SamplingParams(confidence="margin", threshold=0.9)


@pytest.mark.parametrize("changes", [{}, {"seed": 3}, {"guidance": 0.0}, {"steps": None}])
def test_what_commits_more_stays_with_its_schedule(changes: dict[str, Any]) -> None:
    assert override(BOUND, changes).entropy_bound == 1.0
    assert override(SURE, changes).threshold == 0.9


@pytest.mark.parametrize(
    "changes",
    [{"steps": 64}, {"confidence": "random"}, {"confidence_temperature": 0.5}],
)
def test_another_schedule_is_taken_as_it_is(changes: dict[str, Any]) -> None:
    found = override(BOUND, changes)
    assert found.entropy_bound is None
    assert found.guidance == 1.0
    assert override(SURE, changes).threshold is None


def test_what_is_asked_with_the_steps_holds() -> None:
    assert override(BOUND, {"steps": 64, "entropy_bound": 2.0}).entropy_bound == 2.0
    assert override(BOUND, {"confidence": "margin", "threshold": 0.8}).threshold == 0.8
