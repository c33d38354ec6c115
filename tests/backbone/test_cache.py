import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from omni_diffusion.backbone.cache import PrefixCache
from omni_diffusion.backbone.config import DreamConfig
from omni_diffusion.backbone.dream import Dream
from omni_diffusion.errors import ModelError

IDS = torch.arange(24).reshape(2, 12)


@pytest.fixture
def dream() -> Dream:
    config = DreamConfig(50, 32, 2, 4, 2, 8, 48, speech_dim=8, initializer_range=0.2)
    return Dream(config).eval().requires_grad_(False)


def test_prefix_states_of_the_published_code(parity_dir: Path) -> None:
    folder = parity_dir / "backbone"
    dream = Dream(DreamConfig.from_published(json.loads((folder / "tiny_config.json").read_text())))
    dream.load_state_dict(load_file(folder / "tiny_weights.safetensors"))
    dream.requires_grad_(False)
    stored = load_file(folder / "forward.safetensors")
    cache = PrefixCache(length=10, refresh=2)
    first = dream.hidden(stored["input_ids"][:1, :10], cache=cache)
    whole = dream.hidden(stored["input_ids"][:1], cache=cache)
    logits = dream.head(whole)
    assert torch.allclose(dream.head(first), stored["prefixcache_logits_first10"], atol=1e-5)
    assert torch.allclose(logits[:, 10:], stored["prefixcache_logits_last14"], atol=1e-5)
    # States, not logits: a product's last digit may depend on how many rows it has.
    assert torch.equal(whole[:, :10], first)


def test_an_unchanged_canvas_gives_the_same_logits(dream: Dream) -> None:
    cache = PrefixCache(length=5, refresh=3)
    segments = torch.tensor([[1] * 12, [1] * 8 + [0] * 4])
    for _ in range(4):
        got = dream(IDS, segments=segments, cache=cache)
        assert torch.allclose(got, dream(IDS, segments=segments), atol=1e-5)


def test_a_changed_canvas_is_approximate_until_the_refresh(dream: Dream) -> None:
    cache = PrefixCache(length=5, refresh=2)
    changed = IDS.clone()
    changed[:, 9] = 49
    dream(IDS, cache=cache)
    exact = dream(changed)
    error = (dream(changed, cache=cache) - exact).abs().max()
    assert 1e-4 < error < exact.abs().max()
    assert torch.allclose(dream(changed, cache=cache), exact, atol=1e-5)
    assert not PrefixCache.exact


def test_refresh_of_one_is_plain_decoding(dream: Dream) -> None:
    cache = PrefixCache(length=5, refresh=1)
    for ids in (IDS, IDS + 1, IDS + 2):
        assert torch.equal(dream(ids, cache=cache), dream(ids))


def test_another_batch_or_a_short_canvas_is_refused(dream: Dream) -> None:
    cache = PrefixCache(length=5, refresh=2)
    with pytest.raises(ModelError, match="shorter than the cached prefix of 5"):
        dream(IDS[:, :4], cache=cache)
    dream(IDS, cache=cache)
    with pytest.raises(ModelError, match="cache of 2 rows used for 1"):
        dream(IDS[:1], cache=cache)


@pytest.mark.parametrize(("length", "refresh"), [(0, 1), (3, 0)])
def test_empty_settings_are_refused(length: int, refresh: int) -> None:
    with pytest.raises(ModelError, match="above 0"):
        PrefixCache(length, refresh)
