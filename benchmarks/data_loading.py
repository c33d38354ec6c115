"""How long training waits for data: tokens per second drawn and trained, and time spent waiting.

    python -m benchmarks.data_loading --json benchmarks/results/data-loading.json

Draws steps of nine tasks from the shards of `scripts.train_check` as training does: one thread
reads, lays, masks and packs samples. Then it trains the shipped model on them with one thread for
the backbone, while the next step is drawn in the background, and reports the fraction of the time
that steps waited.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from pathlib import Path

import torch
from scripts.train_check import make_data

from omni_diffusion.data.pretokenize import Pretokenizer
from omni_diffusion.data.shard_mixture import ShardMixture, shares_of
from omni_diffusion.data.shard_store import Shards
from omni_diffusion.io import files
from omni_diffusion.models.omni import OmniModel
from omni_diffusion.training.denoising import DenoisingConfig, DenoisingObjective
from omni_diffusion.training.optim import OptimConfig
from omni_diffusion.training.trainer import LoopConfig, Trainer

BATCH_SIZE, DRAWN_STEPS, TRAINED_STEPS = 64, 40, 12


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--json", type=Path, help="write the results to this file")
    options = parser.parse_args()
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as temporary:
        work = Path(temporary)
        (work / "data").mkdir()
        model = OmniModel.open()
        Pretokenizer(make_data(work / "data"), work / "shards", model.codecs).run()
        shards = Shards(work / "shards")
        mixture = ShardMixture(
            shares_of(shards, BATCH_SIZE),
            shards,
            model.vocabulary,
            model.codecs.text,
            answers=model.generation.answers,
            max_length=1024,
        )
        config = DenoisingConfig(precision="bfloat16", max_length=1024, micro_batch_tokens=4096)
        objective = DenoisingObjective(model.backbone, model.vocabulary, mixture, config)
        objective.prepare(0, torch.Generator())
        start, before, tokens = time.perf_counter(), time.process_time(), 0.0
        for step in range(DRAWN_STEPS):
            prepared = objective.prepare(step, torch.Generator().manual_seed(step))
            tokens += float(prepared.sums[-1])
        seconds, busy = time.perf_counter() - start, time.process_time() - before
        loop = LoopConfig(TRAINED_STEPS, optim=OptimConfig(lr=1e-5), log_every=1, ema_decay=None)
        rows: list[dict[str, float]] = []
        Trainer(objective, loop, work / "run").fit(lambda _, row: rows.append(row))
    steady = rows[1:]  # the first step is not prefetched
    trained = sum(row["tokens"] for row in steady)
    took = sum(row["seconds_per_step"] for row in steady)
    results = {
        "torch": torch.__version__,
        "samples_a_step": BATCH_SIZE,
        "tokens_a_step": tokens / DRAWN_STEPS,
        "drawn_tokens_per_second": tokens / seconds,
        "drawn_tokens_per_cpu_second": tokens / busy,
        "trained_tokens_per_second": trained / took,
        "waited_share": sum(row["data_wait_s"] for row in steady) / took,
    }
    print(json.dumps(results, indent=2))
    if options.json is not None:
        files.write_text(options.json, json.dumps(results, indent=2) + "\n")


if __name__ == "__main__":
    main()
