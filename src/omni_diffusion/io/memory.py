"""Free memory of the machine, of its container, or of a GPU."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import torch

from omni_diffusion.errors import ModelError

MEMINFO = Path("/proc/meminfo")
OWN_GROUPS = Path("/proc/self/cgroup")
GROUPS = Path("/sys/fs/cgroup")
# limit, use, and in memory.stat the reclaimable file pages
NEW_NAMES = ("memory.max", "memory.current", "inactive_file")
OLD_NAMES = ("memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file")


def check(needed: int, what: object, device: torch.device) -> None:
    """Raise ModelError if `device` has fewer than `needed` bytes free, where this is known."""
    free = free_on(device)
    if free is not None and needed > free:
        raise ModelError(
            f"{what} takes {needed / 1e9:.3g} GB of memory, {device} has {free / 1e9:.3g} GB free",
            field="device",
            value=needed,
            fix="give a smaller dtype (bfloat16), quantization int8 or int4, or another device, or"
            " close other programs",
        )


def free_on(device: torch.device) -> int | None:
    """Bytes that can be allocated on `device`; None if unknown.

    For main memory: what is available without swapping, and within every limit of this process's
    control groups (versions 1 and 2), as containers set them. Known on Linux only.
    """
    if device.type == "cuda":
        return int(torch.cuda.mem_get_info(device)[0])
    machine = _entry(MEMINFO, "MemAvailable:")
    known = [*_limits(), *([] if machine is None else [machine * 1024])]
    return min(known, default=None)


def _limits() -> Iterator[int]:
    """Bytes left under each limit, of this process's groups and of all their parents.

    A container may not see its group under the name that it has outside; its limits are then at the
    root of what it sees.
    """
    for line in _lines(OWN_GROUPS):
        _, kinds, path = line.split(":", 2)
        if kinds and "memory" not in kinds.split(","):
            continue
        root, names = (GROUPS / "memory", OLD_NAMES) if kinds else (GROUPS, NEW_NAMES)
        group = root / path.lstrip("/")
        while True:
            left = _left(group, *names)
            if left is not None:
                yield left
            if group == root:
                break
            group = group.parent


def _left(group: Path, limit_name: str, use_name: str, idle_name: str) -> int | None:
    limit, use = _number(group / limit_name), _number(group / use_name)
    if limit is None or use is None:
        return None
    return max(0, limit - use + (_entry(group / "memory.stat", idle_name) or 0))


def _number(path: Path) -> int | None:
    """The number in a file; None if it is missing or "max" (no limit)."""
    [text, *_] = _lines(path) or [""]
    return int(text) if text.isdecimal() else None


def _entry(path: Path, name: str) -> int | None:
    rows = (line.split() for line in _lines(path))
    return next((int(row[1]) for row in rows if row[:1] == [name]), None)


def _lines(path: Path) -> list[str]:
    try:
        return path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError):
        return []
