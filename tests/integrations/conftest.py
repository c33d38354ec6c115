"""One tiny model and its folder for all tests of this folder; no test changes them."""

from __future__ import annotations

from pathlib import Path

import pytest
from tests.tiny import tiny_model

from omni_diffusion.integrations.transformers import OmniDiffusionModel, OmniDiffusionProcessor
from omni_diffusion.models.omni import OmniModel


@pytest.fixture(scope="session")
def omni() -> OmniModel:
    return tiny_model()


@pytest.fixture(scope="session")
def folder(omni: OmniModel, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("hub") / "tiny"
    omni.save(folder)
    return folder


@pytest.fixture(scope="session")
def model(omni: OmniModel) -> OmniDiffusionModel:
    return OmniDiffusionModel.from_omni(omni)


@pytest.fixture(scope="session")
def processor(omni: OmniModel) -> OmniDiffusionProcessor:
    return OmniDiffusionProcessor(omni.config, omni.codecs)
