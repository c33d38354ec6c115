"""One model, opened from its folder: vocabulary, codecs and backbone, which belong together.

A folder of our layout holds config.json, generation_config.json, model.safetensors and the files of
the codec suite. The first three names are those that the transformers library expects. Published
checkpoints are read by `upstream`.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Final, Literal, Self

import torch

from omni_diffusion.backbone import dream
from omni_diffusion.backbone.config import DreamConfig
from omni_diffusion.backbone.dream import Dream
from omni_diffusion.backbone.quantization import Quantization, quantize
from omni_diffusion.codecs.glm_voice.codec import CONFIG_FILE as SPEECH_CONFIG
from omni_diffusion.codecs.glm_voice.codec import GlmVoiceConfig
from omni_diffusion.codecs.suite import SPEECH_FOLDER, CodecSuite, SuiteConfig
from omni_diffusion.errors import ModelError
from omni_diffusion.io import config as configs
from omni_diffusion.io import files, memory, weights
from omni_diffusion.models import upstream
from omni_diffusion.models.dtypes import (
    AUTO,
    DtypeChoice,
    DtypeName,
    checked_dtype,
    compute_dtype,
    dtype_name,
    faster_dtype,
)
from omni_diffusion.models.hub import MODEL_FILES, HubSource, locate
from omni_diffusion.models.sizes import MAX_TRAINING_LENGTH, model_size
from omni_diffusion.models.upstream import CodecSources, LoadedParts
from omni_diffusion.tasks.defaults import GenerationConfig
from omni_diffusion.vocab import Vocabulary

CONFIG_FILE = "config.json"
GENERATION_FILE = "generation_config.json"
BACKBONE_FILE = "model.safetensors"
QUANTIZED = "a quantized model cannot be saved; save it first, and quantize it when it is opened"
MODEL_TYPE: Final = "omni_diffusion"  # distinguishes our config.json from a published one
ARCHITECTURE = "OmniDiffusionModel"  # the class of the backbone in `integrations.transformers`
SMALL_MODEL = Path(__file__).parent.parent / "mini" / "weights"  # shipped with the package


@dataclass(frozen=True)
class ModelConfig:
    """The sizes of a model, its vocabulary and how it answers."""

    name: str
    vocabulary: Vocabulary
    backbone: DreamConfig
    codecs: SuiteConfig
    generation: GenerationConfig = field(default_factory=GenerationConfig)


@dataclass(frozen=True)
class ConfigFile:
    """The contents of config.json: a `ModelConfig` without `generation`, and transformers' fields.

    dtype: the backbone computes in it; its weights may be stored in a smaller one.
    """

    name: str
    vocabulary: Vocabulary
    backbone: DreamConfig
    codecs: SuiteConfig
    dtype: DtypeName = "float32"
    model_type: Literal["omni_diffusion"] = MODEL_TYPE
    architectures: tuple[str, ...] = (ARCHITECTURE,)
    transformers_version: str | None = None


class OmniModel:
    """Vocabulary, codecs and backbone of one model.

    quantization: of the backbone, None = none. Raises ModelError if the parts do not fit together.
    """

    def __init__(self, config: ModelConfig, codecs: CodecSuite, backbone: Dream) -> None:
        _check(config, codecs)
        self.config = config
        self.codecs = codecs
        self.backbone = backbone.eval()
        self.quantization: Quantization | None = None

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

    @classmethod
    def open(
        cls,
        folder: str | Path | None = None,
        device: str | torch.device = "cpu",
        dtype: DtypeChoice = None,
        quantization: Quantization | None = None,
    ) -> Self:
        """Open a model folder; None opens the small model that comes with the package.

        dtype: of the backbone, or its name; None = what config.json says, "auto" = the same, or
        bfloat16 where this device is much faster in it than in float32 (`faster_dtype`). Codecs
        stay in float32. quantization: see `quantize`. Raises ModelError, also for too little
        memory, ConfigError or WeightsError, with the file.
        """
        folder = SMALL_MODEL if folder is None else Path(folder)
        config = read_config(folder)
        device = resolve_device(device)
        stated = read_dtype(folder)
        if dtype == AUTO:
            dtype = faster_dtype(stated, device, config.backbone.hidden_size)
        dtype = compute_dtype(dtype, stated)
        memory.check(_needed_bytes(folder, config, dtype, device, quantization), folder, device)
        codecs = CodecSuite.open(folder, config.codecs, device)
        with weights.empty_modules():  # the tensors of the files become the weights
            backbone = Dream(config.backbone).to(dtype)
        tensors = weights.read_tensors(folder / BACKBONE_FILE)
        where = f"the weights at {folder / BACKBONE_FILE}"
        weights.load_into(backbone, tensors, rename=dream.dream_name, where=where)
        return cls(config, codecs, backbone)._to(device, quantization)

    @classmethod
    def from_pretrained(
        cls,
        source: HubSource,
        *,
        codec_sources: CodecSources | None = None,
        dtype: DtypeChoice = None,
        device: str | torch.device = "cpu",
        revision: str | None = None,
        quantization: Quantization | None = None,
    ) -> Self:
        """Open a folder of our layout, of Omni-Diffusion or of Dream-7B, local or on the hub.

        source: the folder, or owner/name on the hub; a local folder of that name comes first.
        codec_sources: where the codecs of a published folder are; ours holds them. dtype: of the
        backbone, or its name; None or "auto" = what config.json says. revision: of `source` on the
        hub. quantization: see `quantize`; a cast to another dtype on the CPU first takes the memory
        of the whole weights. Dream-7B gets rows for all ids and a new adapter, which need training:
        see `upstream.extend_vocabulary`. Raises ModelError, ConfigError or WeightsError with the
        file, and MissingDependencyError for a hub id without huggingface_hub.
        """
        device = resolve_device(device)
        folder = locate(source, MODEL_FILES, revision)
        if _is_ours(folder):
            return cls.open(folder, device, dtype, quantization)
        parts = upstream.load(
            folder, codec_sources or CodecSources(), dtype, device, quantization=quantization
        )
        return cls._of(parts)._to(device, quantization)

    @classmethod
    def _of(cls, parts: LoadedParts) -> Self:
        config = ModelConfig(
            parts.name,
            parts.vocabulary,
            parts.backbone.config,
            parts.codecs.config,
            GenerationConfig(longest=MAX_TRAINING_LENGTH),
        )
        return cls(config, parts.codecs, parts.backbone)

    def quantize(self, quantization: Quantization | None) -> Self:
        """Store the blocks' linear layers in 8 or 4 bits and return the model; None does nothing.

        Embeddings, head and codecs stay as they are. A quantized model answers; it cannot be
        trained or saved. Raises ModelError for another quantization.
        """
        return self._to(self.device, quantization)

    def _to(self, device: torch.device, quantization: Quantization | None) -> Self:
        """Move the backbone to `device`; quantized weights are moved after they got smaller."""
        if quantization is not None:
            quantize(self.backbone, quantization, device)
            self.quantization = quantization
        self.backbone.to(device)
        return self

    def save(self, folder: str | Path, dtype: torch.dtype | None = None) -> None:
        """Write the model to a folder, config.json last; `dtype`: of the stored weights.

        The folder opens in the dtype that the backbone has now. Raises ModelError for a quantized
        model and for another dtype than `models.dtypes` knows, and StorageError, also for too
        little disk space.
        """
        if self.quantization is not None:
            raise ModelError(QUANTIZED)
        for each in (self.dtype, dtype or self.dtype):
            checked_dtype(each)
        folder = Path(folder)
        files.check_space(folder, self._stored_bytes(dtype, dtype))
        with files.exclusive(folder):
            self.codecs.save(folder, dtype)
            weights.write_tensors(self.backbone.state_dict(), folder / BACKBONE_FILE, dtype=dtype)
            write_config(self.config, folder, self.dtype)

    def _stored_bytes(self, codecs: torch.dtype | None, backbone: torch.dtype | None) -> int:
        size = weights.stored_bytes(self.backbone.state_dict(), backbone)
        return size + self.codecs.stored_bytes(codecs)

    @property
    def device(self) -> torch.device:
        """The device of the backbone."""
        return self.backbone.model.embed_tokens.weight.device

    @property
    def dtype(self) -> torch.dtype:
        """The dtype that the backbone computes in."""
        return self.backbone.model.embed_tokens.weight.dtype


def convert(
    source: HubSource,
    out: str | Path,
    *,
    codec_sources: CodecSources | None = None,
    dtype: DtypeChoice = None,
    revision: str | None = None,
) -> None:
    """Write Omni-Diffusion or Dream-7B as a folder of our layout, complete or not at all.

    Arguments as of `OmniModel.from_pretrained`; `out` is new or empty. The backbone is streamed
    tensor by tensor, so only the codecs need memory. Raises ModelError for a folder that has our
    layout already, StorageError, and the errors of opening.
    """
    folder = locate(source, MODEL_FILES, revision)
    if _is_ours(folder):
        raise ModelError(
            f"{folder} already has the layout to convert to", value=folder, fix="use it as it is"
        )
    with files.atomic_folder(Path(out)) as staged:
        parts = upstream.load(
            folder, codec_sources or CodecSources(), None, torch.device("cpu"), mapped=True
        )
        model = OmniModel._of(parts)
        stored = compute_dtype(dtype, model.dtype)
        files.check_space(Path(out), model._stored_bytes(None, stored))
        model.codecs.save(staged)
        weights.write_tensors(model.backbone.state_dict(), staged / BACKBONE_FILE, dtype=stored)
        write_config(model.config, staged, stored)


def _check(config: ModelConfig, codecs: CodecSuite) -> None:
    vocabulary = config.vocabulary
    pairs = (
        ("text tokens", vocabulary.text_size, "the tokenizer", codecs.text.vocabulary_size),
        ("image codes", vocabulary.image_size, "the image codec", codecs.image.vocabulary_size),
        ("speech codes", vocabulary.speech_size, "the speech codec", codecs.speech.vocabulary_size),
        ("ids", vocabulary.size, "the backbone", config.backbone.vocab_size),
    )
    for what, expected, part, actual in pairs:
        if expected != actual:
            raise ModelError(
                f"{config.name}: the vocabulary has {expected} {what}, {part} has {actual}",
                value=actual,
                fix="use parts of one model",
            )
    if config.backbone.speech_dim != codecs.hearing.dim:
        raise ModelError(
            f"{config.name}: the backbone takes speech frames of {config.backbone.speech_dim}"
            f" values, the speech encoder makes {codecs.hearing.dim}",
            value=codecs.hearing.dim,
            fix="use parts of one model",
        )


def read_config(folder: Path) -> ModelConfig:
    """The config of a folder of our layout; raises ModelError for another layout, ConfigError."""
    stored = _read_config_file(folder)
    return ModelConfig(
        stored.name, stored.vocabulary, stored.backbone, stored.codecs, read_generation(folder)
    )


def read_dtype(folder: Path) -> torch.dtype:
    """The dtype that a folder of our layout computes in; raises as `read_config`."""
    return checked_dtype(_read_config_file(folder).dtype)


def _read_config_file(folder: Path) -> ConfigFile:
    if not _is_ours(folder):
        raise ModelError(
            f"{folder / CONFIG_FILE} is not of model_type {MODEL_TYPE!r}",
            value=folder,
            fix="open a published folder with OmniModel.from_pretrained, or convert it",
        )
    return configs.load(ConfigFile, folder / CONFIG_FILE)


def _needed_bytes(
    folder: Path,
    config: ModelConfig,
    dtype: torch.dtype,
    device: torch.device,
    quantization: Quantization | None,
) -> int:
    """Bytes that a folder of our layout takes on `device` while it is opened."""
    voice = configs.load(GlmVoiceConfig, folder / SPEECH_FOLDER / SPEECH_CONFIG)
    if quantization is not None and device.type == "cpu":
        stored = {tensor.dtype for tensor in weights.outline(folder / BACKBONE_FILE).values()}
        if stored != {dtype}:
            quantization = None  # a cast on the CPU first makes the weights whole
    return model_size(config.backbone, config.codecs, voice, dtype, quantization).bytes


def read_generation(folder: Path) -> GenerationConfig:
    """The GenerationConfig of a folder; raises ConfigError with the file."""
    return configs.load(GenerationConfig, folder / GENERATION_FILE)


def write_config(config: ModelConfig, folder: Path, dtype: torch.dtype) -> None:
    """Write generation_config.json and, last, config.json; `dtype`: of the backbone."""
    configs.save(config.generation, folder / GENERATION_FILE)
    sizes = (config.name, config.vocabulary, config.backbone, config.codecs)
    stored = ConfigFile(*sizes, dtype=dtype_name(dtype))
    configs.save(stored, folder / CONFIG_FILE)


def _is_ours(folder: Path) -> bool:
    """Whether config.json has our layout; raises ModelError without a config.json."""
    path = folder / CONFIG_FILE
    if not files.is_file(path):
        raise ModelError(
            f"no model at {folder}",
            value=folder,
            fix=f"give a folder with {CONFIG_FILE} (our layout, Omni-Diffusion or Dream-7B)",
        )
    return upstream.read_json(path).get("model_type") == MODEL_TYPE


def resolve_device(device: str | torch.device) -> torch.device:
    """The device of that name; raises ModelError if it is unknown or not available."""
    try:
        resolved = torch.device(device)
        torch.empty(1, device=resolved)
    except (RuntimeError, AssertionError) as error:  # unknown name; not there; built without it
        reason = str(error).splitlines()[0]
        raise ModelError(
            f"device {str(device)!r} is not available ({reason})",
            field="device",
            value=str(device),
            fix="use cpu",
        ) from error
    return resolved
