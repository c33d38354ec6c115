"""Free memory, of stand-ins for what the system tells."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from omni_diffusion.errors import ModelError
from omni_diffusion.io import memory

CPU, GPU = torch.device("cpu"), torch.device("cuda", 1)
FREE = "MemTotal:  9000 kB\nMemAvailable:  8000 kB\n"
MIB = 2**20


@pytest.fixture
def system(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A system without groups, 8000 kB free."""
    for name in ("MEMINFO", "OWN_GROUPS", "GROUPS"):
        monkeypatch.setattr(memory, name, tmp_path / name)
    (tmp_path / "MEMINFO").write_text(FREE)
    return tmp_path


def group(folder: Path, names: tuple[str, str, str], limit: object, use: int, idle: int) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for name, value in zip(names, (limit, use), strict=False):
        (folder / name).write_text(f"{value}\n")
    (folder / "memory.stat").write_text(f"anon 3\n{names[2]} {idle}\n")


def test_without_limits_it_is_what_the_machine_has(system: Path) -> None:
    assert memory.free_on(CPU) == 8000 * 1024
    (system / "OWN_GROUPS").write_text("0::/\n")
    group(system / "GROUPS", memory.NEW_NAMES, "max", 5, 0)
    assert memory.free_on(CPU) == 8000 * 1024
    (system / "MEMINFO").unlink()
    assert memory.free_on(CPU) is None
    memory.check(2**70, "anything", CPU)


@pytest.mark.parametrize(
    ("line", "root", "names"),
    [
        ("0::/a/b", "GROUPS", memory.NEW_NAMES),
        ("7:cpu,memory:/a/b", "GROUPS/memory", memory.OLD_NAMES),
    ],
)
def test_the_tightest_group_counts(
    system: Path, line: str, root: str, names: tuple[str, str, str]
) -> None:
    (system / "OWN_GROUPS").write_text(f"9:name=systemd:/x\n{line}\n")
    group(system / root / "a", names, 4 * MIB, 3 * MIB, 0)
    group(system / root / "a" / "b", names, 6 * MIB, 1 * MIB, 0)
    assert memory.free_on(CPU) == MIB, "of the group above"
    group(system / root / "a", names, 4 * MIB, 3 * MIB, 2 * MIB)
    assert memory.free_on(CPU) == 3 * MIB, "pages that are given back are free"
    group(system / root / "a", names, 4 * MIB, 5 * MIB, 0)
    assert memory.free_on(CPU) == 0


def test_a_container_that_sees_only_its_root(system: Path) -> None:
    (system / "OWN_GROUPS").write_text("0::/not/to/be/seen\n")
    group(system / "GROUPS", memory.NEW_NAMES, 2 * MIB, MIB, 0)
    assert memory.free_on(CPU) == MIB


def test_a_gpu_tells_of_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device: (device.index * 10**9, 10**10))
    assert memory.free_on(GPU) == 10**9
    with pytest.raises(ModelError) as told:
        memory.check(2 * 10**9, "it", GPU)
    assert str(told.value) == (
        "it takes 2 GB of memory, cuda:1 has 1 GB free; give a smaller dtype (bfloat16),"
        " quantization int8 or int4, or another device, or close other programs"
    )


def test_this_machine_tells_something_or_nothing() -> None:
    free = memory.free_on(CPU)
    assert free is None or free > 0
