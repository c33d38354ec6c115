import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from omni_diffusion.diffusion import filters
from omni_diffusion.diffusion.filters import DROPPED, draw, top_ids, top_k_top_p
from omni_diffusion.errors import SamplingError


def brute_keep(values: Tensor, top_p: float | None, top_k: int | None) -> Tensor:
    """Row by row and token by token: top-p of the whole, then top-k; -inf where dropped."""
    kept = torch.full_like(values, DROPPED)
    for row, out in zip(values, kept, strict=True):
        order = sorted(range(len(row)), key=lambda i: (-row[i].item(), i))
        p = row.double().softmax(0)
        mass = 0.0
        for rank, token in enumerate(order):
            if (top_p is not None and mass > top_p) or (top_k is not None and rank >= top_k):
                break
            out[token] = row[token]
            mass += p[token].item()
    return kept


def spread(kept: Tensor, ids: Tensor | None, size: int) -> Tensor:
    if ids is None:
        return kept
    assert (ids.diff(dim=1) > 0).all()
    return torch.full((len(kept), size), DROPPED).scatter_(1, ids, kept)


@settings(max_examples=60, deadline=None)
@given(
    seed=st.integers(0, 10_000),
    top_p=st.sampled_from([None, 0.1, 0.55, 0.93, 1.0]),
    top_k=st.sampled_from([None, 1, 3, 10, 500]),
    levels=st.sampled_from([2, 5, 1000]),
)
def test_keep_equals_the_definition_even_among_ties(seed, top_p, top_k, levels) -> None:
    generator = torch.Generator().manual_seed(seed)
    values = torch.randint(0, levels, (3, 24), generator=generator) * (4 / levels)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(filters, "PREFIX", 3)
        patch.setattr(filters, "WIDEN", 3)
        kept = spread(*top_k_top_p(values, top_p, top_k), 24)
    assert torch.equal(kept, brute_keep(values, None if top_p == 1 else top_p, top_k))


def test_top_ids_takes_the_lowest_of_equals() -> None:
    values = torch.tensor([[1.0, 5, 5, 5, 2], [0, 0, 0, 0, 0], [4, 3, 2, 1, 0], [1, 1, 7, 1, 7]])
    assert top_ids(values, 3).tolist() == [[1, 2, 3], [0, 1, 2], [0, 1, 2], [0, 2, 4]]


@pytest.mark.parametrize("levels", [2, 30, 100_000])
@pytest.mark.parametrize("k", [1, 5, 40])
def test_top_ids_of_a_large_vocabulary(k: int, levels: int) -> None:
    values = torch.randint(0, levels, (20, 5003)).float()
    want = values.sort(dim=1, descending=True, stable=True).indices[:, :k].sort(dim=1).values
    assert torch.equal(top_ids(values, k), want)


def test_top_ids_where_fewer_than_k_are_left() -> None:
    values = torch.full((2, 6), DROPPED)
    values[:, 4] = 1.0
    assert top_ids(values, 3).tolist() == [[0, 1, 4], [0, 1, 4]]


def test_values_that_are_no_numbers_are_refused() -> None:
    with pytest.raises(SamplingError, match="NaN"):
        top_k_top_p(torch.tensor([[0.0, torch.nan, 1.0]]), None, 2)


def test_draw_follows_the_distribution_and_never_takes_the_dropped() -> None:
    logits = torch.tensor([0.0, DROPPED, 1.0, 2.0, DROPPED])
    n = 40_000
    chosen = draw(logits.expand(n, -1), torch.rand(n, dtype=torch.float64))
    share = torch.bincount(chosen, minlength=5) / n
    torch.testing.assert_close(share, logits.softmax(0), atol=0.01, rtol=0)
    assert share[1] == share[4] == 0


def test_draw_at_the_ends_of_the_unit_interval() -> None:
    logits = torch.tensor([[DROPPED, 0.0, 0.0, DROPPED]]).expand(2, -1)
    assert draw(logits, torch.tensor([0.0, 1 - 2**-53], dtype=torch.float64)).tolist() == [1, 2]
