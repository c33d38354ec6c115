"""Where model files come from: a folder on this machine, or the Hugging Face hub."""

from __future__ import annotations

import re
from collections.abc import Sequence
from importlib import import_module
from pathlib import Path
from typing import TypeAlias

from omni_diffusion.errors import MissingDependencyError, ModelError
from omni_diffusion.io import optional
from omni_diffusion.io.files import exists

HubSource: TypeAlias = str | Path  # a folder, or owner/name or owner/name@revision on the hub

MODEL_FILES = ("*.safetensors", "*.json", "*.mvn", "merges.txt")  # of any model folder
HUB_ID = re.compile(r"[\w.-]+/[\w.-]+")


def is_hub_id(source: HubSource) -> bool:
    """Whether `source` has the form owner/name or owner/name@revision."""
    return HUB_ID.fullmatch(str(source).partition("@")[0]) is not None


def locate(source: HubSource, files: Sequence[str], revision: str | None = None) -> Path:
    """The folder or file of `source`, downloaded from the hub if there is none of that name here.

    files: patterns of the files to download. Raises ModelError if there is neither a folder nor a
    repository, or the download fails; MissingDependencyError without huggingface_hub.
    """
    if exists(source):
        return Path(source)
    if not is_hub_id(source):
        raise ModelError(
            f"nothing at {source}", value=source, fix="give a folder, or owner/name on the hub"
        )
    name, _, pinned = str(source).partition("@")
    try:
        hub = optional.require("huggingface_hub", "hub")
    except MissingDependencyError as error:
        raise MissingDependencyError(
            f"no folder {source} here, and {error.value} is not installed",
            value=error.value,
            fix=error.fix,
        ) from error
    try:
        folder = hub.snapshot_download(
            name, revision=revision or pinned or None, allow_patterns=list(files)
        )
    except Exception as error:  # its own types, and those of the network library below it
        reason = (str(error) or type(error).__name__).splitlines()[0]
        raise ModelError(
            f"no folder {source} here, and the download from the hub failed ({reason})",
            value=source,
            fix="give a folder, or check the name and the connection",
        ) from error
    return Path(folder)


def locate_cached(source: HubSource, files: Sequence[str]) -> Path | None:
    """The hub's local copy of `source` from an earlier download; None without one."""
    name, _, pinned = str(source).partition("@")
    try:
        hub = import_module("huggingface_hub")
        folder = hub.snapshot_download(
            name, revision=pinned or None, allow_patterns=list(files), local_files_only=True
        )
    except Exception:  # not installed, not downloaded, or not the name of a repository
        return None
    return Path(folder)
