"""Tensors by name on disk: safetensors, shards of them, and pickles without code."""

from __future__ import annotations

import glob
import json
import pickle
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any, TypeVar

import safetensors.torch
import torch
from safetensors import SafetensorError
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from omni_diffusion.errors import WeightsError
from omni_diffusion.io import files

M = TypeVar("M", bound=nn.Module)
PICKLES = (".bin", ".pt", ".pth", ".ckpt")
INDEX = ".index.json"
MAX_SHARD_BYTES = 5_000_000_000
MAX_ROWS = 20  # per kind in the table of names
PIECE = 2**24  # elements cast and written at a time
DTYPE_NAMES = {  # names of dtypes in the format
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
SAFETENSORS_DTYPES = {kind: dtype for dtype, kind in DTYPE_NAMES.items()}


def read_tensors(path: str | Path) -> dict[str, Tensor]:
    """Tensors by name, on the CPU; those of .safetensors are mapped from their file.

    `path` is a .safetensors file, a .bin/.pt/.pth/.ckpt pickle (also one that keeps its tensors
    under "state_dict"), an index of shards, or a folder that holds one of these. Raises
    WeightsError if they are missing, truncated, corrupt or would run code.
    """
    return _read(Path(path), torch.device("cpu"))


def outline(path: str | Path) -> dict[str, Tensor]:
    """Names, shapes and dtypes of `read_tensors`, as tensors on the meta device.

    Reads headers only; raises as `read_tensors`.
    """
    return _read(Path(path), torch.device("meta"))


def files_of(path: str | Path) -> list[Path]:
    """The files that `read_tensors` opens, whether they exist or not; raises WeightsError."""
    path = _start(Path(path))
    if not path.name.endswith(INDEX) or not files.is_file(path):
        return [path]
    return [path.with_name(name) for name in sorted(set(_weight_map(path).values()))]


def _start(path: Path) -> Path:
    """The file or index to open first."""
    if files.is_dir(path):
        return _find(path)
    index = _index_of(path)
    return index if not files.exists(path) and files.exists(index) else path


def _read(path: Path, device: torch.device) -> dict[str, Tensor]:
    path = _start(path)
    if not files.is_file(path):
        raise WeightsError(f"no weights at {path}", value=str(path), fix="check the path")
    if path.name.endswith(INDEX):
        return _read_shards(path, device)
    if path.suffix == ".safetensors":
        return _read_safetensors(path, device)
    if path.suffix in PICKLES:
        return _read_pickle(path, device)
    kinds = ", ".join((".safetensors", *PICKLES))
    raise WeightsError(
        f"{path} is not a file of weights", value=str(path), fix=f"give one of {kinds} or a folder"
    )


def write_tensors(
    tensors: Mapping[str, Tensor],
    path: str | Path,
    metadata: Mapping[str, str] | None = None,
    *,
    dtype: torch.dtype | None = None,
    max_shard_bytes: int = MAX_SHARD_BYTES,
) -> None:
    """Write tensors to a .safetensors file, atomically and piece by piece.

    Tensors that are mapped from a file are never completely in memory. dtype: stored type of
    floating-point tensors, None = unchanged. Above `max_shard_bytes` they go to
    model-00001-of-0000N.safetensors and so on, with model.safetensors.index.json in the usual
    layout; `read_tensors(path)` finds both. Raises WeightsError for tensors that the format
    cannot hold, StorageError if the disk refuses or is full; existing files then stay.
    """
    path = Path(path)
    if path.suffix != ".safetensors":
        raise WeightsError(f"{path} does not end in .safetensors", value=str(path), fix="rename it")
    kinds = {name: _kind(name, tensor, dtype) for name, tensor in tensors.items()}
    sizes = {name: tensor.numel() * kinds[name].itemsize for name, tensor in tensors.items()}
    files.check_space(path, sum(sizes.values()))
    shards = _split(sizes, max_shard_bytes)
    names = [f"{path.stem}-{i + 1:05}-of-{len(shards):05}.safetensors" for i in range(len(shards))]
    targets = [path] if len(shards) == 1 else [path.with_name(name) for name in names]
    with ExitStack() as waiting:  # files are moved when all of them are written
        for target, shard in zip(targets, shards, strict=True):
            temporary = waiting.enter_context(files.atomic_path(target))
            _stream({name: tensors[name] for name in shard}, kinds, temporary, metadata)
        if len(shards) > 1:
            files.remove(_index_of(path))  # else it could name shards of which only some are new
    if len(shards) > 1:
        weight_map = {n: t.name for t, shard in zip(targets, shards, strict=True) for n in shard}
        index = {"metadata": {"total_size": sum(sizes.values())}, "weight_map": weight_map}
        files.write_text(_index_of(path), json.dumps(index, indent=2) + "\n")
        files.remove(path)  # else `read_tensors` would prefer the old single file
    else:
        files.remove(_index_of(path))
    _remove_shards(path, targets)


def stored_bytes(tensors: Mapping[str, Tensor], dtype: torch.dtype | None = None) -> int:
    """Bytes that `write_tensors` takes on the disk, without headers."""
    return sum(t.numel() * _kind(name, t, dtype).itemsize for name, t in tensors.items())


def remove_tensors(path: str | Path) -> None:
    """Remove a .safetensors file and its shards, if they exist."""
    files.remove(Path(path))
    files.remove(_index_of(Path(path)))
    _remove_shards(Path(path), ())


def module_for(make: Callable[[], M], source: object) -> M:
    """A new module to load `source` into.

    If that is a path, the module is on the meta device: `load_into` then gives it the tensors of
    the file, so that no second copy is ever in memory. Given tensors stay their owner's.
    """
    if not isinstance(source, (str, Path)):
        return make()
    with empty_modules():
        return make()


class _NoInit(TorchFunctionMode):
    """Leaves tensors as they are where torch.nn.init would fill them."""

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Sequence[type],
        args: Sequence[Any] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        kwargs = kwargs or {}
        if getattr(func, "__module__", None) == "torch.nn.init":
            return args[0] if args else kwargs["tensor"]
        return func(*args, **kwargs)


@contextmanager
def empty_modules() -> Iterator[None]:
    """Modules made inside are on the meta device: they have shapes and dtypes, and no values.

    Initialization is left out too: it changes nothing there and takes most of the time.
    """
    with torch.device("meta"), _NoInit():
        yield


def load_into(
    module: nn.Module,
    tensors: Mapping[str, Tensor],
    *,
    rename: Callable[[str], str | None] | None = None,
    where: str = "weights",
) -> None:
    """Copy tensors into a module by name, all or none.

    rename: name of the checkpoint -> name of the module, None = skip. Values are cast to the
    module's dtype; a module on the meta device takes the tensors themselves.
    Raises WeightsError with a table of all missing, unexpected and mis-shaped names.
    """
    expected = module.state_dict()
    loaded: dict[str, Tensor] = {}
    problems: list[tuple[str, str]] = []
    for name, tensor in tensors.items():
        target = name if rename is None else rename(name)
        if target is None:
            continue
        if target in loaded:
            problems.append(("twice", f"{target} (again from {name})"))
        elif target not in expected:
            problems.append(("unexpected", target if target == name else f"{target} (from {name})"))
        elif tensor.shape != expected[target].shape:
            shapes = f"{list(tensor.shape)}, the module has {list(expected[target].shape)}"
            problems.append(("mis-shaped", f"{target} {shapes}"))
        loaded[target] = tensor
    problems += [
        ("missing", f"{n} {list(t.shape)}") for n, t in expected.items() if n not in loaded
    ]
    if problems:
        raise WeightsError(_table(where, type(module).__name__, problems))
    on_meta = any(tensor.is_meta for tensor in expected.values())
    if on_meta:
        loaded = {name: tensor.to(expected[name].dtype) for name, tensor in loaded.items()}
    module.load_state_dict(loaded, assign=on_meta)


def _table(where: str, module: str, problems: list[tuple[str, str]]) -> str:
    lines = [f"{where} do not fit {module}; check that both are of the same model and sizes:"]
    for kind in ("missing", "unexpected", "mis-shaped", "twice"):
        rows = [text for problem, text in problems if problem == kind]
        lines += [f"  {kind:<11}{text}" for text in rows[:MAX_ROWS]]
        if len(rows) > MAX_ROWS:
            lines.append(f"  {kind:<11}... and {len(rows) - MAX_ROWS} more")
    return "\n".join(lines)


def _find(folder: Path) -> Path:
    """The single index or file of weights in a folder; an index first, then safetensors."""
    for ending in (f".safetensors{INDEX}", ".safetensors", INDEX, *PICKLES):
        here = sorted(p for p in folder.glob(f"*{ending}") if not p.name.startswith("."))
        if len(here) == 1:
            return here[0]
        if here:
            names = ", ".join(p.name for p in here)
            raise WeightsError(
                f"{folder} has {len(here)} files of weights ({names})",
                value=str(folder),
                fix="name one",
            )
    raise WeightsError(
        f"{folder} has no weights", value=str(folder), fix="give a folder with a .safetensors file"
    )


def _index_of(path: Path) -> Path:
    return path.with_name(path.name + INDEX)


def _weight_map(index: Path) -> dict[str, str]:
    """The shard, beside the index, of each tensor."""
    try:
        weight_map: dict[str, str] = json.loads(files.read_text(index))["weight_map"]
        strays = [shard for shard in sorted(set(weight_map.values())) if Path(shard).name != shard]
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise WeightsError(
            f"{index} is not an index of shards ({error!r})",
            value=str(index),
            fix="download it again",
        ) from error
    if strays:
        raise WeightsError(
            f"{index} names {strays[0]!r} outside its folder",
            value=str(index),
            fix="download it again",
        )
    return weight_map


def _read_shards(index: Path, device: torch.device) -> dict[str, Tensor]:
    weight_map = _weight_map(index)
    tensors: dict[str, Tensor] = {}
    for shard in sorted(set(weight_map.values())):
        path = index.with_name(shard)
        if not files.is_file(path):
            raise WeightsError(
                f"{index.name} names the shard {path}, which is missing",
                value=str(path),
                fix="download it",
            )
        tensors |= _read(path, device)
    lost = sorted(set(weight_map) - set(tensors))
    if lost:
        raise WeightsError(
            f"{index} names {lost[0]!r}, which no shard has",
            value=lost[0],
            fix="download the shards again",
        )
    return {name: tensors[name] for name in weight_map}


def _read_safetensors(path: Path, device: torch.device) -> dict[str, Tensor]:
    try:
        if device.type != "meta":
            return safetensors.torch.load_file(path)
        with safetensors.safe_open(path, "pt") as file:
            slices = {name: file.get_slice(name) for name in file.keys()}  # noqa: SIM118
            return {
                name: torch.empty(
                    part.get_shape(), dtype=SAFETENSORS_DTYPES[part.get_dtype()], device=device
                )
                for name, part in slices.items()
            }
    except (SafetensorError, OSError, ValueError, KeyError) as error:
        raise _broken(path, error) from error


def _read_pickle(path: Path, device: torch.device) -> dict[str, Tensor]:
    try:
        content = torch.load(path, map_location=device, weights_only=True)
    except pickle.UnpicklingError as error:
        raise WeightsError(
            f"{path} is corrupt or has more than tensors, which might run code",
            value=str(path),
            fix="convert it to .safetensors where you trust it",
        ) from error
    except Exception as error:  # broken archives raise RuntimeError, EOFError, KeyError, ...
        raise _broken(path, error) from error
    if isinstance(content, dict) and isinstance(content.get("state_dict"), dict):
        content = content["state_dict"]
    return _only_tensors(content, path)


def _only_tensors(content: Any, path: Path) -> dict[str, Tensor]:
    if not isinstance(content, dict):
        raise WeightsError(
            f"{path} has {type(content).__name__}", value=str(path), fix="give tensors by name"
        )
    for name, value in content.items():
        if not isinstance(name, str) or not isinstance(value, Tensor):
            raise WeightsError(
                f"{path} has {name!r} of type {type(value).__name__}",
                value=str(path),
                fix="give only tensors by name",
            )
    return dict(content)


def _kind(name: str, tensor: Tensor, dtype: torch.dtype | None) -> torch.dtype:
    """The stored dtype of a tensor; raises WeightsError if it cannot be stored."""
    if tensor.layout != torch.strided or tensor.is_meta:
        raise WeightsError(
            f"{name} is sparse or on the meta device", value=name, fix="give plain tensors"
        )
    kind = tensor.dtype if dtype is None or not tensor.is_floating_point() else dtype
    if kind not in DTYPE_NAMES:
        known = ", ".join(str(dtype).removeprefix("torch.") for dtype in DTYPE_NAMES)
        raise WeightsError(
            f"{name} is of {kind}, which the format lacks", value=kind, fix=f"give one of {known}"
        )
    return kind


def _split(sizes: Mapping[str, int], max_bytes: int) -> list[list[str]]:
    """Names in order, split so that no shard exceeds `max_bytes` (unless one tensor does)."""
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
    """Write one file: the header's length in 8 bytes, the header as JSON, the values end to end."""
    # Widest dtype first, so that each tensor starts at a multiple of its item size.
    order = sorted(tensors, key=lambda name: (-kinds[name].itemsize, name))
    header: dict[str, Any] = {"__metadata__": {"format": "pt", **(metadata or {})}}
    end = 0
    for name in order:
        start, end = end, end + tensors[name].numel() * kinds[name].itemsize
        shape = list(tensors[name].shape)
        header[name] = {
            "dtype": DTYPE_NAMES[kinds[name]],
            "shape": shape,
            "data_offsets": [start, end],
        }
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
    return WeightsError(
        f"{path} is truncated or corrupt ({_line(error)})",
        value=str(path),
        fix="download it again",
    )


def _line(error: Exception) -> str:
    """The first line of a library's message."""
    text = (str(error) or type(error).__name__).strip()
    return text.splitlines()[0]
