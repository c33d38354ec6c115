"""Kill training with `kill -9` at random moments, and show that it ends as if nothing had been.

    python -m scripts.crash_check [--kills 20] [--seed 0] [--json FILE]

A small model is trained through the command line, on shards of pictures and sounds made here. One
run is left in peace, another is killed and started again with `--resume auto` until it is through:
by one process, by two under torchrun (one of them killed, or all and torchrun too), and by two,
then one, then two. After every kill each state that bears its name is compared with the peaceful
run's of the same step; at the end the model, the last state and the figures of all steps are.
Exits with 1 where anything differs.

A third of the moments lie anywhere from the start of a process on, a third after some step, a third
while a state is being written.
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
from omni_diffusion.data.pretokenize import Worker
from omni_diffusion.data.shard_store import Row, Shards
from omni_diffusion.io import files
from omni_diffusion.models.omni import OmniModel
from omni_diffusion.training.checkpoint import PARTIAL
from omni_diffusion.training.denoising import DenoisingObjective
from omni_diffusion.training.finetune import Plan, begin

RESULTS = Path("benchmarks/results/crash-check.json")
CLOCK = ("seconds_a_step", "waited_seconds")  # figures that are no function of the run
SAVE_STEPS = 3
SAMPLES = 6
POLL = 0.001  # seconds
PATIENCE = 300.0  # seconds until a run counts as stuck


@dataclass
class Told:
    """What came of one part; `equal` says of each comparison whether all agreed."""

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
    given = parser.parse_args()
    began = time.monotonic()
    with tempfile.TemporaryDirectory() as scratch:
        check = Check(Path(scratch), given.seed)
        parts = [
            check.one(10 * given.kills, given.kills),
            check.two(12 * given.kills_of_two, given.kills_of_two),
            check.resharded(36),
        ]
    rows = [asdict(part) for part in parts]
    spent = os.times()
    made = {
        "seed": given.seed,
        "torch": torch.__version__,
        "cpu_seconds": round(sum(spent[:4])),
        "wall_seconds": round(time.monotonic() - began),
        "parts": rows,
    }
    print(json.dumps(made, indent=2))
    files.write_text(given.json, json.dumps(made, indent=2) + "\n")
    if not all(all(part.equal.values()) for part in parts):
        sys.exit(1)


class Check:
    """Makes model and shards in a folder, and runs in it."""

    def __init__(self, folder: Path, seed: int = 0) -> None:
        self.folder, self.seed = folder, seed
        self.rng = random.Random(seed)
        make(folder)

    # ------------------------------------------------------------------------------------- parts
    def one(self, steps: int, kills: int) -> Told:
        """One process, killed at moments of all kinds."""
        told = Told("1", steps)
        startup = self._peace("peace-1", steps, 1)
        kinds = ["anywhere", "step", "save"] * (kills // 3) + ["save"] * (kills % 3)
        self.rng.shuffle(kinds)
        out = self.folder / "killed-1"
        for kind in kinds:
            run = Run(self._command(out, steps, 1), out)
            run.wait(self._moment(run, kind, startup))
            self._kill(run, run.everyone(), "peace-1", told)
            self._compare_states("peace-1", out, told)
        self._end(out, steps, 1, told)
        self._compare("peace-1", out, told)
        told.equal["rows of every epoch, each once"] = self._drawn("peace-1", steps)
        return told

    def two(self, steps: int, kills: int) -> Told:
        """Two processes under torchrun, which starts both again when one is killed."""
        told = Told("2", steps)
        startup = self._peace("peace-2", steps, 2)
        out = self.folder / "killed-2"
        run = Run(self._command(out, steps, 2, restarts=kills), out)
        for number in range(kills):
            run.wait(self._moment(run, ("save", "step")[number % 2], startup))
            if number % 2:
                self._kill(run, run.everyone(), "peace-2", told)
                run = Run(self._command(out, steps, 2, restarts=kills), out)
            else:
                self._kill(run, [self.rng.choice(run.workers())], "peace-2", told)
            self._compare_states("peace-2", out, told)
        run.end()
        told.restarts += 1
        self._compare("peace-2", out, told)
        return told

    def resharded(self, steps: int) -> Told:
        """Two processes, then one, then two; the figures are those of one in peace."""
        told = Told("2, 1, 2", steps)
        self._peace("peace", steps, 1)
        out = self.folder / "resharded"
        for processes in (2, 1):
            run = Run(self._command(out, steps, processes), out)
            run.wait(self._moment(run, "step", 0.0))
            self._kill(run, run.everyone(), "peace", told)
        self._end(out, steps, 2, told)
        peace, ours = figures(self.folder / "peace"), figures(out)
        told.equal["every step once, in order"] = [row["step"] for row in ours] == [
            *range(1, steps + 1)
        ]
        told.largest_loss_difference = max(
            abs(a["loss"] - b["loss"]) for a, b in zip(peace, ours, strict=True)
        )
        told.equal["losses within 1e-4"] = told.largest_loss_difference < 1e-4
        return told

    # -------------------------------------------------------------------------------------- runs
    def _command(self, out: Path, steps: int, processes: int, restarts: int = 0) -> list[str]:
        keep = steps if out.name.startswith("peace") else 2
        torchrun = ["torch.distributed.run", "--standalone", "--nproc_per_node", str(processes)]
        return [
            *(sys.executable, "-m"),
            *([*torchrun, "--max-restarts", str(restarts), "-m"] if processes > 1 else []),
            *("omni_diffusion", "train", "manifest", "--resume", "auto"),
            *("--data", str(self.folder / "shards"), "--model", str(self.folder / "model")),
            *("--out", str(out), "--steps", str(steps), "--samples", str(SAMPLES)),
            *("--lr", "1e-3", "--seed", str(self.seed)),
            *("--report-to", "none", "--log-every", "1", "--sample-every", "0"),
            *("--save-steps", str(SAVE_STEPS), "--keep", str(keep)),
        ]

    def _peace(self, name: str, steps: int, processes: int) -> float:
        """An unbroken run that keeps all its states; seconds until its first step."""
        out = self.folder / name
        run = Run(self._command(out, steps, processes), out)
        began = time.monotonic()
        run.wait(lambda: run.step > 0)
        startup = time.monotonic() - began
        run.end()
        return startup

    def _end(self, out: Path, steps: int, processes: int, told: Told) -> None:
        Run(self._command(out, steps, processes), out).end()
        told.restarts += 1

    def _moment(self, run: Run, kind: str, startup: float) -> Callable[[], bool]:
        """When to kill: says whether the moment has come."""
        first = run.step
        if kind == "anywhere":
            at = time.monotonic() + self.rng.uniform(0, 1.5 * startup)
            return lambda: time.monotonic() > at or run.step >= first + 9
        if kind == "step":
            wanted = self.rng.randint(3, 9)
            return After(lambda: run.step >= first + wanted, self.rng.uniform(0, 0.1))
        seen, turn = run.partial(), self.rng.randint(2, 3)
        return After(Turns(run.partial, seen, turn), self.rng.uniform(0, 0.01))

    def _kill(self, run: Run, victims: Sequence[int], peace: str, told: Told) -> None:
        if run.process.poll() is not None:
            raise SystemExit(f"the run was through before its kill: {run.rest()}")
        reached, before = run.step, run.begun
        for victim in victims:
            os.kill(victim, signal.SIGKILL)
        told.kills += 1
        if len(victims) == 1 and run.process.pid not in victims:
            told.kills_of_one_process += 1
        else:
            run.rest()
        told.restarts += told.kills > 1
        told.kills_before_the_first_step += reached == before
        newest = max(states(run.out), default=0)
        told.steps_done_again += run.step - newest
        for name in run.partial():
            step = int(name[5:].removesuffix(PARTIAL))
            whole = states(self.folder / peace).get(step)
            told.kills_while_one_was_removed += step < newest
            if step > newest:
                told.kills_while_a_state_was_written += 1
                path = run.out / "training" / "checkpoints" / name
                told.kills_that_left_it_incomplete += whole is None or not alike(whole, path)

    # ------------------------------------------------------------------------------- comparisons
    def _compare_states(self, peace: str, out: Path, told: Told) -> None:
        """Every state that bears its name, file by file with the peaceful run's."""
        for step, path in states(out).items():
            same = alike(path, states(self.folder / peace)[step])
            told.states_compared += 1
            told.equal["states after every kill"] = (
                told.equal.get("states after every kill", True) and same
            )

    def _compare(self, peace: str, out: Path, told: Told) -> None:
        whole = self.folder / peace
        kept, ours = timeless(figures(whole)), timeless(figures(out))
        told.equal |= {
            "every step once, in order": [row["step"] for row in ours]
            == [*range(1, told.steps + 1)],
            "figures of all steps": kept == ours,
            "model": alike(whole / "model", out / "model"),
            "last state": alike(states(whole)[told.steps], states(out)[told.steps]),
        }

    def _drawn(self, peace: str, steps: int) -> bool:
        """Whether a run drew every row once in an epoch, and its figures are those of these draws.

        The rows of each step are drawn anew; that they are those of the run is told by the number
        of tokens of each step, which hangs on the rows, and on what else was drawn for them.
        """
        plan = Plan(
            (self.folder / "shards",),
            self.folder / "model",
            steps=steps,
            samples=SAMPLES,
            lr=1e-3,
            seed=self.seed,
        )
        trainer = begin(plan, self.folder / "drawn")
        objective = trainer.objective
        assert isinstance(objective, DenoisingObjective)
        seen = Seen(self.folder / "shards")
        mixture = objective.mixture
        mixture.folders = [seen]  # type: ignore[attr-defined]
        tokens = []
        for step in range(steps):
            groups = mixture.draw(step, trainer._generator(step))
            tokens.append(sum(each.canvas.length for group in groups for each in group.drawn))
        if tokens != [int(row["tokens"]) for row in figures(self.folder / peace)]:
            return False
        for numbers in seen.by_task().values():
            order = [number for number in seen.numbers if number in set(numbers.tolist())]
            starts = [*range(0, len(order), len(numbers)), len(order)]
            epochs = [order[a:b] for a, b in pairwise(starts)]
            if any(len(set(epoch)) != len(epoch) for epoch in epochs):
                return False
        return True


