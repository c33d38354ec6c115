"""Sizes of the Dream transformer and its presets; knows no tensors and no token names."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any

from omni_diffusion.errors import ConfigError

# field of ours -> field of the published config.json
PUBLISHED = {
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


@dataclass(frozen=True)
class DreamConfig:
    """Every size of one Dream transformer.

    `speech_dim` is the width of the speech frames that the adapter turns into hidden states (512
    for SenseVoice). `scale_residuals` divides the starting weights of the two projections that
    write to the residual stream by sqrt(2 * num_layers); the published model does not.
    Raises ConfigError when sizes do not fit one another.
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
        for field in fields(self):
            value = getattr(self, field.name)
            if not isinstance(value, bool) and value <= 0:
                raise ConfigError(f"{field.name} is {value}; it must be above 0")
        if self.num_heads % self.num_kv_heads:
            raise ConfigError(
                f"num_heads {self.num_heads} is no multiple of num_kv_heads {self.num_kv_heads};"
                " each key-value head serves the same number of query heads"
            )
        if self.head_dim % 2:
            raise ConfigError(
                f"head_dim is {self.head_dim}; rotary positions pair halves, so make it even"
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
        """The published model: Dream-7B with the vocabulary widened to 176,264 ids."""
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
    def from_published(cls, config: Mapping[str, Any], speech_dim: int = 512) -> DreamConfig:
        """Read the fields of a published `config.json`; fields of no use to us are passed over.

        Raises ConfigError when a needed field is missing or asks for another architecture.
        """
        if config.get("hidden_act", "silu") != "silu":
            raise ConfigError(f"hidden_act is {config['hidden_act']!r}; Dream uses 'silu'")
        if config.get("rope_scaling") is not None:
            raise ConfigError(f"rope_scaling is {config['rope_scaling']!r}; Dream has none (null)")
        found = {ours: config[theirs] for ours, theirs in PUBLISHED.items() if theirs in config}
        missing = [PUBLISHED[name] for name in REQUIRED if name not in found]
        if missing:
            raise ConfigError(f"config.json lacks {', '.join(missing)}; a Dream config names them")
        head_dim = config.get("head_dim", found["hidden_size"] // found["num_heads"])
        return cls(**found, head_dim=head_dim, speech_dim=speech_dim)


REQUIRED = (
    "vocab_size",
    "hidden_size",
    "num_layers",
    "num_heads",
    "num_kv_heads",
    "intermediate_size",
)
