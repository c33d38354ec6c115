import json
from pathlib import Path

import pytest
import torch

from omni_diffusion.diffusion.masking import MaskingConfig, corrupt, ratios
from omni_diffusion.errors import ConfigError

MASK = 99
PROMPT, ANSWER, PADS = 20, 64, 16


def batch(rows: int):
    """Rows of 20 prompt, 64 answer and 16 padding places, as in the stored statistics."""
    ids = torch.randint(0, 90, (rows, PROMPT + ANSWER + PADS))
    maskable = torch.zeros(ids.shape, dtype=torch.bool)
    maskable[:, PROMPT:] = True
    pad = torch.zeros(ids.shape, dtype=torch.bool)
    pad[:, PROMPT + ANSWER :] = True
    return ids, maskable, pad


def rates(config: MaskingConfig, rows: int = 20_000):
    ids, maskable, pad = batch(rows)
    masked = corrupt(ids, maskable, pad, MASK, config).masked.float()
    assert masked[:, :PROMPT].sum() == 0
    return masked[:, PROMPT : PROMPT + ANSWER].mean(1), masked[:, PROMPT + ANSWER :].mean(1)


def test_per_token_has_the_published_statistics(parity_dir: Path):
    stored = json.loads((parity_dir / "backbone/masking_stats.json").read_text())
    answer, pads = rates(MaskingConfig("per_token"))
    assert answer.mean() == pytest.approx(stored["normal_rate_mean"], abs=0.003)
    assert answer.std() == pytest.approx(stored["normal_rate_std_per_sequence"], abs=0.003)
    assert pads.mean() == pytest.approx(stored["pad_rate_mean"], abs=0.005)
    assert pads.std() == pytest.approx(stored["pad_rate_std_per_sequence"], abs=0.005)
    for share, rate in stored["normal_rate_quantiles"].items():
        if 0.01 <= float(share) <= 0.99:
            assert answer.quantile(float(share)) == pytest.approx(rate, abs=1 / ANSWER)


@pytest.mark.parametrize(
    ("variant", "mean", "std", "correlation"),
    [
        ("uniform", 0.5005, 0.289, 0.7),
        ("antithetic", 0.5005, 0.289, 0.7),
        ("cosine", 0.6369, 0.308, 0.7),
        ("bell", 0.5005, 0.144, 0.5),  # narrower ratios, so the draws of tokens weigh more
    ],
)
def test_one_ratio_for_a_sequence(variant, mean, std, correlation):
    answer, pads = rates(MaskingConfig(variant))
    assert answer.mean() == pytest.approx(mean, abs=0.01)
    assert answer.std() == pytest.approx((std**2 + 0.1 / ANSWER) ** 0.5, abs=0.01)
    assert pads.mean() == pytest.approx(0.6 * mean, abs=0.01)
    assert torch.corrcoef(torch.stack([answer, pads]))[0, 1] > correlation


def test_a_share_of_the_sequences_is_masked_whole():
    answer, pads = rates(MaskingConfig(full=0.25))
    assert (answer == 1).float().mean() == pytest.approx(0.25 + 0.75 / ANSWER, abs=0.02)
    assert pads[answer == 1].mean() == pytest.approx(0.6, abs=0.02)
    assert answer[answer < 1].mean() == pytest.approx(0.5, abs=0.02)


def test_antithetic_spreads_a_small_batch():
    ids, maskable, pad = batch(10)
    ratio = corrupt(ids, maskable, pad, MASK, MaskingConfig("antithetic")).ratio[:, PROMPT]
    assert torch.equal((ratio.sort().values * 10).floor(), torch.arange(10.0))


def test_ratios_drawn_apart_are_those_of_a_batch():
    ids, maskable, pad = batch(6)
    for config in (MaskingConfig("antithetic", full=0.3), MaskingConfig("cosine")):
        t = ratios(config, 6, torch.Generator().manual_seed(1))
        whole = corrupt(ids, maskable, pad, MASK, config, torch.Generator().manual_seed(1))
        assert torch.equal(
            corrupt(ids, maskable, pad, MASK, config, t=t).ratio[:, PROMPT],
            whole.ratio[:, PROMPT],
        )


