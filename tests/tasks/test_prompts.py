"""Prompts as manifests write them, and the task that they belong to."""

from __future__ import annotations

import pytest

from omni_diffusion.tasks import prompts
from omni_diffusion.tasks.catalog import CATALOG, TASKS, task
from omni_diffusion.tasks.prompts import TaggedMessage

ANSWERS = {"text": "a dog", "speech": "<|audio|>", "image": "<|image|>"}
TEMPLATED = [each for each in TASKS if each.template and each.answer]


def messages(prompt: str, answer: str, system: str | None = None) -> tuple[TaggedMessage[str], ...]:
    head = () if system is None else (TaggedMessage("system", system),)
    return (*head, TaggedMessage("user", prompt), TaggedMessage("assistant", answer))


@pytest.mark.parametrize("name", [each.name for each in TEMPLATED])
def test_a_tasks_prompt_is_detected_with_its_text(name: str) -> None:
    expected = task(name)
    answer = "\n".join(ANSWERS[kind] for kind in expected.answer)
    prompt = prompts.format_prompt(expected, "is it\nred? ")
    detected = prompts.detect_task(messages(prompt, answer, expected.system))
    assert detected == prompts.DetectedTask(
        expected, "is it\nred? " if "text" in expected.inputs else None
    )
    bare = prompts.detect_task(messages(prompt.strip(), answer, expected.system))
    assert bare is not None
    assert bare.task == expected


@pytest.mark.parametrize(
    "other",
    [
        messages("Convert the speech to text: <|audio|>", "a dog"),
        messages("Convert the speech to text.\n<|audio|>", "a dog", system="Listen."),
        messages("Convert the speech to text.\n<|audio|>", "<|image|>"),
        messages("Convert the text to speech.\n ", "<|audio|>"),
        messages("<|image|>\nwhat is it?", "a dog"),
        messages("what is it?\n<|image|>\n<|image|>", "a dog"),
        messages("hello", "hi"),
        (*messages("Describe the image.\n<|image|>", "a dog"), *messages("really?", "yes")),
    ],
)
def test_other_prompts_are_not_detected(other: tuple[TaggedMessage[str], ...]) -> None:
    assert prompts.detect_task(other) is None


def test_braces_in_the_text_stay_text() -> None:
    assert prompts.format_prompt(CATALOG["vqa"], "{image}?") == "{image}?\n<|image|>"


def test_white_space_is_not_part_of_an_answer() -> None:
    assert prompts.part_kinds(TaggedMessage("assistant", "a dog\n<|audio|>\n")) == (
        "text",
        "speech",
    )
    assert prompts.part_kinds(TaggedMessage("assistant", "<|image|>\n<|image|>")) == (
        "image",
        "image",
    )
