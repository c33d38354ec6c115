"""`--sampling`: every field of the sampling parameters by its name."""

import pytest
from typer.testing import CliRunner

from omni_diffusion.cli.main import app
from omni_diffusion.cli.run import _sampling
from omni_diffusion.errors import SamplingError


def test_values_are_json_or_text() -> None:
    words = ["end_early=true", "entropy_bound=0.5", "confidence=halton", "block_length=null"]
    assert _sampling(words) == {
        "end_early": True,
        "entropy_bound": 0.5,
        "confidence": "halton",
        "block_length": None,
    }


@pytest.mark.parametrize("word", ["treshold=0.9", "threshold", "preset=paper", "threshold=0.9"])
def test_what_is_no_sampling_parameter_or_does_not_fit_is_refused(word: str) -> None:
    result = CliRunner().invoke(app, ["run", "chat", "hello", "--sampling", word])
    assert isinstance(result.exception, SamplingError)
    assert "threshold" in str(result.exception) or word in str(result.exception)
