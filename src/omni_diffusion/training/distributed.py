"""Processes that train one model: their ranks, sums over them, and sharded weights.

With one process nothing is initialised and sums return their input, so the same code trains on one
device and on many machines. `torchrun` starts several processes.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Literal, Self

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.device_mesh import DeviceMesh, init_device_mesh
from torch.distributed.distributed_c10d import PrefixStore, Store
from torch.distributed.fsdp import FSDPModule, MixedPrecisionPolicy, fully_shard
from torch.distributed.tensor import DTensor

from omni_diffusion.errors import TrainingError

Precision = Literal["float32", "bfloat16"]
BARRIER_TIMEOUT = timedelta(days=7)
BACKENDS = {"cpu": "gloo", "cuda": "cpu:gloo,cuda:nccl"}


@dataclass(frozen=True)
class World:
    """All processes of a run, as seen by the process `rank` of `size` (from 0).

    control_group: a second group of the same processes, on gloo. Checkpoints and barriers use it,
    so that they do not interleave with the collectives of training. None with one process.
    """

    rank: int = 0
    size: int = 1
    device: torch.device = field(default_factory=lambda: torch.device("cpu"))
    control_group: dist.ProcessGroup | None = None

    @classmethod
    def join(cls, device: str = "cpu") -> Self:
        """Join the processes that `torchrun` started; without it, a world of one process.

        device: cpu or cuda; each process takes the GPU of its local rank. Raises TrainingError for
        another device, too few GPUs, or environment variables that torchrun would set otherwise.
        """
        kind = torch.device(device).type
        if kind not in BACKENDS:
            raise TrainingError(
                f"training on {device!r} is not supported",
                field="device",
                value=device,
                fix="use cpu or cuda",
            )
        size = _number("WORLD_SIZE", 1)
        if size == 1:
            return cls(device=torch.device(device))
        rank, local = _number("RANK"), _number("LOCAL_RANK")
        local_device = torch.device(f"cuda:{local}" if kind == "cuda" else kind)
        if kind == "cuda":
            if local >= torch.cuda.device_count():
                raise TrainingError(
                    f"process {local} of this machine has no GPU: there are"
                    f" {torch.cuda.device_count()}",
                    field="device",
                    value=device,
                    fix="start as many processes as there are GPUs",
                )
            torch.cuda.set_device(local_device)
        dist.init_process_group(
            BACKENDS[kind], store=_store(size, rank), rank=rank, world_size=size
        )
        return cls(rank, size, local_device, dist.new_group(backend="gloo"))

    @property
    def is_main(self) -> bool:
        """Whether this process writes logs and renames checkpoints (rank 0)."""
        return self.rank == 0

    def sum(self, values: Tensor) -> Tensor:
        """Elementwise sum over all processes, on every process."""
        return self._all_reduce(values, dist.ReduceOp.SUM)

    def max(self, values: Sequence[int]) -> list[int]:
        """Elementwise maximum over all processes, on every process."""
        reduced = self._all_reduce(torch.tensor(values), dist.ReduceOp.MAX).tolist()
        return [int(value) for value in reduced]

    def _all_reduce(self, values: Tensor, how: dist.ReduceOp.RedOpType) -> Tensor:
        if self.size == 1:
            return values
        copy = values.to(self.device, copy=True)
        dist.all_reduce(copy, how)
        return copy.to(values.device)

    def barrier(self) -> None:
        """Wait for all processes, up to seven days: one may have to make shards for the others."""
        if self.size > 1:  # on gloo, because a barrier of nccl times out after ten minutes
            dist.barrier(self.control_group, timeout=BARRIER_TIMEOUT)

    def close(self) -> None:
        """Leave the process group at the end of a run, together with all other processes."""
        if self.size > 1:
            dist.barrier()  # a process that leaves first would close connections that others use
            dist.destroy_process_group()


def _store(size: int, rank: int) -> Store:
    """The key-value store through which the processes find one another.

    torchrun's store outlives a restart, and gloo would then read the addresses of dead processes.
    A prefix for each attempt separates them.
    """
    agent_store = os.environ.get("TORCHELASTIC_USE_AGENT_STORE") == "True"
    host, port = os.environ.get("MASTER_ADDR"), _number("MASTER_PORT")
    if host is None:
        raise TrainingError("WORLD_SIZE is set, MASTER_ADDR is not", fix="start with torchrun")
    tcp = dist.TCPStore(  # type: ignore[attr-defined]
        host, port, size, is_master=rank == 0 and not agent_store
    )
    return PrefixStore(f"attempt/{os.environ.get('TORCHELASTIC_RESTART_COUNT', 0)}", tcp)


def _number(name: str, default: int | None = None) -> int:
    value = os.environ.get(name)
    if value is None and default is not None:
        return default
    try:
        return int(value or "")
    except ValueError:
        raise TrainingError(
            f"the environment variable {name} is {value!r}, not a number", fix="start with torchrun"
        ) from None


def shard(
    module: nn.Module,
    blocks: Sequence[nn.Module],
    world: World,
    precision: Precision,
    mesh: DeviceMesh | None = None,
) -> None:
    """Move a module to the world's device and shard its weights over all processes (FSDP2).

    It is moved block by block, so that no device holds all weights, unless there is one process.
    blocks: submodules whose weights are gathered one block at a time. precision: with bfloat16,
    weights are gathered and used in bfloat16, stored and reduced in float32. mesh: the processes,
    all by default.
    """
    if world.size == 1:
        module.to(world.device)
        return
    mesh = mesh or init_device_mesh(world.device.type, (world.size,))
    reduced = torch.bfloat16 if precision == "bfloat16" else None
    policy = MixedPrecisionPolicy(param_dtype=reduced, reduce_dtype=torch.float32)
    for part in (*blocks, module):
        fully_shard(part, mesh=mesh, mp_policy=policy)


def is_sharded(module: nn.Module) -> bool:
    """Whether `shard` has sharded the module."""
    return isinstance(module, FSDPModule)


def full_tensor(tensor: Tensor) -> Tensor:
    """A sharded tensor gathered on every process, another as it is; all processes must call it."""
    return tensor.full_tensor() if isinstance(tensor, DTensor) else tensor


def gather_to_main(tensors: Mapping[str, Tensor], world: World) -> dict[str, Tensor]:
    """All tensors gathered on the CPU of the main process; an empty dict on the others."""
    gathered = {}
    for name, tensor in tensors.items():
        full = full_tensor(tensor.detach())
        if world.is_main:
            gathered[name] = full.cpu()
    return gathered
