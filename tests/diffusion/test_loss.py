import math
from itertools import combinations, permutations
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from torch.nn import functional as F

from omni_diffusion.diffusion.loss import Weights, likelihood_bound, token_losses, weigh
from omni_diffusion.diffusion.masking import Corruption, MaskingConfig, corrupt
from omni_diffusion.errors import ConfigError

MASK, VOCAB = 4, 5
IDS = torch.tensor([0, 3, 1, 2, 1])
MASKABLE = torch.tensor([False, True, True, True, True])


def denoise(ids: torch.Tensor) -> torch.Tensor:
    """A fixed made-up denoiser that depends on all of its context: [S, L] -> [S, L, V]."""
    weights = torch.arange(1, ids.shape[1] + 1)
    context = (F.one_hot(ids, VOCAB) * weights[:, None]).sum(dim=1, keepdim=True)
    return torch.sin(context * (1.0 + weights[:, None])) * 2


def surprise(context: torch.Tensor, place: int) -> torch.Tensor:
    return -denoise(context[None])[0].log_softmax(-1)[place, IDS[place]]


def random_order_bound() -> torch.Tensor:
    """-log p averaged over all orders of writing one token at a time."""
    places = MASKABLE.nonzero().flatten().tolist()
    totals = []
    for order in permutations(places):
        context = torch.where(MASKABLE, MASK, IDS)
        for place in order:
            totals.append(surprise(context, place))
            context = context.clone()
            context[place] = IDS[place]
    return torch.stack(totals).sum() / len(list(permutations(places)))


def exact_bound() -> torch.Tensor:
    """Bound on -log p by enumerating all maskings.

    The integral over t of the paper's loss weighted by 1/t gives a set of k masked positions the
    weight 1 / (k * C(n, k)).
    """
    places = MASKABLE.nonzero().flatten().tolist()
    total = torch.zeros(())
    for k in range(1, len(places) + 1):
        for subset in combinations(places, k):
            context = IDS.clone()
            context[list(subset)] = MASK
            losses = torch.stack([surprise(context, place) for place in subset])
            total += losses.sum() / (k * math.comb(len(places), k))
    return total


def weighted_loss(
    logits: torch.Tensor,
    targets: torch.Tensor,
    weights: Weights,
    normaliser: torch.Tensor | None = None,
) -> torch.Tensor:
    """The loss of a batch, as training computes it."""
    losses = token_losses(logits, targets) * weights.per_token
    return losses.sum() / (weights.normaliser if normaliser is None else normaliser)


def test_stored_loss_of_the_published_code(parity_dir: Path):
    stored = load_file(parity_dir / "backbone/loss.safetensors")
    labels = stored["labels"]
    masked = labels != -100
    logits = stored["logits"].roll(1, dims=1)[masked]
    corruption = Corruption(stored["input_ids"], masked, masked.float())
    loss = weighted_loss(logits, labels[masked], weigh(corruption, masked))
    torch.testing.assert_close(loss, stored["loss"][0], atol=1e-5, rtol=0)


def test_bound_equals_the_mean_over_all_orders():
    torch.testing.assert_close(exact_bound(), random_order_bound())


def test_bound_by_sampling_agrees_with_enumeration():
    exact = exact_bound()
    draws = likelihood_bound(denoise, IDS, MASKABLE, MASK, samples=20_000)
    error = draws.std() / len(draws) ** 0.5
    assert (draws.mean() - exact).abs() < 4 * error


def test_elbo_weighted_loss_agrees_with_enumeration():
    """The training loss weighted by 1 / t, with t ~ U[0, 1] on a fine grid."""
    rows = 40_000
    ids, maskable = IDS.expand(rows, -1), MASKABLE.expand(rows, -1)
    t = (torch.arange(rows) + 0.5) / rows
    masked = (torch.rand(ids.shape) < t[:, None]) & maskable
    corruption = Corruption(torch.where(masked, MASK, ids), masked, t[:, None].expand(ids.shape))
    logits = denoise(corruption.ids)[masked]
    loss = weighted_loss(logits, ids[masked], weigh(corruption, maskable, "elbo"))
    exact = exact_bound() / MASKABLE.sum()
    assert loss == pytest.approx(exact.item(), rel=0.03)


