"""Conversations to tensors for `OmniDiffusionModel.generate`, and its output back to answers.

`tasks.render` lays out and `tasks.read` reads, so the ids are those of the engine.

Dimensions: B rows, L tokens of the longest row, M frames of input speech in all rows.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import replace
from itertools import groupby
from pathlib import Path
from typing import Any, Self, TypeAlias

import numpy as np
import PIL.Image
import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence
from transformers import BatchFeature
from transformers.utils import PushToHubMixin

from omni_diffusion.canvas import Canvas
from omni_diffusion.codecs.suite import CodecSuite
from omni_diffusion.conversation import (
    AnyPart,
    Conversation,
    Image,
    Message,
    Speech,
    Text,
    Turn,
)
from omni_diffusion.errors import MediaError, TaskError
from omni_diffusion.io import files
from omni_diffusion.io.config import shown
from omni_diffusion.media import Picture, Waveform
from omni_diffusion.models.hub import MODEL_FILES, locate
from omni_diffusion.models.omni import (
    CONFIG_FILE,
    ModelConfig,
    read_config,
    read_dtype,
    resolve_device,
    write_config,
)
from omni_diffusion.tasks import catalog
from omni_diffusion.tasks.chat import ChatPart, chat_message
from omni_diffusion.tasks.defaults import GenerationConfig
from omni_diffusion.tasks.read import Answer, read
from omni_diffusion.tasks.render import Prepared, render, sampling_defaults
from omni_diffusion.vocab import Vocabulary

CALL_OPTIONS: dict[str, tuple[Any, ...]] = {  # options of other processors, and what ours does
    "return_tensors": ("pt",),
    "padding": (True, "longest"),
    "truncation": (False, "do_not_truncate"),
}
ImageLike: TypeAlias = "Picture | PIL.Image.Image | str | Path"
AudioLike: TypeAlias = "Waveform | np.ndarray[Any, Any] | Tensor | str | Path"
MessageLike: TypeAlias = "Message | Turn | Mapping[str, Any]"


class ModelInputs(BatchFeature):
    """Tensors by the names that `generate` takes, and `prepared`, which `post_process` needs."""

    def __init__(self, data: dict[str, Any], prepared: Sequence[Prepared]) -> None:
        super().__init__(data)
        self.prepared = tuple(prepared)


class OmniDiffusionProcessor(PushToHubMixin):
    """The codecs of one model folder, with its vocabulary and generation config.

    It is not a ProcessorMixin, whose parts must be tokenizers and extractors of transformers. It
    has no Jinja template, because the layout includes the length of the answer and where its speech
    begins.
    """

    def __init__(
        self, config: ModelConfig, codecs: CodecSuite, dtype: torch.dtype = torch.float32
    ) -> None:
        self.config, self.codecs = config, codecs
        self._dtype = dtype  # of the backbone, for a config.json that `save_pretrained` writes

    @property
    def vocabulary(self) -> Vocabulary:
        """The unified token space."""
        return self.config.vocabulary

    @property
    def max_positions(self) -> int:
        """The longest canvas, in tokens."""
        return self.config.backbone.max_positions

    @property
    def generation(self) -> GenerationConfig:
        """Where the model departs from the tasks' defaults."""
        return self.config.generation

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.config.name!r})"

    @classmethod
    def from_pretrained(
        cls,
        source: str | os.PathLike[str],
        *,
        device: str | torch.device = "cpu",
        revision: str | None = None,
        **_: Any,
    ) -> Self:
        """Open the codecs of a folder of our layout, local or on the hub, on `device`.

        Other options that AutoProcessor passes are ignored. Raises ModelError, ConfigError or
        WeightsError with the file, and MissingDependencyError for a hub id without huggingface_hub.
        """
        folder = locate(os.fspath(source), MODEL_FILES, revision)
        config = read_config(folder)
        codecs = CodecSuite.open(folder, config.codecs, resolve_device(device))
        return cls(config, codecs, read_dtype(folder))

    def save_pretrained(
        self, save_directory: str | os.PathLike[str], push_to_hub: bool = False, **kwargs: Any
    ) -> None:
        """Write the codecs' files, and config.json if the folder has none yet."""
        folder = Path(save_directory)
        files.make_folder(folder)
        self.codecs.save(folder)
        if not (folder / CONFIG_FILE).exists():
            write_config(self.config, folder, self._dtype)
        if push_to_hub:
            self.push_to_hub(kwargs.pop("repo_id", folder.name), **kwargs)

    def __call__(
        self,
        images: ImageLike | Sequence[ImageLike] | None = None,
        text: str | Sequence[str] | None = None,
        audio: AudioLike | Sequence[AudioLike] | None = None,
        *,
        task: str,
        sampling_rate: int | None = None,
        max_tokens: int | None = None,
        **options: Any,
    ) -> ModelInputs:
        """Lay out one user message per row for `task`; a list is a batch.

        images: PIL images, pictures or paths. audio: arrays [n], [channels, n] or [n, channels]
        with their sampling_rate, waveforms or paths; whole numbers are scaled, as
        `Waveform.from_array` says. max_tokens: length of a text or speech answer. options:
        return_tensors "pt", padding True or "longest" and truncation False, which is what happens
        without them. Raises TaskError for other options.
        """
        _check_options(options)
        columns: list[list[AnyPart]] = []
        if text is not None:
            columns.append([Text(item) for item in _as_list(text)])
        if audio is not None:
            columns.append([Speech(waveform(item, sampling_rate)) for item in _as_list(audio)])
        if images is not None:
            columns.append([Image(picture(item)) for item in _as_list(images)])
        sizes = {len(column) for column in columns}
        if len(sizes) != 1:
            raise TaskError(
                f"the counts of text, images and audio are {sorted(sizes)}",
                value=sorted(sizes),
                fix="give the same number of each",
            )
        rows = zip(*columns, strict=True)
        return self._lay_out([(Message("user", parts),) for parts in rows], task, max_tokens)

    def apply_chat_template(
        self,
        conversation: Sequence[Any],
        *,
        task: str = "chat",
        tokenize: bool = False,
        max_tokens: int | None = None,
        **options: Any,
    ) -> ModelInputs | str | list[str]:
        """Lay out a conversation, or a batch of them, as `tasks.render` does.

        A message has a "role" and a "content": text, or parts {"type": "text", "text": ...},
        {"type": "image", "image": ...}, {"type": "audio", "audio": ..., "sampling_rate": ...};
        media also by "path", and in the shapes of OpenAI's clients, see `tasks.chat`. A `Message`
        or `Turn` is accepted too, and only these can have masked parts. max_tokens: length of a
        text or speech answer. tokenize: return tensors, otherwise the prompt with the names of
        special tokens. return_tensors, padding, truncation: as for a call. Options of other
        templates are ignored. Raises TaskError for messages of another shape.
        """
        _check_options({name: options[name] for name in CALL_OPTIONS if name in options})
        single = _is_conversation(conversation)
        batch = [conversation] if single else conversation
        inputs = self._lay_out([[message(item) for item in row] for row in batch], task, max_tokens)
        if tokenize:
            return inputs
        prompts = [self._prompt(prepared.canvas) for prepared in inputs.prepared]
        return prompts[0] if single else prompts

    def post_process(self, generated: Tensor, inputs: ModelInputs) -> list[Answer]:
        """Decode the output of `generate` for `inputs`: one answer per row, with notes."""
        answers = []
        for ids, prepared in zip(generated.cpu(), inputs.prepared, strict=True):
            canvas = prepared.canvas
            filled = replace(canvas, ids=ids[: canvas.length], blank=torch.zeros_like(canvas.blank))
            answers.append(read(filled, prepared, self))
        return answers

    def decode(self, ids: Tensor | Sequence[int], skip_special_tokens: bool = False) -> str:
        """Ids [n] as text; special, speech and image ids by their names, or skipped."""
        text = self.vocabulary.text
        pieces = []
        for is_text, run in groupby(torch.as_tensor(ids).tolist(), key=text.__contains__):
            if is_text:
                pieces.append(self.codecs.text.decode(text.lower(torch.tensor(list(run)))))
            elif not skip_special_tokens:
                pieces += [self.vocabulary.token(id) for id in run]
        return "".join(pieces)

    def batch_decode(
        self, ids: Tensor | Sequence[Sequence[int]], skip_special_tokens: bool = False
    ) -> list[str]:
        """`decode` for each row of ids."""
        return [self.decode(row, skip_special_tokens) for row in ids]

    def _prompt(self, canvas: Canvas) -> str:
        return self.decode(canvas.ids[: canvas.answer[0]])

    def _lay_out(
        self, conversations: Sequence[Conversation], task: str, max_tokens: int | None
    ) -> ModelInputs:
        spec = catalog.task(task)
        params = sampling_defaults(spec, self)
        guided = replace(params, guidance=params.guidance or 1.0)  # for the null prompt's canvas
        prepared = [
            render(spec, conversation, self, guided, max_tokens=max_tokens)
            for conversation in conversations
        ]
        if not prepared:
            raise TaskError("there is no conversation", field="conversation", fix="give at least 1")
        canvases = [one.canvas for one in prepared]
        nulls = [one.uncond for one in prepared if one.uncond is not None]
        ids, mask = self._pad(canvases)
        null_ids, null_mask = self._pad(nulls)
        data: dict[str, Any] = {
            "input_ids": ids,
            "attention_mask": mask,
            "allowed_ids": pad_sequence([one.allowed for one in canvases], batch_first=True),
            "answer_start": torch.tensor([one.answer[0] for one in canvases]),
            "null_input_ids": null_ids,
            "null_attention_mask": null_mask,
            "task": task,
        }
        frames = [slot.frames for canvas in canvases for slot in canvas.slots]
        if frames:
            data["input_features"] = torch.cat(frames)
        return ModelInputs(data, prepared)

    def _pad(self, canvases: Sequence[Canvas]) -> tuple[Tensor, Tensor]:
        """Ids and attention mask, int64 [B, L]."""
        rows = [canvas.ids for canvas in canvases]
        ids = pad_sequence(rows, batch_first=True, padding_value=self.vocabulary.pad)
        lengths = torch.tensor([canvas.length for canvas in canvases])
        return ids, (torch.arange(ids.shape[1]) < lengths[:, None]).long()


