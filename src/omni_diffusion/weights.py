"""Tensors by name on disk: safetensors in and out, shards, and pickles that may hold no code.

Knows nothing of the modules that tensors belong to but their names and shapes.
"""

from __future__ import annotations

import glob
import json
import pickle
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
from safetensors import SafetensorError
from torch import Tensor, nn

from omni_diffusion import files
from omni_diffusion.errors import StorageError, WeightsError

PICKLES = (".bin", ".pt", ".pth", ".ckpt")
INDEX = ".index.json"
MAX_SHARD_BYTES = 5_000_000_000
MAX_ROWS = 20  # of each kind in the table of names


def read(path: str | Path) -> dict[str, Tensor]:
    """Read tensors by name, on the CPU.

    `path` is a .safetensors file, a .bin/.pt/.pth/.ckpt pickle (also one that keeps its tensors
    under "state_dict"), an index of shards, or a folder that holds one of these. Raises
    WeightsError for what is missing, truncated, corrupt or would run code.
    """
    path = Path(path)
    if path.is_dir():
        path = _find(path)
    if not path.exists() and _index_of(path).exists():
        path = _index_of(path)
    if not path.is_file():
        raise WeightsError(f"no weights at {path}; check the path")
    if path.name.endswith(INDEX):
        return _read_shards(path)
    if path.suffix == ".safetensors":
        return _read_safetensors(path)
    if path.suffix in PICKLES:
        return _read_pickle(path)
    kinds = ", ".join((".safetensors", *PICKLES))
    raise WeightsError(f"{path} is no file of weights; give one of {kinds} or a folder")


def write(
    tensors: Mapping[str, Tensor],
    path: str | Path,
    metadata: Mapping[str, str] | None = None,
    *,
    max_shard_bytes: int = MAX_SHARD_BYTES,
) -> None:
    """Write tensors to a .safetensors file, whole or not at all.

    Above `max_shard_bytes` they go to model-00001-of-0000N.safetensors and so on, with
    model.safetensors.index.json in the usual layout; `read(path)` finds either. Raises
    WeightsError for what the format cannot hold, StorageError for what the disk refuses.
    """
    path = Path(path)
    if path.suffix != ".safetensors":
        raise WeightsError(f"{path} does not end in .safetensors; rename it")
    owned = _owned(tensors)
    shards = _split(owned, max_shard_bytes)
    if len(shards) == 1:
        _write_safetensors(owned, path, metadata)
        _remove_shards(path)
        return
    _remove_shards(path)  # first, lest an old index name shards of which only some are new
    try:
        _write_shards(owned, shards, path, metadata)
    except BaseException:
        _remove_shards(path)
        raise
    files.remove(path)  # `read` would prefer an old single file


def remove(path: str | Path) -> None:
    """Remove a .safetensors file and its shards, where they are."""
    files.remove(Path(path))
    _remove_shards(Path(path))


def load_into(
    module: nn.Module,
    tensors: Mapping[str, Tensor],
    *,
    rename: Callable[[str], str | None] | None = None,
    where: str = "weights",
) -> None:
    """Copy tensors into a module under its own names, all or none.

    `rename` turns a name of the checkpoint into one of the module, None = leave it out. Values
    are cast to the module's dtype; a module on the meta device takes the tensors as its own.
    Raises WeightsError with a table of all missing, unexpected and mis-shaped names.
    """
    own = module.state_dict()
    found: dict[str, Tensor] = {}
    trouble: list[tuple[str, str]] = []
    for name, tensor in tensors.items():
        target = name if rename is None else rename(name)
        if target is None:
            continue
        if target in found:
            trouble.append(("twice", f"{target} (again from {name})"))
        elif target not in own:
            trouble.append(("unexpected", target if target == name else f"{target} (from {name})"))
        elif tensor.shape != own[target].shape:
            shapes = f"{list(tensor.shape)}, the module has {list(own[target].shape)}"
            trouble.append(("mis-shaped", f"{target} {shapes}"))
        found[target] = tensor
    trouble += [("missing", f"{n} {list(t.shape)}") for n, t in own.items() if n not in found]
    if trouble:
        raise WeightsError(_table(where, type(module).__name__, trouble))
    on_meta = any(tensor.is_meta for tensor in own.values())
    if on_meta:
        found = {name: tensor.to(own[name].dtype) for name, tensor in found.items()}
    module.load_state_dict(found, assign=on_meta)


def _table(where: str, module: str, trouble: list[tuple[str, str]]) -> str:
    lines = [f"{where} do not fit {module}; check that both are of the same model and sizes:"]
    for kind in ("missing", "unexpected", "mis-shaped", "twice"):
        rows = [text for found, text in trouble if found == kind]
        lines += [f"  {kind:<11}{text}" for text in rows[:MAX_ROWS]]
        if len(rows) > MAX_ROWS:
            lines.append(f"  {kind:<11}... and {len(rows) - MAX_ROWS} more")
    return "\n".join(lines)


def _find(folder: Path) -> Path:
    """The one index or file of weights in a folder; an index comes first, safetensors next."""
    for ending in (f".safetensors{INDEX}", ".safetensors", INDEX, *PICKLES):
        here = sorted(p for p in folder.glob(f"*{ending}") if not p.name.startswith("."))
        if len(here) == 1:
            return here[0]
        if here:
            names = ", ".join(p.name for p in here)
            raise WeightsError(f"{folder} holds {len(here)} files of weights ({names}); name one")
    raise WeightsError(f"{folder} holds no weights; give a folder with a .safetensors file")


