"""Dataclasses to JSON and back, strictly: an unknown key or a wrong type is an error."""

from __future__ import annotations

import dataclasses
import difflib
import json
import math
import sys
import types
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, TypeVar, Union, get_args, get_origin, get_type_hints

from omni_diffusion.errors import ConfigError, OmniError
from omni_diffusion.io import files

T = TypeVar("T")
WIDTH, DEPTH = (1, 2**20), (1, 256)  # of the layers of any model: their size, their number
LARGEST = int(sys.float_info.max)  # a JSON integer may be greater than any float


def to_dict(config: object) -> dict[str, Any]:
    """A dataclass as JSON values: nested dataclasses to dicts, tuples to lists, paths to text."""
    if not dataclasses.is_dataclass(config) or isinstance(config, type):
        raise ConfigError(f"{config!r} is not a config", fix="give an instance of a dataclass")
    return {f.name: _plain(getattr(config, f.name)) for f in dataclasses.fields(config) if f.init}


def from_dict(cls: type[T], data: Mapping[str, Any], where: str = "config") -> T:
    """A `cls` from JSON values.

    where: dotted path for errors. Raises ConfigError for an unknown key (with the nearest known
    ones), a missing key, or a value of another type; its `field` is the dotted path of the key.
    """
    if not dataclasses.is_dataclass(cls):
        raise TypeError(f"{cls!r} is not a dataclass")
    if not isinstance(data, Mapping):
        raise _refused(where, data, f"an object with the keys of {cls.__name__}")
    known = {f.name: f for f in dataclasses.fields(cls) if f.init}
    for key in data:
        if key not in known:
            raise ConfigError(
                f"{where} has an unknown key {key!r}",
                field=f"{where}.{key}",
                value=data[key],
                fix=_near(str(key), known),
            )
    hints = get_type_hints(cls)
    values = {k: _value(hints[k], value, f"{where}.{k}") for k, value in data.items()}
    for name, field in known.items():
        if name not in values and _required(field):
            raise ConfigError(
                f"{where} lacks the key {name!r}",
                field=f"{where}.{name}",
                fix=f"add it ({_name(hints[name])})",
            )
    return cls(**values)


def load(cls: type[T], path: Path) -> T:
    """Read a `cls` from a JSON file; raises ConfigError, or what `cls` raises, naming the file."""
    path = Path(path)
    try:
        text = files.read_text(path)
        data = json.loads(text, object_pairs_hook=unique_keys, parse_constant=_no_constant)
    except OSError as error:
        raise ConfigError(
            f"cannot read {path}: {error.strerror}", value=str(path), fix="give a JSON file"
        ) from error
    except (ValueError, RecursionError) as error:
        raise ConfigError(
            f"{path} is not valid JSON ({error})", value=str(path), fix="correct or replace it"
        ) from error
    try:
        return from_dict(cls, data, where=path.name)
    except OmniError as error:  # those of the config itself do not know the file
        if str(error).startswith(path.name):
            raise
        raise type(error)(f"{path.name}: {error}", field=error.field, value=error.value) from error


def check_ranges(config: object, **ranges: tuple[float, float]) -> None:
    """Raise ConfigError for a number of a config, or one of a tuple, outside of (least, most)."""
    for name, (least, most) in ranges.items():
        value = getattr(config, name)
        for number in value if isinstance(value, tuple) else (value,):
            if not least <= number <= most:
                raise _refused(name, number, f"{least:,g} to {most:,g}")


def save(config: object, path: Path) -> None:
    """Write a config as indented JSON, atomically."""
    try:
        text = json.dumps(to_dict(config), indent=2, ensure_ascii=False, allow_nan=False)
    except (ValueError, TypeError) as error:
        raise ConfigError(
            f"cannot write {path}: {error}", value=str(path), fix="use finite plain values"
        ) from error
    files.write_text(path, text + "\n")


def _plain(value: Any) -> Any:
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return to_dict(value)
    if isinstance(value, Mapping):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(item) for item in value]
    return str(value) if isinstance(value, Path) else value


