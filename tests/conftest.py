"""What every test may ask for: the folder of the parity numbers and a quiet, repeatable torch."""

import gc
import os
import shutil
from pathlib import Path

import pytest
import torch
from tests.published_folders import PublishedFolders, write_published

ROOT = Path(__file__).resolve().parent.parent


def pytest_collection_finish() -> None:
    """What the imports made stays: the garbage collector need not walk through it again."""
    gc.collect()
    gc.freeze()


@pytest.fixture(scope="session")
def parity_dir() -> Path:
    """The numbers made with the published code; another copy may be named by OMNI_PARITY_DIR."""
    return ROOT / os.environ.get("OMNI_PARITY_DIR", "tests/parity")


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> PublishedFolders:
    """A model in the published layout, to be read alone."""
    return write_published(tmp_path_factory.mktemp("published"))


@pytest.fixture
def own(made: PublishedFolders, tmp_path: Path) -> PublishedFolders:
    """A copy to damage."""
    shutil.copytree(made.root, tmp_path / "own")
    return PublishedFolders(tmp_path / "own", made.model)


@pytest.fixture(autouse=True)
def _repeatable() -> None:
    torch.manual_seed(0)
