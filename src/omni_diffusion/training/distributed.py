"""Several processes that train one model: who they are, what they add up, how weights are sharded.

One process is a world of one, where nothing is initialised and sums are what they are, so that the
same code trains on a laptop and on many machines. `torchrun` starts the others. Knows nothing of
what is trained.
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
PATIENCE = timedelta(days=7)
BACKENDS = {"cpu": "gloo", "cuda": "cpu:gloo,cuda:nccl"}


@dataclass(frozen=True)
class World:
    """All processes of a run, as one of them sees them: it is `rank` of `size`, from 0.

    aside: the same processes, for what goes on beside training and must not get between its sums.
    """

    rank: int = 0
    size: int = 1
    device: torch.device = field(default_factory=lambda: torch.device("cpu"))
    aside: dist.ProcessGroup | None = None

    @classmethod
    def join(cls, device: str = "cpu") -> Self:
        """Meet the other processes that `torchrun` started; alone without it.

        device: cpu or cuda; each process takes the GPU of its local rank. Raises TrainingError.
        """
        kind = torch.device(device).type
        if kind not in BACKENDS:
            raise TrainingError(f"training on {device!r} is not supported; give cpu or cuda")
        size = _number("WORLD_SIZE", 1)
        if size == 1:
            return cls(device=torch.device(device))
        rank, local = _number("RANK"), _number("LOCAL_RANK")
        place = torch.device(f"cuda:{local}" if kind == "cuda" else kind)
        if kind == "cuda":
            if local >= torch.cuda.device_count():
                raise TrainingError(
                    f"process {local} of this machine has no GPU, it has"
                    f" {torch.cuda.device_count()}; start as many processes as there are GPUs"
                )
            torch.cuda.set_device(place)
        dist.init_process_group(
            BACKENDS[kind], store=_store(size, rank), rank=rank, world_size=size
        )
        return cls(rank, size, place, dist.new_group(backend="gloo"))

    @property
    def first(self) -> bool:
        """Whether this process is the one that writes logs and names checkpoints."""
        return self.rank == 0

    def sum(self, values: Tensor) -> Tensor:
        """Elementwise sum over all processes; each gets it."""
        return self._reduced(values, dist.ReduceOp.SUM)

    def most(self, values: Sequence[int]) -> list[int]:
        """Elementwise maximum over all processes; each gets it."""
        found = self._reduced(torch.tensor(values), dist.ReduceOp.MAX).tolist()
        return [int(value) for value in found]

    def _reduced(self, values: Tensor, how: dist.ReduceOp.RedOpType) -> Tensor:
        if self.size == 1:
            return values
        found = values.to(self.device, copy=True)
        dist.all_reduce(found, how)
        return found.to(values.device)

    def wait(self) -> None:
        """Until all processes are here, however long one of them takes to make what others need."""
        if self.size > 1:  # aside, for those of GPUs give up after ten minutes
            dist.barrier(self.aside, timeout=PATIENCE)

    def leave(self) -> None:
        """At the end of a run, when all processes are."""
        if self.size > 1:
            dist.barrier()  # who leaves first would take the others' connections along
            dist.destroy_process_group()


def _store(size: int, rank: int) -> Store:
    """Where the processes find one another.

    torchrun's own store outlives a restart, and gloo then meets the addresses of processes that
    are no more; a prefix of its own for each attempt keeps them apart.
    """
    kept = os.environ.get("TORCHELASTIC_USE_AGENT_STORE") == "True"
    host, port = os.environ.get("MASTER_ADDR"), _number("MASTER_PORT")
    if host is None:
        raise TrainingError("WORLD_SIZE is set and MASTER_ADDR is not; start with torchrun")
    tcp = dist.TCPStore(  # type: ignore[attr-defined]
        host, port, size, is_master=rank == 0 and not kept
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
            f"the environment's {name} is {value!r}, not a number; start with torchrun"
        ) from None


def shard(
    module: nn.Module,
    blocks: Sequence[nn.Module],
    world: World,
    precision: Precision,
    mesh: DeviceMesh | None = None,
) -> None:
    """Bring a module to the world's device, its weights parted among all processes (FSDP2).

    Part by part, so that no device ever holds all of them; a world of one does.
    blocks: parts whose weights are gathered together, one after the other. With bfloat16 they are
    gathered and used in it, kept and reduced in float32. mesh: the processes, all by default.
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
    """Whether `shard` parted it."""
    return isinstance(module, FSDPModule)


def whole(tensor: Tensor) -> Tensor:
    """A sharded tensor put together, any other as it is; all processes must ask."""
    return tensor.full_tensor() if isinstance(tensor, DTensor) else tensor


def gathered(tensors: Mapping[str, Tensor], world: World) -> dict[str, Tensor]:
    """All tensors put together on the CPU of the first process; the others get none."""
    found = {}
    for name, tensor in tensors.items():
        joined = whole(tensor.detach())
        if world.first:
            found[name] = joined.cpu()
    return found
