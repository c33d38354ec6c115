import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from omni_diffusion.backbone.attention import AttentionMask
from omni_diffusion.backbone.config import DreamConfig
from omni_diffusion.backbone.dream import Dream, dream_name
from omni_diffusion.canvas import FeatureSlot
from omni_diffusion.errors import ModelError

TINY = DreamConfig(50, 32, 2, 4, 2, 8, 48, speech_dim=8, initializer_range=0.2)


@pytest.fixture
def dream() -> Dream:
    return Dream(TINY).eval()


@pytest.fixture(scope="module")
def published(parity_dir: Path) -> Dream:
    folder = parity_dir / "backbone"
    config = DreamConfig.from_upstream(json.loads((folder / "tiny_config.json").read_text()))
    dream = Dream(config).eval().requires_grad_(False)
    dream.load_state_dict(load_file(folder / "tiny_weights.safetensors"))
    return dream


@pytest.fixture(scope="module")
def stored(parity_dir: Path) -> dict[str, Tensor]:
    return load_file(parity_dir / "backbone/forward.safetensors")


def unshifted(dream: Dream, ids: Tensor, mask: Tensor, positions: Tensor | None = None) -> Tensor:
    """Logits as the published model gives them, under any mask [B, 1, L, L]."""
    if positions is None:
        positions = torch.arange(ids.shape[1])[None]
    return dream.head(dream.model(dream.embed(ids), positions, AttentionMask.of(mask)))


# --- the published numbers ---


def test_logits_of_the_first_ten_tokens_alone(published: Dream, stored: dict[str, Tensor]) -> None:
    logits = published.head(published.hidden(stored["input_ids"][:1, :10]))
    assert torch.allclose(logits, stored["prefixcache_logits_first10"], atol=1e-5)


def test_every_layers_states(published: Dream, stored: dict[str, Tensor]) -> None:
    seen: list[Tensor] = []
    hooks = [
        block.register_forward_pre_hook(lambda _, args: seen.append(args[0]))
        for block in published.model.layers
    ]
    seen.append(published.hidden(stored["input_ids"]))
    for hook in hooks:
        hook.remove()
    for i, state in enumerate(seen):
        assert torch.allclose(state, stored[f"hidden_{i}"], atol=1e-5), f"hidden_{i}"


def test_logits_are_the_published_ones_one_place_on(
    published: Dream, stored: dict[str, Tensor]
) -> None:
    theirs = stored["logits_nomask"]
    ours = published(stored["input_ids"])
    assert torch.allclose(ours[:, 1:], theirs[:, :-1], atol=1e-5)
    assert torch.allclose(ours[:, 0], theirs[:, 0], atol=1e-5)


def test_logits_under_masks(published: Dream, stored: dict[str, Tensor]) -> None:
    ids, mask = stored["input_ids"], stored["mask4d"]
    packed = stored["position_ids_packed"]
    got = unshifted(published, ids, mask)
    assert torch.allclose(got, stored["logits_mask4d"], atol=1e-5)
    got = unshifted(published, ids, mask, packed)
    assert torch.allclose(got, stored["logits_mask4d_packedpos"], atol=1e-5)
    got = unshifted(published, ids[:1], stored["mask4d_dead_rows"])
    assert torch.allclose(got, stored["logits_dead_rows"], atol=1e-5)


def test_logits_of_a_packed_training_row(published: Dream, parity_dir: Path) -> None:
    row = load_file(parity_dir / "backbone/loss.safetensors")
    positions, real = row["position_ids"], row["attention_mask"].bool()
    segments = (positions == 0).cumsum(1)
    # The published mask cuts padding queries, not padding keys.
    mask = (segments[:, :, None] == segments[:, None, :]) & real[:, :, None]
    got = unshifted(published, row["input_ids"], mask[:, None], positions)
    assert torch.allclose(got, row["logits"], atol=1e-5)


