"""The benchmark of the engine's memory answers what it asks for and reads what it says."""

from typing import Any

from benchmarks.engine_memory import READINGS, measure, requests
from tests.tiny import tiny_model


def test_every_request_is_answered_and_memory_is_read_at_every_twentieth() -> None:
    seen: list[dict[str, Any]] = []
    measure(tiny_model(), 20, seen.append)
    assert [one["finished"] for one in seen] == list(range(READINGS + 1))
    assert seen[-1]["failed"] == 0
    assert len(seen[-1]["megabytes_at_every_twentieth"]) == READINGS
    assert all(megabytes > 50 for megabytes in seen[-1]["megabytes_at_every_twentieth"])


def test_requests_are_of_all_tasks_and_follow_from_the_seed() -> None:
    first, again = [*requests(200, seed=3)], [*requests(200, seed=3)]
    assert {one.task_name for one in first} == {"chat", "caption", "vqa", "asr", "t2i", "tts"}
    assert [(a.task_name, a.max_tokens) for a in first] == [
        (b.task_name, b.max_tokens) for b in again
    ]
    assert len({one.max_tokens for one in first}) > 50