class Run:
    """A command that trains into a folder, in processes that can be watched and killed."""

    def __init__(self, command: Sequence[str], out: Path) -> None:
        self.out = out
        self.process = subprocess.Popen(
            command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True
        )
        self.begun = self.step

    @property
    def step(self) -> int:
        """The last step whose figures are written."""
        try:
            written = (self.out / "training" / "metrics.jsonl").read_bytes()
        except FileNotFoundError:
            return 0
        return written.count(b"\n")

    def partial(self) -> frozenset[str]:
        """The names of states that are being written or removed."""
        try:
            names = os.listdir(self.out / "training" / "checkpoints")
        except FileNotFoundError:
            names = []
        return frozenset(name for name in names if name.endswith(PARTIAL))

    def wait(self, come: Callable[[], bool]) -> None:
        """Until the moment has come; raises SystemExit where the run ends before."""
        until = time.monotonic() + PATIENCE
        while not come():
            if self.process.poll() is not None:
                raise SystemExit(f"the run was through too soon: {self.rest()}")
            if time.monotonic() > until:
                raise SystemExit(f"{self.out.name} is stuck at step {self.step}")
            time.sleep(POLL)

    def end(self) -> None:
        """Wait until it is through; raises SystemExit where it fails."""
        _, told = self.process.communicate(timeout=PATIENCE)
        if self.process.returncode:
            raise SystemExit(f"a run ended with {self.process.returncode}: {told}")

    def rest(self) -> str:
        """What it said."""
        return self.process.communicate()[1]

    def workers(self) -> list[int]:
        """The processes that train, of those that torchrun started."""
        return [*descendants(self.process.pid)]

    def everyone(self) -> list[int]:
        """All processes, the one that starts others first."""
        return [self.process.pid, *descendants(self.process.pid)]


