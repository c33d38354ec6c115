"""Optional libraries: imported where they are needed, or an error that says what installs them."""

from __future__ import annotations

from importlib import import_module
from types import ModuleType

from omni_diffusion.errors import ModelError


def need(module: str, extra: str) -> ModuleType:
    """The module, whose library comes with `extra`; raises ModelError when it is not installed."""
    try:
        return import_module(module)
    except ModuleNotFoundError as error:
        library = module.partition(".")[0]
        if (error.name or "").partition(".")[0] != library:
            raise  # the library is there, and broken
        raise ModelError(
            f"{library} is not installed; run: pip install 'omni-diffusion[{extra}]'"
        ) from error
