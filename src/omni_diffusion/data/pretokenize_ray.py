"""Shards made by a Ray cluster: every machine makes what `Worker.run` would, Ray says which.

Manifest, media, model and the folder of shards must be at the same paths on all machines. Ray is
imported when a run begins.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from omni_diffusion.codecs.suite import CodecSuite
from omni_diffusion.data.pretokenize import Job, Worker
from omni_diffusion.data.shard_store import Record
from omni_diffusion.errors import DataError, OmniError
from omni_diffusion.io import config
from omni_diffusion.io.optional import need
from omni_diffusion.models.omni import config_at, place_of


@dataclass(frozen=True)
class Order:
    """What a worker is opened from, small enough to be sent; model: the folder of its codecs."""

    manifest: Path
    out: Path
    model: Path
    device: str = "cpu"
    root: Path | None = None
    most_bad: float = 0.01
    batch: int = 8
    workers: int = 4

    def worker(self) -> Worker:
        """The worker with its codecs open, but no backbone; raises ModelError."""
        found = config_at(self.model)
        return Worker(
            self.manifest,
            self.out,
            CodecSuite.open(self.model, found.codecs, place_of(self.device)),
            self.root,
            found.generation.answers,
            self.most_bad,
            self.batch,
            self.workers,
        )

    def absolute(self) -> Order:
        """The same wherever a process stands."""
        root = None if self.root is None else self.root.absolute()
        manifest, out, model = (p.absolute() for p in (self.manifest, self.out, self.model))
        return replace(self, manifest=manifest, out=out, model=model, root=root)


class Maker:
    """One process of the cluster: makes the shards of the numbers that it is given."""

    def __init__(self, order: Order, of: int) -> None:
        self.order, self.of = order, of

    @cached_property
    def job(self) -> Job:
        """Opened with the first shard, where what goes wrong can be told."""
        return self.order.worker().job(self.of)

    def __call__(self, batch: Mapping[str, Any]) -> dict[str, Any]:
        """Numbers as `id` -> for each its record as JSON, or what went wrong, as an answer."""
        found = []
        for number in batch["id"].tolist():
            try:
                found.append(json.dumps({"record": config.to_dict(self.job.make(number))}))
            except OmniError as error:
                found.append(json.dumps({"error": str(error)}))
        return {"told": np.array(found)}


def run(
    order: Order,
    of: int | None = None,
    address: str = "auto",
    progress: Callable[[float], None] | None = None,
) -> list[Record]:
    """Make all shards and the index; the result is that of `Worker.run` with absolute paths.

    address: "auto" joins the cluster that runs here, "local" starts one on this machine alone, any
    other is a cluster's. Each process takes one core, or one GPU where the device is one. Raises
    DataError as `Worker.run`, and where the cluster is not to be had.
    """
    ray, data = need("ray", "ray"), need("ray.data", "ray")
    order = order.absolute()
    job = order.worker().job(of)
    joined = ray.is_initialized()
    try:
        if not joined:
            ray.init(address, log_to_driver=False)
        numbers = data.range(job.of, override_num_blocks=job.of)
        made = numbers.map_batches(
            Maker,
            fn_constructor_args=(order, job.of),
            batch_size=1,
            compute=data.ActorPoolStrategy(min_size=1, max_size=job.of),
            num_gpus=1 if order.device.startswith("cuda") else None,
        )
        found = list[Record]()
        for row in made.iter_rows():
            told = json.loads(row["told"])
            if "error" in told:
                raise DataError(told["error"])
            found.append(config.from_dict(Record, told["record"]))
            if progress is not None:
                progress(len(found) / job.of)
    except (ray.exceptions.RayError, ConnectionError) as error:
        problem = str(error).strip().splitlines()[-1]
        raise DataError(f"Ray at {address!r} stopped ({problem}); look at its logs") from error
    finally:
        if not joined:
            ray.shutdown()
    found.sort(key=lambda record: record.number)
    job.finish(found)
    return found