def test_plain_is_the_mean_over_masked_tokens():
    ids = torch.randint(0, 4, (3, 12))
    everywhere = torch.ones(ids.shape, dtype=torch.bool)
    corruption = corrupt(ids, everywhere, ~everywhere, MASK, MaskingConfig())
    masked = corruption.masked
    logits = torch.randn(3, 12, VOCAB)
    want = F.cross_entropy(logits[masked], ids[masked])
    got = weighted_loss(logits[masked], ids[masked], weigh(corruption, everywhere))
    torch.testing.assert_close(got, want)
    twice = weigh(corruption, everywhere, importance=torch.full((3, 12), 2.0))
    torch.testing.assert_close(weighted_loss(logits[masked], ids[masked], twice), want)


def test_per_length_gives_each_sequence_the_same_say():
    """Two rows (2 and 6 long, the shorter padded) with a loss that is constant within each."""
    maskable = torch.tensor([[True] * 2 + [False] * 4, [True] * 6, [False] * 6])
    corruption = Corruption(maskable.long(), maskable, maskable.float())
    weights = weigh(corruption, maskable, "per_length")
    assert weights.normaliser == 2
    logits = torch.zeros(8, 2)
    logits[:2, 1] = 3.0
    loss = weighted_loss(logits, torch.zeros(8, dtype=torch.long), weights)
    each = F.cross_entropy(logits, torch.zeros(8, dtype=torch.long), reduction="none")
    torch.testing.assert_close(loss, (each[0] + each[7]) / 2)


@pytest.mark.parametrize("weighting", ["plain", "elbo", "per_length"])
def test_accumulated_micro_batches_equal_one_batch(weighting):
    ids = torch.randint(0, 4, (4, 9))
    maskable = torch.rand(4, 9) < 0.8
    maskable[:, 0] = True
    none = torch.zeros_like(maskable)
    whole = corrupt(ids, maskable, none, MASK, MaskingConfig())
    logits = torch.randn(4, 9, VOCAB)

    def part(rows: slice) -> tuple[torch.Tensor, torch.Tensor, Weights]:
        cut = Corruption(whole.ids[rows], whole.masked[rows], whole.ratio[rows])
        weights = weigh(cut, maskable[rows], weighting)
        return logits[rows][cut.masked], ids[rows][cut.masked], weights

    parts = [part(slice(0, 1)), part(slice(1, 4))]
    total = sum(weights.normaliser for _, _, weights in parts)
    summed = sum(weighted_loss(*each, normaliser=total) for each in parts)
    torch.testing.assert_close(summed, weighted_loss(*part(slice(0, 4))))


def test_half_precision_logits_are_scored_in_float32():
    logits = torch.randn(6, VOCAB).bfloat16()
    targets = torch.zeros(6, dtype=torch.long)
    weights = Weights(torch.ones(6), torch.tensor(6.0))
    loss = weighted_loss(logits, targets, weights)
    assert loss.dtype == torch.float32
    torch.testing.assert_close(loss, F.cross_entropy(logits.float(), targets))


def test_nothing_masked_is_zero_loss():
    assert token_losses(torch.zeros(0, VOCAB), torch.zeros(0, dtype=torch.long)).sum() == 0


def test_unknown_weighting_is_refused():
    nothing = torch.zeros(1, 1, dtype=torch.bool)
    with pytest.raises(ConfigError, match="weighting 'mean'") as raised:
        weigh(Corruption(nothing.long(), nothing, nothing.float()), nothing, "mean")  # type: ignore[arg-type]
    assert raised.value.field == "weighting"
