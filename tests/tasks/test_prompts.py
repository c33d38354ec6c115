"""Prompts as manifests write them, and whose they are."""

import pytest

from omni_diffusion.data.manifest import Entry
from omni_diffusion.tasks import prompts
from omni_diffusion.tasks.catalog import CATALOG, TASKS, task

ANSWERS = {"text": "a dog", "speech": "<|audio|>", "image": "<|image|>"}
ASKED = [each for each in TASKS if each.template and each.answer]


def entries(prompt: str, answer: str, system: str | None = None) -> tuple[Entry, ...]:
    head = () if system is None else (Entry("system", system),)
    return (*head, Entry("user", prompt), Entry("assistant", answer))


@pytest.mark.parametrize("name", [each.name for each in ASKED])
def test_what_a_task_asks_is_recognised_with_its_text(name: str) -> None:
    found = task(name)
    answer = "\n".join(ANSWERS[kind] for kind in found.answer)
    prompt = prompts.prompt(found, "is it\nred? ")
    recognised = prompts.recognise(entries(prompt, answer, found.system))
    assert recognised == prompts.Prompt(found, "is it\nred? " if "text" in found.inputs else None)
    bare = prompts.recognise(entries(prompt.strip(), answer, found.system))
    assert bare is not None
    assert bare.task == found


@pytest.mark.parametrize(
    "other",
    [
        entries("Convert the speech to text: <|audio|>", "a dog"),
        entries("Convert the speech to text.\n<|audio|>", "a dog", system="Listen."),
        entries("Convert the speech to text.\n<|audio|>", "<|image|>"),
        entries("Convert the text to speech.\n ", "<|audio|>"),
        entries("<|image|>\nwhat is it?", "a dog"),
        entries("what is it?\n<|image|>\n<|image|>", "a dog"),
        entries("hello", "hi"),
        (*entries("Describe the image.\n<|image|>", "a dog"), *entries("really?", "yes")),
    ],
)
def test_other_words_are_no_tasks(other: tuple[Entry, ...]) -> None:
    assert prompts.recognise(other) is None


def test_tags_in_a_template_are_not_made_of_the_text() -> None:
    assert prompts.prompt(CATALOG["vqa"], "{image}?") == "{image}?\n<|image|>"


def test_a_line_end_before_a_tag_is_no_part_of_the_answer() -> None:
    assert prompts.kinds(Entry("assistant", "a dog\n<|audio|>\n")) == ("text", "speech")
    assert prompts.kinds(Entry("assistant", "<|image|>\n<|image|>")) == ("image", "image")