def test_packed_segments_equal_the_published_logits_before_the_filler(
    published: Dream, parity_dir: Path
) -> None:
    row = load_file(parity_dir / "backbone/loss.safetensors")
    first = int((row["position_ids"][0] == 0).nonzero()[1])
    segments = (row["position_ids"] == 0).cumsum(1) * row["attention_mask"]
    got = published(row["input_ids"], segments=segments)[0]
    assert torch.allclose(got[1:first], row["logits"][0, : first - 1], atol=1e-5)


# --- the face ---


def test_rows_equal_gathered_full_logits(dream: Dream) -> None:
    ids = torch.randint(0, 50, (3, 9))
    segments = torch.tensor([[1] * 9, [1] * 4 + [2] * 5, [0, 0] + [3] * 5 + [0, 0]])
    rows = torch.rand(3, 9) > 0.5
    full = dream(ids, segments=segments)
    assert full.shape == (3, 9, 50)
    assert torch.allclose(dream(ids, segments=segments, logits_at=rows), full[rows], atol=1e-6)


def test_only_wanted_places_pass_the_head(dream: Dream) -> None:
    sizes: list[int] = []
    dream.lm_head.register_forward_pre_hook(lambda _, args: sizes.append(args[0].shape[0]))
    rows = torch.zeros(2, 6, dtype=torch.bool)
    assert dream(torch.zeros(2, 6, dtype=torch.long), logits_at=rows).shape == (0, 50)
    rows[1, 3:5] = True
    dream(torch.zeros(2, 6, dtype=torch.long), logits_at=rows)
    assert sizes == [0, 2]


def test_the_shift_stays_within_a_segment(dream: Dream) -> None:
    ids = torch.randint(0, 50, (1, 7))
    segments = torch.tensor([[1, 1, 1, 2, 2, 2, 2]])
    raw = dream.head(dream.hidden(ids, segments=segments))[0]
    assert torch.allclose(dream(ids, segments=segments)[0], raw[[0, 0, 1, 3, 3, 4, 5]], atol=1e-6)


def test_packed_rows_equal_the_same_rows_alone(dream: Dream) -> None:
    a, b = torch.randint(0, 50, (1, 5)), torch.randint(0, 50, (1, 7))
    packed = torch.cat([a, b, torch.zeros(1, 3, dtype=torch.long)], dim=1)
    segments = torch.tensor([[1] * 5 + [2] * 7 + [0] * 3])
    got = dream(packed, segments=segments)
    assert torch.allclose(got[:, :5], dream(a), atol=1e-5)
    assert torch.allclose(got[:, 5:12], dream(b), atol=1e-5)


def test_no_gradient_crosses_a_segment(dream: Dream) -> None:
    segments = torch.tensor([[1, 1, 1, 2, 2, 0, 2, 0]])
    mask = AttentionMask.of_segments(segments)
    for position, mine in enumerate(segments[0].tolist()):
        x = torch.randn(1, 8, 32, requires_grad=True)
        dream.model(x, torch.arange(8)[None], mask)[0, position].sum().backward()
        assert x.grad is not None
        touched = (x.grad[0].abs().sum(-1) > 0).tolist()
        family = [other == mine for other in segments[0].tolist()]
        alone = [i == position for i in range(8)]
        assert touched == (family if mine else alone)


def test_padding_changes_nothing_and_is_finite(dream: Dream) -> None:
    ids = torch.randint(0, 50, (1, 6))
    alone = dream(ids)
    for left, right in ((0, 4), (3, 0), (2, 5)):
        pad = torch.randint(0, 50, (1, left + 6 + right))
        pad[:, left : left + 6] = ids
        segments = torch.tensor([[0] * left + [1] * 6 + [0] * right])
        got = dream(pad, segments=segments)
        assert torch.allclose(got[:, left : left + 6], alone, atol=1e-5)
        assert got.isfinite().all()


def test_a_row_of_padding_alone_trains_without_nan(dream: Dream) -> None:
    dream(torch.ones(1, 4, dtype=torch.long), segments=torch.zeros(1, 4).long()).sum().backward()
    assert all(p.grad.isfinite().all() for p in dream.parameters() if p.grad is not None)


