"""A missing library is named with what installs it; a broken one stays a traceback."""

import sys
from pathlib import Path

import pytest

from omni_diffusion.errors import ModelError
from omni_diffusion.io import optional


def test_what_is_there_is_imported() -> None:
    assert optional.need("json.decoder", "hub") is sys.modules["json.decoder"]


def test_what_is_missing_is_one_line() -> None:
    with pytest.raises(ModelError) as told:
        optional.need("nowhere_to_be_found.part", "lora")
    assert str(told.value) == (
        "nowhere_to_be_found is not installed; run: pip install 'omni-diffusion[lora]'"
    )


def test_what_is_broken_says_so_itself(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "breaks_on_import.py").write_text("import nowhere_to_be_found\n")
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(ModuleNotFoundError, match="nowhere_to_be_found"):
        optional.need("breaks_on_import", "lora")
