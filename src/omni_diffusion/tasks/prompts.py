"""The words of a task around a sample's media, as manifests write them; and whose words they are.

Manifests hold whole prompts ("Convert the speech to text.\\n<|audio|>"), tasks hold templates. What
is recognised as a task's prompt is laid by the task, as inference would ask.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any

from omni_diffusion.data.manifest import AUDIO, IMAGE, KINDS, TAG, Entry
from omni_diffusion.tasks.catalog import CATALOG, TASKS
from omni_diffusion.tasks.task import Answer, Task

TAGS = {"speech": AUDIO, "image": IMAGE}
ANSWERS = (("text",), ("image",), ("speech",), ("text", "speech"), ("text", "image"))
"""What an answer can be made of where its length is set by a rule; any other needs `infill`."""


def prompt(task: Task, text: str = "") -> str:
    """A user's message of a task with a template: its words, `text`, and tags for the media."""
    filled = task.template or ""
    for kind, tag in TAGS.items():
        filled = filled.replace(f"{{{kind}}}", tag)
    return filled.replace("{text}", text)


def row(
    task: Task,
    *,
    answer: str,
    text: str = "",
    audios: Sequence[str | dict[str, Any]] = (),
    images: Sequence[str] = (),
    name: str | None = None,
) -> dict[str, Any]:
    """A line of a manifest: what a task asks, and the answer with tags."""
    messages = [] if task.system is None else [{"role": "system", "content": task.system}]
    messages.append({"role": "user", "content": prompt(task, text)})
    messages.append({"role": "assistant", "content": answer})
    named = {"id": name, "messages": messages, "audios": list(audios), "images": list(images)}
    return {key: value for key, value in named.items() if value}


@dataclass(frozen=True)
class Prompt:
    """A task, and the text that its prompt was made with, if it takes one."""

    task: Task
    text: str | None


def recognise(
    entries: Sequence[Entry], answers: Mapping[str, Answer] | None = None
) -> Prompt | None:
    """The task whose own words a sample has; None if they are no task's.

    Compared are the system text, what the answer is made of, and the prompt, up to blank space at
    the prompt's ends. answers: by task name, what a model's answers are made of instead.
    """
    system = entries[0].content if entries[0].role == "system" else None
    turns = entries if system is None else entries[1:]
    if [entry.role for entry in turns] != ["user", "assistant"]:
        return None
    made = kinds(turns[1])
    for task, pattern in _patterns():
        if task.system != system or made not in (task.answer, (answers or {}).get(task.name)):
            continue
        match = pattern.fullmatch(turns[0].content)
        text = match.groupdict().get("text") if match else None
        if match and (text is None or text.strip()):
            return Prompt(task.answering({task.name: made}), text)
    return None


def task_of(entries: Sequence[Entry]) -> Task:
    """The task that a sample is for: the one whose words it has, else `chat`, else `infill`."""
    found = recognise(entries)
    return found.task if found else open_task(kinds(entries[-1]))


def open_task(answer: Answer) -> Task:
    """The task without words of its own whose answer is made of these parts."""
    if answer in ANSWERS:
        return CATALOG["chat"].answering({"chat": answer})
    return CATALOG["infill"]


def kinds(entry: Entry) -> Answer:
    """What a message is made of, in order; words of blank space alone do not count."""
    pieces = re.split(f"({TAG.pattern})", entry.content)
    return tuple(KINDS.get(piece, "text") for piece in pieces if piece.strip())


@cache
def _patterns() -> tuple[tuple[Task, re.Pattern[str]], ...]:
    """A pattern for the prompt of each task, those with the most words of their own first."""
    asked = [task for task in TASKS if task.template and task.answer]
    text = f"(?P<text>(?:(?!{TAG.pattern}).)+)"
    found = []
    for task in sorted(asked, key=lambda task: -len(prompt(task))):
        words = re.escape(prompt(task, "\0").strip()).replace("\0", text)
        found.append((task, re.compile(rf"\s*?{words}\s*", re.DOTALL)))
    return tuple(found)
