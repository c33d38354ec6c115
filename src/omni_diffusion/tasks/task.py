"""What a task is: the words around its input, and what its answer is made of.

A task is data; how it becomes a canvas is `render`'s concern. Knows no token ids.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TypeAlias

from omni_diffusion.conversation import Text
from omni_diffusion.diffusion.params import SamplingParams
from omni_diffusion.errors import TaskError
from omni_diffusion.tasks.defaults import Length
from omni_diffusion.tasks.parts import Frames, Kind, Piece, Turn

Answer: TypeAlias = tuple[Kind, ...]


@dataclass(frozen=True)
class Task:
    """One kind of question that the model can answer.

    template: the user's words, with {text}, {speech} and {image} where the parts go; None lays
    the conversation as it is. answer: what the answer consists of, in order; empty takes it from
    the blanks of the conversation. null_prompt: what guidance asks instead of the user's words.
    optional: inputs of the template that may be left out. length: places of the answer, where
    it is text or speech. params: how it is sampled by default, with `pace` steps for each blank.
    """

    name: str
    title: str
    answer: Answer
    template: str | None = None
    system: str | None = None
    null_prompt: str = ""
    optional: tuple[Kind, ...] = ()
    length: Length = field(default_factory=lambda: Length(extra=128))
    params: SamplingParams = field(default_factory=SamplingParams)
    pace: float = 1.0

    @property
    def inputs(self) -> tuple[Kind, ...]:
        """The kinds of part that the template asks for, in its order."""
        found = re.findall(r"\{(\w+)\}", self.template or "")
        return tuple(kind for kind in ("text", "image", "speech") if kind in found)

    def answering(self, answers: Mapping[str, Answer]) -> Task:
        """The task with the answer that `answers` names for it, if they do."""
        other = answers.get(self.name)
        return self if other is None else replace(self, answer=other)

    def dress(self, turns: Sequence[Turn]) -> tuple[Turn, ...]:
        """The turns with the task's system text in front and its words around the user's parts.

        A system turn of the conversation's own comes instead of the task's. Raises TaskError when
        a needed part is missing or one is too many.
        """
        head, body = self._headed(turns)
        if not body:
            raise TaskError(f"task {self.name!r} got nothing to answer; add a user message")
        if self.template is None:
            return (*head, *body)
        roles = [turn.role for turn in body]
        if roles not in (["user"], ["user", "assistant"]):
            raise TaskError(
                f"task {self.name!r} got turns of {', '.join(roles)}; give one user message,"
                " or use the task 'chat'"
            )
        return (*head, Turn("user", self._worded(body[0].parts)), *body[1:])

    def null(self, prompt: Sequence[Turn]) -> tuple[Turn, ...]:
        """A dressed prompt with all that was said before the answer replaced by the null prompt."""
        head, body = self._headed(prompt)
        return (*head, Turn("user", (Text(self.null_prompt),))) if body else (*head,)

    def _headed(self, turns: Sequence[Turn]) -> tuple[Sequence[Turn], Sequence[Turn]]:
        """The system turn, the conversation's own or the task's if there is one, and the rest."""
        if turns and turns[0].role == "system":
            return turns[:1], turns[1:]
        own = () if self.system is None else (Turn("system", (Text(self.system),)),)
        return own, turns

    def _worded(self, parts: Sequence[Piece]) -> tuple[Piece, ...]:
        """The template with the user's parts in their places."""
        given: dict[str, Piece] = {}
        for part in parts:
            kind = kind_of(part)
            if kind not in self.inputs:
                raise TaskError(
                    f"task {self.name!r} takes {' and '.join(self.inputs)}, got {kind};"
                    " leave it out or choose another task"
                )
            if kind in given:
                raise TaskError(f"task {self.name!r} takes one {kind}, got more; give one")
            given[kind] = part
        missing = [kind for kind in self.inputs if kind not in (*given, *self.optional)]
        if missing:
            raise TaskError(f"task {self.name!r} needs {' and '.join(missing)}; add it")
        words = re.split(r"\{(\w+)\}", self.template or "")  # text, kind, text, kind, ..., text
        laid: list[Piece] = []
        for at, word in enumerate(words):
            if at % 2 == 0:
                laid.append(Text(word))
            elif word in given:
                laid.append(given[word])
        return tuple(laid)


def kind_of(part: Piece) -> Kind:
    """Text, image or speech."""
    if isinstance(part, Text):
        return "text"
    return "speech" if isinstance(part, Frames) else part.kind
