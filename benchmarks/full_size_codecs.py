"""Seconds and peak memory of the codecs at full size, on this CPU with random weights.

    python benchmarks/full_size_codecs.py [--threads 2] [--json FILE]

Each codec runs in a separate process, so that its peak memory is measured alone. `published` is the
time of the published code (float32, 2 threads of a 2-core AMD EPYC, the same inputs). It was
measured once and is not measured again here.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import resource
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from statistics import median
from typing import Any

import torch

from omni_diffusion.codecs.glm_voice.flow import Flow, FlowConfig
from omni_diffusion.codecs.glm_voice.tokenizer import SpeechTokenizer, SpeechTokenizerConfig
from omni_diffusion.codecs.glm_voice.vocoder import HiFT, HiFTConfig
from omni_diffusion.codecs.magvit2 import Magvit2, Magvit2Config
from omni_diffusion.codecs.sensevoice import SenseVoice, SenseVoiceConfig
from omni_diffusion.io import files
from omni_diffusion.media import Picture, Waveform

RUNS = 3


def tone(seconds: float) -> Waveform:
    return Waveform(torch.randn(1, int(16_000 * seconds)) * 0.1, 16_000)


def picture(side: int) -> Picture:
    return Picture(torch.randint(256, (side, side, 3), dtype=torch.uint8))


def image_encode(side: int) -> Callable[[], Any]:
    codec, image = Magvit2(Magvit2Config.official()).eval(), picture(side)
    return lambda: codec.encode(image, side)


def image_decode(side: int) -> Callable[[], Any]:
    codec = Magvit2(Magvit2Config.official()).eval()
    codes = torch.randint(codec.config.codes, (codec.config.tokens(side),))
    return lambda: codec.decode(codes)


def encode_speech() -> Callable[[], Any]:
    config = SenseVoiceConfig.official()
    model = SenseVoice(config, torch.stack([torch.zeros(560), torch.ones(560)])).eval()
    sound = tone(10)
    return lambda: model.encode(sound)


def tokenize() -> Callable[[], Any]:
    model, sound = SpeechTokenizer(SpeechTokenizerConfig.official()).eval(), tone(10)
    return lambda: model.encode(sound)


def flow(codes: int, **changes: Any) -> Callable[[], Any]:
    model = Flow(replace(FlowConfig.official(), **changes)).eval()
    ids = torch.randint(model.config.vocab_size, (1, codes))
    return lambda: model.sample(ids)


def vocode() -> Callable[[], Any]:
    model = HiFT(HiFTConfig.official()).eval()
    mel = torch.randn(80, 861)
    return lambda: model.decode(mel, torch.Generator().manual_seed(0))


PARTS: tuple[tuple[str, Callable[[], Callable[[], Any]], float | None], ...] = (
    ("MAGVIT-v2 encoder, 256 x 256", lambda: image_encode(256), 2.35),
    ("MAGVIT-v2 encoder, 512 x 512", lambda: image_encode(512), 10.5),
    ("MAGVIT-v2 decoder, 256 x 256", lambda: image_decode(256), 2.27),
    ("SenseVoice encoder, 10 s", encode_speech, None),
    ("speech tokenizer, 10 s", tokenize, 7.03),
    ("flow decoder, 125 codes (10 s), 10 steps", lambda: flow(125), 19.4),
    ("flow decoder, 25 codes (2 s), 10 steps", lambda: flow(25), 4.6),
    ("flow decoder, 125 codes, 5 steps", lambda: flow(125, steps=5), None),
    ("flow decoder, 125 codes, 10 steps, bf16", lambda: flow(125, precision="bfloat16"), None),
    (
        "flow decoder, 125 codes, 5 steps, bf16",
        lambda: flow(125, steps=5, precision="bfloat16"),
        None,
    ),
    ("HiFT vocoder, 861 frames (10 s)", vocode, 3.82),
)


def measure(number: int, threads: int) -> dict[str, Any]:
    """One codec: the median of its seconds, and the peak memory of its process."""
    torch.set_num_threads(threads)
    torch.manual_seed(0)
    name, make, published = PARTS[number]
    seconds = []
    with torch.no_grad():
        run = make()
        for _ in range(RUNS + 1):
            start = time.perf_counter()
            run()
            seconds.append(time.perf_counter() - start)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    row = {"part": name, "seconds": round(median(seconds[1:]), 2), "peak_gib": round(peak, 2)}
    if published:
        row |= {"published": published, "ratio": round(row["seconds"] / published, 2)}
    return row


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--threads", type=int, default=2, help="CPU threads of torch")
    parser.add_argument(
        "--json", type=Path, default=Path("benchmarks/results/full-size-codecs.json")
    )
    args = parser.parse_args()
    rows = []
    for number in range(len(PARTS)):
        with multiprocessing.get_context("spawn").Pool(1) as pool:
            rows.append(pool.apply(measure, (number, args.threads)))
        print(rows[-1], flush=True)
    files.write_text(
        args.json, json.dumps({"threads": args.threads, "rows": rows}, indent=1) + "\n"
    )


if __name__ == "__main__":
    main()
