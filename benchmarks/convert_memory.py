"""Memory that `convert` takes, as a fraction of the bytes that it converts.

    python -m benchmarks.convert_memory [--runs 2:bfloat16 6:bfloat16] [--json FILE]

The script writes a folder in the published layout with random weights: all widths, the vocabulary
and the codecs as published, but fewer layers of the backbone. A separate process converts it. The
result is the peak of its private memory minus the value before the conversion. Pages of mapped
files do not count, because the system reclaims them when it needs memory.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import re
import tempfile
import threading
from multiprocessing.connection import Connection
from pathlib import Path

import torch
from scripts import random_checkpoint

from omni_diffusion.io import files
from omni_diffusion.models.dtypes import BACKBONE_DTYPES
from omni_diffusion.models.omni import convert

RESULTS = Path("benchmarks/results/convert-memory.json")
POLL = 0.005  # seconds


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        "--runs",
        nargs="+",
        default=["2:bfloat16", "6:bfloat16", "2:float32"],
        help="layers of the backbone (published: 28) and the dtype that it is written in",
    )
    parser.add_argument(
        "--scratch",
        type=Path,
        help="folder for the model folders (default: the system's temporary folder)",
    )
    parser.add_argument("--json", type=Path, default=RESULTS)
    args = parser.parse_args()
    rows = []
    for spec in args.runs:
        layers, _, dtype = spec.partition(":")
        with tempfile.TemporaryDirectory(dir=args.scratch) as scratch:
            rows.append(run(Path(scratch), int(layers), dtype))
        print(json.dumps(rows[-1], indent=2), flush=True)
    files.write_text(args.json, json.dumps(rows, indent=2) + "\n")


def run(root: Path, layers: int, dtype: str) -> dict[str, object]:
    """Make a folder, convert it, and compare the memory with the written bytes."""
    backbone = random_checkpoint.write(root / "published", random_checkpoint.reduced(1, layers))
    context = multiprocessing.get_context("spawn")
    ours, theirs = context.Pipe()
    child = context.Process(target=measure, args=(root, BACKBONE_DTYPES[dtype], theirs))
    child.start()
    theirs.close()  # so that a child that fails is noticed
    extra, resident = ours.recv()
    child.join()
    shards = [*(root / "out").glob("model*.safetensors")]
    written = sum(path.stat().st_size for path in shards)
    codecs = sum(p.stat().st_size for p in (root / "out").rglob("*.safetensors")) - written
    return {
        "layers": layers,
        "dtype": dtype,
        "backbone_bytes": backbone,
        "written_bytes": written + codecs,
        "codec_bytes": codecs,
        "backbone_files": len(shards),
        "peak_private_bytes": extra,
        "peak_resident_bytes": resident,
        "private_over_written": round(extra / (written + codecs), 3),
        "private_beyond_codecs_over_backbone": round((extra - codecs) / backbone, 3),
    }


def measure(root: Path, dtype: torch.dtype, results: Connection) -> None:
    """Convert, and send the growth of private memory and the peak of resident memory, in bytes."""
    done = threading.Event()
    start = highest = memory("RssAnon")

    def watch() -> None:
        nonlocal highest
        while not done.wait(POLL):
            highest = max(highest, memory("RssAnon"))

    watcher = threading.Thread(target=watch)
    watcher.start()
    published = root / "published"
    sources = random_checkpoint.sources(published, random_checkpoint.Sizes())
    convert(published / "omni", root / "out", codec_sources=sources, dtype=dtype)
    done.set()
    watcher.join()
    results.send((highest - start, memory("VmHWM")))


def memory(name: str) -> int:
    match = re.search(rf"^{name}:\s+(\d+) kB", Path("/proc/self/status").read_text(), re.M)
    assert match is not None
    return int(match[1]) * 1024


if __name__ == "__main__":
    main()
