"""Everything that is measured on a GPU, as one script of eight minutes, in order of worth.

    python -m benchmarks.gpu [--json benchmarks/results/gpu.json] [--keep FOLDER]
    python -m benchmarks.gpu --device cpu --tiny        # the rehearsal, seconds on a laptop

Each part (see `gpu_parts`) is a process of its own with a time limit: what fails or hangs costs
itself only. A part writes each figure as soon as it has it, so a part that is stopped keeps what it
measured, and the results are written after every part. Nothing is downloaded; what a part needs and
does not find (torchao, a compiler) is noted in its place.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

BUDGET = 480.0  # seconds of all parts
GRACE = 5.0  # seconds between the end that a part is told and its being stopped
LAST_LINES = 12  # of an error that are kept
PACKAGES = ("safetensors", "tokenizers", "soundfile", "soxr", "typer", "rich", "torchao", "peft")
RESULTS = Path("benchmarks/results/gpu.json")


@dataclass(frozen=True)
class Part:
    """One part: its name in `gpu_parts`, its time limit, and the fewest seconds worth starting."""

    name: str
    seconds: float
    least: float = 15.0


PARTS = (
    Part("machine", 30),
    Part("backbone", 90),
    Part("speech", 45),
    Part("parity", 60),
    Part("formats", 60),
    Part("training_step", 45),
    Part("load", 100, least=60),
    Part("train_small", 240, least=40),  # takes what is left
)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--device", default="cuda", help="cuda, cuda:1 or cpu (default cuda)")
    parser.add_argument("--tiny", action="store_true", help="the rehearsal: every part, small")
    parser.add_argument("--json", type=Path, default=RESULTS, help=f"default {RESULTS}")
    parser.add_argument("--keep", type=Path, help="folder for the small model that is trained")
    parser.add_argument("--seconds", type=float, default=BUDGET, help=f"default {BUDGET:g}")
    parser.add_argument("--parts", help="only these, separated by commas")
    given = parser.parse_args()
    names = given.parts.split(",") if given.parts else [part.name for part in PARTS]
    unknown = sorted(set(names) - {part.name for part in PARTS})
    if unknown:
        parser.error(f"no part is called {unknown[0]!r}; {', '.join(p.name for p in PARTS)} are")
    chosen = [part for part in PARTS if part.name in names]
    run(chosen, given.device, given.json, given.seconds, tiny=given.tiny, keep=given.keep)


def run(
    parts: list[Part],
    device: str,
    path: Path,
    seconds: float,
    *,
    tiny: bool = False,
    keep: Path | None = None,
) -> dict[str, Any]:
    """Run the parts one after the other and write `path` after each; returns what it holds."""
    began = time.monotonic()
    results: dict[str, Any] = {
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "command": " ".join(["python -m benchmarks.gpu", *sys.argv[1:]]),
        "device": device,
        "tiny": tiny,
        "missing_packages": [name for name in PACKAGES if importlib.util.find_spec(name) is None],
        "parts": {},
    }
    for part in parts:
        left = seconds - (time.monotonic() - began) - GRACE
        limit = left if part is PARTS[-1] else min(part.seconds, left)
        if limit < part.least:
            results["parts"][part.name] = {"status": "skipped", "seconds_left": round(left, 1)}
        else:
            results["parts"][part.name] = run_part(part.name, device, limit, tiny, keep)
        results["seconds"] = round(time.monotonic() - began, 1)
        write(path, results)
        print(json.dumps({part.name: results["parts"][part.name]}), flush=True)
    return results


def run_part(name: str, device: str, limit: float, tiny: bool, keep: Path | None) -> dict[str, Any]:
    """One part in a process: its figures, how it ended, and its seconds."""
    began = time.monotonic()
    with tempfile.TemporaryDirectory() as scratch:
        notes, log = Path(scratch, "notes.json"), Path(scratch, "log")
        command = [sys.executable, "-m", "benchmarks.gpu_parts", name, "--notes", str(notes)]
        command += ["--device", device, "--seconds", str(limit)]
        command += ["--tiny"] if tiny else []
        command += ["--keep", str(keep)] if keep else []
        with log.open("wb") as stream:
            # a group of its own, so that the part's children are stopped with it
            child = subprocess.Popen(
                command, stdout=stream, stderr=subprocess.STDOUT, start_new_session=True
            )
            try:
                code = child.wait(limit + GRACE)
                status = "ok" if code == 0 else "failed"
            except subprocess.TimeoutExpired:
                status = "stopped: it ran out of time"
            finally:
                stop(child)
        row = {"status": status, "seconds": round(time.monotonic() - began, 1)}
        if status != "ok":
            row["log"] = log.read_text(errors="replace").splitlines()[-LAST_LINES:]
        return row | (json.loads(notes.read_text()) if notes.exists() else {})


def stop(child: subprocess.Popen[bytes]) -> None:
    """End a process and its children, if they still run."""
    with suppress(ProcessLookupError):
        os.killpg(child.pid, signal.SIGKILL)
    child.wait()


def write(path: Path, results: dict[str, Any]) -> None:
    """Write the results in one step, with the standard library alone."""
    temporary = path.with_suffix(".partial")
    temporary.write_text(json.dumps(results, indent=1) + "\n")
    temporary.replace(path)


if __name__ == "__main__":
    main()
