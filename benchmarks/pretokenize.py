"""Lines a second of `data pretokenize` with the shipped codecs, beside one line at a time.

    python benchmarks/pretokenize.py [--lines 256] [--json benchmarks/results/pretokenize.json]

"plain" reads the manifest once for every shard, and reads and encodes line after line. The worker
has a table of lines, threads that read ahead and batches of pictures. Both write the same rows;
they take turns, and the median of three is told. Torch has one thread.
"""

from __future__ import annotations

import argparse
import json
import os
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from statistics import median

import torch

from omni_diffusion.conversation import Codes, Frames
from omni_diffusion.data import manifest
from omni_diffusion.data.examples import examples_from_turns
from omni_diffusion.data.pretokenize import Pretokenizer
from omni_diffusion.data.pretokenize_ray import PretokenizeConfig
from omni_diffusion.data.shard_store import (
    EncodedSample,
    ShardRecord,
    shard_name,
    turns_of,
    write_shard,
)
from omni_diffusion.io import files
from omni_diffusion.media import Picture
from omni_diffusion.mini.recordings import Bank
from omni_diffusion.models.omni import SMALL_MODEL
from omni_diffusion.tasks.encode import encode

SETTINGS = ((1, 1), (1, 4), (8, 4), (16, 4))  # batch, workers
MANY = 244  # shards of the manifest of words, as a million lines have
TIMES = 3


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--lines", type=int, default=256)
    parser.add_argument("--json", type=Path, default=Path("benchmarks/results/pretokenize.json"))
    given = parser.parse_args()
    torch.set_num_threads(1)
    rows = []
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        kinds = {
            "pictures": pictures(folder, given.lines, 640, 480),
            "photographs": pictures(folder, given.lines // 4, 4000, 3000),
            "speech": speech(folder, given.lines),
            "words": words(folder, given.lines * 200),
        }
        for kind, path in kinds.items():
            worker = PretokenizeConfig(path, folder / "out", SMALL_MODEL).open()
            of = MANY if kind == "words" else 1
            ways: dict[str, Callable[[], object]] = {"plain": lambda it=worker, n=of: plain(it, n)}
            for batch, workers in SETTINGS if kind == "pictures" else SETTINGS[1:3]:
                other = replace(worker, batch_size=batch, workers=workers)
                ways[f"batch {batch}, workers {workers}"] = lambda it=other, n=of: it.run(of=n)
            lines, load = len(manifest.LineIndex(path)), os.getloadavg()[0]
            spent: dict[str, list[float]] = {way: [] for way in ways}
            busy: dict[str, list[float]] = {way: [] for way in ways}
            for _ in range(TIMES):
                made = {}
                for way, run in ways.items():
                    for old in sorted((folder / "out").glob("*")):
                        old.unlink()
                    start, began = time.perf_counter(), time.process_time()
                    run()
                    spent[way].append(time.perf_counter() - start)
                    busy[way].append(time.process_time() - began)
                    made[way] = stored(folder / "out", of)
                assert all(each == made["plain"] for each in made.values())
            seconds = {way: median(each) for way, each in spent.items()}
            work = {way: median(each) for way, each in busy.items()}
            start = time.perf_counter()
            worker.run(of=of)  # once more: all is there
            look = time.perf_counter() - start
            row = {
                "kind": kind,
                "load": [round(load, 1), round(os.getloadavg()[0], 1)],
                "lines": lines,
                "shards": of,
                "lines_per_second": {way: round(lines / each, 1) for way, each in seconds.items()},
                "ratio": {way: round(seconds["plain"] / each, 2) for way, each in seconds.items()},
                "ratio_of_processor_time": {
                    way: round(work["plain"] / each, 2) for way, each in work.items()
                },
                "looking_lines_per_second": round(lines / look),
            }
            rows.append(row)
            print(row, flush=True)
    told = {"cores": len(os.sched_getaffinity(0)), "rows": rows}
    files.write_text(given.json, json.dumps(told, indent=1) + "\n")


def plain(worker: Pretokenizer, of: int) -> None:
    """All shards, one reading of the manifest for each, one line at a time."""
    worker.out.mkdir(exist_ok=True)
    for number in range(of):

        def rows(number: int = number) -> Iterator[EncodedSample]:
            for place, line in manifest.read_lines(worker.manifest):
                if (place.line - 1) % of == number:
                    sample = manifest.parse_sample(line, place, worker.root)
                    turns = encode(sample.conversation(), worker.codecs)
                    media = tuple(
                        p for t in turns for p in t.parts if isinstance(p, Codes | Frames)
                    )
                    messages = sample.messages
                    turns = turns_of(messages, media)
                    task = examples_from_turns(place, messages, turns, {})[-1].task.name
                    yield EncodedSample(place.line, messages, media, task, sample.name)

        empty = ShardRecord(number, of, "", "", worker.codecs.hearing.dim, {})
        path = worker.out / shard_name(number, of)
        write_shard(path, rows(), lambda tasks, it=empty: replace(it, tasks=dict(tasks)))


def stored(out: Path, of: int) -> list[object]:
    from pyarrow import parquet

    return [parquet.read_table(out / shard_name(n, of)).to_pylist() for n in range(of)]


# ---------------------------------------------------------------------------------------- manifests
def pictures(folder: Path, lines: int, width: int, height: int) -> Path:
    """Soft colours as JPEG; each is seen and made."""
    generator = torch.Generator().manual_seed(0)
    rows = []
    for number in range(lines // 2):
        name = f"{width}-{number}.jpg"
        coarse = torch.rand(1, 3, 6, 8, generator=generator)
        fine = torch.nn.functional.interpolate(coarse, size=(height, width), mode="bicubic")[0]
        pixels = (fine.clamp(0, 1) * 255).byte().permute(1, 2, 0).contiguous()
        Picture(pixels).write(folder / name)
        rows.append(row("What is this?\n<|image|>", "Colours.", images=[name]))
        rows.append(row("Paint colours.", "<|image|>", images=[name]))
    return write(folder / f"{width}.jsonl", rows)


def speech(folder: Path, lines: int) -> Path:
    """Sentences of the shipped bank as FLAC; each is heard and said."""
    rows = []
    said = Bank.open(SMALL_MODEL / "bank").sample("answer", 0)
    for number in range(lines // 2):
        each, name = said[number % len(said)], f"{number}.flac"
        each.waveform.write(folder / name)
        rows.append(row("Convert the speech to text.\n<|audio|>", each.text, audios=[name]))
        rows.append(row("Convert the text to speech.\n" + each.text, "<|audio|>", audios=[name]))
    return write(folder / "speech.jsonl", rows)


def words(folder: Path, lines: int) -> Path:
    rows = [row(f"What is {number} plus 1?", f"{number + 1}") for number in range(lines)]
    return write(folder / "words.jsonl", rows)


def row(question: str, answer: str, **media: list[str]) -> dict[str, object]:
    user = {"role": "user", "content": question}
    return {"messages": [user, {"role": "assistant", "content": answer}], **media}


def write(path: Path, rows: list[dict[str, object]]) -> Path:
    path.write_text("".join(json.dumps(each) + "\n" for each in rows), encoding="utf-8")
    return path


if __name__ == "__main__":
    main()
