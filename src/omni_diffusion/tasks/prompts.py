"""Tagged messages, as manifests and chat clients write them, and the task that a prompt belongs to.

A content is text with a tag for each medium: "Convert the speech to text.\\n<|audio|>". Tasks have
templates. A sample whose prompt fits a template is laid out by that task, as at inference.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any, Generic, Literal, TypeAlias, TypeVar

from omni_diffusion.conversation import Role, Text
from omni_diffusion.tasks.catalog import CATALOG, TASKS
from omni_diffusion.tasks.task import AnswerKinds, Task

MediaKind: TypeAlias = Literal["speech", "image"]
MediumT = TypeVar("MediumT")

AUDIO_TAG, IMAGE_TAG = "<|audio|>", "<|image|>"
TAG_KINDS: dict[str, MediaKind] = {AUDIO_TAG: "speech", IMAGE_TAG: "image"}
TAG_PATTERN = re.compile("|".join(map(re.escape, TAG_KINDS)))
CHAT_ANSWERS = (("text",), ("image",), ("speech",), ("text", "speech"), ("text", "image"))
"""Answers whose length a rule can set; any other answer needs the task `infill`."""


@dataclass(frozen=True)
class TaggedMessage(Generic[MediumT]):
    """A message with its media set apart.

    content: text with one tag per medium. media: the media, in the order of their tags; left empty
    where only the text matters.
    """

    role: Role
    content: str
    media: tuple[MediumT, ...] = ()

    @property
    def parts(self) -> tuple[Text | MediumT, ...]:
        """The text between the tags, unchanged, and the media."""
        return split_tags(self.content, iter(self.media))


@dataclass(frozen=True)
class DetectedTask:
    """A task, and the text that fills its template; None if the template takes no text."""

    task: Task
    text: str | None


def split_tags(content: str, media: Iterator[MediumT]) -> tuple[Text | MediumT, ...]:
    """The text between the tags, unchanged, and the next of `media` for each tag."""
    parts, position = list[Text | MediumT](), 0
    for tag in TAG_PATTERN.finditer(content):
        parts += [Text(content[position : tag.start()])] if tag.start() > position else []
        parts.append(next(media))
        position = tag.end()
    return (*parts, Text(content[position:])) if content[position:] else tuple(parts)


def format_prompt(task: Task, text: str = "") -> str:
    """The user's content for a task: its template with `text`, and tags for the media."""
    content = task.template or ""
    for tag, kind in TAG_KINDS.items():
        content = content.replace(f"{{{kind}}}", tag)
    return content.replace("{text}", text)


def manifest_row(
    task: Task,
    *,
    answer: str,
    text: str = "",
    audios: Sequence[str | dict[str, Any]] = (),
    images: Sequence[str] = (),
    name: str | None = None,
) -> dict[str, Any]:
    """A sample of a task as a manifest row.

    answer: the assistant's content, with tags. text: fills the template. audios, images: paths, in
    the order of their tags. name: the row's `id`.
    """
    messages = [] if task.system is None else [{"role": "system", "content": task.system}]
    messages.append({"role": "user", "content": format_prompt(task, text)})
    messages.append({"role": "assistant", "content": answer})
    row = {"id": name, "messages": messages, "audios": list(audios), "images": list(images)}
    return {key: value for key, value in row.items() if value}


def detect_task(
    messages: Sequence[TaggedMessage[Any]], answers: Mapping[str, AnswerKinds] | None = None
) -> DetectedTask | None:
    """The task whose system text, template and answer a sample has; None if there is none.

    White space at the ends of the prompt is ignored. answers: by task name, what a model's answer
    is made of where it differs from the task's own.
    """
    system = messages[0].content if messages[0].role == "system" else None
    turns = messages if system is None else messages[1:]
    if [message.role for message in turns] != ["user", "assistant"]:
        return None
    answer = part_kinds(turns[1])
    for task, pattern in _patterns():
        if task.system != system or answer not in (task.answer, (answers or {}).get(task.name)):
            continue
        match = pattern.fullmatch(turns[0].content)
        text = match.groupdict().get("text") if match else None
        if match and (text is None or text.strip()):
            return DetectedTask(task.answering({task.name: answer}), text)
    return None


def task_of(messages: Sequence[TaggedMessage[Any]]) -> Task:
    """The task of a sample: the detected one, else `chat` or `infill`."""
    detected = detect_task(messages)
    return detected.task if detected else conversation_task(part_kinds(messages[-1]))


def conversation_task(answer: AnswerKinds) -> Task:
    """The task without a template whose answer is made of these parts: `chat`, else `infill`."""
    if answer in CHAT_ANSWERS:
        return CATALOG["chat"].answering({"chat": answer})
    return CATALOG["infill"]


def part_kinds(message: TaggedMessage[Any]) -> AnswerKinds:
    """The kinds of a message's parts, in order; text of white space alone does not count."""
    pieces = re.split(f"({TAG_PATTERN.pattern})", message.content)
    return tuple(TAG_KINDS.get(piece, "text") for piece in pieces if piece.strip())


@cache
def _patterns() -> tuple[tuple[Task, re.Pattern[str]], ...]:
    """A pattern for the prompt of each task, longest template first."""
    tasks = [task for task in TASKS if task.template and task.answer]
    text = f"(?P<text>(?:(?!{TAG_PATTERN.pattern}).)+)"
    patterns = []
    for task in sorted(tasks, key=lambda task: -len(format_prompt(task))):
        words = re.escape(format_prompt(task, "\0").strip()).replace("\0", text)
        patterns.append((task, re.compile(rf"\s*?{words}\s*", re.DOTALL)))
    return tuple(patterns)