def message(value: MessageLike) -> Message | Turn:
    """A chat message as one of ours; raises TaskError for a shape that `tasks.chat` lacks."""
    if isinstance(value, Message | Turn):
        return value
    chat = chat_message(value)
    return Message(chat.role, tuple(_part(part) for part in chat.parts))


def picture(value: ImageLike) -> Picture:
    """A Picture from an image or a path; raises MediaError for anything else."""
    if isinstance(value, PIL.Image.Image):
        return Picture.from_pil(value)
    if isinstance(value, str | Path):
        return Picture.read(value)
    if not isinstance(value, Picture):
        raise MediaError(
            f"{type(value).__name__} is not an image",
            field="images",
            value=value,
            fix="give a PIL image or a path",
        )
    return value


def waveform(value: AudioLike, sampling_rate: int | None = None) -> Waveform:
    """A Waveform from samples or a path, in which something can be heard.

    Samples are as `Waveform.from_array` takes them. Raises MediaError for anything else, for
    samples without a rate, and for silence.
    """
    read = _waveform(value, sampling_rate)
    read.check_heard(str(value) if isinstance(value, str | Path) else "the recording")
    return read


def _waveform(value: AudioLike, sampling_rate: int | None) -> Waveform:
    if isinstance(value, Waveform):
        return value
    if isinstance(value, str | Path):
        return Waveform.read(value)
    if not isinstance(value, np.ndarray | Tensor):
        raise MediaError(
            f"{type(value).__name__} is not audio",
            field="audio",
            value=value,
            fix="give an array or a path",
        )
    if sampling_rate is None:
        raise MediaError(
            "an array of samples has no rate",
            field="sampling_rate",
            fix="give sampling_rate in Hz, such as 16000",
        )
    return Waveform.from_array(value, sampling_rate)


