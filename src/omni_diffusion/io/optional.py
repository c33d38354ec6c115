"""Imports of optional libraries, with one error that says how to install them."""

from __future__ import annotations

from importlib import import_module
from types import ModuleType

from omni_diffusion.errors import MissingDependencyError


def require(module: str, extra: str) -> ModuleType:
    """Import `module`, which the optional dependencies `extra` of this package install.

    Raises MissingDependencyError if its library is not installed. An installed library that fails
    to import raises its own error.
    """
    try:
        return import_module(module)
    except ModuleNotFoundError as error:
        library = module.partition(".")[0]
        if (error.name or "").partition(".")[0] != library:
            raise  # the library is installed, but broken
        raise MissingDependencyError(
            f"{library} is not installed",
            value=library,
            fix=f"run: pip install 'omni-diffusion[{extra}]'",
        ) from error