class After:
    """Some seconds after something came."""

    def __init__(self, come: Callable[[], bool], seconds: float) -> None:
        self.come, self.seconds = come, seconds
        self.since: float | None = None

    def __call__(self) -> bool:
        if self.since is None and self.come():
            self.since = time.monotonic()
        return self.since is not None and time.monotonic() - self.since >= self.seconds


class Turns:
    """The so-many-th time that a name comes that was not there."""

    def __init__(self, names: Callable[[], frozenset[str]], seen: frozenset[str], turn: int):
        self.names, self.seen, self.turn = names, seen, turn

    def __call__(self) -> bool:
        now = self.names()
        self.turn -= len(now - self.seen)
        self.seen |= now
        return self.turn <= 0


class Seen(Shards):
    """Shards that remember which rows were read, in order."""

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        self.numbers: list[int] = []

    def __getitem__(self, number: int) -> Row:
        self.numbers.append(number)
        return super().__getitem__(number)


def descendants(pid: int) -> Iterator[int]:
    """The processes that a process started, and those that they did."""
    try:
        children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    except FileNotFoundError:
        return
    for child in map(int, children):
        yield child
        yield from descendants(child)


def states(out: Path) -> dict[int, Path]:
    """The states that bear their names, by step."""
    found = (out / "training" / "checkpoints").glob("step-*")
    return {int(path.name[5:]): path for path in found if path.suffix != PARTIAL}


def figures(out: Path) -> list[dict[str, float]]:
    """The rows of `metrics.jsonl`."""
    lines = (out / "training" / "metrics.jsonl").read_text().splitlines()
    return [json.loads(line) for line in lines]


def timeless(rows: Sequence[dict[str, float]]) -> list[dict[str, float]]:
    """The same without the figures of the clock."""
    return [{name: value for name, value in row.items() if name not in CLOCK} for row in rows]


def alike(one: Path, other: Path) -> bool:
    """Whether two folders hold the same files of the same content."""
    names = [{str(p.relative_to(root)) for p in root.rglob("*")} for root in (one, other)]
    return names[0] == names[1] and all(
        content(one / name) == content(other / name) for name in names[0] if (one / name).is_file()
    )


def content(path: Path) -> tuple[object, bytes]:
    """A file's bytes; the header of safetensors is read, for it lists its notes in any order."""
    data = path.read_bytes()
    if path.suffix != ".safetensors" or len(data) < 8:
        return None, data
    stop = 8 + int.from_bytes(data[:8], "little")
    try:
        return json.loads(data[8:stop]), data[stop:]
    except ValueError:  # cut off
        return None, data


def make(folder: Path) -> None:
    """Thirty-two samples of two tasks, as shards, and a model whose state takes 9 MB."""
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
    Worker(manifest, folder / "shards", model.codecs).run(of=3)


def sample(asked: str, answered: str, file: str) -> dict[str, object]:
    """A row of a manifest."""
    kind = "audios" if file.endswith("wav") else "images"
    roles = ({"role": "user", "content": asked}, {"role": "assistant", "content": answered})
    return {"messages": roles, kind: [file]}


if __name__ == "__main__":
    main()
