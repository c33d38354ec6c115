"""Sizes of the Dream transformer and its presets."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from omni_diffusion.errors import ConfigError
from omni_diffusion.io import config as configs

# field of DreamConfig -> field of the published config.json
UPSTREAM_FIELDS = {
    "vocab_size": "vocab_size",
    "hidden_size": "hidden_size",
    "num_layers": "num_hidden_layers",
    "num_heads": "num_attention_heads",
    "num_kv_heads": "num_key_value_heads",
    "intermediate_size": "intermediate_size",
    "rms_norm_eps": "rms_norm_eps",
    "rope_theta": "rope_theta",
    "max_positions": "max_position_embeddings",
    "initializer_range": "initializer_range",
    "tie_embeddings": "tie_word_embeddings",
}
RANGES: dict[str, tuple[float, float]] = {  # far beyond any model, and within torch's sizes
    "vocab_size": (1, 2**24),
    "hidden_size": configs.WIDTH,
    "num_layers": configs.DEPTH,
    "num_heads": configs.WIDTH,
    "num_kv_heads": configs.WIDTH,
    "head_dim": configs.WIDTH,
    "intermediate_size": configs.WIDTH,
    "rms_norm_eps": (1e-30, 1),
    "rope_theta": (1e-3, 1e30),
    "max_positions": (1, 2**31),
    "initializer_range": (1e-30, 1e3),
    "speech_dim": configs.WIDTH,
}


@dataclass(frozen=True)
class DreamConfig:
    """Sizes of one Dream transformer.

    speech_dim: width of the speech frames that the adapter turns into hidden states (512 for
    SenseVoice). scale_residuals: divide the initial weights of the two projections that write to
    the residual stream by sqrt(2 * num_layers); the published model does not.
    Raises ConfigError if sizes do not fit one another.
    """

    vocab_size: int
    hidden_size: int
    num_layers: int
    num_heads: int
    num_kv_heads: int
    head_dim: int
    intermediate_size: int
    rms_norm_eps: float = 1e-6
    rope_theta: float = 1e6
    max_positions: int = 131_072
    initializer_range: float = 0.02
    speech_dim: int = 512
    tie_embeddings: bool = False
    scale_residuals: bool = False

    def __post_init__(self) -> None:
        configs.check_ranges(self, **RANGES)
        if self.num_heads % self.num_kv_heads:
            raise ConfigError(
                f"num_heads {self.num_heads} is not a multiple of num_kv_heads {self.num_kv_heads}",
                field="num_heads",
                value=self.num_heads,
                fix="each key-value head must serve the same number of query heads",
            )
        if self.head_dim % 2:
            raise ConfigError(
                f"head_dim is {self.head_dim}",
                field="head_dim",
                value=self.head_dim,
                fix="make it even, since rotary positions pair its halves",
            )

    @classmethod
    def mini(cls, vocab_size: int, speech_dim: int = 64) -> DreamConfig:
        """A model small enough to train on one CPU thread: 256 wide, 6 layers."""
        return cls(
            vocab_size=vocab_size,
            hidden_size=256,
            num_layers=6,
            num_heads=4,
            num_kv_heads=2,
            head_dim=64,
            intermediate_size=768,
            max_positions=4096,
            speech_dim=speech_dim,
            scale_residuals=True,
        )

    @classmethod
    def dream_7b(cls) -> DreamConfig:
        """The official model: Dream-7B with the vocabulary extended to 176,264 ids."""
        return cls(
            vocab_size=176_264,
            hidden_size=3584,
            num_layers=28,
            num_heads=28,
            num_kv_heads=4,
            head_dim=128,
            intermediate_size=18_944,
        )

    @classmethod
    def from_upstream(cls, config: Mapping[str, Any], speech_dim: int = 512) -> DreamConfig:
        """From a published `config.json`; other fields are ignored.

        Raises ConfigError if a required field is missing or another architecture is asked for.
        """
        if config.get("hidden_act", "silu") != "silu":
            raise ConfigError(
                f"hidden_act is {config['hidden_act']!r}",
                field="hidden_act",
                value=config["hidden_act"],
                fix="give a model with 'silu', as Dream has",
            )
        if config.get("rope_scaling") is not None:
            raise ConfigError(
                f"rope_scaling is {config['rope_scaling']!r}",
                field="rope_scaling",
                value=config["rope_scaling"],
                fix="give a model without it (null), as Dream",
            )
        sizes = {
            ours: config[theirs] for ours, theirs in UPSTREAM_FIELDS.items() if theirs in config
        }
        missing = [UPSTREAM_FIELDS[name] for name in REQUIRED if name not in sizes]
        if missing:
            raise ConfigError(
                f"config.json lacks {', '.join(missing)}",
                field=missing[0],
                fix="give the config of a Dream model",
            )
        head_dim = config.get("head_dim")
        if head_dim is None:  # a wrong type or 0 is an error of the sizes themselves
            wide, heads = sizes["hidden_size"], sizes["num_heads"]
            head_dim = wide // heads if isinstance(wide, int) and _is_count(heads) else 1
        sizes |= {"head_dim": head_dim, "speech_dim": speech_dim}
        return configs.from_dict(cls, sizes, where="config.json")


def _is_count(value: object) -> bool:
    return isinstance(value, int) and value > 0


REQUIRED = (
    "vocab_size",
    "hidden_size",
    "num_layers",
    "num_heads",
    "num_kv_heads",
    "intermediate_size",
)
