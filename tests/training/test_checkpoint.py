import errno
import threading
from concurrent.futures import Future
from pathlib import Path
from traceback import StackSummary

import pytest
import torch
from torch import Tensor
from torch.distributed.checkpoint.api import CheckpointException

from omni_diffusion.errors import StorageError, TrainingError
from omni_diffusion.io import weights
from omni_diffusion.training.checkpoint import Checkpoints


def state(value: float = 1.0) -> dict[str, Tensor]:
    return {
        "model.weight": torch.full((3, 4), value),
        "model.count": torch.tensor([int(value)]),
        "model.half": torch.full((2, 0), value, dtype=torch.bfloat16),
    }


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_there_and_back(tmp_path: Path) -> None:
    kept = Checkpoints(tmp_path)
    assert kept.newest() is None
    kept.save(state(7.0), 12)
    assert kept.newest() == tmp_path / "step-00000012"
    found = state(0.0)
    kept.restore(tmp_path / "step-00000012", found)
    assert all(torch.equal(value, state(7.0)[name]) for name, value in found.items())


def test_a_state_takes_the_layout_of_what_it_is_read_into(tmp_path: Path) -> None:
    kept = Checkpoints(tmp_path)
    wide = torch.randn(2, 3, 4, 5)
    kept.save({"w": wide}, 1)
    found = torch.zeros(2, 3, 4, 5).to(memory_format=torch.channels_last)
    strides = found.stride()
    kept.restore(tmp_path / "step-00000001", {"w": found})
    assert found.stride() == strides
    assert torch.equal(found, wide)


def test_the_newest_few_are_kept(tmp_path: Path) -> None:
    kept = Checkpoints(tmp_path, keep=2)
    for step in (1, 5, 20, 100_000_000):
        kept.save(state(), step)
    assert names(tmp_path) == ["step-00000020", "step-100000000"]
    assert Checkpoints(tmp_path).newest() == tmp_path / "step-100000000"
    with pytest.raises(TrainingError, match="keep_checkpoints is 0"):
        Checkpoints(tmp_path, keep=0)


def test_what_a_killed_process_left_is_no_state_and_goes(tmp_path: Path) -> None:
    left = tmp_path / "step-00000009.partial"
    left.mkdir()
    (left / "shard.safetensors").write_bytes(b"half")
    (tmp_path / "notes").mkdir()
    kept = Checkpoints(tmp_path)
    assert kept.newest() is None
    kept.save(state(), 3)
    assert names(tmp_path) == ["notes", "step-00000003"]


def test_the_same_step_takes_the_place_of_the_old_one(tmp_path: Path) -> None:
    kept = Checkpoints(tmp_path)
    kept.save(state(1.0), 4)
    kept.save(state(2.0), 4)
    found = state(0.0)
    kept.restore(tmp_path / "step-00000004", found)
    assert found["model.weight"][0, 0] == 2


def test_a_state_is_that_of_the_moment_it_is_saved(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The run goes on while a state is being written."""
    gate, write = threading.Event(), weights.write_tensors

    def slow(tensors: object, path: Path, **options: object) -> None:
        gate.wait(10)
        write(tensors, path, **options)  # type: ignore[arg-type]

    monkeypatch.setattr(weights, "write_tensors", slow)
    kept, live = Checkpoints(tmp_path), state(1.0)
    kept.save(live, 1, wait=False)
    assert kept.newest() is None
    live["model.weight"].fill_(5.0)
    gate.set()
    kept.finish()
    found = state(0.0)
    kept.restore(tmp_path / "step-00000001", found)
    assert found["model.weight"][0, 0] == 1


def test_a_write_that_fails_in_the_background_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object, **__: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    kept = Checkpoints(tmp_path)
    kept.save(state(), 1)
    monkeypatch.setattr(weights, "write_tensors", full)
    kept.save(state(), 2, wait=False)
    with pytest.raises(StorageError, match=r"cannot write .*step-00000002: No space left"):
        kept.save(state(), 3)
    assert names(tmp_path) == ["step-00000001"]


def test_what_befalls_one_of_several_processes_is_told_by_all(tmp_path: Path) -> None:
    kept, failed = Checkpoints(tmp_path), Future[object]()
    full = OSError(errno.ENOSPC, "No space left on device")
    failed.set_exception(CheckpointException("write", {1: (full, StackSummary())}))
    kept._pending = (failed, tmp_path / "step-00000002.partial", tmp_path / "step-00000002")
    with pytest.raises(StorageError, match=r"cannot write .*step-00000002: No space left"):
        kept.finish()


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"model.more": torch.zeros(1)}, r"lacks model\.more: "),
        ({"model.weight": torch.zeros(4, 4)}, r"has another shape of model\.weight:"),
        ({"model.weight": None, "model.half": None}, r"also holds model\.half and 1 more:"),
    ],
)
def test_the_state_of_another_run_is_refused(
    tmp_path: Path, change: dict[str, Tensor | None], told: str
) -> None:
    kept = Checkpoints(tmp_path)
    kept.save(state(), 1)
    wanted = {k: v for k, v in (state(0.0) | change).items() if v is not None}
    with pytest.raises(TrainingError, match=told):
        kept.restore(tmp_path / "step-00000001", wanted)
    assert all(not value.any() for value in wanted.values())


@pytest.mark.parametrize("what", ["empty", "cut", "nothing"])
def test_a_broken_state_is_named(tmp_path: Path, what: str) -> None:
    kept = Checkpoints(tmp_path)
    kept.save(state(), 1)
    path = tmp_path / "step-00000001"
    (file,) = path.iterdir()
    if what == "nothing":
        file.unlink()
    else:
        file.write_bytes(file.read_bytes()[: 0 if what == "empty" else -10])
    with pytest.raises(TrainingError, match="step-00000001"):
        kept.restore(path, state(0.0))
