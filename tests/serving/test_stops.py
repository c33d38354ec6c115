"""A stop text and the most tokens: the same cut whole, streamed and ended early."""

from typing import Any

import openai
import pytest
from tests.serving.conftest import Running, left_to_right, serving
from tests.tiny import tiny_model

from omni_diffusion.serving.chat import TextGate

TEXT = "a red apple on a blue background"


def piecewise(gate: TextGate, text: str) -> str:
    return "".join(gate.pass_on(each) for each in text) + gate.pass_on("", last=True)


@pytest.mark.parametrize(
    ("stops", "most", "cut", "reason"),
    [
        ((), None, TEXT, "stop"),
        ((" on",), None, "a red apple", "stop"),
        ((" on", "red"), None, "a ", "stop"),
        (("apple on", "e"), None, "a r", "stop"),  # the one that is complete first
        (("apple on a blue", "on"), None, "a red apple ", "stop"),
        (("nothing",), None, TEXT, "stop"),
        ((), 3, "a red", "length"),
        ((), 99, TEXT, "stop"),
        ((" apple",), 3, "a red", "stop"),
        ((" on",), 3, "a red", "length"),
    ],
)
def test_a_text_is_cut_the_same_in_one_and_in_pieces(
    stops: tuple[str, ...], most: int | None, cut: str, reason: str
) -> None:
    model = tiny_model()
    whole, pieces = (TextGate(stops, most, model) for _ in range(2))
    assert whole.pass_on(TEXT, last=True) == piecewise(pieces, TEXT) == cut
    assert whole.reason == pieces.reason == reason


def test_every_count_of_tokens_cuts_the_same_in_pieces() -> None:
    model = tiny_model()
    for text in (TEXT, "apples' appleton  red\nred applered", "漢字の文 two 漢字", "x" * 90):
        for most in range(1, 12):
            whole, pieces = (TextGate((), most, model) for _ in range(2))
            assert whole.pass_on(text, last=True) == piecewise(pieces, text), (text, most)


# ------------------------------------------------------------------------------- the server's way
def steps(running: Running) -> float:
    found = running.service.metrics.registry.get_sample_value("omni_diffusion_steps_total")
    return found or 0.0


def said(client: openai.OpenAI, text: str, **asked: Any) -> tuple[str, str | None]:
    answer = client.chat.completions.create(
        model="mini", messages=[{"role": "user", "content": text}], **asked
    )
    if not asked.get("stream"):
        (choice,) = answer.choices
        return choice.message.content, choice.finish_reason
    choices = [chunk.choices[0] for chunk in answer]
    return "".join(each.delta.content or "" for each in choices), choices[-1].finish_reason


@pytest.mark.slow
def test_what_is_decided_ends_the_steps() -> None:
    with serving(left_to_right()) as running, running.openai() as client:
        for stream in (False, True):
            asked = {"stream": stream, "extra_body": {"answer_tokens": 40}}
            before = steps(running)
            whole, _ = said(client, "two dogs", **asked)
            every = steps(running) - before
            assert every >= 39
            assert "sed" in whole
            before = steps(running)
            short = said(client, "two dogs", **asked, stop="sed")
            assert short == (whole.partition("sed")[0], "stop")
            assert steps(running) - before < 10
            unmet = said(client, "two dogs", **asked, stop="nothing of the kind")
            assert unmet == (whole, "stop")
        assert running.service.worker._accepted == 0


@pytest.mark.slow
@pytest.mark.parametrize("stream", [False, True])
def test_an_answer_ended_early_is_the_cut_of_the_whole(client: openai.OpenAI, stream: bool) -> None:
    for limit, expected in (
        ({"stop": " is"}, ("a cake", "stop")),
        ({"stop": ["food", " is a"]}, ("a cake", "stop")),
        ({"max_tokens": 2}, ("a cake", "length")),
        ({"max_tokens": 5}, ("a cake is a food", "stop")),
    ):
        assert said(client, "what is a cake?", stream=stream, **limit) == expected
