"""A missing library is named with what installs it; a broken one keeps its own error."""

import sys
from pathlib import Path

import pytest

from omni_diffusion.errors import MissingDependencyError
from omni_diffusion.io import optional


def test_an_installed_library_is_imported() -> None:
    assert optional.require("json.decoder", "hub") is sys.modules["json.decoder"]


def test_a_missing_library_is_one_line() -> None:
    with pytest.raises(MissingDependencyError) as raised:
        optional.require("nowhere_to_be_found.part", "lora")
    assert raised.value.value == "nowhere_to_be_found"
    assert str(raised.value) == (
        "nowhere_to_be_found is not installed; run: pip install 'omni-diffusion[lora]'"
    )


def test_a_broken_library_keeps_its_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "breaks_on_import.py").write_text("import nowhere_to_be_found\n")
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(ModuleNotFoundError, match="nowhere_to_be_found"):
        optional.require("breaks_on_import", "lora")
