"""From the messages of a chat to a request, and from its result to a reply."""

from __future__ import annotations

import string
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

from omni_diffusion.conversation import (
    AnyPart,
    Conversation,
    Image,
    Message,
    Role,
    Speech,
    Text,
    text_of,
)
from omni_diffusion.engine.ask import Inputs, conversation
from omni_diffusion.engine.request import Request, Result
from omni_diffusion.errors import OmniError
from omni_diffusion.media import Picture, Waveform
from omni_diffusion.models.omni import OmniModel
from omni_diffusion.serving import uploads
from omni_diffusion.serving.faults import ApiError, api_error, unsupported
from omni_diffusion.serving.openai_schema import (
    AudioContent,
    ChatBody,
    ChatMessage,
    ContentPart,
    ImageContent,
    TextContent,
)
from omni_diffusion.serving.service import Service
from omni_diffusion.tasks import catalog
from omni_diffusion.tasks.infer import direct_task, infer_task
from omni_diffusion.tasks.prompts import conversation_task
from omni_diffusion.tasks.task import Task
from omni_diffusion.vocab import Kind

VOICE_NAMES = (  # OpenAI's names; all are the one voice of the model
    "default alloy ash ballad coral echo fable nova onyx sage shimmer verse marin cedar"
).split()
LONGEST_WORD = 48  # characters; languages without spaces would otherwise never be sent
CHAT_PARAMS = {
    "text": "messages",
    "image": "messages",
    "speech": "messages",
    "max_tokens": "answer_tokens",
}


@dataclass(frozen=True, eq=False)
class ChatPlan:
    """What a chat asks for: a task on a conversation, and the media that its reply shows.

    spoken_after: the text of the answer is spoken by a request of its own, since the task gives no
    speech.
    """

    task: Task
    conversation: Conversation
    audio: bool
    spoken_after: bool


def check_voice(voice: str | dict[str, Any], param: str) -> None:
    """Raise ApiError for a voice that is not among `VOICE_NAMES`."""
    name = voice.get("id") if isinstance(voice, dict) else voice
    if name not in VOICE_NAMES:
        raise ApiError(
            400,
            f"no voice is called {name!r}; give 'default' or one of {', '.join(VOICE_NAMES[1:])},"
            " which all are the model's one voice",
            param=param,
            code="invalid_value",
        )


def chat_plan(body: ChatBody, service: Service) -> ChatPlan:
    """The plan of a body; decodes its media. Raises ApiError for what does not fit."""
    _check(body)
    messages = _messages(body.messages, service)
    if messages[-1].role != "user":
        raise ApiError(
            400, "the last message is not the user's", param="messages", code="invalid_value"
        )
    wanted = body.modalities or ["text"]
    task, turns = _task(body, messages, "image" if "image" in wanted else "text")
    task = task.answering(service.model.generation.answers)
    if body.negative_prompt:
        task = with_negative(task, body.negative_prompt, body.guidance_scale, service.model)
    kinds = set(task.answer or ((task.partial,) if task.partial else ()))
    audio = "audio" in wanted or kinds == {"speech"}
    return ChatPlan(task, turns, audio, audio and "speech" not in kinds)


def with_negative(task: Task, text: str, guidance: float | None, model: OmniModel) -> Task:
    """The task with a text that guidance leads away from; raises ApiError without guidance."""
    if guidance is None:
        guidance = model.generation.sampling.get(task.name, task.params).guidance
    if not guidance:
        raise ApiError(
            400,
            "a negative prompt acts through guidance, which is off; give 'guidance_scale' above 0",
            param="negative_prompt",
            code="invalid_value",
        )
    return replace(task, null_prompt=task.null_prompt + text)


def requests(body: ChatBody, asked: ChatPlan, service: Service) -> list[Request]:
    """One request for each choice."""
    count = body.n or 1
    if count > service.limits.choices:
        raise ApiError(
            400, f"n is {count}; this server gives up to {service.limits.choices}", param="n",
            code="integer_above_max_value",
        )  # fmt: skip
    return [
        service.ask(
            asked.task,
            asked.conversation,
            body.overrides(choice),
            CHAT_PARAMS,
            preset=body.preset,
            max_tokens=body.answer_tokens,
        )
        for choice in range(count)
    ]


