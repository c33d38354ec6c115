"""Tensors by name on disk: safetensors in and out, shards, and pickles that may hold no code.

Knows nothing of the modules that tensors belong to but their names and shapes.
"""

from __future__ import annotations

import glob
import json
import pickle
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
from safetensors import SafetensorError
from torch import Tensor, nn

from omni_diffusion.errors import WeightsError
from omni_diffusion.io import files

PICKLES = (".bin", ".pt", ".pth", ".ckpt")
INDEX = ".index.json"
MAX_SHARD_BYTES = 5_000_000_000
MAX_ROWS = 20  # of each kind in the table of names
PIECE = 2**24  # elements that are cast and written at a time
KINDS = {  # what the format calls each dtype
    torch.float64: "F64",
    torch.float32: "F32",
    torch.float16: "F16",
    torch.bfloat16: "BF16",
    torch.float8_e4m3fn: "F8_E4M3",
    torch.float8_e5m2: "F8_E5M2",
    torch.int64: "I64",
    torch.int32: "I32",
    torch.int16: "I16",
    torch.int8: "I8",
    torch.uint8: "U8",
    torch.bool: "BOOL",
}
DTYPES = {kind: dtype for dtype, kind in KINDS.items()}


def read(path: str | Path) -> dict[str, Tensor]:
    """Read tensors by name, on the CPU; those of .safetensors stay mapped from their file.

    `path` is a .safetensors file, a .bin/.pt/.pth/.ckpt pickle (also one that keeps its tensors
    under "state_dict"), an index of shards, or a folder that holds one of these. Raises
    WeightsError for what is missing, truncated, corrupt or would run code.
    """
    return _read(Path(path), torch.device("cpu"))


def outline(path: str | Path) -> dict[str, Tensor]:
    """What `read` would give, names, shapes and dtypes alone: tensors on the meta device.

    Reads headers only, and raises as `read` does.
    """
    return _read(Path(path), torch.device("meta"))


def files_of(path: str | Path) -> list[Path]:
    """The files that `read` opens, whether they are there or not; raises WeightsError."""
    path = _start(Path(path))
    if not path.name.endswith(INDEX) or not path.is_file():
        return [path]
    return [path.with_name(name) for name in sorted(set(_places(path).values()))]


def _start(path: Path) -> Path:
    """The file or index that reading begins with."""
    if path.is_dir():
        return _find(path)
    index = _index_of(path)
    return index if not path.exists() and index.exists() else path


def _read(path: Path, device: torch.device) -> dict[str, Tensor]:
    path = _start(path)
    if not path.is_file():
        raise WeightsError(f"no weights at {path}; check the path")
    if path.name.endswith(INDEX):
        return _read_shards(path, device)
    if path.suffix == ".safetensors":
        return _read_safetensors(path, device)
    if path.suffix in PICKLES:
        return _read_pickle(path, device)
    kinds = ", ".join((".safetensors", *PICKLES))
    raise WeightsError(f"{path} is no file of weights; give one of {kinds} or a folder")


def write(
    tensors: Mapping[str, Tensor],
    path: str | Path,
    metadata: Mapping[str, str] | None = None,
    *,
    dtype: torch.dtype | None = None,
    max_shard_bytes: int = MAX_SHARD_BYTES,
) -> None:
    """Write tensors to a .safetensors file, whole or not at all, piece by piece.

    Tensors that are mapped from a file are never in memory as a whole. `dtype`: what those of
    floating point are stored as, None = as they are. Above `max_shard_bytes` they go to
    model-00001-of-0000N.safetensors and so on, with model.safetensors.index.json in the usual
    layout; `read(path)` finds either. Raises WeightsError for what the format cannot hold,
    StorageError for what the disk refuses or has no room for; what was there before then stays.
    """
    path = Path(path)
    if path.suffix != ".safetensors":
        raise WeightsError(f"{path} does not end in .safetensors; rename it")
    kinds = {name: _kind(name, tensor, dtype) for name, tensor in tensors.items()}
    sizes = {name: tensor.numel() * kinds[name].itemsize for name, tensor in tensors.items()}
    files.check_space(path, sum(sizes.values()))
    shards = _split(sizes, max_shard_bytes)
    names = [f"{path.stem}-{i + 1:05}-of-{len(shards):05}.safetensors" for i in range(len(shards))]
    targets = [path] if len(shards) == 1 else [path.with_name(name) for name in names]
    with ExitStack() as waiting:  # the files take their places when all of them are written
        for target, shard in zip(targets, shards, strict=True):
            temporary = waiting.enter_context(files.atomic_path(target))
            _stream({name: tensors[name] for name in shard}, kinds, temporary, metadata)
        if len(shards) > 1:
            files.remove(_index_of(path))  # lest it name shards of which only some are new
    if len(shards) > 1:
        places = {n: t.name for t, shard in zip(targets, shards, strict=True) for n in shard}
        index = {"metadata": {"total_size": sum(sizes.values())}, "weight_map": places}
        files.write_text(_index_of(path), json.dumps(index, indent=2) + "\n")
        files.remove(path)  # `read` would prefer an old single file
    else:
        files.remove(_index_of(path))
    _remove_shards(path, targets)