def _index_of(path: Path) -> Path:
    return path.with_name(path.name + INDEX)


def _read_shards(index: Path) -> dict[str, Tensor]:
    try:
        places = json.loads(index.read_text(encoding="utf-8"))["weight_map"]
        shards = sorted(set(places.values()))
        strays = [shard for shard in shards if Path(shard).name != shard]
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise WeightsError(f"{index} is no index of shards ({error!r}); fetch it again") from error
    if strays:
        raise WeightsError(f"{index} names {strays[0]!r} outside of its folder; fetch it again")
    tensors: dict[str, Tensor] = {}
    for shard in shards:
        path = index.with_name(shard)
        if not path.is_file():
            raise WeightsError(f"{index.name} names the shard {path}, which is missing; fetch it")
        tensors |= read(path)
    lost = sorted(set(places) - set(tensors))
    if lost:
        raise WeightsError(f"{index} names {lost[0]!r}, which no shard holds; fetch them again")
    return {name: tensors[name] for name in places}


def _read_safetensors(path: Path) -> dict[str, Tensor]:
    try:
        return safetensors.torch.load_file(path)
    except (SafetensorError, OSError, ValueError, KeyError) as error:
        raise _broken(path, error) from error


def _read_pickle(path: Path) -> dict[str, Tensor]:
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        raise WeightsError(
            f"{path} is corrupt or holds more than tensors, which might run code; convert it to"
            " .safetensors where you trust it"
        ) from error
    except Exception as error:  # broken archives raise RuntimeError, EOFError, KeyError, ...
        raise _broken(path, error) from error
    if isinstance(content, dict) and isinstance(content.get("state_dict"), dict):
        content = content["state_dict"]
    return _only_tensors(content, path)


def _only_tensors(content: Any, path: Path) -> dict[str, Tensor]:
    if not isinstance(content, dict):
        raise WeightsError(f"{path} holds {type(content).__name__}; give tensors by name")
    for name, value in content.items():
        if not isinstance(name, str) or not isinstance(value, Tensor):
            raise WeightsError(
                f"{path} holds {name!r} of type {type(value).__name__}; give tensors by name alone"
            )
    return dict(content)


def _owned(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The tensors on the CPU, each in memory of its own, as the format wants them."""
    owned: dict[str, Tensor] = {}
    seen: set[int] = set()
    for name, tensor in tensors.items():
        if tensor.layout != torch.strided or tensor.is_meta:
            raise WeightsError(f"{name} is sparse or on the meta device; give plain tensors")
        tensor = tensor.detach().cpu().contiguous()
        memory = tensor.untyped_storage()
        if memory.data_ptr() in seen or memory.nbytes() != tensor.nbytes:
            tensor = tensor.clone()
        seen.add(memory.data_ptr())
        owned[name] = tensor
    return owned


def _split(tensors: Mapping[str, Tensor], max_bytes: int) -> list[list[str]]:
    """Names in order, cut wherever the next tensor would exceed `max_bytes`."""
    shards: list[list[str]] = [[]]
    room = max_bytes
    for name, tensor in tensors.items():
        if tensor.nbytes > room and shards[-1]:
            shards.append([])
            room = max_bytes
        shards[-1].append(name)
        room -= tensor.nbytes
    return shards


def _write_shards(
    tensors: Mapping[str, Tensor],
    shards: list[list[str]],
    path: Path,
    metadata: Mapping[str, str] | None,
) -> None:
    places: dict[str, str] = {}
    for number, names in enumerate(shards, start=1):
        shard = path.with_name(f"{path.stem}-{number:05}-of-{len(shards):05}.safetensors")
        _write_safetensors({name: tensors[name] for name in names}, shard, metadata)
        places.update(dict.fromkeys(names, shard.name))
    total = sum(tensor.nbytes for tensor in tensors.values())
    index = {"metadata": {"total_size": total}, "weight_map": places}
    files.write_text(_index_of(path), json.dumps(index, indent=2) + "\n")


def _remove_shards(path: Path) -> None:
    files.remove(_index_of(path))
    for shard in path.parent.glob(f"{glob.escape(path.stem)}-?????-of-?????.safetensors"):
        files.remove(shard)


def _write_safetensors(
    tensors: dict[str, Tensor], path: Path, metadata: Mapping[str, str] | None
) -> None:
    with files.atomic_path(path) as temporary:
        try:
            safetensors.torch.save_file(tensors, temporary, {"format": "pt", **(metadata or {})})
        except SafetensorError as error:
            raise StorageError(f"cannot write {path}: {_line(error)}; free some space") from error
        except (ValueError, TypeError, RuntimeError) as error:
            problem = f"cannot write {path}: {_line(error)}; give plain tensors"
            raise WeightsError(problem) from error


def _broken(path: Path, error: Exception) -> WeightsError:
    return WeightsError(f"{path} is truncated or corrupt ({_line(error)}); fetch it again")


def _line(error: Exception) -> str:
    """The first line of what a library said."""
    text = (str(error) or type(error).__name__).strip()
    return text.splitlines()[0]
