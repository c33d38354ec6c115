from dataclasses import replace
from fractions import Fraction
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from omni_diffusion.canvas import Canvas
from omni_diffusion.diffusion import sampler
from omni_diffusion.diffusion.params import BOUNDS, SamplingParams
from omni_diffusion.errors import SamplingError


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("steps", 0),
        ("confidence", "entropi"),
        ("temperature", -0.1),
        ("temperature", float("nan")),
        ("top_p", 0.0),
        ("top_p", 1.1),
        ("top_k", 0),
        ("repetition_penalty", 0.0),
        ("position_penalty", 0.5),
        ("guidance", -1.0),
        ("block_length", 0),
        ("confidence_temperature", float("inf")),
        ("schedule", "published"),
        ("rules", "code"),
        ("seed", -1),
        ("seed", 2**63),
    ],
)
def test_impossible_values_are_refused_by_name(name, value) -> None:
    with pytest.raises(SamplingError, match=rf"^{name} is .*; give "):
        SamplingParams(**{name: value})


def test_a_changed_copy_is_checked_too() -> None:
    params = SamplingParams(steps=10)
    assert replace(params, steps=20).steps == 20
    with pytest.raises(SamplingError, match="steps is -1"):
        replace(params, steps=-1)


@pytest.mark.parametrize(
    "value", [3, np.int64(3), np.uint8(3), torch.tensor(3), torch.tensor([3]), np.array(3)]
)
def test_whole_numbers_of_every_type_become_pythons(value: Any) -> None:
    for name in ("seed", "steps", "top_k", "block_length"):
        found = getattr(SamplingParams(**{name: value}), name)
        assert (type(found), found) == (int, 3)


@pytest.mark.parametrize(
    "value", [0.5, np.float64(0.5), np.float16(0.5), torch.tensor(0.5), Fraction(1, 2)]
)
def test_real_numbers_of_every_type_become_pythons(value: Any) -> None:
    for name in ("temperature", "top_p", "guidance", "confidence_temperature"):
        found = getattr(SamplingParams(**{name: value}), name)
        assert (type(found), found) == (float, 0.5)
    assert type(SamplingParams(temperature=1).temperature) is float


@pytest.mark.parametrize(
    "value",
    [
        None,
        True,
        np.True_,
        torch.tensor(True),
        "1",
        1j,
        torch.tensor([1, 2]),
        [1],
        pytest.param(10**5000, id="huge"),
    ],
)
@pytest.mark.parametrize("name", ["seed", "temperature", "guidance", "repetition_penalty"])
def test_what_is_no_number_is_refused(name: str, value: Any) -> None:
    with pytest.raises(SamplingError, match=f"^{name} is .*; give "):
        SamplingParams(**{name: value})


@pytest.mark.parametrize("value", [5e-324, 2.3e-308, 1e-38, 1e-7, 1e7, 1e39, 1e308, float("inf")])
@pytest.mark.parametrize("name", ["temperature", "confidence_temperature", "repetition_penalty"])
def test_numbers_that_would_overflow_are_refused(name: str, value: float) -> None:
    with pytest.raises(SamplingError, match=f"{name} is .*; give .*, or . .off."):
        SamplingParams(**{name: value})


def first_tokens(logits: Tensor, **values: Any) -> Tensor:
    """The tokens [m] that a canvas of m positions gets in one step from logits [m, V]."""
    m, size = logits.shape
    mask = size - 1
    canvas = Canvas(
        ids=torch.full((m,), mask),
        blank=torch.ones(m, dtype=torch.bool),
        allowed=torch.tensor([[0, size]] * m),
        answer=(0, m),
    )
    state = sampler.start(canvas, SamplingParams(steps=1, **values), mask)
    (commit,) = sampler.step([state], sampler.Logits.of([logits]))
    return commit.tokens


@pytest.mark.parametrize("rules", ["paper", "upstream"])
def test_the_least_temperature_takes_the_likeliest_token(rules: str) -> None:
    logits = 30 * torch.randn(64, 200, generator=torch.Generator().manual_seed(0))
    logits[:, -1] = -100.0
    for name in ("temperature", "confidence_temperature"):
        tokens = first_tokens(logits, rules=rules, **{name: BOUNDS[name][1]})
        assert torch.equal(tokens, logits[:, :-1].argmax(1))


@pytest.mark.parametrize("rules", ["paper", "upstream"])
@pytest.mark.parametrize("name", BOUNDS)
def test_tokens_are_drawn_at_every_bound(name: str, rules: str) -> None:
    logits = 30 * torch.randn(150, 200, generator=torch.Generator().manual_seed(0))
    for value in BOUNDS[name]:
        tokens = first_tokens(logits, rules=rules, **{name: value})
        assert len(tokens) == 150
        assert int(tokens.max()) < 199
