"""Pretokenize on a Ray cluster: its processes make the same shards as `Pretokenizer.run`.

Manifest, media, model and the folder of shards must have the same paths on all machines. Ray is
imported only when a run begins.
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
from omni_diffusion.data.defaults import ENCODE_BATCH_SIZE, MAX_BAD_FRACTION, READERS
from omni_diffusion.data.pretokenize import Pretokenizer, ShardJob
from omni_diffusion.data.shard_store import ShardRecord
from omni_diffusion.errors import DataError, OmniError
from omni_diffusion.io import config
from omni_diffusion.io.optional import require
from omni_diffusion.models.omni import read_config, resolve_device


@dataclass(frozen=True)
class PretokenizeConfig:
    """What a `Pretokenizer` is opened from, small enough to send to another machine.

    model: the model folder with the codecs. device: where they run. The other fields are those of
    `Pretokenizer`.
    """

    manifest: Path
    out: Path
    model: Path
    device: str = "cpu"
    root: Path | None = None
    max_bad_fraction: float = MAX_BAD_FRACTION
    batch_size: int = ENCODE_BATCH_SIZE
    workers: int = READERS

    def open(self) -> Pretokenizer:
        """The pretokenizer with its codecs loaded, without the backbone; raises ModelError."""
        model = read_config(self.model)
        return Pretokenizer(
            self.manifest,
            self.out,
            CodecSuite.open(self.model, model.codecs, resolve_device(self.device)),
            self.root,
            model.generation.answers,
            self.max_bad_fraction,
            self.batch_size,
            self.workers,
        )

    def absolute(self) -> PretokenizeConfig:
        """The same with absolute paths, for processes in other working directories."""
        root = None if self.root is None else self.root.absolute()
        manifest, out, model = (p.absolute() for p in (self.manifest, self.out, self.model))
        return replace(self, manifest=manifest, out=out, model=model, root=root)


class ShardActor:
    """One process of the cluster; makes the shards whose numbers it is given."""

    def __init__(self, config: PretokenizeConfig, of: int) -> None:
        self.config, self.of = config, of

    @cached_property
    def job(self) -> ShardJob:
        """Opened with the first shard, so that its errors are returned like those of a shard."""
        return self.config.open().job(self.of)

    def __call__(self, batch: Mapping[str, Any]) -> dict[str, Any]:
        """Make the shards of `batch["id"]`; `result` holds the record or error of each, as JSON."""
        results = []
        for number in batch["id"].tolist():
            try:
                results.append(json.dumps({"record": config.to_dict(self.job.make(number))}))
            except OmniError as error:
                results.append(json.dumps({"error": str(error)}))
        return {"result": np.array(results)}


def pretokenize_on_ray(
    options: PretokenizeConfig,
    of: int | None = None,
    address: str = "auto",
    progress: Callable[[float], None] | None = None,
) -> list[ShardRecord]:
    """Make all shards and the index; returns what `Pretokenizer.run` with absolute paths would.

    of: the number of shards, by default one for each 4,096 lines. address: "auto" joins the cluster
    that runs here, "local" starts one on this machine alone, anything else is a cluster's address.
    Each process takes one core, or one GPU if the device is one. progress: called with the fraction
    of shards that are done. Raises DataError as `Pretokenizer.run` does, and if the cluster fails.
    """
    ray, data = require("ray", "ray"), require("ray.data", "ray")
    options = options.absolute()
    job = options.open().job(of)
    joined = ray.is_initialized()
    try:
        if not joined:
            ray.init(address, log_to_driver=False)
        numbers = data.range(job.of, override_num_blocks=job.of)
        results = numbers.map_batches(
            ShardActor,
            fn_constructor_args=(options, job.of),
            batch_size=1,
            compute=data.ActorPoolStrategy(min_size=1, max_size=job.of),
            num_gpus=1 if options.device.startswith("cuda") else None,
        )
        records = list[ShardRecord]()
        for row in results.iter_rows():
            result = json.loads(row["result"])
            if "error" in result:
                raise DataError(result["error"])
            records.append(config.from_dict(ShardRecord, result["record"]))
            if progress is not None:
                progress(len(records) / job.of)
    except (ray.exceptions.RayError, ConnectionError) as error:
        problem = str(error).strip().splitlines()[-1]
        raise DataError(
            f"Ray at {address!r} stopped ({problem})",
            field="ray",
            value=address,
            fix="look at its logs",
        ) from error
    finally:
        if not joined:
            ray.shutdown()
    records.sort(key=lambda record: record.number)
    job.finish(records)
    return records
