"""One model opened from its folder: vocabulary, codecs and backbone, which belong together.

A folder holds model.json (a `ModelConfig`), backbone.safetensors and the files of the codec
suite; folders as others published them are read by `published`. Knows nothing of tasks.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal, Self

import torch

from omni_diffusion import config as configs
from omni_diffusion import published, weights
from omni_diffusion.backbone import dream
from omni_diffusion.backbone.config import DreamConfig
from omni_diffusion.backbone.dream import Dream
from omni_diffusion.codecs.suite import CodecSuite, SuiteConfig, stored
from omni_diffusion.diffusion.params import SamplingParams
from omni_diffusion.errors import ModelError, StorageError
from omni_diffusion.published import BACKBONE_FILES, Parts, Place
from omni_diffusion.vocab import Vocabulary

CONFIG_FILE = "model.json"
BACKBONE_FILE = "backbone.safetensors"
SHIPPED = Path(__file__).parent / "pretrained" / "mini"


@dataclass(frozen=True)
class ModelConfig:
    """What model.json holds.

    lengths: by task name, the (factor, extra) of its answer's length where this model's differ
    from the task's own; sampling, answers: the same for how its answer is sampled and what it is
    made of. longest: places of the longest canvas that it learned to speak on, as far as is known;
    longer texts are spoken in passages.
    """

    name: str
    vocabulary: Vocabulary
    backbone: DreamConfig
    codecs: SuiteConfig
    lengths: dict[str, tuple[float, int]] = field(default_factory=dict)
    sampling: dict[str, SamplingParams] = field(default_factory=dict)
    answers: dict[str, tuple[Literal["text", "image", "speech"], ...]] = field(default_factory=dict)
    longest: int | None = None


class OmniModel:
    """Vocabulary, codecs and backbone of one model.

    Raises ModelError when they do not fit one another.
    """

    def __init__(self, config: ModelConfig, codecs: CodecSuite, backbone: Dream) -> None:
        self.config = config
        self.codecs = codecs
        self.backbone = backbone.eval()
        _check(config, codecs)

    @classmethod
    def open(
        cls,
        folder: str | Path | None = None,
        device: str | torch.device = "cpu",
        dtype: torch.dtype = torch.float32,
    ) -> Self:
        """Open a model folder, by default the small model that comes with the package.

        dtype is the backbone's; codecs stay in float32. Raises ModelError, ConfigError or
        WeightsError, each naming the file.
        """
        folder = SHIPPED if folder is None else Path(folder)
        config = config_at(folder)
        place = place_of(device)
        codecs = CodecSuite.open(folder, config.codecs, place)
        with torch.device("meta"):  # no random start, no memory taken twice
            backbone = Dream(config.backbone).to(dtype)
        tensors = weights.read(folder / BACKBONE_FILE)
        where = f"the weights at {folder / BACKBONE_FILE}"
        weights.load_into(backbone, tensors, rename=dream.rename, where=where)
        return cls(config, codecs, backbone.to(place))

    @classmethod
    def from_pretrained(
        cls,
        source: Place,
        *,
        parts: Parts | None = None,
        dtype: torch.dtype | None = None,
        device: str | torch.device = "cpu",
        revision: str | None = None,
    ) -> Self:
        """Open a folder of ours, of Omni-Diffusion or of Dream-7B, or such a one on the hub.

        source: the folder, or owner/name on the hub; a folder of that name here comes first.
        parts: where codecs are that a published folder lacks; ours holds all. dtype: the
        backbone's; None = as published, float32 for ours. revision: of `source` on the hub.
        Dream-7B gets rows for all ids and a new adapter, to be trained: see
        `published.widened`. Raises ModelError, ConfigError or WeightsError, each naming the file.
        """
        place = place_of(device)
        folder = published.locate(source, BACKBONE_FILES, revision)
        if (folder / CONFIG_FILE).is_file():
            stored = sum(path.stat().st_size for path in folder.rglob("*.safetensors"))
            published.check_memory(stored, folder)
            return cls.open(folder, place, dtype or torch.float32)
        if not (folder / "config.json").is_file():
            raise ModelError(
                f"no model at {folder}; give a folder that holds {CONFIG_FILE} (ours) or"
                " config.json (Omni-Diffusion, Dream-7B)"
            )
        found = published.read(folder, parts or Parts(), dtype, place)
        config = ModelConfig(
            found.name,
            found.vocabulary,
            found.backbone.config,
            found.codecs.config,
            longest=published.LONGEST,
        )
        return cls(config, found.codecs, found.backbone)

    def save(self, folder: str | Path, dtype: torch.dtype | None = None) -> None:
        """Write the model to a folder, model.json last; `dtype` may be a smaller one to store."""
        folder = Path(folder)
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            problem = f"cannot create {folder}: {error.strerror}; choose another folder"
            raise StorageError(problem) from error
        self.codecs.save(folder, dtype)
        weights.write(stored(self.backbone, dtype), folder / BACKBONE_FILE)
        configs.save(self.config, folder / CONFIG_FILE)

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
        """This model's own answer lengths, by task name."""
        return self.config.lengths

    @property
    def answers(self) -> Mapping[str, tuple[Literal["text", "image", "speech"], ...]]:
        """What this model's own answers are made of, by task name."""
        return self.config.answers

    @property
    def sampling(self) -> Mapping[str, SamplingParams]:
        """This model's own sampling parameters, by task name."""
        return self.config.sampling

    @property
    def device(self) -> torch.device:
        """Where the backbone lies."""
        return self.backbone.model.embed_tokens.weight.device


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
    """What a model folder says of itself; raises ModelError when it is none, or ConfigError."""
    path = folder / CONFIG_FILE
    if not path.is_file():
        raise ModelError(f"no model at {folder}; give a folder that holds {CONFIG_FILE}")
    return configs.load(ModelConfig, path)


def place_of(device: str | torch.device) -> torch.device:
    """The device of that name; raises ModelError when it is not there or unknown."""
    try:
        place = torch.device(device)
        torch.empty(1, device=place)
    except (RuntimeError, AssertionError) as error:  # unknown name; not there; built without it
        reason = str(error).splitlines()[0]
        raise ModelError(f"device {str(device)!r} is of no use ({reason}); give cpu") from error
    return place