def stored_bytes(tensors: Mapping[str, Tensor], dtype: torch.dtype | None = None) -> int:
    """What `write` would take on the disk, headers left out."""
    return sum(t.numel() * _kind(name, t, dtype).itemsize for name, t in tensors.items())


def remove(path: str | Path) -> None:
    """Remove a .safetensors file and its shards, where they are."""
    files.remove(Path(path))
    files.remove(_index_of(Path(path)))
    _remove_shards(Path(path), ())


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


def _places(index: Path) -> dict[str, str]:
    """Which shard, beside the index, holds each tensor."""
    try:
        places: dict[str, str] = json.loads(index.read_text(encoding="utf-8"))["weight_map"]
        strays = [shard for shard in sorted(set(places.values())) if Path(shard).name != shard]
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise WeightsError(f"{index} is no index of shards ({error!r}); fetch it again") from error
    if strays:
        raise WeightsError(f"{index} names {strays[0]!r} outside of its folder; fetch it again")
    return places


def _read_shards(index: Path, device: torch.device) -> dict[str, Tensor]:
    places = _places(index)
    tensors: dict[str, Tensor] = {}
    for shard in sorted(set(places.values())):
        path = index.with_name(shard)
        if not path.is_file():
            raise WeightsError(f"{index.name} names the shard {path}, which is missing; fetch it")
        tensors |= _read(path, device)
    lost = sorted(set(places) - set(tensors))
    if lost:
        raise WeightsError(f"{index} names {lost[0]!r}, which no shard holds; fetch them again")
    return {name: tensors[name] for name in places}


def _read_safetensors(path: Path, device: torch.device) -> dict[str, Tensor]:
    try:
        if device.type != "meta":
            return safetensors.torch.load_file(path)
        with safetensors.safe_open(path, "pt") as file:
            slices = {name: file.get_slice(name) for name in file.keys()}  # noqa: SIM118
            return {
                name: torch.empty(each.get_shape(), dtype=DTYPES[each.get_dtype()], device=device)
                for name, each in slices.items()
            }
    except (SafetensorError, OSError, ValueError, KeyError) as error:
        raise _broken(path, error) from error


def _read_pickle(path: Path, device: torch.device) -> dict[str, Tensor]:
    try:
        content = torch.load(path, map_location=device, weights_only=True)
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


def _kind(name: str, tensor: Tensor, dtype: torch.dtype | None) -> torch.dtype:
    """The dtype that a tensor is stored in; raises WeightsError for what cannot be stored."""
    if tensor.layout != torch.strided or tensor.is_meta:
        raise WeightsError(f"{name} is sparse or on the meta device; give plain tensors")
    kind = tensor.dtype if dtype is None or not tensor.is_floating_point() else dtype
    if kind not in KINDS:
        known = ", ".join(str(each).removeprefix("torch.") for each in KINDS)
        raise WeightsError(f"{name} is of {kind}, which the format lacks; give one of {known}")
    return kind


def _split(sizes: Mapping[str, int], max_bytes: int) -> list[list[str]]:
    """Names in order, cut wherever the next one's bytes would exceed `max_bytes`."""
    shards: list[list[str]] = [[]]
    room = max_bytes
    for name, size in sizes.items():
        if size > room and shards[-1]:
            shards.append([])
            room = max_bytes
        shards[-1].append(name)
        room -= size
    return shards


def _stream(
    tensors: Mapping[str, Tensor],
    kinds: Mapping[str, torch.dtype],
    path: Path,
    metadata: Mapping[str, str] | None,
) -> None:
    """One file: the header's length in 8 bytes, the header as JSON, the numbers end to end."""
    # The widest first, so that each tensor starts at a multiple of its own size.
    order = sorted(tensors, key=lambda name: (-kinds[name].itemsize, name))
    header: dict[str, Any] = {"__metadata__": {"format": "pt", **(metadata or {})}}
    end = 0
    for name in order:
        start, end = end, end + tensors[name].numel() * kinds[name].itemsize
        shape = list(tensors[name].shape)
        header[name] = {"dtype": KINDS[kinds[name]], "shape": shape, "data_offsets": [start, end]}
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    with path.open("wb") as file:
        file.write(len(text).to_bytes(8, "little") + text)
        for name in order:
            for piece in torch.split(tensors[name].detach().reshape(-1), PIECE):
                plain = piece.to("cpu", kinds[name]).contiguous()
                file.write(plain.view(torch.uint8).numpy().data)


def _remove_shards(path: Path, kept: Sequence[Path]) -> None:
    for shard in path.parent.glob(f"{glob.escape(path.stem)}-?????-of-?????.safetensors"):
        if shard not in kept:
            files.remove(shard)


def _broken(path: Path, error: Exception) -> WeightsError:
    return WeightsError(f"{path} is truncated or corrupt ({_line(error)}); fetch it again")


def _line(error: Exception) -> str:
    """The first line of what a library said."""
    text = (str(error) or type(error).__name__).strip()
    return text.splitlines()[0]