def test_ids_change_only_where_masked_and_ratio_is_the_chance():
    ids, maskable, pad = batch(8)
    result = corrupt(ids, maskable, pad, MASK, MaskingConfig(), t=torch.linspace(0.1, 1, 8))
    assert torch.equal(result.ids == MASK, result.masked)
    assert torch.equal(result.ids[~result.masked], ids[~result.masked])
    assert not (result.masked & ~maskable).any()
    assert (result.ratio[~maskable] == 0).all()
    torch.testing.assert_close(
        result.ratio[:, PROMPT], torch.linspace(0.1, 1, 8), atol=1e-3, rtol=0
    )
    torch.testing.assert_close(
        result.ratio[:, -1], 0.6 * torch.linspace(0.1, 1, 8), atol=1e-3, rtol=0
    )


def test_a_sequence_never_goes_unmasked_and_ratio_counts_that_in():
    rows, t = 40_000, 0.1
    ids = torch.zeros(rows, 5, dtype=torch.long)
    maskable = torch.tensor([[False, True, True, True, True]]).expand(rows, 5)
    pad = torch.tensor([[False, False, False, False, True]]).expand(rows, 5)
    result = corrupt(ids, maskable, pad, MASK, MaskingConfig(), t=torch.full((rows,), t))
    assert result.masked[:, :4].any(dim=1).all()
    torch.testing.assert_close(result.masked.float().mean(0), result.ratio[0], atol=0.01, rtol=0)


def test_same_generator_same_masks():
    ids, maskable, pad = batch(4)
    first, second, third = (
        corrupt(ids, maskable, pad, MASK, MaskingConfig(), torch.Generator().manual_seed(seed))
        for seed in (3, 3, 4)
    )
    assert torch.equal(first.ids, second.ids)
    assert not torch.equal(first.ids, third.ids)


@pytest.mark.parametrize(
    "wrong",
    [
        *({"variant": "even"}, {"gamma": 1.5}, {"epsilon": 0.0}, {"full": 2}),
        *({"blocks": -0.1}, {"block_length": 0}),
    ],
)
def test_wrong_settings_are_refused(wrong):
    with pytest.raises(ConfigError, match=next(iter(wrong))):
        MaskingConfig(**wrong)


def test_blocks_give_what_lies_before_and_hide_what_lies_behind():
    config = MaskingConfig(blocks=1.0, block_length=8, full=1.0)
    ids, maskable, pad = batch(2000)
    corruption = corrupt(ids, maskable, pad, MASK, config)
    asked = corruption.masked
    first = asked.float().argmax(1)
    assert first.min() == PROMPT
    assert first.max() == PROMPT + ANSWER - 1
    assert (first.float().mean() - (PROMPT + ANSWER / 2 - 0.5)).abs() < 2  # evenly
    places = torch.arange(ids.shape[1])
    inside = (places >= first[:, None]) & (places < first[:, None] + 8)
    assert torch.equal(asked & ~pad, inside & maskable & ~pad)
    assert bool((corruption.ids[~inside & (places < first[:, None])] != MASK).all())
    assert bool((corruption.ids[places >= first[:, None] + 8] == MASK).all())
    assert bool((corruption.ratio[~inside] == 0).all())
    assert asked[inside & pad].float().mean() == pytest.approx(config.gamma, abs=0.05)


def test_blocks_are_a_share_and_keep_their_own_ratio():
    ids, maskable, pad = batch(4000)
    corruption = corrupt(ids, maskable, pad, MASK, MaskingConfig(blocks=0.25, block_length=4))
    hidden = (corruption.ids == MASK).sum(1) > corruption.masked.sum(1)
    assert hidden.float().mean() == pytest.approx(0.25, abs=0.03)
    assert int(corruption.masked[hidden].sum(1).max()) <= 4
    assert bool((corruption.masked.sum(1) >= 1).all())
