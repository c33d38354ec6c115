import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.training.tiny_objective import Small

from omni_diffusion.errors import ConfigError
from omni_diffusion.training.optim import OptimConfig, adamw, learning_rate

CONFIG = OptimConfig(lr=2.0, warmup=10, floor=0.1)


# -------------------------------------------------------------------------------------------- rate
def test_the_rate_climbs_in_a_line_and_falls_along_a_cosine() -> None:
    steps = 110
    rates = [learning_rate(step, steps, CONFIG) for step in range(steps)]
    assert rates[:10] == pytest.approx([0.2 * k for k in range(1, 11)])
    for step in range(10, steps):
        angle = math.pi * (step - 10) / 100
        assert rates[step] == pytest.approx(0.2 + 1.8 * (1 + math.cos(angle)) / 2)
    assert rates[60] == pytest.approx(1.1)  # half-way between peak and floor


def test_the_rate_stays_on_the_floor() -> None:
    assert (
        learning_rate(110, 110, CONFIG) == learning_rate(10_000, 110, CONFIG) == pytest.approx(0.2)
    )


@settings(deadline=None)
@given(st.integers(0, 30), st.integers(1, 60), st.floats(0, 1), st.floats(1e-6, 1))
def test_the_rate_has_one_peak(warmup: int, steps: int, floor: float, lr: float) -> None:
    config = OptimConfig(lr=lr, warmup=warmup, floor=floor)
    rates = [learning_rate(step, steps, config) for step in range(steps)]
    top = min(warmup, steps)
    assert rates[:top] == sorted(set(rates[:top]))
    assert rates[top:] == sorted(rates[top:], reverse=True)
    assert all(0 < r <= lr * (1 + 1e-12) for r in rates)
    assert all(r >= lr * floor * (1 - 1e-12) for r in rates[top:])


@pytest.mark.parametrize(
    "wrong", [{"lr": 0.0}, {"lr": -1.0}, {"warmup": -1}, {"floor": -0.1}, {"floor": 1.1}]
)
def test_numbers_that_make_no_schedule_are_refused(wrong: dict[str, float]) -> None:
    with pytest.raises(ConfigError) as error:
        OptimConfig(**wrong)  # type: ignore[arg-type]
    assert {error.value.field: error.value.value} == wrong


# ------------------------------------------------------------------------------------------- adamw
def test_only_what_trains_is_optimised_and_only_matrices_decay() -> None:
    module = Small()
    optimizer = adamw([module], OptimConfig(weight_decay=0.5, betas=(0.8, 0.9), eps=1e-7))
    decayed, plain = optimizer.param_groups
    assert {id(p) for p in decayed["params"]} == {id(module.first.weight), id(module.last.weight)}
    vectors = (module.first.bias, module.norm.weight, module.norm.bias, module.last.bias)
    assert {id(p) for p in plain["params"]} == {id(p) for p in vectors}
    assert (decayed["weight_decay"], plain["weight_decay"]) == (0.5, 0.0)
    assert (decayed["betas"], decayed["eps"]) == ((0.8, 0.9), 1e-7)


def test_a_step_is_adamws() -> None:
    config = OptimConfig(lr=0.1, weight_decay=0.5)
    layer = torch.nn.Linear(2, 1)
    before = {name: p.detach().clone() for name, p in layer.named_parameters()}
    optimizer = adamw([layer], config)
    layer(torch.tensor([[1.0, -2.0]])).sum().backward()
    optimizer.step()
    # After one step both moments are debiased to the gradient: a step of lr against its sign.
    by_hand = before["weight"] * (1 - 0.1 * 0.5) - 0.1 * torch.tensor([[1.0, -1.0]])
    assert torch.allclose(layer.weight, by_hand, atol=1e-6)
    assert torch.allclose(layer.bias, before["bias"] - 0.1, atol=1e-6)