def test_rows_of_a_batch_do_not_touch_one_another(dream: Dream) -> None:
    ids = torch.randint(0, 50, (4, 8))
    together = dream(ids)
    for i in range(4):
        assert torch.allclose(together[i], dream(ids[i : i + 1])[0], atol=1e-5)


def test_given_positions_override_the_default(dream: Dream) -> None:
    ids = torch.randint(0, 50, (1, 6))
    running = torch.arange(6)[None]
    # Rotary positions are relative: a shift of all changes nothing, a stretch does.
    assert torch.allclose(dream(ids, positions=running + 9), dream(ids), atol=1e-4)
    assert not torch.allclose(dream(ids, positions=running * 3), dream(ids), atol=1e-3)


def test_slots_stand_in_for_embeddings(dream: Dream) -> None:
    ids = torch.randint(0, 50, (2, 7))
    slot = FeatureSlot(2, torch.randn(3, 8))
    other = ids.clone()
    other[1, 2:5] = 0
    got = dream(ids, slots=[(1, slot)])
    assert torch.allclose(got, dream(other, slots=[(1, slot)]), atol=1e-6)
    assert torch.allclose(got[0], dream(ids)[0], atol=1e-6)
    assert not torch.allclose(got[1], dream(ids)[1], atol=1e-3)
    projected = dream.model.audio_projection(slot.frames)
    assert torch.allclose(dream.embed(ids, [(1, slot)])[1, 2:5], projected, atol=1e-6)


def test_slots_train_the_adapter(dream: Dream) -> None:
    slot = FeatureSlot(1, torch.randn(2, 8))
    dream(torch.zeros(1, 5, dtype=torch.long), slots=[(0, slot)]).square().sum().backward()
    assert all(p.grad is not None for p in dream.parameters())


@pytest.mark.parametrize("name", ["positions", "segments", "logits_at"])
def test_shapes_that_do_not_fit_are_refused(dream: Dream, name: str) -> None:
    with pytest.raises(ModelError, match=rf"{name} has shape \(1, 5\), ids have \(1, 6\)"):
        dream(torch.zeros(1, 6, dtype=torch.long), **{name: torch.ones(1, 5, dtype=torch.long)})


def test_checkpointing_gives_the_same_gradients() -> None:
    dream = Dream(TINY).train()
    ids = torch.randint(0, 50, (2, 6))
    found = []
    for on in (False, True):
        dream.checkpointing(on)
        dream.zero_grad()
        dream(ids).square().mean().backward()
        found.append({n: p.grad for n, p in dream.named_parameters() if p.grad is not None})
    assert found[0].keys() == found[1].keys()
    for name, grad in found[0].items():
        assert torch.allclose(grad, found[1][name], atol=1e-7), name


def test_bfloat16_stays_bfloat16() -> None:
    dream = Dream(TINY).to(torch.bfloat16)
    logits = dream(torch.zeros(1, 4, dtype=torch.long), segments=torch.tensor([[1, 1, 2, 0]]))
    assert logits.dtype == torch.bfloat16
    assert logits.isfinite().all()


def test_packed_sequences_are_predicted_as_alone(dream: Dream) -> None:
    lengths = [4, 4, 7, 1, 5]
    ids = torch.randint(0, 50, (1, sum(lengths)))
    wanted = torch.rand(1, sum(lengths)) > 0.4
    wanted[0, [0, 8]], wanted[0, 16:] = True, False  # two first positions; a sequence without any
    slots = [(0, FeatureSlot(9, torch.randn(2, 8)))]
    states = dream(ids, lengths=lengths, logits_at=wanted, slots=slots)
    segments = torch.arange(5).repeat_interleave(torch.tensor(lengths))[None] + 1
    want = dream(ids, segments=segments, logits_at=wanted, slots=slots)
    torch.testing.assert_close(dream.head(states), want, atol=1e-5, rtol=0)
    torch.testing.assert_close(dream.head(states, 10, 23), want[:, 10:23], atol=1e-5, rtol=0)
    with pytest.raises(ModelError, match="sequences of 20 tokens"):
        dream(ids, lengths=[*lengths[1:-1], 8], logits_at=wanted)


