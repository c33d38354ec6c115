"""Quality of the shipped flow decoder with fewer steps, fewer guided ones, and in bfloat16.

    python -m benchmarks.flow_steps [--lines 32] [--json benchmarks/results/flow-steps.json]

Held-out sentences in the answer voice are encoded and decoded. The results are the squared error of
the mel spectrogram against 100 steps, as a fraction of its variance, and the word error rate of
Whisper base on the decoded speech. Rows that the file has are kept; for seconds see
full_size_codecs.py.
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

KINDS = (  # steps, how many of them are guided (None = all), precision
    *((steps, None, "float32") for steps in (10, 20, 6, 5, 4, 3, 2, 1)),
    *((steps, None, "bfloat16") for steps in (10, 5)),
    *((steps, guided, "float32") for steps, guided in ((10, 5), (5, 2), (5, 0))),
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
    made = json.loads(args.json.read_text()) if args.json.exists() else {"lines": len(clips)}
    if made["lines"] != len(clips):
        parser.error(f"{args.json} is about {made['lines']} lines, not {len(clips)}; move it")
    rows = made.setdefault("rows", [])
    known = {(row["steps"], row["guided_steps"], row["precision"]) for row in rows}
    for steps, guided, precision in (kind for kind in KINDS if kind not in known):
        flow.config = replace(plain, steps=steps, guided_steps=guided, precision=precision)
        error = 0.0
        scores = []
        title = f"{steps} steps, {'all' if guided is None else guided} guided, {precision}"
        for ids, target, clip in track(list(zip(codes, references, clips, strict=True)), title):
            mel = flow.sample(ids[None])[0]
            error += float((mel - target).square().mean() / variance) / len(codes)
            scores.append(word_errors(clip.text, judge.transcribe(codec.decode(ids))))
        row = {
            "steps": steps,
            "guided_steps": guided,
            "precision": precision,
            "mel_error": round(error, 5),
            "wer": round(ratio(scores), 4),
        }
        rows.append(row)
        files.write_text(args.json, json.dumps(made, indent=1) + "\n")
        print(row, flush=True)


if __name__ == "__main__":
    main()
