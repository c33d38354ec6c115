"""Training checkpoints: a folder of safetensors for each, written atomically.

One process writes one file. Several processes write one shard each through torch's distributed
checkpoint, and any number of processes can read either. A checkpoint is written into a folder with
another name, which is renamed once all files are on disk: a folder with a checkpoint's name is
complete.
"""

from __future__ import annotations

import re
import shutil
import warnings
from collections.abc import Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.distributed.checkpoint.api import CheckpointException
from torch.distributed.checkpoint.hf_storage import (
    HuggingFaceStorageReader,
    HuggingFaceStorageWriter,
)
from torch.distributed.checkpoint.state_dict_loader import load
from torch.distributed.checkpoint.state_dict_saver import async_save

from omni_diffusion.errors import StorageError, TrainingError
from omni_diffusion.io import files, weights
from omni_diffusion.training.distributed import World

NAME = re.compile(r"step-(\d{8,})")
PARTIAL = ".partial"
SINGLE_FILE = "shard-00001-model-00001-of-00001.safetensors"  # torch's name of the first shard


class Checkpoints:
    """The newest `keep` checkpoints of a run, in one folder.

    `save` and `finish` raise StorageError if a checkpoint cannot be written.
    """

    def __init__(self, folder: Path, world: World | None = None, keep: int = 2) -> None:
        if keep < 1:
            raise TrainingError(
                f"keep_checkpoints is {keep}",
                field="keep_checkpoints",
                value=keep,
                fix="keep 1 or more",
            )
        self.folder, self.world, self.keep = folder, world or World(), keep
        # the running save, its folder, and the folder's final name
        self._pending: tuple[Future[Any], Path, Path] | None = None

    def newest(self) -> Path | None:
        """The checkpoint of the highest step, or None."""
        checkpoints = self._list()
        return checkpoints[-1] if checkpoints else None

    def save(self, state: Mapping[str, Tensor], step: int, *, wait: bool = True) -> None:
        """Write the checkpoint of a step; waits for a running save first.

        wait: return when it is written. If false, the state is copied now and written in the
        background.
        """
        self.finish()
        path = self.folder / f"step-{step:08}"
        partial = path.with_name(path.name + PARTIAL)
        if self.world.is_main:
            files.make_folder(self.folder)
            for stale in self.folder.glob("*" + PARTIAL):  # from a process that was killed
                shutil.rmtree(stale, ignore_errors=True)
            files.make_folder(partial)
        self.world.barrier()
        if self.world.size == 1:
            tensors = {name: value.detach() for name, value in state.items()}
            if not wait:
                tensors = {name: value.to("cpu", copy=True) for name, value in tensors.items()}
            pool = ThreadPoolExecutor(1)
            future = pool.submit(_write, tensors, partial / SINGLE_FILE)
            pool.shutdown(wait=False)
        else:
            writer = HuggingFaceStorageWriter(str(partial), save_distributed=True)
            group = self.world.control_group
            saving = async_save(dict(state), storage_writer=writer, process_group=group)
            assert isinstance(saving, Future)
            future = saving
        self._pending = (future, partial, path)
        if wait:
            self.finish()

    @property
    def writing(self) -> bool:
        """Whether a save is running; if not, `finish` returns at once."""
        return self._pending is not None and not self._pending[0].done()

    def finish(self) -> None:
        """Wait for the running save, if any; rename its folder and delete old checkpoints."""
        if self._pending is None:
            return
        (future, partial, path), self._pending = self._pending, None
        try:
            future.result()
        except BaseException as error:
            shutil.rmtree(partial, ignore_errors=True)
            cause = error
            if isinstance(error, CheckpointException):  # holds the errors of all processes
                cause, _ = next(iter(error.failures.values()))
            if isinstance(cause, OSError):
                raise StorageError(f"cannot write {path}: {cause.strerror or cause}") from error
            raise
        if self.world.is_main:
            if path.exists():
                shutil.rmtree(path)
            files.rename(partial, path)
            for old in self._list()[: -self.keep]:
                # renamed first: a kill during the deletion must not leave an incomplete checkpoint
                stale = old.with_name(old.name + PARTIAL)
                files.rename(old, stale)
                shutil.rmtree(stale, ignore_errors=True)
        self.world.barrier()

    def restore(self, path: Path, state: Mapping[str, Tensor]) -> None:
        """Read a checkpoint into tensors of the same names and shapes, however they are sharded.

        Raises TrainingError if the checkpoint is incomplete, or has other names or shapes.
        """
        try:
            reader = HuggingFaceStorageReader(str(path))
            metadata = reader.read_metadata().state_dict_metadata
        except Exception as error:  # torch's reader raises many types for a broken file
            raise TrainingError(
                f"checkpoint {path} is incomplete",
                value=path,
                fix="delete it to resume from the previous one",
            ) from error
        _check(path, state, {name: tuple(saved.size) for name, saved in metadata.items()})  # type: ignore[union-attr]
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)  # torch warns that there is one process
            load(
                dict(state),
                storage_reader=reader,
                process_group=self.world.control_group,
                no_dist=self.world.size == 1,
            )

    def _list(self) -> list[Path]:
        """All complete checkpoints by step."""
        if not self.folder.is_dir():
            return []
        matches = ((NAME.fullmatch(path.name), path) for path in self.folder.iterdir())
        return [path for _, path in sorted((int(m[1]), path) for m, path in matches if m)]


def _write(state: dict[str, Tensor], file: Path) -> None:
    """Write one file of any size, as torch's reader expects from one process."""
    weights.write_tensors(state, file, max_shard_bytes=torch.iinfo(torch.int64).max)


def _check(path: Path, state: Mapping[str, Tensor], saved: Mapping[str, tuple[int, ...]]) -> None:
    """Raise TrainingError if a checkpoint misses, adds or reshapes a tensor of the state."""
    shapes = {name: tuple(value.shape) for name, value in state.items()}
    for problem, names in (
        ("lacks", sorted(shapes.keys() - saved.keys())),
        ("also holds", sorted(saved.keys() - shapes.keys())),
        ("has another shape of", sorted(n for n in shapes if saved.get(n, shapes[n]) != shapes[n])),
    ):
        if names:
            more = f" and {len(names) - 1} more" if len(names) > 1 else ""
            raise TrainingError(
                f"checkpoint {path} {problem} {names[0]}{more}: it was made with another model or"
                " other trainable weights",
                value=path,
                fix="resume with the same model and trainable weights, or use another folder",
            )
