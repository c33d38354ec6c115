"""How much memory can still be taken: of the machine, of its container, or of a GPU.

Knows nothing of what the memory is for.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import torch

from omni_diffusion.errors import ModelError

MEMINFO = Path("/proc/meminfo")
OWN_GROUPS = Path("/proc/self/cgroup")
GROUPS = Path("/sys/fs/cgroup")
# limit, use, and in memory.stat the pages of files that are given back on demand
NEW_NAMES = ("memory.max", "memory.current", "inactive_file")
OLD_NAMES = ("memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file")


def check(needed: int, what: object, device: torch.device) -> None:
    """Raise ModelError when `needed` bytes are more than `device` has free, where it is known."""
    free = free_on(device)
    if free is not None and needed > free:
        raise ModelError(
            f"{what} takes {needed / 1e9:.3g} GB of memory, {device} has {free / 1e9:.3g} GB free;"
            " give a smaller dtype (bfloat16), quantization int8 or another device, or close other"
            " programs"
        )


def free_on(device: torch.device) -> int | None:
    """Bytes that can be taken on `device`; None where the system does not tell.

    Of the main memory: what is there without swapping, and within every limit of the control
    groups (versions 1 and 2) that this process is in, as containers set them. Linux alone tells.
    """
    if device.type == "cuda":
        return int(torch.cuda.mem_get_info(device)[0])
    machine = _entry(MEMINFO, "MemAvailable:")
    known = [*_limits(), *([] if machine is None else [machine * 1024])]
    return min(known, default=None)


def _limits() -> Iterator[int]:
    """What each limit leaves: of this process's groups and of all that these are in.

    A container may not see its own group under the name that it has outside; its limits then
    stand at the root of what it sees.
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
    """The number that a file holds; None where it is missing or says "max", no limit."""
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
