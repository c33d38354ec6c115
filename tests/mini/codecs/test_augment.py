import pytest
import torch

from omni_diffusion.mini.codecs.augment import Augmentation, between

MEL = torch.randn(100, 80, generator=torch.Generator().manual_seed(1))


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def test_no_chance_changes_nothing() -> None:
    calm = Augmentation(chance=0.0)
    assert calm.warp(MEL, generator()) is MEL
    assert calm.spec_augment(MEL, generator()) is MEL


def test_the_same_generator_distorts_alike() -> None:
    change = Augmentation(chance=1.0)
    for kind in (change.warp, change.spec_augment):
        assert torch.equal(kind(MEL, generator(3)), kind(MEL, generator(3)))
        assert not torch.equal(kind(MEL, generator(3)), kind(MEL, generator(4)))


def test_bend_keeps_speed_and_gain_in_their_bounds() -> None:
    change = Augmentation(chance=1.0, speed=0.1, gain=2.0, tract=0.0)
    level = torch.full((100, 80), 3.0)
    for seed in range(30):
        bent = change.warp(level, generator(seed), unit=0.5)
        assert 100 / 1.1 - 1 <= len(bent) <= 100 / 0.9 + 1
        assert bent.shape[1] == 80
        assert float(bent.max() - bent.min()) < 1e-4
        assert abs(float(bent.mean()) - 3.0) <= 1.0 + 1e-4


def test_a_longer_tract_moves_a_peak_down_and_a_shorter_one_up() -> None:
    peak = torch.zeros(10, 80)
    peak[:, 50] = 1.0
    change = Augmentation(chance=1.0, speed=0.0, gain=0.0, tract=0.1)
    places = {int(change.warp(peak, generator(seed)).sum(0).argmax()) for seed in range(40)}
    assert min(places) < 50 < max(places)
    assert min(places) >= 45
    assert max(places) <= 56


def test_noise_is_a_floor_that_speech_stands_on() -> None:
    change = Augmentation(chance=1.0, noise_chance=1.0, noise=(5.0, 5.0), bands=0, gaps=0)
    speech = torch.full((100, 80), -20.0)
    speech[40:60] = 2.0
    noisy = change.spec_augment(speech, generator())
    assert (noisy >= speech - 1e-4).all()
    assert float(noisy[0].mean()) == pytest.approx(2.0 - 5.0, abs=0.3)
    assert float(noisy[50].mean()) == pytest.approx(2.0, abs=0.1)


def test_holes_are_the_mean_and_no_larger_than_allowed() -> None:
    change = Augmentation(chance=1.0, noise_chance=0.0, bands=1, band=10, gaps=1, gap=8)
    for seed in range(30):
        spoiled = change.spec_augment(MEL, generator(seed))
        hidden = spoiled != MEL
        assert (spoiled[hidden] == MEL.mean()).all()
        assert int(hidden.all(0).sum()) <= 10
        assert int(hidden.all(1).sum()) <= 8


def test_a_short_clip_survives() -> None:
    change = Augmentation(chance=1.0)
    for seed in range(10):
        short = change.spec_augment(change.warp(MEL[:2], generator(seed)), generator(seed))
        assert short.isfinite().all()


def test_between_is_linear() -> None:
    x = torch.tensor([[0.0], [1.0], [3.0]])
    assert between(x, torch.tensor([0.0, 0.5, 1.0, 1.5, 2.0]))[:, 0].tolist() == [0, 0.5, 1, 2, 3]
