from dataclasses import replace

import pytest

from omni_diffusion.diffusion.params import SamplingParams
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