def speaking(text: str, service: Service) -> Request:
    """The request that speaks an answer."""
    return service.ask(direct_task("text", "speech"), Inputs(text), {}, CHAT_PARAMS)


@dataclass(frozen=True, eq=False)
class Reply:
    """A result as a chat shows it."""

    text: str
    speech: Waveform | None
    pictures: tuple[Picture, ...]

    @classmethod
    def of(cls, result: Result) -> Reply:
        """The parts of a result by kind."""
        sounds = [part.waveform for part in result.parts if isinstance(part, Speech)]
        pictures = tuple(part.picture for part in result.parts if isinstance(part, Image))
        return cls(text_of(result.parts), sounds[0] if sounds else None, pictures)


class TextGate:
    """Passes text on until a stop text or the most tokens; `reason` says why it ended.

    Of several stop texts, the one that is complete first ends it. Whether the text comes whole or
    in pieces makes no difference.
    """

    def __init__(self, stops: Sequence[str], most: int | None, model: OmniModel) -> None:
        self.stops, self.most, self.model = stops, most, model
        self.reason = "stop"
        self.closed = False
        self._text = ""
        self._sent = 0

    def pass_on(self, delta: str, *, last: bool = False) -> str:
        """What may be sent now.

        Held back: the beginning of what may become a stop text, and, where tokens are counted, the
        last word, which may become other tokens with the next letters.
        """
        if self.closed:
            return ""
        self._text += delta
        text, ready = self._text, len(self._text)
        found = [(at + len(stop), at) for stop in self.stops if (at := text.find(stop)) >= 0]
        if found:
            ready, self.closed = min(found)[1], True
        elif not last:
            ready -= max((_overlap(text, stop) for stop in self.stops), default=0)
            ready = ready if self.most is None else min(ready, _whole_words(text))
        cut = self._cut(text[:ready])
        if cut is not None:
            ready, self.closed, self.reason = cut, True, "length"
        piece = text[self._sent : ready]
        self._sent = max(self._sent, ready)
        return piece

    def _cut(self, text: str) -> int | None:
        """Where the most tokens end, if the text has more."""
        if self.most is None:
            return None
        ids = self.model.codecs.text.encode(text)
        if len(ids) <= self.most:
            return None
        kept = self.model.codecs.text.decode(ids[: self.most]).rstrip("\ufffd")
        return len(kept)


def decided(body: ChatBody, asked: ChatPlan, model: OmniModel) -> Callable[[str], bool] | None:
    """Whether the settled text of an answer already has all that the body asks for.

    None where only the end of the answer decides: without a limit, or with other media in it.
    """
    if asked.task.answer != ("text",) or not (body.stops or body.most_tokens):
        return None

    def enough(text: str) -> bool:
        gate = TextGate(body.stops, body.most_tokens, model)
        gate.pass_on(text)
        return gate.closed

    return enough


def usage_of(results: Sequence[Result], model: OmniModel) -> dict[str, Any]:
    """Tokens before the answer, and tokens of the answer without its pads, of all results."""
    prompt = sum(result.canvas.answer[0] for result in results[:1] if result.canvas is not None)
    completion = 0
    for result in results:
        if result.canvas is not None:
            ids = result.canvas.ids[slice(*result.canvas.answer)]
            completion += int((ids != model.vocabulary.pad).sum())
    return {
        "prompt_tokens": prompt,
        "completion_tokens": completion,
        "total_tokens": prompt + completion,
    }


def _check(body: ChatBody) -> None:
    wanted = body.modalities or ["text"]
    if "audio" in wanted:
        if body.audio is None:
            raise ApiError(
                400, "audio in 'modalities' needs 'audio' with voice and format", param="audio",
                code="missing_required_parameter",
            )  # fmt: skip
        check_voice(body.audio.voice, "audio.voice")
        if body.stream and body.audio.format != "pcm16":
            raise ApiError(
                400, f"a stream sends audio as pcm16, not {body.audio.format}",
                param="audio.format", code="unsupported_value",
            )  # fmt: skip


