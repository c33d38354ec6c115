"""One tiny model for all tests of this folder; nobody changes it."""

import pytest
from tests.tiny import tiny_model

from omni_diffusion.models.omni import OmniModel


@pytest.fixture(scope="session")
def model() -> OmniModel:
    return tiny_model()
