"""Kill training runs with `kill -9` and check that they end like an uninterrupted run.

    python -m scripts.crash_check [--kills 20] [--seed 0] [--json FILE]

A small model is trained through the command line on shards of images and audio that are made here.
A reference run is not interrupted. Other runs are killed and restarted with `--resume auto` until
they finish: with one process; with two under torchrun (one of them is killed, or all and torchrun
too); and with two, then one, then two. After every kill each complete checkpoint is compared with
the reference run's checkpoint of the same step. At the end the model, the last checkpoint and the
metrics of all steps are compared. The exit code is 1 if anything differs.

A third of the kills happen at any time after the start of a process, a third after some step, and a
third while a checkpoint is being written.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, field, replace
from itertools import pairwise
from pathlib import Path

import torch
from tests.tiny import checkers, tiny_model, tone

from omni_diffusion.backbone.dream import Dream
from omni_diffusion.data.pretokenize import Pretokenizer
from omni_diffusion.data.shard_store import EncodedSample, Shards
from omni_diffusion.io import files
from omni_diffusion.models.omni import OmniModel
from omni_diffusion.training.checkpoint import PARTIAL
from omni_diffusion.training.denoising import DenoisingObjective
from omni_diffusion.training.finetune import Plan, RunOptions, build_trainer

RESULTS = Path("scripts/results/crash-check.json")
TIMINGS = ("seconds_per_step", "data_wait_s")  # metrics that differ between equal runs
SAVE_STEPS = 3
BATCH_SIZE = 6
POLL_INTERVAL = 0.001  # seconds
TIMEOUT = 300.0  # seconds without the awaited event


@dataclass
class PartResult:
    """The result of one part. equal: whether all comparisons of a kind agreed."""

    processes: str
    steps: int
    kills: int = 0
    kills_of_one_process: int = 0
    kills_before_the_first_step: int = 0
    kills_while_a_state_was_written: int = 0
    kills_that_left_it_incomplete: int = 0
    kills_while_one_was_removed: int = 0
    restarts: int = 0
    steps_done_again: int = 0
    states_compared: int = 0
    equal: dict[str, bool] = field(default_factory=dict)
    largest_loss_difference: float = 0.0


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--kills", type=int, default=20, help="of the run by one process")
    parser.add_argument("--kills-of-two", type=int, default=5, help="of the run by two")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--json", type=Path, default=RESULTS)
    options = parser.parse_args()
    start = time.monotonic()
    with tempfile.TemporaryDirectory() as scratch:
        check = Check(Path(scratch), options.seed)
        parts = [
            check.one(10 * options.kills, options.kills),
            check.two(12 * options.kills_of_two, options.kills_of_two),
            check.resharded(36),
        ]
    rows = [asdict(part) for part in parts]
    cpu_times = os.times()
    summary = {
        "seed": options.seed,
        "torch": torch.__version__,
        "cpu_seconds": round(sum(cpu_times[:4])),
        "wall_seconds": round(time.monotonic() - start),
        "parts": rows,
    }
    print(json.dumps(summary, indent=2))
    files.write_text(options.json, json.dumps(summary, indent=2) + "\n")
    if not all(all(part.equal.values()) for part in parts):
        sys.exit(1)


class Check:
    """Makes a model and shards in a folder, and trains in it."""

    def __init__(self, folder: Path, seed: int = 0) -> None:
        self.folder, self.seed = folder, seed
        self.rng = random.Random(seed)
        make(folder)

    # ------------------------------------------------------------------------------------- parts
    def one(self, steps: int, kills: int) -> PartResult:
        """One process, killed at times of all three kinds."""
        result = PartResult("1", steps)
        startup = self._reference("reference-1", steps, 1)
        kinds = ["anywhere", "step", "save"] * (kills // 3) + ["save"] * (kills % 3)
        self.rng.shuffle(kinds)
        out = self.folder / "killed-1"
        for kind in kinds:
            run = Run(self._command(out, steps, 1), out)
            run.wait(self._moment(run, kind, startup))
            self._kill(run, run.everyone(), "reference-1", result)
            self._compare_states("reference-1", out, result)
        self._end(out, steps, 1, result)
        self._compare("reference-1", out, result)
        result.equal["rows of every epoch, each once"] = self._drawn("reference-1", steps)
        return result

    def two(self, steps: int, kills: int) -> PartResult:
        """Two processes under torchrun, which restarts both when one is killed."""
        result = PartResult("2", steps)
        startup = self._reference("reference-2", steps, 2)
        out = self.folder / "killed-2"
        run = Run(self._command(out, steps, 2, restarts=kills), out)
        for number in range(kills):
            run.wait(self._moment(run, ("save", "step")[number % 2], startup))
            if number % 2:
                self._kill(run, run.everyone(), "reference-2", result)
                run = Run(self._command(out, steps, 2, restarts=kills), out)
            else:
                self._kill(run, [self.rng.choice(run.workers())], "reference-2", result)
            self._compare_states("reference-2", out, result)
        run.end()
        result.restarts += 1
        self._compare("reference-2", out, result)
        return result

    def resharded(self, steps: int) -> PartResult:
        """Two processes, then one, then two; compared with one uninterrupted process."""
        result = PartResult("2, 1, 2", steps)
        self._reference("reference", steps, 1)
        out = self.folder / "resharded"
        for processes in (2, 1):
            run = Run(self._command(out, steps, processes), out)
            run.wait(self._moment(run, "step", 0.0))
            self._kill(run, run.everyone(), "reference", result)
        self._end(out, steps, 2, result)
        expected, ours = metrics(self.folder / "reference"), metrics(out)
        result.equal["every step once, in order"] = [row["step"] for row in ours] == [
            *range(1, steps + 1)
        ]
        result.largest_loss_difference = max(
            abs(a["loss"] - b["loss"]) for a, b in zip(expected, ours, strict=True)
        )
        result.equal["losses within 1e-4"] = result.largest_loss_difference < 1e-4
        return result

    # -------------------------------------------------------------------------------------- runs
    def _command(self, out: Path, steps: int, processes: int, restarts: int = 0) -> list[str]:
        keep = steps if out.name.startswith("reference") else 2
        torchrun = ["torch.distributed.run", "--standalone", "--nproc_per_node", str(processes)]
        return [
            *(sys.executable, "-m"),
            *([*torchrun, "--max-restarts", str(restarts), "-m"] if processes > 1 else []),
            *("omni_diffusion", "train", "manifest", "--resume", "auto"),
            *("--data", str(self.folder / "shards"), "--model", str(self.folder / "model")),
            *("--out", str(out), "--steps", str(steps), "--batch-size", str(BATCH_SIZE)),
            *("--lr", "1e-3", "--seed", str(self.seed)),
            *("--report-to", "none", "--log-every", "1", "--sample-every", "0"),
            *("--save-steps", str(SAVE_STEPS), "--keep-checkpoints", str(keep)),
        ]

    def _reference(self, name: str, steps: int, processes: int) -> float:
        """An uninterrupted run that keeps all checkpoints; seconds until its first step."""
        out = self.folder / name
        run = Run(self._command(out, steps, processes), out)
        started = time.monotonic()
        run.wait(lambda: run.step > 0)
        startup = time.monotonic() - started
        run.end()
        return startup

    def _end(self, out: Path, steps: int, processes: int, result: PartResult) -> None:
        Run(self._command(out, steps, processes), out).end()
        result.restarts += 1

    def _moment(self, run: Run, kind: str, startup: float) -> Callable[[], bool]:
        """A call that says whether it is time to kill."""
        first = run.step
        if kind == "anywhere":
            at = time.monotonic() + self.rng.uniform(0, 1.5 * startup)
            return lambda: time.monotonic() > at or run.step >= first + 9
        if kind == "step":
            steps = self.rng.randint(3, 9)
            return After(lambda: run.step >= first + steps, self.rng.uniform(0, 0.1))
        seen, n = run.partial(), self.rng.randint(2, 3)
        return After(NthNewName(run.partial, seen, n), self.rng.uniform(0, 0.01))

    def _kill(self, run: Run, victims: Sequence[int], reference: str, result: PartResult) -> None:
        if run.process.poll() is not None:
            raise SystemExit(f"the run ended before it was killed: {run.errors()}")
        reached, before = run.step, run.first_step
        for victim in victims:
            os.kill(victim, signal.SIGKILL)
        result.kills += 1
        if len(victims) == 1 and run.process.pid not in victims:
            result.kills_of_one_process += 1
        else:
            run.errors()
        result.restarts += result.kills > 1
        result.kills_before_the_first_step += reached == before
        newest = max(checkpoints(run.out), default=0)
        result.steps_done_again += run.step - newest
        for name in run.partial():
            step = int(name[5:].removesuffix(PARTIAL))
            whole = checkpoints(self.folder / reference).get(step)
            result.kills_while_one_was_removed += step < newest
            if step > newest:
                result.kills_while_a_state_was_written += 1
                path = run.out / "training" / "checkpoints" / name
                result.kills_that_left_it_incomplete += whole is None or not alike(whole, path)

    # ------------------------------------------------------------------------------- comparisons
    def _compare_states(self, reference: str, out: Path, result: PartResult) -> None:
        """Compare all complete checkpoints with those of the reference run, file by file."""
        for step, path in checkpoints(out).items():
            same = alike(path, checkpoints(self.folder / reference)[step])
            result.states_compared += 1
            result.equal["states after every kill"] = (
                result.equal.get("states after every kill", True) and same
            )

    def _compare(self, reference: str, out: Path, result: PartResult) -> None:
        whole = self.folder / reference
        expected, ours = without_timings(metrics(whole)), without_timings(metrics(out))
        result.equal |= {
            "every step once, in order": [row["step"] for row in ours]
            == [*range(1, result.steps + 1)],
            "metrics of all steps": expected == ours,
            "model": alike(whole / "model", out / "model"),
            "last state": alike(checkpoints(whole)[result.steps], checkpoints(out)[result.steps]),
        }

    def _drawn(self, reference: str, steps: int) -> bool:
        """Whether a run drew every sample once an epoch.

        The samples of each step are drawn again. The number of tokens of each step shows that they
        are those of the run: it depends on the samples and on their random lengths.
        """
        plan = Plan(
            (self.folder / "shards",),
            self.folder / "model",
            steps=steps,
            batch_size=BATCH_SIZE,
            lr=1e-3,
            seed=self.seed,
        )
        trainer = build_trainer(plan, self.folder / "drawn", options=RunOptions(report_to=()))
        objective = trainer.objective
        assert isinstance(objective, DenoisingObjective)
        recorded = RecordedShards(self.folder / "shards")
        mixture = objective.mixture
        mixture.folders = [recorded]  # type: ignore[attr-defined]
        tokens = []
        for step in range(steps):
            groups = mixture.draw(step, trainer._generator(step))
            tokens.append(sum(each.canvas.length for group in groups for each in group.drawn))
        if tokens != [int(row["tokens"]) for row in metrics(self.folder / reference)]:
            return False
        for numbers in recorded.by_task().values():
            order = [number for number in recorded.numbers if number in set(numbers.tolist())]
            starts = [*range(0, len(order), len(numbers)), len(order)]
            epochs = [order[a:b] for a, b in pairwise(starts)]
            if any(len(set(epoch)) != len(epoch) for epoch in epochs):
                return False
        return True


class Run:
    """A training command whose processes can be watched and killed."""

    def __init__(self, command: Sequence[str], out: Path) -> None:
        self.out = out
        self.process = subprocess.Popen(
            command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True
        )
        self.first_step = self.step

    @property
    def step(self) -> int:
        """The last step in the log."""
        try:
            written = (self.out / "training" / "metrics.jsonl").read_bytes()
        except FileNotFoundError:
            return 0
        return written.count(b"\n")

    def partial(self) -> frozenset[str]:
        """The names of checkpoints that are being written or deleted."""
        try:
            names = os.listdir(self.out / "training" / "checkpoints")
        except FileNotFoundError:
            names = []
        return frozenset(name for name in names if name.endswith(PARTIAL))

    def wait(self, condition: Callable[[], bool]) -> None:
        """Wait for the condition; raises SystemExit if the run ends first."""
        until = time.monotonic() + TIMEOUT
        while not condition():
            if self.process.poll() is not None:
                raise SystemExit(f"the run ended too early: {self.errors()}")
            if time.monotonic() > until:
                raise SystemExit(f"{self.out.name} is stuck at step {self.step}")
            time.sleep(POLL_INTERVAL)

    def end(self) -> None:
        """Wait until it ends; raises SystemExit if it fails."""
        _, result = self.process.communicate(timeout=TIMEOUT)
        if self.process.returncode:
            raise SystemExit(f"a run ended with {self.process.returncode}: {result}")

    def errors(self) -> str:
        """Its stderr, once it has ended."""
        return self.process.communicate()[1]

    def workers(self) -> list[int]:
        """The training processes that torchrun started."""
        return [*descendants(self.process.pid)]

    def everyone(self) -> list[int]:
        """All processes, the parent first."""
        return [self.process.pid, *descendants(self.process.pid)]


class After:
    """Some seconds after a condition became true."""

    def __init__(self, condition: Callable[[], bool], seconds: float) -> None:
        self.condition, self.seconds = condition, seconds
        self.since: float | None = None

    def __call__(self) -> bool:
        if self.since is None and self.condition():
            self.since = time.monotonic()
        return self.since is not None and time.monotonic() - self.since >= self.seconds


class NthNewName:
    """Becomes true when the n-th new name appears."""

    def __init__(self, names: Callable[[], frozenset[str]], seen: frozenset[str], n: int):
        self.names, self.seen, self.n = names, seen, n

    def __call__(self) -> bool:
        now = self.names()
        self.n -= len(now - self.seen)
        self.seen |= now
        return self.n <= 0


class RecordedShards(Shards):
    """Shards that record which samples were read, in order."""

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        self.numbers: list[int] = []

    def __getitem__(self, number: int) -> EncodedSample:
        self.numbers.append(number)
        return super().__getitem__(number)


def descendants(pid: int) -> Iterator[int]:
    """The child processes of a process, and theirs."""
    try:
        children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    except FileNotFoundError:
        return
    for child in map(int, children):
        yield child
        yield from descendants(child)


def checkpoints(out: Path) -> dict[int, Path]:
    """The complete checkpoints, by step."""
    paths = (out / "training" / "checkpoints").glob("step-*")
    return {int(path.name[5:]): path for path in paths if path.suffix != PARTIAL}


def metrics(out: Path) -> list[dict[str, float]]:
    """The records of `metrics.jsonl`."""
    lines = (out / "training" / "metrics.jsonl").read_text().splitlines()
    return [json.loads(line) for line in lines]


def without_timings(rows: Sequence[dict[str, float]]) -> list[dict[str, float]]:
    """The records without TIMINGS."""
    return [{name: value for name, value in row.items() if name not in TIMINGS} for row in rows]


def alike(one: Path, other: Path) -> bool:
    """Whether two folders hold the same files with the same content."""
    names = [{str(p.relative_to(root)) for p in root.rglob("*")} for root in (one, other)]
    return names[0] == names[1] and all(
        content(one / name) == content(other / name) for name in names[0] if (one / name).is_file()
    )


def content(path: Path) -> tuple[object, bytes]:
    """A file's bytes; the header of safetensors is parsed, since its order of keys varies."""
    data = path.read_bytes()
    if path.suffix != ".safetensors" or len(data) < 8:
        return None, data
    stop = 8 + int.from_bytes(data[:8], "little")
    try:
        return json.loads(data[8:stop]), data[stop:]
    except ValueError:  # incomplete
        return None, data


