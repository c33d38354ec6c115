"""The backbone as a `PreTrainedModel`: config, weights, forward pass and denoising.

Reads and writes the files of our own model folder, so `OmniModel` and AutoModel open the same one.

Dimensions: B rows, L places, V vocabulary, M places of heard speech in all rows.
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
from omni_diffusion.engine.runner import Row
from omni_diffusion.errors import ConfigError, ModelError, SamplingError, WeightsError
from omni_diffusion.integrations.transformers.denoising import denoise
from omni_diffusion.io import config as configs
from omni_diffusion.io import weights
from omni_diffusion.models.omni import (
    ARCHITECTURE,
    BACKBONE_FILE,
    GENERATION_FILE,
    MODEL_TYPE,
    ConfigFile,
    GenerationConfig,
    ModelConfig,
    OmniModel,
    generation_at,
)
from omni_diffusion.tasks import catalog
from omni_diffusion.tasks.render import with_steps
from omni_diffusion.vocab import Vocabulary

HUB_OPTIONS = ("cache_dir", "force_download", "token", "revision", "local_files_only", "subfolder")
IGNORED = -100  # a label that asks nothing


class OmniDiffusionConfig(PreTrainedConfig):
    """Our config.json for transformers; by default the published sizes.

    `vocabulary`, `backbone` and `codecs` are the JSON objects of `model.ConfigFile`.
    """

    model_type = MODEL_TYPE
    name: str = "omni-diffusion"
    vocabulary: dict[str, Any] | None = None
    backbone: dict[str, Any] | None = None
    codecs: dict[str, Any] | None = None

    def __post_init__(self, **kwargs: Any) -> None:
        self.vocabulary = self.vocabulary or configs.to_dict(Vocabulary.official())
        self.backbone = self.backbone or configs.to_dict(DreamConfig.dream_7b())
        self.codecs = self.codecs or configs.to_dict(SuiteConfig.official())
        super().__post_init__(**kwargs)

    @classmethod
    def of(cls, config: ModelConfig) -> Self:
        """The same sizes, for transformers."""
        return cls(
            name=config.name,
            vocabulary=configs.to_dict(config.vocabulary),
            backbone=configs.to_dict(config.backbone),
            codecs=configs.to_dict(config.codecs),
        )

    @property
    def omni(self) -> ConfigFile:
        """All of it, checked; raises ConfigError for an unknown key or sizes that do not fit."""
        return configs.from_dict(ConfigFile, self.to_dict(), where="config.json")

    @property
    def vocab_size(self) -> int:
        """How many ids there are."""
        return self.omni.backbone.vocab_size

    @property
    def hidden_size(self) -> int:
        """The width of the hidden states."""
        return self.omni.backbone.hidden_size

    @property
    def num_hidden_layers(self) -> int:
        """How many blocks there are."""
        return self.omni.backbone.num_layers

    @property
    def initializer_range(self) -> float:
        """Standard deviation of new weights."""
        return self.omni.backbone.initializer_range

    def to_dict(self) -> dict[str, Any]:
        """What config.json holds, and nothing that a library noted down on the way."""
        return {
            "name": self.name,
            "vocabulary": self.vocabulary,
            "backbone": self.backbone,
            "codecs": self.codecs,
            "dtype": str(self.dtype or torch.float32).removeprefix("torch."),
            "model_type": MODEL_TYPE,
            "architectures": [ARCHITECTURE],
            "transformers_version": __version__,
        }

    def to_diff_dict(self) -> dict[str, Any]:
        """The same: defaults are written too."""
        return self.to_dict()


class OmniDiffusionModel(PreTrainedModel):
    """`backbone`, a `Dream`, between transformers' way to load and save and our way to fill blanks.

    generation_config: our `model.GenerationConfig`, of the folder's generation_config.json.
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
        """Nothing: a new `Dream` has drawn its weights already."""

    @classmethod
    def from_pretrained(cls, source: str | os.PathLike[str], *args: Any, **kwargs: Any) -> Any:
        """As of every `PreTrainedModel`, with dtype and device_map; other weights are an error.

        Raises WeightsError where transformers would start missing weights at random, ConfigError.
        """
        wanted = kwargs.pop("output_loading_info", False)
        model, info = super().from_pretrained(source, *args, output_loading_info=True, **kwargs)
        for kind in ("missing_keys", "unexpected_keys", "mismatched_keys"):
            if info[kind]:
                raise WeightsError(
                    f"the weights at {source} do not fit config.json: {len(info[kind])} of"
                    f" {kind.replace('_', ' ')}, such as {min(map(str, info[kind]))}; use files of"
                    " one model"
                )
        hub = {name: kwargs[name] for name in HUB_OPTIONS if name in kwargs}
        path = cached_file(
            source, GENERATION_FILE, _raise_exceptions_for_missing_entries=False, **hub
        )
        if path is None:
            raise ConfigError(f"no {GENERATION_FILE} at {source}; save the model again")
        model.generation_config = generation_at(Path(path).parent)
        return (model, info) if wanted else model

    @classmethod
    def from_omni(cls, omni: OmniModel) -> Self:
        """The backbone of an opened model, not copied; raises ModelError for a quantized one."""
        if omni.quantization is not None:
            raise ModelError("the model is quantized; open it without, or use it as it is")
        config = OmniDiffusionConfig.of(omni.config)
        with torch.device("meta"):
            model = cls(config)
        model.backbone = omni.backbone
        model.config.dtype = model.dtype
        model.generation_config = omni.config.generation
        model.eval()
        return model

    def to_omni(self, codecs: CodecSuite) -> OmniModel:
        """The model with its codecs, for `Engine`, `OmniModel.save` and the pipeline; no copy."""
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
        """As of every `PreTrainedModel`; in a folder with the codecs' files, `OmniModel` opens it.

        Raises ModelError for a quantized model, which our folder cannot hold.
        """
        if getattr(self, "hf_quantizer", None) is not None:
            raise ModelError("a quantized model is not saved; save it before, quantize when opened")
        prefix = f"{self.base_model_prefix}."
        tensors = self.state_dict() if state_dict is None else state_dict
        own = {name.removeprefix(prefix): tensor for name, tensor in tensors.items()}
        folder = Path(save_directory)
        weights.remove(folder / BACKBONE_FILE)  # lest an old index or file is read for the new one
        super().save_pretrained(folder, *args, state_dict=own, **kwargs)
        configs.save(self.generation_config, folder / GENERATION_FILE)

    def get_input_embeddings(self) -> torch.nn.Module:
        """The table of embeddings, [V, D]."""
        return self.backbone.model.embed_tokens

    def set_input_embeddings(self, value: torch.nn.Embedding) -> None:
        """Replace the table of embeddings."""
        self.backbone.model.embed_tokens = value

    def get_output_embeddings(self) -> torch.nn.Module | None:
        """The head, [V, D]; None where it is the table of embeddings."""
        return getattr(self.backbone, "lm_head", None)

    @property
    def is_activation_checkpointing(self) -> bool:
        """Whether training computes the blocks again going back."""
        return self.backbone.model.checkpointing

    @property
    def is_gradient_checkpointing(self) -> bool:
        """The same by its older name, which peft asks for."""
        return self.is_activation_checkpointing

    def _set_gradient_checkpointing(self, enable: bool = True, **_: Any) -> None:
        """What transformers' own switches come to; how the blocks do it is `Trunk`'s concern."""
        self.backbone.checkpointing(enable)

    def forward(
        self,
        input_ids: Tensor,
        attention_mask: Tensor | None = None,
        input_features: Tensor | None = None,
        labels: Tensor | None = None,
    ) -> MaskedLMOutput:
        """Logits [B, L, V] of the token that stands, or shall stand, at each place.

        input_ids: int64 [B, L]; blank places hold the mask id. attention_mask: [B, L], 0 = padding.
        input_features: frames [M, dim] of what is heard, for the places of `<|context_of_audio|>`
        in row-major order. labels: int64 [B, L], -100 = not asked; the loss is the mean
        cross-entropy of the asked places, with no shift. Raises ModelError for shapes that do
        not fit.
        """
        logits = self.backbone(
            input_ids,
            slots=self._slots(input_ids, input_features),
            segments=_segments(attention_mask),
        )
        loss = None
        if labels is not None:
            flat = logits.flatten(0, 1).float()
            loss = cross_entropy(flat, labels.flatten(), ignore_index=IGNORED)
        return MaskedLMOutput(loss=loss, logits=logits)

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
        """Fill the blanks of what `OmniDiffusionProcessor` gives: ids int64 [B, L].

        sampling: fields of `SamplingParams`, in place of generation_config's or the task's own; row
        i is drawn with `seed` + i. Raises SamplingError for another name or value.
        """
        params = self._params(task, sampling)
        slots = self._slots(input_ids, input_features)
        canvases = self._canvases(input_ids, attention_mask, allowed_ids, answer_start, slots)
        answers = [canvas.length - canvas.answer[0] for canvas in canvases]
        anything = torch.tensor([0, self.config.vocab_size]).expand(*null_input_ids.shape, 2)
        starts = null_attention_mask.sum(1).cpu() - torch.tensor(answers)
        nulls = self._canvases(null_input_ids, null_attention_mask, anything, starts, ())
        rows = []
        for row, (canvas, null) in enumerate(zip(canvases, nulls, strict=True)):
            own = replace(params, seed=(params.seed + row) % 2**63)
            own = with_steps(own, catalog.task(task), canvas.blanks)
            rows.append(Row(canvas, null, own, self.config.omni.vocabulary.mask))
        denoise(self.backbone, rows, self.config.omni.vocabulary.pad)
        filled = input_ids.clone()
        for row, done in enumerate(rows):
            filled[row, attention_mask[row].bool()] = done.canvas.ids.to(filled.device)
        return filled

    def _params(self, task: str, changes: Mapping[str, Any]) -> SamplingParams:
        known = [field.name for field in fields(SamplingParams)]
        for name in changes:
            if name not in known:
                raise SamplingError(f"generate takes no {name!r}; give one of {', '.join(known)}")
        usual = self.generation_config.sampling.get(task, catalog.task(task).params)
        return replace(usual, **changes)

    def _canvases(
        self,
        ids: Tensor,
        mask: Tensor,
        allowed: Tensor,
        starts: Tensor,
        slots: Sequence[tuple[int, FeatureSlot]],
    ) -> list[Canvas]:
        """One canvas for each row, without its padding; the engine keeps them on the CPU."""
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
        """The frames [M, dim] cut up for the runs of places that they belong to."""
        heard = (ids == self.config.omni.vocabulary.context_of_audio).cpu()
        count = 0 if features is None else len(features)
        if count != int(heard.sum()):
            raise ModelError(
                f"input_ids have {int(heard.sum())} places of heard speech, input_features"
                f" {count} frames; give one frame for each"
            )
        if features is None or not count:
            return ()
        rows, places = heard.nonzero(as_tuple=True)
        steps = (rows * (ids.shape[1] + 1) + places).diff()  # + 1: no run goes on in the next row
        cuts = (steps != 1).nonzero().flatten() + 1
        begins = torch.cat([torch.zeros(1, dtype=torch.int64), cuts]).tolist()
        parts = features.tensor_split(cuts)
        return tuple(
            (int(rows[at]), FeatureSlot(int(places[at]), part))
            for at, part in zip(begins, parts, strict=True)
        )


def _segments(mask: Tensor | None) -> Tensor | None:
    """The backbone's segments; None where there is no padding."""
    return None if mask is None or bool(mask.all()) else mask.long()
