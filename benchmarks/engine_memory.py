"""Memory of an engine that answers many requests of all tasks and of changing length.

The shipped model, at most 8 requests side by side, few steps each. Text has 1 to 60 words, speech
lasts 0.3 to 4 seconds, answers have 8 to 90 tokens; most requests answer in text, one in 40 paints
and one in 40 speaks. A warm-up of a tenth of the requests comes first, since it loads what is
loaded once.

    python -m benchmarks.engine_memory                              # 10,000 requests
    python -m benchmarks.engine_memory --requests 200 --out x.json  # a minute
    python -m benchmarks.engine_memory --tiny                       # the tests' tiny model

Every reading is written at once, so a run that is stopped leaves what it saw.
"""

from __future__ import annotations

import argparse
import ctypes
import json
import random
import resource
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from itertools import chain
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import torch

from omni_diffusion import (
    Engine,
    Image,
    Message,
    OmniModel,
    Picture,
    Request,
    Speech,
    Text,
    Waveform,
)
from omni_diffusion.demo.jobs import INPUTS

RESULT = Path(__file__).parent / "results" / "engine-memory.json"
WORDS = ("a", "dog", "and", "two", "cats", "blue", "what", "is", "on")
TASKS = ("chat", "caption", "vqa", "asr")
MADE = ("t2i", "tts")  # their decoders take longer than all else, so they are rare
RARE = 40
BATCH = 8
READINGS = 20


def requests(count: int, seed: int) -> Iterator[Request]:
    """Requests of all tasks, drawn with a seed, one by one: none is kept."""
    rng = random.Random(seed)
    pictures = [Picture.read(path) for path in sorted(INPUTS.glob("*.png"))]
    sounds = [Waveform.read(path) for path in sorted(INPUTS.glob("*.ogg"))]

    def text(most: int = 60) -> Text:
        return Text(" ".join(rng.choices(WORDS, k=rng.randint(1, most))))

    def sound() -> Speech:
        whole = rng.choice(sounds)
        samples = int(whole.rate * rng.uniform(0.3, 4.0))
        return Speech(Waveform(whole.samples[:samples], whole.rate))

    for number in range(count):
        task = MADE[number // RARE % 2] if number % RARE == 0 else rng.choice(TASKS)
        parts: tuple[Any, ...] = (text(20 if task == "tts" else 60),)
        if task == "asr":
            parts = (sound(),)
        elif task == "caption":
            parts = (Image(rng.choice(pictures)),)
        elif task == "vqa":
            parts = (text(), Image(rng.choice(pictures)))
        length = None if task in MADE else rng.randint(8, 90)
        steps = {"steps": rng.randint(1, 3), "seed": number}
        yield Request(task, (Message("user", parts),), steps, max_tokens=length)


def measure(model: OmniModel, count: int, keep: Callable[[dict[str, Any]], None]) -> None:
    """Answer `count` requests; passes what is known on after every twentieth of them."""
    engine = Engine(model, max_batch=BATCH)
    began = time.process_time()
    finished, failed, readings, in_use = 0, 0, list[float](), list[float]()
    warm = count // 10
    marks = {warm + count * i // READINGS for i in range(READINGS + 1)}
    for number, request in enumerate(chain(requests(warm, seed=1), requests(count, seed=0)), 1):
        engine.add(request)
        while engine.pending >= 2 * BATCH or (number == warm + count and engine.pending):
            for id in engine.step():
                failed += engine.result(id).error is not None
                finished += 1
                if finished in marks:
                    readings.append(round(resident() / 1e6, 1))
                    in_use.append(round(heap_in_use() / 1e6, 1))
                    keep(
                        {
                            "finished": finished - warm,
                            "failed": failed,
                            "warm_up_requests": warm,
                            "megabytes_after_the_warm_up": readings[0],
                            "megabytes_at_every_twentieth": readings[1:],
                            "in_use_of_the_c_heap_megabytes": in_use,
                            "processor_seconds": round(time.process_time() - began),
                        }
                    )


def resident() -> int:
    """Bytes of this process in memory."""
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * resource.getpagesize()


def heap_in_use() -> int:
    """Bytes that are allocated in all arenas of glibc, without what is free between them.

    It tells a leak from a heap that only has holes.
    """
    libc = ctypes.CDLL(None)
    libc.fopen.restype = ctypes.c_void_p
    with tempfile.NamedTemporaryFile() as file:
        stream = ctypes.c_void_p(libc.fopen(file.name.encode(), b"w"))
        libc.malloc_info(0, stream)
        libc.fclose(stream)
        whole = ElementTree.fromstring(Path(file.name).read_text())
    total = {part.get("type"): int(part.get("size", 0)) for part in whole.findall("total")}
    system = {part.get("type"): int(part.get("size", 0)) for part in whole.findall("system")}
    return system["current"] + total["mmap"] - total["fast"] - total["rest"]


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure and write the result."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, default=RESULT, help="the JSON file")
    parser.add_argument("--requests", type=int, default=10_000, help="20 or more")
    parser.add_argument("--tiny", action="store_true", help="random weights of a tiny model")
    given = parser.parse_args(arguments)
    torch.set_num_threads(1)
    if given.tiny:
        from tests.tiny import tiny_model

        model = tiny_model()
    else:
        model = OmniModel.open()
    about = {
        "torch": torch.__version__,
        "threads": 1,
        "model": "tiny" if given.tiny else "shipped",
        "requests": given.requests,
    }

    def keep(seen: dict[str, Any]) -> None:
        given.out.write_text(json.dumps(about | seen, indent=2) + "\n")

    measure(model, given.requests, keep)
    print(given.out.read_text())


if __name__ == "__main__":
    main()
