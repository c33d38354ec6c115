"""A run that is killed and started again ends as the unbroken one: `make crash-check` in small."""

from __future__ import annotations

from pathlib import Path

import pytest
from scripts.crash_check import Check

pytest.importorskip("pyarrow")


@pytest.mark.slow
def test_a_run_that_was_killed_ends_as_the_unbroken_one(tmp_path: Path) -> None:
    result = Check(tmp_path).one(steps=12, kills=1)
    assert (result.kills, result.restarts) == (1, 1)
    assert result.kills_while_a_state_was_written + result.states_compared > 0
    assert all(result.equal.values()), result
