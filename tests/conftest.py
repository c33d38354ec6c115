"""What every test may ask for: the folder of the parity numbers and a quiet, repeatable torch."""

import os
from pathlib import Path

import pytest
import torch

ROOT = Path(__file__).resolve().parent.parent


@pytest.fixture(scope="session")
def parity_dir() -> Path:
    """The numbers made with the published code; another copy may be named by OMNI_PARITY_DIR."""
    return ROOT / os.environ.get("OMNI_PARITY_DIR", "tests/parity")


@pytest.fixture(autouse=True)
def _repeatable() -> None:
    torch.manual_seed(0)
