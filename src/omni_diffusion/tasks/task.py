"""A task as data: the words around its input, what its answer is made of, how it is sampled."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TypeAlias

from omni_diffusion.conversation import EncodedPart, Frames, Text, Turn
from omni_diffusion.diffusion.params import SamplingParams
from omni_diffusion.errors import TaskError
from omni_diffusion.tasks.defaults import Length
from omni_diffusion.vocab import Kind

AnswerKinds: TypeAlias = tuple[Kind, ...]


@dataclass(frozen=True)
class Task:
    """One task.

    template: the user's message, with {text}, {speech} and {image} where the parts go; None takes
    the conversation as it is. answer: the parts of the answer, in order; empty takes them from the
    masked parts of the conversation. null_prompt: the user's message of guidance's unconditional
    branch. optional: inputs of the template that may be omitted. length: tokens of a text or speech
    answer. params: how it is sampled by default, with `pace` steps for each masked token. partial:
    the part of the answer that is given in part, such as a picture with a hole. chunked: a text
    too long for one canvas is spoken in passages.
    """

    name: str
    title: str
    answer: AnswerKinds
    template: str | None = None
    system: str | None = None
    null_prompt: str = ""
    optional: tuple[Kind, ...] = ()
    length: Length = field(default_factory=lambda: Length(extra=128))
    params: SamplingParams = field(default_factory=SamplingParams)
    pace: float = 1.0
    partial: Kind | None = None
    chunked: bool = False

    @property
    def inputs(self) -> tuple[Kind, ...]:
        """The kinds of part that the template takes."""
        found = re.findall(r"\{(\w+)\}", self.template or "")
        return tuple(kind for kind in ("text", "image", "speech") if kind in found)

    def answering(self, answers: Mapping[str, AnswerKinds]) -> Task:
        """The task with the answer that `answers` names for it, if any."""
        other = answers.get(self.name)
        return self if other is None else replace(self, answer=other)

    def dress(self, turns: Sequence[Turn]) -> tuple[Turn, ...]:
        """The turns with the task's system message and its words around the user's parts.

        A system turn of the conversation replaces the task's. Raises TaskError for a part that is
        missing or given twice.
        """
        head, body = self._headed(turns)
        if not body:
            raise TaskError(
                f"task {self.name!r} got nothing to answer",
                field="conversation",
                fix="add a user message",
            )
        if self.template is None:
            return (*head, *body)
        roles = [turn.role for turn in body]
        if roles not in (["user"], ["user", "assistant"]):
            raise TaskError(
                f"task {self.name!r} got turns of {', '.join(roles)}",
                field="conversation",
                value=roles,
                fix="give one user message, or use the task 'chat'",
            )
        return (*head, Turn("user", self._worded(body[0].parts)), *body[1:])

    def null(self, prompt: Sequence[Turn]) -> tuple[Turn, ...]:
        """A dressed prompt with everything before the answer replaced by the null prompt."""
        head, body = self._headed(prompt)
        return (*head, Turn("user", (Text(self.null_prompt),))) if body else (*head,)

    def _headed(self, turns: Sequence[Turn]) -> tuple[Sequence[Turn], Sequence[Turn]]:
        """The system turn, the conversation's own or else the task's, and the rest."""
        if turns and turns[0].role == "system":
            return turns[:1], turns[1:]
        own = () if self.system is None else (Turn("system", (Text(self.system),)),)
        return own, turns

    def _worded(self, parts: Sequence[EncodedPart]) -> tuple[EncodedPart, ...]:
        """The template with the user's parts filled in."""
        given: dict[str, EncodedPart] = {}
        for part in parts:
            kind = kind_of(part)
            if kind not in self.inputs:
                raise TaskError(
                    f"task {self.name!r} takes {' and '.join(self.inputs)}, got {kind}",
                    field=kind,
                    fix="omit it or choose another task",
                )
            if kind in given:
                raise TaskError(
                    f"task {self.name!r} takes one {kind}, got more", field=kind, fix="give one"
                )
            given[kind] = part
        missing = [kind for kind in self.inputs if kind not in (*given, *self.optional)]
        if missing:
            raise TaskError(
                f"task {self.name!r} needs {' and '.join(missing)}", field=missing[0], fix="add it"
            )
        words = re.split(r"\{(\w+)\}", self.template or "")  # text, kind, text, kind, ..., text
        filled: list[EncodedPart] = []
        for index, word in enumerate(words):
            if index % 2 == 0:
                filled.append(Text(word))
            elif word in given:
                filled.append(given[word])
        return tuple(filled)


def kind_of(part: EncodedPart) -> Kind:
    """Text, image or speech."""
    if isinstance(part, Text):
        return "text"
    return "speech" if isinstance(part, Frames) else part.kind