def _part(part: ChatPart) -> AnyPart:
    if part.kind == "text":
        return Text(part.value)
    is_file = isinstance(part.value, bytes)
    if part.kind == "image":
        return Image(Picture.read(part.value) if is_file else picture(part.value))
    return Speech(
        Waveform.read(part.value) if is_file else waveform(part.value, part.sampling_rate)
    )


def _is_conversation(value: Any) -> bool:
    """Whether this is one conversation, and not a batch; raises TaskError if it is neither."""
    rows = [value] if not isinstance(value, list | tuple) else value
    one = [isinstance(row, Message | Turn | Mapping) or hasattr(row, "model_dump") for row in rows]
    if rows is value and (all(one) or all(isinstance(row, list | tuple) for row in rows)):
        return bool(rows) and one[0]
    raise TaskError(
        f"the conversation is {shown(value)}",
        field="conversation",
        fix="give a list of messages, or a list of such lists",
    )


def _check_options(options: Mapping[str, Any]) -> None:
    """Raise TaskError for an option of other processors that cannot be fulfilled."""
    for name, value in options.items():
        if name not in CALL_OPTIONS:
            raise TaskError(
                f"the processor has no option {name!r}",
                field=name,
                fix="give text, images, audio, task, sampling_rate or max_tokens",
            )
        if value is not None and value not in CALL_OPTIONS[name]:
            raise TaskError(
                f"{name} is {shown(value)}",
                field=name,
                value=value,
                fix=f"give one of {', '.join(map(repr, CALL_OPTIONS[name]))}, or omit it",
            )


def _as_list(value: Any) -> Sequence[Any]:
    return value if isinstance(value, list | tuple) else [value]
