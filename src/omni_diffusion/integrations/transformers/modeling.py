"""The backbone as a `PreTrainedModel`: config, weights, forward pass and denoising.

It reads and writes the files of our model folder, so `OmniModel` and AutoModel open the same one.

Dimensions: B rows, L tokens of a row, V vocabulary, M frames of input speech in all rows.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import fields, replace
from pathlib import Path
from typing import Any, Self

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy
from transformers import PreTrainedConfig, PreTrainedModel, __version__
from transformers.modeling_outputs import MaskedLMOutput
from transformers.utils import cached_file

from omni_diffusion.backbone.config import DreamConfig
from omni_diffusion.backbone.dream import Dream
from omni_diffusion.canvas import Canvas, FeatureSlot
from omni_diffusion.codecs.suite import CodecSuite, SuiteConfig
from omni_diffusion.diffusion.params import SamplingParams
from omni_diffusion.engine.runner import GuidedCanvas
from omni_diffusion.errors import ConfigError, ModelError, WeightsError
from omni_diffusion.integrations.transformers.denoising import denoise
from omni_diffusion.io import config as configs
from omni_diffusion.io import weights
from omni_diffusion.models.dtypes import AUTO, checked_dtype, dtype_name
from omni_diffusion.models.omni import (
    ARCHITECTURE,
    BACKBONE_FILE,
    CONFIG_FILE,
    GENERATION_FILE,
    MODEL_TYPE,
    QUANTIZED,
    ConfigFile,
    ModelConfig,
    OmniModel,
    read_dtype,
    read_generation,
)
from omni_diffusion.tasks import catalog
from omni_diffusion.tasks.defaults import GenerationConfig, override
from omni_diffusion.tasks.render import with_steps
from omni_diffusion.vocab import Vocabulary

HUB_OPTIONS = ("cache_dir", "force_download", "token", "revision", "local_files_only", "subfolder")
IGNORED = -100  # label of a token that has no loss


class OmniDiffusionConfig(PreTrainedConfig):
    """Our config.json for transformers; the default is the published sizes.

    `vocabulary`, `backbone` and `codecs` are the JSON objects of `models.omni.ConfigFile`.
    """

    model_type = MODEL_TYPE
    name: str = "omni-diffusion"
    vocabulary: dict[str, Any] | None = None
    backbone: dict[str, Any] | None = None
    codecs: dict[str, Any] | None = None

    def __post_init__(self, **kwargs: Any) -> None:
        for given in (self.dtype, kwargs.get("torch_dtype")):
            if given is not None:
                checked_dtype(given)
        self.vocabulary = self.vocabulary or configs.to_dict(Vocabulary.official())
        self.backbone = self.backbone or configs.to_dict(DreamConfig.dream_7b())
        self.codecs = self.codecs or configs.to_dict(SuiteConfig.official())
        super().__post_init__(**kwargs)

    @classmethod
    def from_dict(cls, config_dict: dict[str, Any], **kwargs: Any) -> Any:
        """From the contents of config.json; raises ConfigError for a wrong or missing field."""
        known = {field.name for field in fields(ConfigFile)}
        stored = {name: value for name, value in config_dict.items() if name in known}
        configs.from_dict(ConfigFile, stored, where=CONFIG_FILE)
        return super().from_dict(config_dict, **kwargs)

    @classmethod
    def of(cls, config: ModelConfig) -> Self:
        """The transformers config of a `ModelConfig`."""
        return cls(
            name=config.name,
            vocabulary=configs.to_dict(config.vocabulary),
            backbone=configs.to_dict(config.backbone),
            codecs=configs.to_dict(config.codecs),
        )

    @property
    def omni(self) -> ConfigFile:
        """The checked ConfigFile; raises ConfigError for an unknown key or wrong sizes."""
        return configs.from_dict(ConfigFile, self.to_dict(), where=CONFIG_FILE)

    @property
    def vocab_size(self) -> int:
        """The number of token ids."""
        return self.omni.backbone.vocab_size

    @property
    def hidden_size(self) -> int:
        """The width of the hidden states."""
        return self.omni.backbone.hidden_size

    @property
    def num_hidden_layers(self) -> int:
        """The number of blocks."""
        return self.omni.backbone.num_layers

    @property
    def initializer_range(self) -> float:
        """Standard deviation of new weights."""
        return self.omni.backbone.initializer_range

    def to_dict(self) -> dict[str, Any]:
        """The contents of config.json, without the fields that transformers adds."""
        return {
            "name": self.name,
            "vocabulary": self.vocabulary,
            "backbone": self.backbone,
            "codecs": self.codecs,
            "dtype": dtype_name(self.dtype or torch.float32),
            "model_type": MODEL_TYPE,
            "architectures": [ARCHITECTURE],
            "transformers_version": __version__,
        }

    def to_diff_dict(self) -> dict[str, Any]:
        """The same as `to_dict`: defaults are written too."""
        return self.to_dict()


class OmniDiffusionModel(PreTrainedModel):
    """`backbone`, a `Dream`, that loads and saves like transformers and generates by denoising.

    generation_config: our `GenerationConfig`, from the folder's generation_config.json.
    """

    config_class = OmniDiffusionConfig
    base_model_prefix = "backbone"  # files name its tensors without it, as the published ones do
    main_input_name = "input_ids"
    supports_gradient_checkpointing = True
    _no_split_modules = ("Block",)
    _supports_sdpa = True

    def __init__(self, config: OmniDiffusionConfig) -> None:
        super().__init__(config)
        self.backbone = Dream(config.omni.backbone)
        self.generation_config = GenerationConfig()
        self.post_init()

    def init_weights(self) -> None:
        """Do nothing: a new `Dream` has initialized its weights already."""

    @classmethod
    def from_pretrained(cls, source: str | os.PathLike[str], *args: Any, **kwargs: Any) -> Any:
        """Load as `PreTrainedModel` does, with dtype and device_map, but check all weights.

        Without a dtype, that of config.json is taken. Raises WeightsError where transformers would
        initialize missing weights at random, ConfigError, and ModelError for another dtype than
        `models.dtypes` knows.
        """
        for option in ("dtype", "torch_dtype"):
            if option in kwargs:  # transformers takes None for the dtype of the files
                asked = kwargs[option]
                kwargs[option] = AUTO if asked in (None, AUTO) else checked_dtype(asked, option)
        hub = {name: kwargs[name] for name in HUB_OPTIONS if name in kwargs}
        if getattr(kwargs.get("config"), "dtype", AUTO) is None:  # AutoModel was given None
            kwargs["dtype"] = read_dtype(Path(cached_file(source, CONFIG_FILE, **hub)).parent)
        return_info = kwargs.pop("output_loading_info", False)
        model, info = super().from_pretrained(source, *args, output_loading_info=True, **kwargs)
        for kind in ("missing_keys", "unexpected_keys", "mismatched_keys"):
            if info[kind]:
                raise WeightsError(
                    f"the weights at {source} do not fit config.json: {len(info[kind])}"
                    f" {kind.replace('_', ' ')}, such as {min(map(str, info[kind]))}",
                    value=source,
                    fix="use files of one model",
                )
        path = cached_file(
            source, GENERATION_FILE, _raise_exceptions_for_missing_entries=False, **hub
        )
        if path is None:
            raise ConfigError(
                f"no {GENERATION_FILE} at {source}", value=source, fix="save the model again"
            )
        model.generation_config = read_generation(Path(path).parent)
        return (model, info) if return_info else model

    @classmethod
    def from_omni(cls, omni: OmniModel) -> Self:
        """Wrap the backbone of an opened model, without a copy.

        Raises ModelError for a quantized model.
        """
        if omni.quantization is not None:
            raise ModelError(
                "the model is quantized",
                field="quantization",
                value=omni.quantization,
                fix="open it without, or use the OmniModel itself",
            )
        config = OmniDiffusionConfig.of(omni.config)
        with weights.empty_modules():
            model = cls(config)
        model.backbone = omni.backbone
        model.config.dtype = model.dtype
        model.generation_config = omni.config.generation
        model.eval()
        return model

    def to_omni(self, codecs: CodecSuite) -> OmniModel:
        """The OmniModel of this backbone and its codecs, without a copy."""
        sizes = self.config.omni
        config = ModelConfig(
            sizes.name, sizes.vocabulary, sizes.backbone, sizes.codecs, self.generation_config
        )
        return OmniModel(config, codecs, self.backbone)

    def save_pretrained(
        self,
        save_directory: str | os.PathLike[str],
        *args: Any,
        state_dict: Mapping[str, Tensor] | None = None,
        **kwargs: Any,
    ) -> None:
        """Save as `PreTrainedModel` does; with the codecs' files, `OmniModel` opens the folder.

        Raises ModelError for a quantized model.
        """
        if getattr(self, "hf_quantizer", None) is not None:
            raise ModelError(QUANTIZED)
        prefix = f"{self.base_model_prefix}."
        tensors = self.state_dict() if state_dict is None else state_dict
        stripped = {name.removeprefix(prefix): tensor for name, tensor in tensors.items()}
        folder = Path(save_directory)
        weights.remove_tensors(folder / BACKBONE_FILE)  # an old index or file would be read instead
        super().save_pretrained(folder, *args, state_dict=stripped, **kwargs)
        configs.save(self.generation_config, folder / GENERATION_FILE)

    def get_input_embeddings(self) -> torch.nn.Module:
        """The embedding table, [V, D]."""
        return self.backbone.model.embed_tokens

    def set_input_embeddings(self, value: torch.nn.Embedding) -> None:
        """Replace the embedding table; raises ModelError for another number of ids."""
        self._check_rows(value.weight)
        self.backbone.model.embed_tokens = value

    def get_output_embeddings(self) -> torch.nn.Module | None:
        """The head, [V, D]; None if it is the embedding table."""
        return getattr(self.backbone, "lm_head", None)

    def set_output_embeddings(self, value: torch.nn.Linear) -> None:
        """Replace the head; raises ModelError for another number of ids, or tied tables."""
        if self.get_output_embeddings() is None:
            raise ModelError("the head is the embedding table", fix="replace the embedding table")
        self._check_rows(value.weight)
        self.backbone.lm_head = value

    def resize_token_embeddings(
        self,
        new_num_tokens: int | None = None,
        pad_to_multiple_of: int | None = None,
        mean_resizing: bool = True,
    ) -> torch.nn.Module:
        """The embedding table, unchanged; raises ModelError for another number of rows.

        The ids are those of the vocabulary, which has a range for each of text, special, speech and
        image tokens.
        """
        size = self.config.vocab_size if new_num_tokens is None else new_num_tokens
        if pad_to_multiple_of is not None:
            size = -(-size // pad_to_multiple_of) * pad_to_multiple_of
        if size != self.config.vocab_size:
            raise ModelError(
                f"the vocabulary has {self.config.vocab_size} ids, in ranges of text, special,"
                f" speech and image tokens, and cannot get {size}",
                field="new_num_tokens",
                value=size,
                fix="keep its size; new ids need a new Vocabulary and codecs",
            )
        return self.get_input_embeddings()

    def _check_rows(self, table: Tensor) -> None:
        expected = (self.config.vocab_size, self.config.hidden_size)
        if tuple(table.shape) != expected:
            raise ModelError(
                f"the table is {tuple(table.shape)}",
                field="value",
                value=tuple(table.shape),
                fix=f"give one of {expected}, as the vocabulary has so many ids",
            )

    @property
    def is_activation_checkpointing(self) -> bool:
        """Whether the backward pass recomputes the blocks."""
        return self.backbone.model.checkpointing

    @property
    def is_gradient_checkpointing(self) -> bool:
        """The older name of `is_activation_checkpointing`, which peft reads."""
        return self.is_activation_checkpointing

    def _set_gradient_checkpointing(self, enable: bool = True, **_: Any) -> None:
        """Called by the switches of transformers."""
        self.backbone.checkpointing(enable)

    def forward(
        self,
        input_ids: Tensor,
        attention_mask: Tensor | None = None,
        input_features: Tensor | None = None,
        labels: Tensor | None = None,
        return_dict: bool | None = None,
        inputs_embeds: None = None,
        output_attentions: bool | None = None,
        output_hidden_states: bool | None = None,
    ) -> MaskedLMOutput | tuple[Tensor, ...]:
        """Logits [B, L, V] of the token at each position, known or masked.

        input_ids: int64 [B, L]; masked positions hold the mask id. attention_mask: [B, L], 0 =
        padding. input_features: frames [M, dim] of input speech, for the `<|context_of_audio|>`
        tokens in row-major order. labels: int64 [B, L], -100 = no loss; the loss is the mean
        cross-entropy of the labels, without a shift, and 0 without a label. return_dict: False = a
        tuple. The other arguments, which peft passes, have to stay unset. Raises ModelError for
        these, and for shapes and labels that do not fit.
        """
        _check_unset(
            inputs_embeds=inputs_embeds,
            output_attentions=output_attentions,
            output_hidden_states=output_hidden_states,
        )
        logits = self.backbone(
            input_ids,
            slots=self._slots(input_ids, input_features),
            segments=_segments(attention_mask),
        )
        loss = None
        if labels is not None:
            loss = _mean_loss(logits, labels)
        output = MaskedLMOutput(loss=loss, logits=logits)
        return output if return_dict is None or return_dict else output.to_tuple()

    @classmethod
    def can_generate(cls) -> bool:
        """False: `generate` is our own and needs nothing of transformers' GenerationMixin."""
        return False

    def prepare_inputs_for_generation(self, input_ids: Tensor, **inputs: Any) -> dict[str, Any]:
        """The inputs of `forward`; peft asks for this method, `generate` does not use it."""
        return {"input_ids": input_ids, **inputs}

    @torch.inference_mode()
    def generate(
        self,
        input_ids: Tensor,
        attention_mask: Tensor,
        allowed_ids: Tensor,
        answer_start: Tensor,
        null_input_ids: Tensor,
        null_attention_mask: Tensor,
        input_features: Tensor | None = None,
        task: str = "chat",
        **sampling: Any,
    ) -> Tensor:
        """Fill the masked tokens of the output of `OmniDiffusionProcessor`: ids int64 [B, L].

        sampling: fields of `SamplingParams`, which replace those of generation_config and the task.
        Row i is sampled with `seed` + i. Raises SamplingError for an unknown name or a wrong value.
        """
        params = self._params(task, sampling)
        slots = self._slots(input_ids, input_features)
        canvases = self._canvases(input_ids, attention_mask, allowed_ids, answer_start, slots)
        answers = [canvas.length - canvas.answer[0] for canvas in canvases]
        any_id = torch.tensor([0, self.config.vocab_size]).expand(*null_input_ids.shape, 2)
        starts = null_attention_mask.sum(1).cpu() - torch.tensor(answers)
        nulls = self._canvases(null_input_ids, null_attention_mask, any_id, starts, ())
        vocabulary = self.config.omni.vocabulary
        guided = []
        for row, (canvas, null) in enumerate(zip(canvases, nulls, strict=True)):
            row_params = replace(params, seed=(params.seed + row) % 2**63)
            row_params = with_steps(row_params, catalog.task(task), canvas.blanks)
            guided.append(GuidedCanvas(canvas, null, row_params, vocabulary.mask))
        denoise(self.backbone, guided)
        filled = input_ids.clone()
        for row, done in enumerate(guided):
            filled[row, attention_mask[row].bool()] = done.canvas.ids.to(filled.device)
        return filled

    def _params(self, task: str, changes: Mapping[str, Any]) -> SamplingParams:
        defaults = self.generation_config.sampling.get(task, catalog.task(task).params)
        return override(defaults, changes)

    def _canvases(
        self,
        ids: Tensor,
        mask: Tensor,
        allowed: Tensor,
        starts: Tensor,
        slots: Sequence[tuple[int, FeatureSlot]],
    ) -> list[Canvas]:
        """One canvas per row, without its padding; the engine keeps them on the CPU."""
        lengths = mask.sum(1).tolist()
        return [
            Canvas(
                ids=ids[row, :length].cpu(),
                blank=ids[row, :length].cpu() == self.config.omni.vocabulary.mask,
                allowed=allowed[row, :length].cpu(),
                answer=(int(starts[row]), length),
                slots=tuple(slot for at, slot in slots if at == row),
            )
            for row, length in enumerate(lengths)
        ]

    def _slots(self, ids: Tensor, features: Tensor | None) -> tuple[tuple[int, FeatureSlot], ...]:
        """The frames [M, dim] split into one slot per run of speech tokens, with its row."""
        is_speech = (ids == self.config.omni.vocabulary.context_of_audio).cpu()
        tokens = int(is_speech.sum())
        count = 0 if features is None else len(features)
        if count != tokens:
            raise ModelError(
                f"input_ids have {tokens} speech tokens, input_features {count} frames",
                field="input_features",
                value=count,
                fix="give one frame for each",
            )
        if features is None or not count:
            return ()
        rows, positions = is_speech.nonzero(as_tuple=True)
        steps = (rows * (ids.shape[1] + 1) + positions).diff()  # + 1: no run crosses two rows
        cuts = (steps != 1).nonzero().flatten() + 1
        starts = torch.cat([torch.zeros(1, dtype=torch.int64), cuts]).tolist()
        parts = features.tensor_split(cuts)
        return tuple(
            (int(rows[at]), FeatureSlot(int(positions[at]), part))
            for at, part in zip(starts, parts, strict=True)
        )


