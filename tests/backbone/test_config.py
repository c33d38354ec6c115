import json
from dataclasses import asdict, replace
from pathlib import Path

import pytest

from omni_diffusion.backbone.config import DreamConfig
from omni_diffusion.errors import ConfigError


def test_reads_a_published_config(parity_dir: Path) -> None:
    published = json.loads((parity_dir / "backbone/tiny_config.json").read_text())
    config = DreamConfig.from_upstream(published)
    assert (config.num_layers, config.num_heads, config.head_dim) == (3, 4, 16)
    assert (config.max_positions, config.tie_embeddings) == (1024, False)


def test_from_upstream_is_the_7b_preset_for_its_fields() -> None:
    published = {
        "vocab_size": 176264,
        "hidden_size": 3584,
        "num_hidden_layers": 28,
        "num_attention_heads": 28,
        "num_key_value_heads": 4,
        "intermediate_size": 18944,
        "rms_norm_eps": 1e-6,
        "rope_theta": 1000000.0,
        "rope_scaling": None,
        "max_position_embeddings": 131072,
    }
    assert DreamConfig.from_upstream(published) == DreamConfig.dream_7b()


def test_from_upstream_names_what_is_missing() -> None:
    with pytest.raises(ConfigError, match="num_hidden_layers"):
        DreamConfig.from_upstream({"vocab_size": 9, "hidden_size": 8})


@pytest.mark.parametrize("field", [{"hidden_act": "gelu"}, {"rope_scaling": {"type": "yarn"}}])
def test_from_upstream_refuses_another_architecture(field: dict[str, object]) -> None:
    with pytest.raises(ConfigError, match=next(iter(field))):
        DreamConfig.from_upstream(field)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"num_heads": 3}, "num_kv_heads"),
        ({"head_dim": 15}, "even"),
        ({"vocab_size": 0}, "vocab_size is 0"),
        ({"rope_theta": -1.0}, "rope_theta"),
    ],
)
def test_sizes_that_do_not_fit_are_refused(change: dict[str, float], words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        replace(DreamConfig.mini(100), **change)  # type: ignore[arg-type]


def test_mini_keeps_its_arguments() -> None:
    fields = asdict(DreamConfig.mini(321, speech_dim=48))
    assert (fields["vocab_size"], fields["speech_dim"]) == (321, 48)
