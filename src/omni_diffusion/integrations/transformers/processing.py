"""Conversations to tensors for `OmniDiffusionModel.generate`, and what it fills back to answers.

Lays out with `tasks.render` and reads with `tasks.read`, so ids are those of the engine.

Dimensions: B rows, L places of the longest, M places of heard speech in all rows.
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
from omni_diffusion.conversation import Image, Message, Speech, Text
from omni_diffusion.errors import MediaError, TaskError
from omni_diffusion.io import files
from omni_diffusion.media import Picture, Waveform
from omni_diffusion.models import upstream
from omni_diffusion.models.omni import (
    CONFIG_FILE,
    Configured,
    ModelConfig,
    config_at,
    place_of,
    save_config,
)
from omni_diffusion.tasks import catalog
from omni_diffusion.tasks.encode import Spoken
from omni_diffusion.tasks.parts import Draft, Source, Turn
from omni_diffusion.tasks.read import Answer, read
from omni_diffusion.tasks.render import Prepared, render

Drawn: TypeAlias = "Picture | PIL.Image.Image | str | Path"
Heard: TypeAlias = "Waveform | np.ndarray[Any, Any] | Tensor | str | Path"
Said: TypeAlias = "Spoken | Mapping[str, Any]"


class Inputs(BatchFeature):
    """Tensors by the names that `generate` takes, and `prepared`, which `post_process` needs."""

    def __init__(self, data: dict[str, Any], prepared: Sequence[Prepared]) -> None:
        super().__init__(data)
        self.prepared = tuple(prepared)


class OmniDiffusionProcessor(Configured, PushToHubMixin):
    """The codecs of one model folder, with its vocabulary and its way to answer.

    No ProcessorMixin, which takes its parts for tokenizers and extractors of transformers. There is
    no Jinja template: how long an answer is, and where its speech begins, is part of the layout.
    """

    def __init__(self, config: ModelConfig, codecs: CodecSuite) -> None:
        self.config, self.codecs = config, codecs

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
        """Open the codecs of a folder of ours, or of such a one on the hub, on `device`.

        What AutoProcessor hands on besides is passed over. Raises ModelError, ConfigError or
        WeightsError, each naming the file.
        """
        folder = upstream.locate(os.fspath(source), upstream.BACKBONE_FILES, revision)
        config = config_at(folder)
        return cls(config, CodecSuite.open(folder, config.codecs, place_of(device)))

    def save_pretrained(
        self, save_directory: str | os.PathLike[str], push_to_hub: bool = False, **kwargs: Any
    ) -> None:
        """Write the codecs' files; config.json too where the folder has none yet."""
        folder = Path(save_directory)
        files.make_folder(folder)
        self.codecs.save(folder)
        if not (folder / CONFIG_FILE).exists():
            save_config(self.config, folder, torch.float32)
        if push_to_hub:
            self.push_to_hub(kwargs.pop("repo_id", folder.name), **kwargs)

    def __call__(
        self,
        images: Drawn | Sequence[Drawn] | None = None,
        text: str | Sequence[str] | None = None,
        audio: Heard | Sequence[Heard] | None = None,
        *,
        task: str,
        sampling_rate: int | None = None,
        length: int | None = None,
    ) -> Inputs:
        """One user's message for each row, laid out for `task`; a list is a batch.

        images: PIL images, pictures or paths. audio: arrays [n] with their sampling_rate,
        waveforms or paths. length: places of a text or speech answer. See `apply_chat_template`.
        """
        columns: list[list[Source]] = []
        if text is not None:
            columns.append([Text(each) for each in _listed(text)])
        if audio is not None:
            columns.append([Speech(waveform(each, sampling_rate)) for each in _listed(audio)])
        if images is not None:
            columns.append([Image(picture(each)) for each in _listed(images)])
        sizes = {len(column) for column in columns}
        if len(sizes) != 1:
            raise TaskError(f"text, images and audio come {sorted(sizes)} times; give as many each")
        rows = zip(*columns, strict=True)
        return self._laid([(Draft("user", parts),) for parts in rows], task, length)

    def apply_chat_template(
        self,
        conversation: Sequence[Any],
        *,
        task: str = "chat",
        tokenize: bool = False,
        length: int | None = None,
        **_: Any,
    ) -> Inputs | str | list[str]:
        """A conversation, or a batch of them, laid out as `tasks.render` does.

        A message has a "role" and a "content": text, or parts {"type": "text", "text": ...},
        {"type": "image", "image": ...}, {"type": "audio", "audio": ..., "sampling_rate": ...};
        media also by "path". Our own messages and drafts will do as well, and only they have
        blanks. length: places of a text or speech answer. tokenize: tensors, else the prompt with
        the names of special tokens. Options of other templates are passed over.
        """
        one = bool(conversation) and isinstance(conversation[0], (Mapping, Message, Draft, Turn))
        many = [conversation] if one else conversation
        laid = self._laid([[message(each) for each in row] for row in many], task, length)
        if tokenize:
            return laid
        asked = [self._prompt(prepared.canvas) for prepared in laid.prepared]
        return asked[0] if one else asked

    def post_process(self, generated: Tensor, inputs: Inputs) -> list[Answer]:
        """What `generate` made of `inputs`, read: text, pictures and sound with notes, by row."""
        answers = []
        for ids, prepared in zip(generated.cpu(), inputs.prepared, strict=True):
            laid = prepared.canvas
            filled = replace(laid, ids=ids[: laid.length], blank=torch.zeros_like(laid.blank))
            answers.append(read(filled, prepared, self))
        return answers

    def decode(self, ids: Tensor | Sequence[int], skip_special_tokens: bool = False) -> str:
        """Ids [n] as text; special, speech and image ids by their names, or left out."""
        text = self.vocabulary.text
        said = []
        for is_text, run in groupby(torch.as_tensor(ids).tolist(), key=text.__contains__):
            if is_text:
                said.append(self.codecs.text.decode(text.lower(torch.tensor(list(run)))))
            elif not skip_special_tokens:
                said += [self.vocabulary.token(id) for id in run]
        return "".join(said)

    def batch_decode(
        self, ids: Tensor | Sequence[Sequence[int]], skip_special_tokens: bool = False
    ) -> list[str]:
        """The same for rows of ids."""
        return [self.decode(row, skip_special_tokens) for row in ids]

    def _prompt(self, canvas: Canvas) -> str:
        return self.decode(canvas.ids[: canvas.answer[0]])

    def _laid(
        self, conversations: Sequence[Sequence[Spoken]], task: str, length: int | None
    ) -> Inputs:
        known = catalog.task(task)
        usual = self.sampling.get(task, known.params)
        guided = replace(usual, guidance=usual.guidance or 1.0)  # for the null prompt's canvas
        prepared = [render(known, each, self, guided, length=length) for each in conversations]
        if not prepared:
            raise TaskError("no conversation was given; give at least one")
        canvases = [each.canvas for each in prepared]
        nulls = [each.null for each in prepared if each.null is not None]
        ids, mask = self._padded(canvases)
        null_ids, null_mask = self._padded(nulls)
        data: dict[str, Any] = {
            "input_ids": ids,
            "attention_mask": mask,
            "allowed_ids": pad_sequence([each.allowed for each in canvases], batch_first=True),
            "answer_start": torch.tensor([each.answer[0] for each in canvases]),
            "null_input_ids": null_ids,
            "null_attention_mask": null_mask,
            "task": task,
        }
        frames = [slot.frames for each in canvases for slot in each.slots]
        if frames:
            data["input_features"] = torch.cat(frames)
        return Inputs(data, prepared)

    def _padded(self, canvases: Sequence[Canvas]) -> tuple[Tensor, Tensor]:
        """Ids and attention mask, int64 [B, L]."""
        rows = [each.ids for each in canvases]
        ids = pad_sequence(rows, batch_first=True, padding_value=self.vocabulary.pad)
        lengths = torch.tensor([each.length for each in canvases])
        return ids, (torch.arange(ids.shape[1]) < lengths[:, None]).long()