def make(folder: Path) -> None:
    """Make 32 samples of two tasks as shards, and a model whose checkpoint takes 9 MB."""
    tone().write(folder / "hum.wav")
    checkers(20).write(folder / "squares.png")
    rows = [
        sample("Convert the speech to text.\n<|audio|>", "dog " * (1 + n % 7) + str(n), "hum.wav")
        for n in range(11)
    ]
    rows += [
        sample(f"what is this, {n}?\n<|image|>", "apple " * (1 + n % 5) + str(n), "squares.png")
        for n in range(21)
    ]
    manifest = folder / "train.jsonl"
    manifest.write_text("".join(json.dumps(each) + "\n" for each in rows))
    tiny = tiny_model()
    sizes = replace(
        tiny.config.backbone,
        hidden_size=128,
        num_layers=3,
        num_heads=4,
        num_kv_heads=2,
        head_dim=32,
        intermediate_size=256,
    )
    torch.manual_seed(0)
    model = OmniModel(replace(tiny.config, backbone=sizes), tiny.codecs, Dream(sizes))
    model.save(folder / "model")
    Pretokenizer(manifest, folder / "shards", model.codecs).run(of=3)


def sample(prompt: str, answer: str, file: str) -> dict[str, object]:
    """A line of a manifest."""
    kind = "audios" if file.endswith("wav") else "images"
    roles = ({"role": "user", "content": prompt}, {"role": "assistant", "content": answer})
    return {"messages": roles, kind: [file]}


if __name__ == "__main__":
    main()
