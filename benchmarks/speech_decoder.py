"""The speech decoder at full size on this CPU: real-time factor, and the time to the first sound.

    python -m benchmarks.speech_decoder [--seconds 10] [--threads 2] [--json FILE]

Flow decoder and vocoder have random weights. Times are the least of the runs: seconds on the clock
and CPU seconds of all threads, which other load changes less. The first sound is measured with
codes that come in blocks of ten, as `decode_stream` is used. `--before`: a file of this script from
an older version, whose rows are kept beside the new ones.
"""

from __future__ import annotations

import argparse
import json
import os
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from benchmarks.full_size import processor

from omni_diffusion.codecs.glm_voice.codec import GlmVoice, GlmVoiceConfig
from omni_diffusion.codecs.glm_voice.flow import Flow, FlowConfig
from omni_diffusion.codecs.glm_voice.tokenizer import SpeechTokenizer
from omni_diffusion.codecs.glm_voice.vocoder import HiFT, HiFTConfig
from omni_diffusion.io import files

SETTINGS: dict[str, dict[str, Any]] = {  # fields of FlowConfig
    "10 steps": {"steps": 10},
    "5 steps": {"steps": 5},
    "5 steps, 2 guided": {"steps": 5, "guided_steps": 2},
    "4 steps, 1 guided": {"steps": 4, "guided_steps": 1},
}
BLOCK = 10  # codes that arrive at once


def codec() -> GlmVoice:
    torch.manual_seed(0)
    config = GlmVoiceConfig.official()
    small = replace(config.tokenizer, layers=1, d_model=20, ffn=20)  # encodes nothing here
    tokenizer = SpeechTokenizer(small).eval()
    return GlmVoice(tokenizer, Flow(FlowConfig()).eval(), HiFT(HiFTConfig.official()).eval())


def least(work: Callable[[], Any], runs: int) -> dict[str, float]:
    """The least seconds and CPU seconds of some runs."""
    times = []
    for _ in range(runs):
        start, cpu = time.perf_counter(), time.process_time()
        work()
        times.append((time.perf_counter() - start, time.process_time() - cpu))
    return {
        "seconds": round(min(row[0] for row in times), 3),
        "cpu_seconds": round(min(row[1] for row in times), 3),
    }


def first_sound(voice: GlmVoice, ids: torch.Tensor) -> None:
    """Decode until the stream gives its first samples."""
    for waveform in voice.decode_stream(torch.split(ids, BLOCK)):
        if waveform.samples.numel():
            return


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seconds", type=float, default=10.0, help="of speech (default 10)")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--only", help="settings, separated by semicolons (default: all)")
    parser.add_argument("--before", type=Path)
    parser.add_argument("--json", type=Path, default=Path("benchmarks/results/speech-decoder.json"))
    given = parser.parse_args()
    torch.set_num_threads(given.threads)
    voice = codec()
    ids = torch.randint(voice.vocabulary_size, (round(given.seconds * voice.codes_per_second),))
    mel = torch.randn(80, voice.flow.lengths(len(ids)))
    rows: dict[str, Any] = {}
    with torch.no_grad():
        rows["vocoder"] = least(lambda: voice.vocoder.decode(mel), given.runs)
        for name, changes in SETTINGS.items():
            if given.only is not None and name not in given.only.split(";"):
                continue
            voice.flow.config = replace(FlowConfig(), **changes)
            rows[f"flow, {name}"] = least(lambda: voice.flow.sample(ids[None]), given.runs)
            rows[f"first sound, {name}"] = least(lambda: first_sound(voice, ids), given.runs)
            print(json.dumps(rows), flush=True)
    results = {
        "speech_seconds": given.seconds,
        "threads": given.threads,
        "load": round(os.getloadavg()[0], 1),
        "processor": processor(),
        "torch": torch.__version__,
        "rows": rows,
    }
    if given.before is not None:
        results["before"] = json.loads(given.before.read_text())["rows"]
    files.write_text(given.json, json.dumps(results, indent=1) + "\n")


if __name__ == "__main__":
    main()
