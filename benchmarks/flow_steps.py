"""Quality of the shipped flow decoder with fewer steps and with bfloat16.

    python benchmarks/flow_steps.py [--lines 32] [--json benchmarks/results/flow-steps.json]

Held-out sentences in the answer voice are encoded and decoded. The results are the squared error of
the mel spectrogram against 100 steps, as a fraction of its variance, and the word error rate of
Whisper base on the decoded speech. For seconds see full_size_codecs.py.
"""

from __future__ import annotations

import argparse
import json
from dataclasses import replace
from pathlib import Path

import torch
from rich.progress import track

from omni_diffusion import OmniModel
from omni_diffusion.evaluation.scoring import ratio
from omni_diffusion.evaluation.speech import WhisperJudge, word_errors
from omni_diffusion.io import files
from omni_diffusion.mini.recordings import Bank
from omni_diffusion.models.omni import SMALL_MODEL

KINDS = (
    *((steps, "float32") for steps in (10, 20, 6, 5, 4, 3, 2, 1)),
    *((steps, "bfloat16") for steps in (10, 5)),
)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--lines", type=int, default=32)
    parser.add_argument("--json", type=Path, default=Path("benchmarks/results/flow-steps.json"))
    args = parser.parse_args()
    torch.set_num_threads(1)
    codec = OmniModel.open().codecs.speech
    flow, plain, judge = codec.flow, codec.flow.config, WhisperJudge.open()
    clips = Bank.open(SMALL_MODEL / "bank").sample("answer", 0, args.lines)
    codes = [codec.encode(clip.waveform) for clip in clips]
    references = [flow.sample(ids[None], steps=100)[0] for ids in codes]
    variance = torch.cat(references, 1).var()
    rows = []
    for steps, precision in KINDS:
        flow.config = replace(plain, steps=steps, precision=precision)
        error = 0.0
        scores = []
        title = f"{steps} steps, {precision}"
        for ids, target, clip in track(list(zip(codes, references, clips, strict=True)), title):
            mel = flow.sample(ids[None])[0]
            error += float((mel - target).square().mean() / variance) / len(codes)
            scores.append(word_errors(clip.text, judge.transcribe(codec.decode(ids))))
        row = {
            "steps": steps,
            "precision": precision,
            "mel_error": round(error, 5),
            "wer": round(ratio(scores), 4),
        }
        rows.append(row)
        print(row, flush=True)
    files.write_text(args.json, json.dumps({"lines": len(clips), "rows": rows}, indent=1) + "\n")


if __name__ == "__main__":
    main()