def message(said: Said) -> Spoken:
    """A message of a chat as one of ours; raises TaskError for what it cannot hold."""
    if not isinstance(said, Mapping):
        return said
    content = said.get("content", "")
    parts = [{"type": "text", "text": content}] if isinstance(content, str) else content
    return Draft(said.get("role", "user"), tuple(_part(part) for part in parts))


def picture(given: Drawn) -> Picture:
    """A picture from what users have; raises MediaError for what is none."""
    if isinstance(given, PIL.Image.Image):
        return Picture.from_pil(given)
    if isinstance(given, str | Path):
        return Picture.read(given)
    if not isinstance(given, Picture):
        raise MediaError(f"{type(given).__name__} is no picture; give a PIL image or a path")
    return given


def waveform(given: Heard, sampling_rate: int | None = None) -> Waveform:
    """Sound from what users have; raises MediaError for what is none, or has no rate."""
    if isinstance(given, Waveform):
        return given
    if isinstance(given, str | Path):
        return Waveform.read(given)
    if not isinstance(given, np.ndarray | Tensor):
        raise MediaError(f"{type(given).__name__} is no sound; give an array or a path")
    if sampling_rate is None:
        raise MediaError("an array of samples has no rate; give sampling_rate, such as 16000")
    samples = torch.as_tensor(given).float()
    return Waveform(samples if samples.ndim > 1 else samples[None], sampling_rate)


def _part(part: Mapping[str, Any]) -> Source:
    kind = part.get("type")
    if kind == "text":
        return Text(part["text"])
    given = part.get(str(kind), part.get("path"))
    if kind == "image" and given is not None:
        return Image(picture(given))
    if kind == "audio" and given is not None:
        return Speech(waveform(given, part.get("sampling_rate")))
    raise TaskError(
        f"a part of a message is {sorted(part)} of type {kind!r}; give text, image or audio under"
        " its type's name, image and audio also as path"
    )


def _listed(given: Any) -> Sequence[Any]:
    return given if isinstance(given, list | tuple) else [given]