def _messages(messages: Sequence[ChatMessage], service: Service) -> list[Message]:
    made = []
    for number, message in enumerate(messages):
        where = f"messages[{number}].content"
        content = message.content
        if content is None:
            raise ApiError(400, f"'{where}' is missing", param=where, code="invalid_value")
        parts: list[AnyPart] = []
        if isinstance(content, str):
            parts.append(Text(content))
        else:
            for at, part in enumerate(content):
                parts.append(_part(part, service, f"{where}[{at}]"))
        role: Role = "system" if message.role == "developer" else message.role
        made.append(Message(role, tuple(parts)))
    texts = [part.text for message in made for part in message.parts if isinstance(part, Text)]
    service.check_text("".join(texts), "messages")
    return made


def _part(part: ContentPart, service: Service, where: str) -> AnyPart:
    if isinstance(part, TextContent):
        return Text(part.text)
    if isinstance(part, ImageContent):
        name = f"{where}.image_url.url"
        data = uploads.content(part.image_url.url, name)
        return Image(uploads.read_picture(data, service.limits, name))
    if isinstance(part, AudioContent):
        name = f"{where}.input_audio.data"
        data = uploads.content(part.input_audio.data, name)
        return Speech(uploads.read_sound(data, service.limits, name))
    return Text(part.refusal)


def _task(body: ChatBody, messages: list[Message], wanted: Kind) -> tuple[Task, Conversation]:
    """The task, and the conversation it gets.

    One message of the user, with at most one picture and one recording, is a task of the catalog.
    Any other conversation is the task `chat`, as it is.
    """
    head, last = messages[:-1], messages[-1]
    texts = [part.text for part in last.parts if isinstance(part, Text)]
    pictures = [part.picture for part in last.parts if isinstance(part, Image)]
    sounds = [part.waveform for part in last.parts if isinstance(part, Speech)]
    text = "\n".join(texts).strip() or None
    if text is None and not pictures and not sounds:
        raise ApiError(400, "the last message is empty", param="messages", code="invalid_value")
    alone = all(message.role == "system" for message in head) and len(head) <= 1
    if not alone or len(pictures) > 1 or len(sounds) > 1:
        if body.task is not None:
            raise unsupported("task", "it needs one user message with one picture and recording")
        return _chat(wanted), tuple(_joined(messages))
    inputs = Inputs(text, next(iter(pictures), None), next(iter(sounds), None))
    system = text_of(head[0].parts) if head else None  # type: ignore[arg-type]
    try:
        if body.task is not None:
            task = catalog.task(body.task)
        else:
            found = infer_task(inputs.kinds, text=text, system=system, wanted=wanted, gaps=False)
            if found is None:
                return _chat(wanted), tuple(_joined(messages))
            task, inputs = found.task, replace(inputs, text=found.text)
        return task, (*head, *conversation(task, inputs))
    except OmniError as error:
        raise api_error(error, CHAT_PARAMS) from error


def _joined(messages: Sequence[Message]) -> list[Message]:
    """The messages, with all system messages joined in one at the beginning."""
    system = [part for message in messages if message.role == "system" for part in message.parts]
    rest = [message for message in messages if message.role != "system"]
    return [Message("system", tuple(system)), *rest] if system else rest


def _chat(wanted: Kind) -> Task:
    return conversation_task(("text",) if wanted == "text" else ("image",))


def _whole_words(text: str) -> int:
    """Where the last word and the white space before it begin; a long one counts as whole."""
    start = max(0, *(text.rfind(space) for space in string.whitespace))
    return len(text[:start].rstrip()) if len(text) - start <= LONGEST_WORD else len(text)


def _overlap(text: str, stop: str) -> int:
    """How much of the text's end is the beginning of `stop`."""
    return next(
        (n for n in range(min(len(stop) - 1, len(text)), 0, -1) if text.endswith(stop[:n])), 0
    )
