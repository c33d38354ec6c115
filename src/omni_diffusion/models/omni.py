"""One model opened from its folder: vocabulary, codecs and backbone, which belong together.

A folder holds config.json, generation_config.json, model.safetensors and the files of the codec
suite; the first three are what the transformers library expects under these names. Folders as
others published them are read by `published`. Knows nothing of tasks.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final, Literal, Self

import torch

from omni_diffusion.backbone import dream
from omni_diffusion.backbone.config import DreamConfig
from omni_diffusion.backbone.dream import Dream
from omni_diffusion.backbone.quantization import Quantization, bytes_saved, quantize
from omni_diffusion.codecs.glm_voice.codec import CONFIG_FILE as SPEECH_CONFIG
from omni_diffusion.codecs.glm_voice.codec import GlmVoiceConfig
from omni_diffusion.codecs.suite import SPEECH_FOLDER, CodecSuite, SuiteConfig
from omni_diffusion.diffusion.params import SamplingParams
from omni_diffusion.errors import ModelError
from omni_diffusion.io import config as configs
from omni_diffusion.io import files, memory, weights
from omni_diffusion.models import upstream
from omni_diffusion.models.upstream import BACKBONE_FILES, Opened, Parts, Place
from omni_diffusion.vocab import Vocabulary

CONFIG_FILE = "config.json"
GENERATION_FILE = "generation_config.json"
BACKBONE_FILE = "model.safetensors"
MODEL_TYPE: Final = "omni_diffusion"  # tells our config.json from a published one
ARCHITECTURE = "OmniDiffusionModel"  # what the transformers library calls the backbone
SHIPPED = Path(__file__).parent.parent / "mini" / "weights"


@dataclass(frozen=True)
class GenerationConfig:
    """What generation_config.json holds: how a model answers, where not as the tasks say.

    lengths: by task name, the (factor, extra) of an answer's length; sampling, answers: the same
    for how it is sampled and what it is made of. longest: places of the longest canvas that the
    model learned to speak on, as far as is known; longer texts are spoken in passages.
    """

    lengths: dict[str, tuple[float, int]] = field(default_factory=dict)
    sampling: dict[str, SamplingParams] = field(default_factory=dict)
    answers: dict[str, tuple[Literal["text", "image", "speech"], ...]] = field(default_factory=dict)
    longest: int | None = None


@dataclass(frozen=True)
class ModelConfig:
    """What a model is made of, and how it answers."""

    name: str
    vocabulary: Vocabulary
    backbone: DreamConfig
    codecs: SuiteConfig
    generation: GenerationConfig = field(default_factory=GenerationConfig)


@dataclass(frozen=True)
class ConfigFile:
    """What config.json holds: a `ModelConfig` without `generation`, and what transformers asks.

    dtype: what the backbone computes in; its weights may be stored in a smaller one.
    """

    name: str
    vocabulary: Vocabulary
    backbone: DreamConfig
    codecs: SuiteConfig
    dtype: str = "float32"
    model_type: Literal["omni_diffusion"] = MODEL_TYPE
    architectures: tuple[str, ...] = (ARCHITECTURE,)
    transformers_version: str | None = None


class Configured:
    """What a `ModelConfig` says to whoever lays out and reads for its model."""

    config: ModelConfig

    @property
    def vocabulary(self) -> Vocabulary:
        """The unified token space."""
        return self.config.vocabulary

    @property
    def max_positions(self) -> int:
        """How many places a canvas may have."""
        return self.config.backbone.max_positions

    @property
    def lengths(self) -> Mapping[str, tuple[float, int]]:
        """The model's own answer lengths, by task name."""
        return self.config.generation.lengths

    @property
    def answers(self) -> Mapping[str, tuple[Literal["text", "image", "speech"], ...]]:
        """What the model's own answers are made of, by task name."""
        return self.config.generation.answers

    @property
    def sampling(self) -> Mapping[str, SamplingParams]:
        """The model's own sampling parameters, by task name."""
        return self.config.generation.sampling


