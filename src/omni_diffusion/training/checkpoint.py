"""Training states on disk: a folder of safetensors for each, there whole or not at all.

One process writes one file; several write their shards side by side through torch's distributed
checkpoint, and any number of processes reads either. A state is written into a folder of another
name, which is renamed once every file is on the disk: what bears a state's name is whole.
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
ALONE = "shard-00001-model-00001-of-00001.safetensors"  # as torch names the first of several


class Checkpoints:
    """The states of a run in one folder, the newest `keep` of them.

    Raises StorageError where a state cannot be written.
    """

    def __init__(self, folder: Path, world: World | None = None, keep: int = 2) -> None:
        if keep < 1:
            raise TrainingError(f"{keep} checkpoints are to be kept; give 1 or more")
        self.folder, self.world, self.keep = folder, world or World(), keep
        self._pending: tuple[Future[Any], Path, Path] | None = None  # written where, to be named

    def newest(self) -> Path | None:
        """The state of the highest step; None where there is none."""
        found = self._found()
        return found[-1] if found else None

    def save(self, state: Mapping[str, Tensor], step: int, *, wait: bool = True) -> None:
        """Write a state; with `wait` off it is copied now and written while the run goes on.

        A save that is still being written is waited for first.
        """
        self.finish()
        path = self.folder / f"step-{step:08}"
        partial = path.with_name(path.name + PARTIAL)
        if self.world.first:
            files.make_folder(self.folder)
            for left in self.folder.glob("*" + PARTIAL):  # of a process that was killed
                shutil.rmtree(left, ignore_errors=True)
            files.make_folder(partial)
        self.world.wait()
        if self.world.size == 1:
            own = {name: value.detach() for name, value in state.items()}
            if not wait:
                own = {name: value.to("cpu", copy=True) for name, value in own.items()}
            pool = ThreadPoolExecutor(1)
            made = pool.submit(_write, own, partial / ALONE)
            pool.shutdown(wait=False)
        else:
            writer = HuggingFaceStorageWriter(str(partial), save_distributed=True)
            group = self.world.aside
            begun = async_save(dict(state), storage_writer=writer, process_group=group)
            assert isinstance(begun, Future)
            made = begun
        self._pending = (made, partial, path)
        if wait:
            self.finish()

    @property
    def writing(self) -> bool:
        """Whether a state is being written; once it is not, `finish` waits for nothing."""
        return self._pending is not None and not self._pending[0].done()

    def finish(self) -> None:
        """Wait for the save that is being written, if one is, and give it its name."""
        if self._pending is None:
            return
        (made, partial, path), self._pending = self._pending, None
        try:
            made.result()
        except BaseException as error:
            shutil.rmtree(partial, ignore_errors=True)
            cause = error
            if isinstance(error, CheckpointException):  # what befell one of several processes
                cause, _ = next(iter(error.failures.values()))
            if isinstance(cause, OSError):
                raise StorageError(f"cannot write {path}: {cause.strerror or cause}") from error
            raise
        if self.world.first:
            if path.exists():
                shutil.rmtree(path)
            files.rename(partial, path)
            for old in self._found()[: -self.keep]:
                # under another name first, lest a kill leaves half of a state
                left = old.with_name(old.name + PARTIAL)
                files.rename(old, left)
                shutil.rmtree(left, ignore_errors=True)
        self.world.wait()

    def restore(self, path: Path, state: Mapping[str, Tensor]) -> None:
        """Read a state into tensors of the same names and shapes, however they are sharded.

        Raises TrainingError for what is no whole state, or one of another run.
        """
        try:
            reader = HuggingFaceStorageReader(str(path))
            found = reader.read_metadata().state_dict_metadata
        except Exception as error:  # whatever the reader meets in a broken file
            raise TrainingError(
                f"{path} is no whole training state; remove it to go on from the one before"
            ) from error
        _check(path, state, {name: tuple(kept.size) for name, kept in found.items()})  # type: ignore[union-attr]
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)  # that one process is alone
            load(
                dict(state),
                storage_reader=reader,
                process_group=self.world.aside,
                no_dist=self.world.size == 1,
            )

    def _found(self) -> list[Path]:
        if not self.folder.is_dir():
            return []
        named = ((NAME.fullmatch(path.name), path) for path in self.folder.iterdir())
        return [path for _, path in sorted((int(m[1]), path) for m, path in named if m)]


def _write(state: dict[str, Tensor], file: Path) -> None:
    """One file however large, as the reader expects of one process."""
    weights.write(state, file, max_shard_bytes=torch.iinfo(torch.int64).max)


def _check(path: Path, state: Mapping[str, Tensor], kept: Mapping[str, tuple[int, ...]]) -> None:
    """Raise TrainingError naming what a state lacks, has beyond, or holds in another shape."""
    shapes = {name: tuple(value.shape) for name, value in state.items()}
    for what, names in (
        ("lacks", sorted(shapes.keys() - kept.keys())),
        ("also holds", sorted(kept.keys() - shapes.keys())),
        ("has another shape of", sorted(n for n in shapes if kept.get(n, shapes[n]) != shapes[n])),
    ):
        if names:
            more = f" and {len(names) - 1} more" if len(names) > 1 else ""
            raise TrainingError(
                f"{path} {what} {names[0]}{more}: it is of another model or had other parts"
                " trainable; train the same parts or begin in another folder"
            )
