"""What fewer steps and bfloat16 cost the shipped flow decoder.

    python benchmarks/flow_steps.py [--lines 32] [--json benchmarks/results/flow-steps.json]

Held-out sentences in the answer voice are brought to codes and back. Told are the error of the mel
against 100 steps (as a share of its variance) and the word errors that Whisper base makes of the
sound. For seconds see full_size_codecs.py.
"""

from __future__ import annotations

import argparse
import json
from dataclasses import replace
from pathlib import Path

import torch
from rich.progress import track

from omni_diffusion import OmniModel
from omni_diffusion.evaluation.scoring import share
from omni_diffusion.evaluation.speech import WhisperJudge, word_errors
from omni_diffusion.io import files
from omni_diffusion.mini.recordings import Bank
from omni_diffusion.models.omni import SHIPPED

KINDS = (
    *((steps, "float32") for steps in (10, 20, 6, 5, 4, 3, 2, 1)),
    *((steps, "bfloat16") for steps in (10, 5)),
)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--lines", type=int, default=32)
    parser.add_argument("--json", type=Path, default=Path("benchmarks/results/flow-steps.json"))
    given = parser.parse_args()
    torch.set_num_threads(1)
    codec = OmniModel.open().codecs.speech
    flow, plain, judge = codec.flow, codec.flow.config, WhisperJudge.open()
    said = Bank.open(SHIPPED / "bank").sample("answer", 0, given.lines)
    codes = [codec.encode(each.waveform) for each in said]
    exact = [flow.sample(ids[None], steps=100)[0] for ids in codes]
    spread = torch.cat(exact, 1).var()
    rows = []
    for steps, precision in KINDS:
        flow.config = replace(plain, steps=steps, precision=precision)
        error = 0.0
        marks = []
        title = f"{steps} steps, {precision}"
        for ids, wanted, each in track(list(zip(codes, exact, said, strict=True)), title):
            mel = flow.sample(ids[None])[0]
            error += float((mel - wanted).square().mean() / spread) / len(codes)
            marks.append(word_errors(each.text, judge.transcribe(codec.decode(ids))))
        row = {
            "steps": steps,
            "precision": precision,
            "mel_error": round(error, 5),
            "wer": round(share(marks), 4),
        }
        rows.append(row)
        print(row, flush=True)
    files.write_text(given.json, json.dumps({"lines": len(said), "rows": rows}, indent=1) + "\n")


if __name__ == "__main__":
    main()
