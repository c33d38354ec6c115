import torch

from omni_diffusion.diffusion import upstream
from omni_diffusion.diffusion.penalties import penalize, position_scale, repetition


def test_penalizing_lowers_every_logit_whatever_its_sign() -> None:
    values = torch.tensor([[2.0, 0.0, -2.0, -torch.inf]])
    assert penalize(values, 2.0).tolist() == [[1.0, 0.0, -4.0, -torch.inf]]


def test_repetition_touches_repeated_candidates_alone() -> None:
    values = torch.randn(3, 5)
    repeated = torch.tensor([True, False, False, True, False])
    bent = repetition(values, repeated, 1.3)
    assert torch.equal(bent[:, ~repeated], values[:, ~repeated])
    assert (bent[:, repeated] < values[:, repeated]).all()


def test_paper_position_scale_falls_over_the_last_places_to_one_half() -> None:
    length = 256
    scale = position_scale(torch.arange(length), length, 256, 2.0)
    assert (scale[:101] == 1).all()
    assert (scale[100:].diff() < 0).all()
    assert scale[-1] == 0.5


def test_paper_position_scale_goes_by_place_and_only_early() -> None:
    places = torch.tensor([3, 255])
    assert position_scale(places, 256, 101, 2.0).tolist() == [1, 0.5]
    assert position_scale(places, 256, 100, 2.0).tolist() == [1, 1]
    assert position_scale(torch.arange(90), 90, 90, 2.0).eq(1).all()


def test_upstream_position_factor_goes_by_rank_among_what_is_left() -> None:
    assert upstream.position_factor(100, 2.0).eq(1).all()
    factor = upstream.position_factor(200, 2.0)
    assert factor[:101].eq(1).all()
    torch.testing.assert_close(factor[150], torch.tensor(1.5))
    assert factor[-1] < 2