def _mean_loss(logits: Tensor, labels: Tensor) -> Tensor:
    """Mean cross-entropy of logits [B, L, V] over the labels [B, L] that count; 0 without any."""
    if labels.shape != logits.shape[:2]:
        raise ModelError(
            f"labels are {tuple(labels.shape)}, input_ids {tuple(logits.shape[:2])}",
            field="labels",
            value=tuple(labels.shape),
            fix="make them equal",
        )
    used = labels != IGNORED
    wrong = labels[used & ((labels < 0) | (labels >= logits.shape[2]))]
    if wrong.numel():
        raise ModelError(
            f"a label is {int(wrong[0])}",
            field="labels",
            value=int(wrong[0]),
            fix=f"give 0 to {logits.shape[2] - 1}, or {IGNORED} for no loss",
        )
    flat = logits.flatten(0, 1).float()
    total = cross_entropy(flat, labels.flatten().long(), ignore_index=IGNORED, reduction="sum")
    return total / used.sum().clamp(min=1)


def _check_unset(**options: Any) -> None:
    for name, value in options.items():
        if value is not None and value is not False:
            raise ModelError(
                f"the model does not take {name}",
                field=name,
                fix="omit it; `backbone.embed` and `backbone.hidden` give embeddings and states",
            )


def _segments(mask: Tensor | None) -> Tensor | None:
    """The backbone's segments; None without padding."""
    return None if mask is None or bool(mask.all()) else mask.long()
