"""The published model end to end with random weights: write, convert, open, and answer every task.

    python -m benchmarks.full_size --work FOLDER [--scale 1.0] [--steps 10] [--json FILE]

The folders of `scripts.random_checkpoint` are written to FOLDER (19 GB at full size) and converted
(as much again) unless they are there. Every task is then answered twice: by
`omni-diffusion run`, whose exit code, seconds and peak memory are those of a whole process; and in
one process that measures each phase. `blocks_share` is the part of a step that the transformer's
blocks take; head and sampling are the rest. `resident` memory counts mapped pages of the files,
which the system may take back; `private` memory does not. `--scale` reduces every part; the results
are then written to full-size-reduced.json, and say so.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import platform
import re
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import torch
from scripts import random_checkpoint

from omni_diffusion.demo import demo
from omni_diffusion.engine import runner
from omni_diffusion.engine.ask import Inputs, ask
from omni_diffusion.engine.prepare import decode, prepare
from omni_diffusion.engine.runner import GuidedCanvas
from omni_diffusion.io import files
from omni_diffusion.models.dtypes import BACKBONE_DTYPES
from omni_diffusion.models.omni import OmniModel
from omni_diffusion.models.sizes import Work, forward_flops, matmul_peak

RESULTS = Path("benchmarks/results")
POLL = 0.01  # seconds between looks at the memory
INPUTS = Path(demo.__file__).parent / "inputs"


@dataclass(frozen=True)
class Example:
    """A task with its inputs."""

    task: str
    text: str | None = None
    image: str | None = None
    speech: str | None = None
    mask: str | None = None

    def options(self) -> list[str]:
        """Of `omni-diffusion run`."""
        words = {"--text": self.text, "--mask": self.mask}
        media = {"--image": self.image, "--speech": self.speech}
        words |= {name: str(INPUTS / file) for name, file in media.items() if file}
        return [str(word) for name, value in words.items() if value for word in (name, value)]

    def inputs(self) -> Inputs:
        """The same, read."""
        paths = [INPUTS / file if file else None for file in (self.image, self.speech)]
        return Inputs.read(self.text, *paths, self.mask)


PICTURE, SPEECH = "penguin-cow.png", "dog.ogg"
EXAMPLES = (
    Example("chat", "is a strawberry a fruit?"),
    Example("asr", speech=SPEECH),
    Example("tts", "there are two dogs on a green background"),
    Example("t2i", "a dog on a yellow background"),
    Example("caption", image=PICTURE),
    Example("vqa", "what is in the picture?", PICTURE),
    Example("s2i", speech=SPEECH),
    Example("svqa", image=PICTURE, speech=SPEECH),
    Example("sqa", speech=SPEECH),
    Example("inpaint", "a dog", PICTURE, mask="0,0,32,32"),
    Example("infill", "a _ dog on a _ background"),
)


class PeakMemory:
    """Watches this process, or another: the most resident and private bytes, and the seconds."""

    def __init__(self, pid: int | None = None) -> None:
        self.pid = pid or os.getpid()
        self.peaks = {"RssAnon": 0, "VmRSS": 0}
        self._done = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)

    def __enter__(self) -> Self:
        self.began = time.perf_counter()
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.seconds = time.perf_counter() - self.began
        self._done.set()
        self._thread.join()

    def row(self) -> dict[str, float]:
        """Seconds and gigabytes."""
        return {
            "seconds": round(self.seconds, 3),
            "private_gb": round(self.peaks["RssAnon"] / 1e9, 3),
            "resident_gb": round(self.peaks["VmRSS"] / 1e9, 3),
        }

    def _watch(self) -> None:
        while True:
            for name, value in memory_of(self.pid).items():
                self.peaks[name] = max(self.peaks.get(name, 0), value)
            if self._done.wait(POLL):
                return


def memory_of(pid: int) -> dict[str, int]:
    """Private and resident bytes of a process; empty once it is gone."""
    try:
        text = Path(f"/proc/{pid}/status").read_text()
    except OSError:
        return {}
    rows = re.findall(r"^(RssAnon|VmRSS):\s+(\d+) kB", text, re.M)
    return {name: int(kilobytes) * 1024 for name, kilobytes in rows}


def watched(words: list[str]) -> dict[str, Any]:
    """Run a command; its exit code, last line, seconds and peak memory."""
    child = subprocess.Popen(
        [sys.executable, "-m", "omni_diffusion", *words],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    with PeakMemory(child.pid) as peak:
        output, _ = child.communicate()
    lines = [line for line in output.splitlines() if line.strip()]
    return {"exit_code": child.returncode, "said": lines[-1][:200] if lines else ""} | peak.row()


def phases(folder: Path, dtype: str, steps: int, names: list[str]) -> dict[str, Any]:
    """Seconds and memory of opening, and of each phase of each task, in this process."""
    with PeakMemory() as opened:
        model = OmniModel.open(folder, dtype=BACKBONE_DTYPES[dtype])
    rows: dict[str, Any] = {}
    for example in EXAMPLES:
        if example.task in names:
            rows[example.task] = task_phases(model, example, steps)
            print(json.dumps({example.task: rows[example.task]}), flush=True)
    return {"open": opened.row(), "tasks": rows}


@torch.no_grad()
def task_phases(model: OmniModel, example: Example, steps: int) -> dict[str, Any]:
    with PeakMemory() as encoding:
        prepared = prepare(ask(example.task, example.inputs(), steps=steps), model)
    mask_id = model.vocabulary.mask
    canvas = GuidedCanvas(prepared.canvas, prepared.uncond, prepared.params, mask_id)
    made: list[tuple[float, float]] = []
    with PeakMemory() as denoising:
        while not canvas.state.done:
            start = time.perf_counter()
            logits = runner.logits(model.backbone, [canvas])
            middle = time.perf_counter()
            runner.commit([canvas], logits)
            made.append((time.perf_counter() - start, middle - start))
    with PeakMemory() as decoding:
        answer = decode(canvas.canvas, prepared, model)
    later = made[1:] or made
    step = sum(row[0] for row in later) / len(later)
    tokens = sum(canvas.lengths)
    work = Work(tokens, max(canvas.lengths), prepared.canvas.blanks // 2)
    return {
        "tokens": tokens,
        "steps": len(made),
        "encode": encoding.row(),
        "denoise": denoising.row(),
        "decode": decoding.row(),
        "first_step_s": round(made[0][0], 3),
        "step_s": round(step, 4),
        "blocks_share": round(sum(row[1] for row in later) / sum(row[0] for row in later), 3),
        "gflops": round(forward_flops(model.backbone.config, work) / step / 1e9, 1),
        "parts": [type(part).__name__ for part in answer.parts],
    }


def apart(work: Callable[..., Any], *arguments: object) -> Any:
    """The result of a function in a process of its own, so that its memory is its own."""
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        return pool.apply(work, arguments)


def write_checkpoint(root: Path, scale: float) -> dict[str, float]:
    with PeakMemory() as peak:
        random_checkpoint.write(root, random_checkpoint.reduced(scale))
    return peak.row()


def processor() -> str:
    lines = Path("/proc/cpuinfo").read_text().splitlines()
    names = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return next(names, "?")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--work", type=Path, required=True, help="folder for the model folders")
    parser.add_argument("--scale", type=float, default=1.0)
    parser.add_argument("--steps", type=int, default=10, help="of every answer (default 10)")
    parser.add_argument("--dtype", default="bfloat16", choices=BACKBONE_DTYPES)
    parser.add_argument("--tasks", help="only these, separated by commas (default: all)")
    parser.add_argument("--json", type=Path)
    given = parser.parse_args()
    name = "full-size" if given.scale == 1 else "full-size-reduced"
    path = given.json or RESULTS / f"{name}.json"
    published, ours = given.work / "published", given.work / "ours"
    names = given.tasks.split(",") if given.tasks else [one.task for one in EXAMPLES]
    peak = matmul_peak(dtype=BACKBONE_DTYPES[given.dtype], side=512)
    results: dict[str, Any] = {
        "scale": given.scale,
        "full_size": given.scale == 1,
        "dtype": given.dtype,
        "processor": processor(),
        "threads": torch.get_num_threads(),
        "load": round(os.getloadavg()[0], 1),
        "torch": torch.__version__,
        "python": platform.python_version(),
        "matmul_gflops": round(peak / 1e9, 1),
    }

    def keep(**rows: Any) -> None:
        results.update(rows)
        files.write_text(path, json.dumps(results, indent=1) + "\n")

    if not published.exists():
        keep(write=apart(write_checkpoint, published, given.scale))
    if not ours.exists():
        options = random_checkpoint.convert_options(published)
        keep(convert=watched(["convert", str(published / "omni"), str(ours), *options]))
    stored = sum(file.stat().st_size for file in ours.rglob("*.safetensors"))
    keep(weights_gb=round(stored / 1e9, 3))
    keep(phases=apart(phases, ours, given.dtype, given.steps, names))
    runs: dict[str, Any] = {}
    for example in EXAMPLES:
        if example.task in names:
            words = ["run", example.task, *example.options(), "--model", str(ours)]
            out = given.work / f"{example.task}.out"
            media = {"t2i": ".png", "s2i": ".png", "inpaint": ".png"}
            media |= dict.fromkeys(("tts", "svqa", "sqa"), ".wav")
            words += ["--dtype", given.dtype, "--steps", str(given.steps)]
            if example.task in media:
                words += ["--out", str(out.with_suffix(media[example.task]))]
            runs[example.task] = watched(words)
            print(json.dumps({example.task: runs[example.task]}), flush=True)
            keep(command_line=runs)


if __name__ == "__main__":
    main()
