import pytest
import torch

from omni_diffusion.mini.codecs.codebook import CodebookConfig, EmaCodebook

CENTRES = torch.tensor([[4.0, 0.0], [-4.0, 0.0], [0.0, 4.0], [0.0, -4.0]])


def vectors(generator: torch.Generator, n: int = 200) -> torch.Tensor:
    which = torch.randint(4, (n,), generator=generator)
    return CENTRES[which] + 0.3 * torch.randn(n, 2, generator=generator)


def nearest(table: torch.Tensor, x: torch.Tensor) -> torch.Tensor:
    return torch.cdist(x, table).argmin(1)


def test_it_spreads_over_the_clusters_even_from_one_place() -> None:
    generator = torch.Generator().manual_seed(0)
    moving = EmaCodebook(16, 2, CodebookConfig(decay=0.9, restart_every=10))
    table = torch.zeros(16, 2)
    moving.start(table, CENTRES[:1] + torch.zeros(2, 2), generator)
    for step in range(200):
        x = vectors(generator)
        moving.update(table, x, nearest(table, x))
        if step < 150 and step % 10 == 0:
            moving.restart(table, x, generator)
    x = vectors(generator)
    assert (x - table[nearest(table, x)]).square().mean() < 0.3**2  # less than its cluster leaves


def test_start_puts_codes_on_vectors() -> None:
    generator = torch.Generator().manual_seed(0)
    moving = EmaCodebook(8, 2, CodebookConfig())
    table = torch.zeros(8, 2)
    x = vectors(generator, 20)
    moving.start(table, x, generator)
    assert torch.cdist(table, x).amin(1).max() < 0.2
    assert torch.allclose(moving.total / moving.use[:, None], table)


def test_a_code_that_is_not_chosen_stays_until_it_restarts() -> None:
    generator = torch.Generator().manual_seed(0)
    moving = EmaCodebook(2, 2, CodebookConfig(decay=0.5))
    table = torch.tensor([[0.0, 0.0], [9.0, 9.0]])
    moving.use.fill_(1.0)
    moving.total.copy_(table)
    x = torch.randn(10, 2)
    for _ in range(60):
        moving.update(table, x, torch.zeros(10, dtype=torch.long))
    assert torch.allclose(table[1], torch.tensor([9.0, 9.0]))
    assert torch.allclose(table[0], x.mean(0), atol=1e-5)
    assert moving.restart(table, x, generator) == 1
    assert (table[1] == x).all(1).any()
    assert float(moving.use[1]) == pytest.approx(5.0)


def test_more_dead_codes_than_vectors() -> None:
    moving = EmaCodebook(16, 2, CodebookConfig())
    table = torch.zeros(16, 2)
    assert moving.restart(table, torch.randn(3, 2), torch.Generator().manual_seed(0)) == 3