# --- weights ---


def test_tied_embeddings_have_no_head_of_their_own() -> None:
    dream = Dream(replace(TINY, tie_embeddings=True))
    assert "lm_head.weight" not in dream.state_dict()
    ids = torch.randint(0, 50, (1, 4))
    got = dream.hidden(ids)[:, 0] @ dream.model.embed_tokens.weight.T
    assert torch.allclose(dream(ids)[:, 0], got, atol=1e-5)


def test_starting_weights_have_the_configured_spread() -> None:
    plain = Dream(replace(DreamConfig.mini(500), scale_residuals=False)).state_dict()
    scaled = Dream(DreamConfig.mini(500)).state_dict()
    name = "model.layers.3.mlp.down_proj.weight"
    assert plain[name].std() == pytest.approx(0.02, rel=0.02)
    assert scaled[name].std() == pytest.approx(0.02 / 12**0.5, rel=0.02)
    assert scaled["lm_head.weight"].std() == pytest.approx(0.02, rel=0.02)
    assert plain["model.layers.0.self_attn.q_proj.bias"].abs().max() == 0
    assert plain["model.norm.weight"].eq(1).all()


def layer_shapes(n: int) -> dict[str, tuple[int, ...]]:
    attn, mlp = f"model.layers.{n}.self_attn.", f"model.layers.{n}.mlp."
    return {
        attn + "q_proj.weight": (3584, 3584),
        attn + "q_proj.bias": (3584,),
        attn + "k_proj.weight": (512, 3584),
        attn + "k_proj.bias": (512,),
        attn + "v_proj.weight": (512, 3584),
        attn + "v_proj.bias": (512,),
        attn + "o_proj.weight": (3584, 3584),
        mlp + "gate_proj.weight": (18944, 3584),
        mlp + "up_proj.weight": (18944, 3584),
        mlp + "down_proj.weight": (3584, 18944),
        f"model.layers.{n}.input_layernorm.weight": (3584,),
        f"model.layers.{n}.post_attention_layernorm.weight": (3584,),
    }


def test_the_7b_model_has_the_published_names_and_shapes() -> None:
    with torch.device("meta"):
        dream = Dream(DreamConfig.dream_7b())
    expected: dict[str, tuple[int, ...]] = {
        "model.embed_tokens.weight": (176264, 3584),
        "model.norm.weight": (3584,),
        "lm_head.weight": (176264, 3584),
        "model.audio_projection.pre_proj_layernorm.weight": (512,),
        "model.audio_projection.pre_proj_layernorm.bias": (512,),
        "model.audio_projection.mlp.0.weight": (3584, 512),
        "model.audio_projection.mlp.2.weight": (3584, 3584),
    }
    for n in range(28):
        expected |= layer_shapes(n)
    assert {name: tuple(w.shape) for name, w in dream.state_dict().items()} == expected
    adapter = sum(p.numel() for p in dream.model.audio_projection.parameters())
    assert adapter == 14_681_088
    assert sum(p.numel() for p in dream.parameters()) - adapter == 7_789_082_112
    with torch.device("meta"):
        logits = dream(torch.zeros(1, 8, dtype=torch.long))
    assert logits.shape == (1, 8, 176264)


def test_dream_name_keeps_ours_and_leaves_the_encoder_to_its_codec() -> None:
    assert all(dream_name(name) == name for name in Dream(TINY).state_dict())
    assert dream_name("model.audio_model.model.encoder.after_norm.weight") is None
    assert dream_name("model.audio_model.model.ctc.ctc_lo.bias") is None
    assert dream_name("model.layers.0.self_attn.rotary_emb.inv_freq") is None
