"""The time schedule, guidance and the regression target of flow matching."""

import json
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from omni_diffusion.codecs.glm_voice.matching import Conditions, FlowMatching, time_points
from omni_diffusion.errors import SamplingError


class Recorder(nn.Module):
    """A stand-in for the network: keeps what it was asked and answers by a rule."""

    def __init__(self) -> None:
        super().__init__()
        self.asked: list[tuple[Tensor, ...]] = []

    def forward(
        self, x: Tensor, t: Tensor, mu: Tensor, speaker: Tensor, cond: Tensor, mask: Tensor | None
    ) -> Tensor:
        self.asked.append((x, t, mu, speaker, cond))
        return mu + cond + speaker[:, :, None]


def conditions(rows: int = 1) -> Conditions:
    return Conditions(
        torch.full((rows, 4, 6), 2.0), torch.full((rows, 4), 3.0), torch.full((rows, 4, 6), 5.0)
    )


def matching() -> tuple[FlowMatching, Recorder]:
    network = Recorder()
    return FlowMatching(network, 1e-6, 0.2), network  # type: ignore[arg-type]


def test_time_points_as_published(folder: Path) -> None:
    for steps, points in json.loads((folder / "flow_t_schedule.json").read_text()).items():
        assert torch.equal(time_points(int(steps)), torch.tensor(points))


def test_no_steps_is_refused() -> None:
    with pytest.raises(SamplingError, match="-1 steps"):
        time_points(-1)


def test_guidance_subtracts_the_velocity_without_conditions() -> None:
    solver, network = matching()
    x = solver.solve(torch.zeros(1, 4, 6), conditions(), steps=3, guidance=0.7)
    # the steps of time add up to 1, the free velocity is 0
    torch.testing.assert_close(x, torch.full((1, 4, 6), 1.7 * 10))
    for _, _, mu, speaker, cond in network.asked:
        assert not mu[1].any()
        assert not speaker[1].any()
        assert not cond[1].any()


def test_the_target_lies_on_the_straight_path() -> None:
    """With x_t and the velocity one gets back to the mel: x_t + (1 - t) v = x_1 (up to sigma)."""
    solver, network = matching()
    mel = torch.randn(50, 4, 6)
    loss = solver.loss(mel, conditions(50), None, torch.Generator().manual_seed(1))
    x_t, t, mu, speaker, cond = network.asked[0]
    time = t[:, None, None]
    velocity = (mel - x_t) / (1 - time)
    answered = mu + cond + speaker[:, :, None]
    torch.testing.assert_close(loss, (answered - velocity).square().mean(), rtol=1e-3, atol=0)


def test_conditions_are_dropped_together_for_a_fifth_of_the_rows() -> None:
    solver, network = matching()
    solver.loss(torch.zeros(2000, 4, 6), conditions(2000), None, torch.Generator().manual_seed(2))
    _, t, mu, speaker, cond = network.asked[0]
    dropped = mu[:, 0, 0] == 0
    assert torch.equal(dropped, speaker[:, 0] == 0)
    assert torch.equal(dropped, cond[:, 0, 0] == 0)
    assert 0.17 < dropped.float().mean() < 0.23
    # uniform u: half of the times lie below 1 - cos(pi / 4)
    assert 0.46 < (t < time_points(2)[1]).float().mean() < 0.54


def test_only_the_last_steps_are_guided() -> None:
    flow, network = matching()
    z = torch.zeros(1, 4, 6)
    flow.solve(z, conditions(), 4, 0.7, guided_steps=1)
    assert [len(asked[0]) for asked in network.asked] == [1, 1, 1, 2]
    for guided_steps, rows in ((None, [2, 2]), (9, [2, 2]), (0, [1, 1])):
        network.asked.clear()
        flow.solve(z, conditions(), 2, 0.7, guided_steps)
        assert [len(asked[0]) for asked in network.asked] == rows
    plain = flow.solve(z, conditions(), 3, 0.0)
    assert torch.equal(flow.solve(z, conditions(), 3, 0.7, guided_steps=0), plain)
