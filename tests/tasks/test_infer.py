"""The task that inputs belong to."""

import pytest

from omni_diffusion.tasks.catalog import DESCRIBE, DRAW, HEAR, SPEAK, TASKS
from omni_diffusion.tasks.infer import BY_INPUTS, infer_task, partial_task
from omni_diffusion.vocab import Kind


def name_of(*kinds: Kind, **more: object) -> tuple[str, str | None] | None:
    found = infer_task(kinds, **more)  # type: ignore[arg-type]
    return None if found is None else (found.task.name, found.text)


@pytest.mark.parametrize(
    ("kinds", "text", "expected"),
    [
        (("text",), DRAW + "a cat", ("t2i", "a cat")),
        (("text",), SPEAK + "hello there", ("tts", "hello there")),
        (("speech",), HEAR, ("asr", None)),
        (("text", "speech"), HEAR, ("asr", None)),
        (("text", "image"), DESCRIBE, ("caption", None)),
    ],
)
def test_words_decide_first(kinds: tuple[Kind, ...], text: str, expected: object) -> None:
    assert name_of(*kinds, text=text) == expected


def test_the_system_message_decides() -> None:
    for task in TASKS:
        if task.system is not None:
            assert name_of(*task.inputs, system=task.system) == (task.name, None)


def test_then_what_is_given_and_what_is_wanted() -> None:
    for (kinds, wanted), name in BY_INPUTS.items():
        text = "words" if "text" in kinds else None
        assert name_of(*kinds, text=text, wanted=wanted) == (name, text)
    assert name_of("text", "image", "speech", text="words") is None


def test_a_lone_underscore_is_a_gap() -> None:
    assert name_of("text", text="a _ on a __.") == ("infill", "a _ on a __.")
    assert name_of("text", text="snake_case __init__") == ("chat", "snake_case __init__")
    assert name_of("text", text="what is _?", gaps=False) == ("chat", "what is _?")


def test_a_mask_is_for_inpainting() -> None:
    assert name_of("image", mask=True) == (partial_task("image").name, None)