def _value(hint: Any, value: Any, where: str) -> Any:
    """`value`, checked against the type `hint` and converted to it."""
    origin, args = get_origin(hint), get_args(hint)
    if hint is Any:
        return value
    if origin in (Union, types.UnionType):
        return _either(args, value, where)
    if origin is Literal:
        if not any(value == option and type(value) is type(option) for option in args):
            options = ", ".join(repr(option) for option in args)
            raise _refused(where, value, f"one of {options}")
        return value
    if origin in (tuple, list, Sequence):
        return _items(origin, args, value, where)
    if origin in (dict, Mapping):
        if not isinstance(value, Mapping):
            raise _wrong(hint, value, where)
        key_hint, item_hint = args
        return {
            _value(key_hint, key, f"a key of {where}"): _value(item_hint, item, f"{where}.{key}")
            for key, item in value.items()
        }
    if dataclasses.is_dataclass(hint) and isinstance(hint, type):
        return from_dict(hint, value, where)
    return _single(hint, value, where)


def _single(hint: Any, value: Any, where: str) -> Any:
    if hint is Path and isinstance(value, str):
        return Path(value)
    if hint is float and type(value) is int:
        value = float(value) if abs(value) <= LARGEST else math.inf
    # type() and not isinstance(): True must not pass for a number
    if type(value) is not hint:
        raise _wrong(hint, value, where)
    if hint is float and not math.isfinite(value):
        raise _refused(where, value, "a finite number")
    return value


def _either(options: tuple[Any, ...], value: Any, where: str) -> Any:
    if value is None and type(None) in options:
        return None
    present = [option for option in options if option is not type(None)]
    if len(present) == 1:
        return _value(present[0], value, where)
    if type(value) in present:
        return value
    for option in present:
        try:
            return _value(option, value, where)
        except ConfigError:
            continue
    raise _refused(where, value, f"one of {', '.join(_name(o) for o in options)}")


def _items(origin: Any, args: tuple[Any, ...], value: Any, where: str) -> Any:
    if not isinstance(value, (list, tuple)):
        raise _refused(where, value, "a list")
    if origin is tuple and args[-1:] != (Ellipsis,):
        if len(value) != len(args):
            raise ConfigError(
                f"{where} has {len(value)} items", field=where, value=value, fix=f"give {len(args)}"
            )
        hints = args
    else:
        hints = (args[0],) * len(value)
    items = [_value(hints[i], item, f"{where}[{i}]") for i, item in enumerate(value)]
    return items if origin is list else tuple(items)


def nearest(name: str, known: Iterable[str]) -> str:
    """Advice for an unknown name: the nearest known names, or all of them."""
    names = tuple(known)
    near = difflib.get_close_matches(name, names, n=2)
    return f"did you mean {' or '.join(near)}?" if near else f"give one of {', '.join(names)}"


def unique_keys(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """A JSON object from its pairs; raises ValueError for a duplicate key."""
    values: dict[str, Any] = {}
    for key, value in pairs:
        if key in values:
            raise ValueError(f"duplicate key {key!r}; keep one")
        values[key] = value
    return values


def _no_constant(name: str) -> None:
    raise ValueError(f"{name} is not a JSON number")


def _required(field: dataclasses.Field[Any]) -> bool:
    missing = dataclasses.MISSING
    return field.default is missing and field.default_factory is missing


def _near(key: str, known: Mapping[str, Any]) -> str:
    near = difflib.get_close_matches(key, known, n=3)
    if near:
        return f"did you mean {' or '.join(repr(name) for name in near)}?"
    return f"known keys: {', '.join(known) or 'none'}"


def _wrong(hint: Any, value: Any, where: str) -> ConfigError:
    return ConfigError(
        f"{where} is {shown(value)} ({type(value).__name__})",
        field=where,
        value=value,
        fix=f"give {_name(hint)}",
    )


def _refused(where: str, value: Any, expected: str) -> ConfigError:
    return ConfigError(
        f"{where} is {shown(value)}", field=where, value=value, fix=f"give {expected}"
    )


def _name(hint: Any) -> str:
    return hint.__name__ if isinstance(hint, type) and not get_args(hint) else str(hint)


def shown(value: Any) -> str:
    """The repr of a value for an error, cut to 60 characters."""
    try:
        text = repr(value)
    except ValueError:  # Python writes no integer of more than 4,300 digits
        return "a number of more than 4,300 digits"
    return text if len(text) <= 60 else text[:57] + "..."