class OmniModel(Configured):
    """Vocabulary, codecs and backbone of one model.

    Raises ModelError when they do not fit one another.
    """

    def __init__(self, config: ModelConfig, codecs: CodecSuite, backbone: Dream) -> None:
        self.config = config
        self.codecs = codecs
        self.backbone = backbone.eval()
        self.quantization: Quantization | None = None
        _check(config, codecs)

    @classmethod
    def open(
        cls,
        folder: str | Path | None = None,
        device: str | torch.device = "cpu",
        dtype: torch.dtype = torch.float32,
        quantization: Quantization | None = None,
    ) -> Self:
        """Open a model folder, by default the small model that comes with the package.

        dtype is the backbone's; codecs stay in float32. quantization: see `quantize`. Raises
        ModelError, also for too little memory, ConfigError or WeightsError, naming the file.
        """
        folder = SHIPPED if folder is None else Path(folder)
        config = config_at(folder)
        place = place_of(device)
        memory.check(_needed(folder, config, dtype, place, quantization), folder, place)
        codecs = CodecSuite.open(folder, config.codecs, place)
        with torch.device("meta"):  # no random start, no memory taken twice
            backbone = Dream(config.backbone).to(dtype)
        tensors = weights.read(folder / BACKBONE_FILE)
        where = f"the weights at {folder / BACKBONE_FILE}"
        weights.load_into(backbone, tensors, rename=dream.rename, where=where)
        return cls(config, codecs, backbone)._placed(place, quantization)

    @classmethod
    def from_pretrained(
        cls,
        source: Place,
        *,
        parts: Parts | None = None,
        dtype: torch.dtype | None = None,
        device: str | torch.device = "cpu",
        revision: str | None = None,
        quantization: Quantization | None = None,
    ) -> Self:
        """Open a folder of ours, of Omni-Diffusion or of Dream-7B, or such a one on the hub.

        source: the folder, or owner/name on the hub; a folder of that name here comes first.
        parts: where codecs are that a published folder lacks; ours holds all. dtype: the
        backbone's; None = as published, float32 for ours. revision: of `source` on the hub.
        quantization: see `quantize`; where dtype changes, the weights are whole first on the CPU.
        Dream-7B gets rows for all ids and a new adapter, to be trained: see
        `published.widened`. Raises ModelError, ConfigError or WeightsError, each naming the file.
        """
        place = place_of(device)
        folder = upstream.locate(source, BACKBONE_FILES, revision)
        if _is_ours(folder):
            return cls.open(folder, place, dtype or torch.float32, quantization)
        found = upstream.read(folder, parts or Parts(), dtype, place, quantization=quantization)
        return cls._of(found)._placed(place, quantization)

    @classmethod
    def _of(cls, found: Opened) -> Self:
        config = ModelConfig(
            found.name,
            found.vocabulary,
            found.backbone.config,
            found.codecs.config,
            GenerationConfig(longest=upstream.LONGEST),
        )
        return cls(config, found.codecs, found.backbone)

    def quantize(self, how: Quantization | None) -> Self:
        """The model itself, the linear layers of its blocks now in 8 bits; None changes nothing.

        Embeddings, head and codecs stay as they are. For answers alone: it is neither trained nor
        saved. Raises ModelError for another `how`, and without torchao.
        """
        return self._placed(self.device, how)

    def _placed(self, device: torch.device, how: Quantization | None) -> Self:
        """The model itself, its backbone brought to `device`; quantized ones get there smaller."""
        if how is not None:
            quantize(self.backbone, how, device)
            self.quantization = how
        self.backbone.to(device)
        return self

    def save(self, folder: str | Path, dtype: torch.dtype | None = None) -> None:
        """Write the model to a folder, config.json last; `dtype` may be a smaller one to store.

        Raises ModelError for a quantized one, StorageError, also for too little room on the disk.
        """
        if self.quantization is not None:
            raise ModelError("a quantized model is not saved; save it before, quantize when opened")
        folder = Path(folder)
        files.check_space(folder, self._stored_bytes(dtype, dtype))
        files.make_folder(folder)
        self.codecs.save(folder, dtype)
        weights.write(self.backbone.state_dict(), folder / BACKBONE_FILE, dtype=dtype)
        save_config(self.config, folder, self._dtype)

    def _stored_bytes(self, codecs: torch.dtype | None, backbone: torch.dtype | None) -> int:
        own = weights.stored_bytes(self.backbone.state_dict(), backbone)
        return own + self.codecs.stored_bytes(codecs)

    @property
    def device(self) -> torch.device:
        """Where the backbone lies."""
        return self.backbone.model.embed_tokens.weight.device

    @property
    def _dtype(self) -> torch.dtype:
        return self.backbone.model.embed_tokens.weight.dtype


def convert(
    source: Place,
    out: str | Path,
    *,
    parts: Parts | None = None,
    dtype: torch.dtype | None = None,
    revision: str | None = None,
) -> None:
    """Write Omni-Diffusion or Dream-7B as a folder of ours, whole or not at all.

    Arguments as of `OmniModel.from_pretrained`; `out` is new or empty. The backbone goes from
    file to file piece by piece, so that only the codecs need memory. Raises ModelError for a
    folder of ours, StorageError, and what opening raises.
    """
    folder = upstream.locate(source, BACKBONE_FILES, revision)
    if _is_ours(folder):
        raise ModelError(f"{folder} is a folder of ours already; give it to --model as it is")
    with files.atomic_folder(Path(out)) as staged:
        cpu = torch.device("cpu")
        model = OmniModel._of(upstream.read(folder, parts or Parts(), None, cpu, mapped=True))
        files.check_space(Path(out), model._stored_bytes(None, dtype))
        model.codecs.save(staged)
        weights.write(model.backbone.state_dict(), staged / BACKBONE_FILE, dtype=dtype)
        save_config(model.config, staged, dtype or model._dtype)


def _check(config: ModelConfig, codecs: CodecSuite) -> None:
    vocabulary = config.vocabulary
    pairs = (
        ("text tokens", vocabulary.text_size, "the tokenizer", codecs.text.vocabulary_size),
        ("image codes", vocabulary.image_size, "the image codec", codecs.image.vocabulary_size),
        ("speech codes", vocabulary.speech_size, "the speech codec", codecs.speech.vocabulary_size),
        ("ids", vocabulary.size, "the backbone", config.backbone.vocab_size),
    )
    for what, expected, who, found in pairs:
        if expected != found:
            raise ModelError(
                f"{config.name}: the vocabulary has {expected} {what}, {who} has {found};"
                " use parts of one model"
            )
    if config.backbone.speech_dim != codecs.hearing.dim:
        raise ModelError(
            f"{config.name}: the backbone hears frames of {config.backbone.speech_dim} values, the"
            f" hearing codec makes {codecs.hearing.dim}; use parts of one model"
        )


def config_at(folder: Path) -> ModelConfig:
    """What a folder of ours says of itself; raises ModelError when it is none, ConfigError."""
    if not _is_ours(folder):
        raise ModelError(
            f"{folder / CONFIG_FILE} is not of model_type {MODEL_TYPE!r}; open a published folder"
            " with OmniModel.from_pretrained, or convert it"
        )
    found = configs.load(ConfigFile, folder / CONFIG_FILE)
    return ModelConfig(
        found.name, found.vocabulary, found.backbone, found.codecs, generation_at(folder)
    )


def _needed(
    folder: Path,
    config: ModelConfig,
    dtype: torch.dtype,
    device: torch.device,
    quantization: Quantization | None,
) -> int:
    """Bytes that a folder of ours takes on `device` when it is opened."""
    voice = configs.load(GlmVoiceConfig, folder / SPEECH_FOLDER / SPEECH_CONFIG)
    needed = upstream.needed_bytes(config.backbone, config.codecs, voice, dtype)
    if quantization is None:
        return needed
    kept = {tensor.dtype for tensor in weights.outline(folder / BACKBONE_FILE).values()}
    if device.type == "cpu" and kept != {dtype}:  # a cast on the CPU makes them whole first
        return needed
    return needed - bytes_saved(config.backbone, dtype)


def generation_at(folder: Path) -> GenerationConfig:
    """How the model of a folder answers; raises ConfigError naming the file."""
    return configs.load(GenerationConfig, folder / GENERATION_FILE)


def save_config(config: ModelConfig, folder: Path, dtype: torch.dtype) -> None:
    """Write generation_config.json and, last, config.json; `dtype` is the backbone's."""
    configs.save(config.generation, folder / GENERATION_FILE)
    sizes = (config.name, config.vocabulary, config.backbone, config.codecs)
    stored = ConfigFile(*sizes, dtype=str(dtype).removeprefix("torch."))
    configs.save(stored, folder / CONFIG_FILE)


def _is_ours(folder: Path) -> bool:
    """Whether config.json is ours; raises ModelError where there is none."""
    path = folder / CONFIG_FILE
    if not path.is_file():
        raise ModelError(
            f"no model at {folder}; give a folder that holds {CONFIG_FILE} (ours, Omni-Diffusion"
            " or Dream-7B)"
        )
    return upstream.read_json(path).get("model_type") == MODEL_TYPE


def place_of(device: str | torch.device) -> torch.device:
    """The device of that name; raises ModelError when it is not there or unknown."""
    try:
        place = torch.device(device)
        torch.empty(1, device=place)
    except (RuntimeError, AssertionError) as error:  # unknown name; not there; built without it
        reason = str(error).splitlines()[0]
        raise ModelError(f"device {str(device)!r} is of no use ({reason}); give cpu") from error
    return place
