import errno
import json
import math
import re
import signal
import time
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from tests.training.tiny_objective import Small, Sums
from torch import Tensor

from omni_diffusion.errors import StorageError, TrainingError
from omni_diffusion.io import weights
from omni_diffusion.training.optim import OptimConfig, learning_rate
from omni_diffusion.training.throughput import ThroughputMeter
from omni_diffusion.training.trainer import LoopConfig, Trainer

STEPS = 7
OPTIM = OptimConfig(lr=0.05, warmup=2, weight_decay=0.1)
CONFIG = LoopConfig(STEPS, seed=3, optim=OPTIM, log_every=1, ema_decay=0.9)


def trainer(folder: Path, objective: Sums | None = None, config: LoopConfig = CONFIG) -> Trainer:
    return Trainer(objective or Sums(), config, folder)


def rows(folder: Path) -> list[dict[str, float]]:
    return [json.loads(row) for row in (folder / "metrics.jsonl").read_text().splitlines()]


def everything(run: Trainer) -> dict[str, Tensor]:
    found = {f"module.{k}": v for k, v in run.objective.module.state_dict().items()}
    found |= {f"ema.{k}": v for k, v in run.ema.items()}
    for index, state in run.optimizer.state_dict()["state"].items():
        found |= {f"optimizer.{index}.{k}": v for k, v in state.items()}
    return {name: value.clone() for name, value in found.items()}


def state_of(run: Trainer) -> Path:
    """The file of the newest state."""
    newest = run.checkpoints.newest()
    assert newest is not None
    (file,) = newest.iterdir()
    return file


def same(a: dict[str, Tensor], b: dict[str, Tensor]) -> bool:
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


def stepped(run: Trainer) -> dict[str, Tensor]:
    """What a step changes at its end; running statistics change on the way."""
    return {k: v for k, v in everything(run).items() if not k.startswith("module.norm.")}


@pytest.fixture(scope="module")
def unbroken(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Tensor]:
    """All that a run has after its last step when nothing comes between."""
    run = trainer(tmp_path_factory.mktemp("unbroken"))
    run.fit()
    return everything(run)


# ---------------------------------------------------------------------------------------- resuming
@pytest.mark.parametrize("cuts", [(0,), (1,), (4,), (2, 5), (6,), (STEPS,)])
def test_a_stopped_run_ends_as_the_unbroken_one(
    tmp_path: Path, unbroken: dict[str, Tensor], cuts: tuple[int, ...]
) -> None:
    for seed, cut in enumerate((*cuts, STEPS)):
        run = trainer(tmp_path, Sums(seed))  # the checkpoint replaces these weights
        assert run.resume() == (seed > 0)
        torch.manual_seed(seed)  # the state of the global generator has no say
        while run.step < cut:
            run.advance()
        run.save()
    assert same(everything(run), unbroken)


def test_a_written_state_gets_its_name_while_the_run_goes_on(tmp_path: Path) -> None:
    config = replace(CONFIG, asynchronous=True, save_steps=4)
    run = trainer(tmp_path, config=config)
    found: list[str | None] = []

    def watch(_: int) -> None:
        newest = run.checkpoints.newest()
        found.append(newest and newest.name)
        while run.checkpoints.writing:
            time.sleep(0.001)

    run.on_step = watch
    run.fit()
    assert found == [None] * 5 + ["step-00000004"] * 2


def test_a_killed_run_goes_on_from_its_last_state(
    tmp_path: Path, unbroken: dict[str, Tensor]
) -> None:
    run = trainer(tmp_path, Sums(crash=5))
    run.advance()
    run.advance()
    run.save()
    with pytest.raises(MemoryError):
        run.fit()
    assert [row["step"] for row in rows(tmp_path)] == [3, 4, 5]
    with (tmp_path / "metrics.jsonl").open("a") as file:
        file.write('{"step": 6, "lo')  # cut off in writing

    again = trainer(tmp_path, Sums(1))
    assert again.resume()
    assert again.step == 2
    again.fit()
    assert same(everything(again), unbroken)
    assert [row["step"] for row in rows(tmp_path)] == [3, 4, 5, 6, 7]


def test_rows_up_to_the_state_are_kept(tmp_path: Path) -> None:
    every_step = LoopConfig(STEPS, log_every=1, save_seconds=-1.0)
    with pytest.raises(MemoryError):
        trainer(tmp_path, Sums(crash=4), every_step).fit()
    first = rows(tmp_path)
    assert [row["step"] for row in first] == [1, 2, 3, 4]
    run = trainer(tmp_path, Sums(1), every_step)
    assert run.resume()
    assert run.step == 4
    run.fit()
    assert rows(tmp_path)[:4] == first
    assert [row["step"] for row in rows(tmp_path)] == list(range(1, STEPS + 1))


def test_a_run_from_the_start_begins_a_new_log(tmp_path: Path) -> None:
    trainer(tmp_path).fit()
    trainer(tmp_path).fit()
    assert [row["step"] for row in rows(tmp_path)] == list(range(1, STEPS + 1))


def test_a_finished_run_has_nothing_left_to_do(tmp_path: Path) -> None:
    trainer(tmp_path).fit()
    done = trainer(tmp_path, objective := Sums(1))
    assert done.resume()
    done.fit()
    assert objective.steps == []


def test_an_empty_folder_is_made_and_holds_nothing(tmp_path: Path) -> None:
    assert not trainer(tmp_path / "a" / "b").resume()


def test_the_seed_decides(tmp_path: Path, unbroken: dict[str, Tensor]) -> None:
    other = trainer(tmp_path, config=LoopConfig(STEPS, seed=4, optim=OPTIM, ema_decay=0.9))
    other.fit()
    assert not same(everything(other), unbroken)


# ---------------------------------------------------------------------------- what must not be lost
@pytest.mark.parametrize("poison", [math.nan, math.inf])
def test_a_loss_that_is_no_number_stops_and_the_state_is_kept(
    tmp_path: Path, poison: float
) -> None:
    run = trainer(tmp_path, Sums(poisoned=4, poison=poison))
    for _ in range(3):
        run.advance()
    run.save()
    kept = state_of(run).read_bytes()
    run.advance()
    before = stepped(run)
    with pytest.raises(TrainingError, match=f"the loss of step 4 is {poison}, .*checkpoint is"):
        run.fit()
    assert state_of(run).read_bytes() == kept
    assert same(stepped(run), before)

    healed = trainer(tmp_path)
    assert healed.resume()
    assert healed.step == 3


class Steep(Sums):
    """A finite loss whose gradient is not."""

    def loss(self, step: int, generator: torch.Generator) -> tuple[Tensor, dict[str, float]]:
        loss, metrics = super().loss(step, generator)
        return loss + (loss * 0).sqrt(), metrics


def test_a_gradient_that_is_no_number_never_reaches_the_weights(tmp_path: Path) -> None:
    run = trainer(tmp_path, Steep())
    before = run.objective.module.first.weight.clone()
    with pytest.raises(
        TrainingError, match="gradient norm of step 0 is nan, there is no checkpoint"
    ):
        run.fit()
    assert torch.equal(run.objective.module.first.weight, before)
    assert all(p.grad is None for p in run.objective.module.parameters())
    assert run.checkpoints.newest() is None


def test_the_message_names_the_state(tmp_path: Path) -> None:
    run = trainer(tmp_path, Sums(poisoned=1))
    run.advance()
    run.save()
    with pytest.raises(
        TrainingError, match=re.escape(f"is {tmp_path / 'checkpoints' / 'step-00000001'}; lower")
    ):
        run.advance()


def test_a_save_that_fails_keeps_the_state_before(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = trainer(tmp_path)
    run.advance()
    run.save()
    kept = state_of(run).read_bytes()
    run.advance()

    def full(tensors: object, kinds: object, path: Path, metadata: object) -> None:
        path.write_bytes(kept[:100])
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patched:
        patched.setattr(weights, "_stream", full)
        with pytest.raises(StorageError, match="No space left on device"):
            run.save()
    assert state_of(run).read_bytes() == kept
    assert [path.name for path in run.checkpoints.folder.iterdir()] == ["step-00000001"]
    assert trainer(tmp_path).resume()


@pytest.mark.parametrize("share", [0.0, 0.01, 0.5, 0.999])
def test_a_cut_off_state_is_named_and_touches_nothing(tmp_path: Path, share: float) -> None:
    run = trainer(tmp_path)
    run.advance()
    run.save()
    whole = state_of(run).read_bytes()
    state_of(run).write_bytes(whole[: int(share * len(whole))])
    fresh = trainer(tmp_path, Sums(5))
    before = everything(fresh)
    with pytest.raises(TrainingError, match="step-00000001 is incomplete"):
        fresh.resume()
    assert same(everything(fresh), before)
    assert fresh.step == 0


def test_the_state_of_another_model_is_refused(tmp_path: Path) -> None:
    run = trainer(tmp_path)
    run.advance()
    run.save()
    with pytest.raises(TrainingError, match=r"has another shape of ema\.first\.bias and 2\d"):
        trainer(tmp_path, Sums(width=5)).resume()


def test_the_state_beside_other_frozen_weights_is_refused(tmp_path: Path) -> None:
    config = replace(CONFIG, save_frozen=False)
    run = trainer(tmp_path, config=config)
    run.advance()
    run.save()
    assert not [name for name in weights.read_tensors(state_of(run)) if "frozen." in name]
    assert trainer(tmp_path, config=config).resume()
    other = Sums()
    with torch.no_grad():
        other.net.frozen.weight[1, 2] += 0.01
    with pytest.raises(TrainingError, match="other frozen weights"):
        trainer(tmp_path, other, config).resume()


def test_any_kept_state_can_be_gone_on_from(tmp_path: Path, unbroken: dict[str, Tensor]) -> None:
    run = trainer(
        tmp_path, config=replace(CONFIG, save_steps=2, keep_checkpoints=3, asynchronous=True)
    )
    run.fit()
    names = sorted(path.name for path in run.checkpoints.folder.iterdir())
    assert names == ["step-00000004", "step-00000006", "step-00000007"]
    again = trainer(tmp_path, Sums(1))
    assert again.resume(run.checkpoints.folder / "step-00000004")
    assert again.step == 4
    again.fit()
    assert same(everything(again), unbroken)


def test_a_state_written_beside_training_gets_its_name_soon(tmp_path: Path) -> None:
    """Not only when the next one is saved, which may be long after."""
    named: list[int] = []

    def look(step: int) -> None:
        time.sleep(0.1)
        named.append(len(list((tmp_path / "checkpoints").glob("step-????????"))))

    config = replace(CONFIG, save_steps=3, asynchronous=True)
    Trainer(Sums(), config, tmp_path, on_step=look).fit()
    assert named == [0, 0, 0, 0, 1, 1, 1]  # saved after step 3, named after step 4 at the latest


def test_a_finished_run_is_not_saved_again(tmp_path: Path) -> None:
    run = trainer(tmp_path, config=replace(CONFIG, save_steps=STEPS))
    run.fit()
    before = state_of(run).stat().st_mtime_ns
    again = trainer(tmp_path)
    again.resume()
    again.fit()
    assert state_of(run).stat().st_mtime_ns == before


# ---------------------------------------------------------------------------------------- stopping
class Interrupted(Sums):
    """A signal comes while a step runs."""

    def __init__(self, number: int, at: int) -> None:
        super().__init__()
        self.number, self.at = number, at

    def loss(self, step: int, generator: torch.Generator) -> tuple[Tensor, dict[str, float]]:
        if step == self.at:
            signal.raise_signal(self.number)
        return super().loss(step, generator)


@pytest.fixture
def handled() -> Any:
    """The signals that a handler of the caller's own was given."""
    came: list[int] = []
    before = signal.signal(signal.SIGTERM, lambda number, _: came.append(number))
    yield came
    signal.signal(signal.SIGTERM, before)


def test_ctrl_c_waits_for_the_step_and_saves(tmp_path: Path, unbroken: dict[str, Tensor]) -> None:
    run = trainer(tmp_path, Interrupted(signal.SIGINT, at=2))
    with pytest.raises(KeyboardInterrupt):
        run.fit()
    again = trainer(tmp_path, Sums(1))
    assert again.resume()
    assert again.step == 3
    again.fit()
    assert same(everything(again), unbroken)


def test_a_terminated_run_saves_before_it_obeys(tmp_path: Path, handled: list[int]) -> None:
    run = trainer(tmp_path, Interrupted(signal.SIGTERM, at=4))
    handler = signal.getsignal(signal.SIGTERM)
    with pytest.raises(TrainingError, match=r"stopped after 5 of 7 steps"):
        run.fit()  # the caller's handler lets it live, yet nobody shall take it for finished
    assert handled == [signal.SIGTERM]
    assert signal.getsignal(signal.SIGTERM) is handler
    assert int(weights.read_tensors(state_of(run))["step"]) == run.step == 5


# ------------------------------------------------------------------------------- figures and rates
def test_rows_are_means_since_the_last(tmp_path: Path) -> None:
    told: list[tuple[int, dict[str, float]]] = []
    run = trainer(tmp_path, config=LoopConfig(STEPS, optim=OPTIM, log_every=3))
    run.fit(lambda step, row: told.append((step, row)))
    logged = rows(tmp_path)
    assert [row["step"] for row in logged] == [3, 6, 7]
    assert [row["step_seen"] for row in logged] == [1.0, 4.0, 6.0]
    assert [step for step, _ in told] == [3, 6, 7]
    assert all(
        set(row) == {"loss", "gradient_norm", "step_seen", "seconds_per_step"} for _, row in told
    )
    assert all(row["seconds_per_step"] > 0 for row in logged)


def test_the_loss_falls(tmp_path: Path) -> None:
    config = LoopConfig(80, optim=OptimConfig(lr=0.02, warmup=5), log_every=20)
    run = trainer(tmp_path, config=config)
    run.objective.module.dropout.p = 0.0
    run.fit()
    assert rows(tmp_path)[-1]["loss"] < 0.75 * rows(tmp_path)[0]["loss"]


def test_every_step_has_the_schedules_rate(tmp_path: Path) -> None:
    run = trainer(tmp_path)
    for step in range(STEPS):
        run.advance()
        assert {group["lr"] for group in run.optimizer.param_groups} == {
            learning_rate(step, STEPS, OPTIM)
        }


def test_frozen_weights_stay(tmp_path: Path) -> None:
    run = trainer(tmp_path)
    before = run.objective.module.frozen.weight.clone()
    run.fit()
    assert torch.equal(run.objective.module.frozen.weight, before)


class Counting(Sums):
    """Says how much a step had to do."""

    def loss(self, step: int, generator: torch.Generator) -> tuple[Tensor, dict[str, float]]:
        loss, metrics = super().loss(step, generator)
        return loss, metrics | {"tokens": 100.0, "flops": 3e6}


@pytest.mark.slow
def test_rates_and_what_watches(tmp_path: Path) -> None:
    seen: list[int] = []

    def slow(step: int) -> None:
        seen.append(step)
        time.sleep(0.2)

    run = Trainer(Counting(), CONFIG, tmp_path, on_step=slow, meter=ThroughputMeter(1e9))
    run.fit()
    assert seen == list(range(1, STEPS + 1))
    for row in rows(tmp_path)[1:]:
        assert row["seconds_per_step"] < 0.2  # watching is no part of it
        assert row["tokens_per_second"] == pytest.approx(100 / row["seconds_per_step"], rel=0.05)
        assert row["mfu"] == pytest.approx(row["flops_per_second"] / 1e9, abs=1e-5)


def test_logs_are_told_what_the_lines_hold(tmp_path: Path) -> None:
    class Kept:
        def __init__(self) -> None:
            self.told: list[object] = []

        def truncate(self, step: int) -> None:
            self.told.append(("forget", step))

        def record(self, step: int, metrics: Mapping[str, float]) -> None:
            self.told.append((step, metrics["loss"]))

        def samples(self, step: int, shown: object) -> None:
            raise AssertionError("nothing is shown here")

        def close(self) -> None:
            self.told.append("close")

    log = Kept()
    Trainer(Sums(), CONFIG, tmp_path, logs=[log]).fit()
    losses = [(row["step"], pytest.approx(row["loss"], abs=1e-6)) for row in rows(tmp_path)]
    assert log.told == [("forget", 0), *losses, "close"]


# --------------------------------------------------------------------------------------- averaging
def test_the_average_is_a_moving_one_with_a_growing_decay(tmp_path: Path) -> None:
    config = LoopConfig(STEPS, optim=OPTIM, ema_decay=0.35)
    run = trainer(tmp_path, config=config)
    module: Small = run.objective.module
    by_hand = module.first.weight.detach().double()
    for step in range(1, STEPS + 1):
        run.advance()
        decay = min(0.35, (1 + step) / (10 + step))  # 2/11, 3/12, 4/13, then 0.35
        by_hand = decay * by_hand + (1 - decay) * module.first.weight.detach().double()
        assert torch.allclose(run.ema["first.weight"].double(), by_hand, atol=1e-6)
    assert not torch.allclose(run.ema["first.weight"], module.first.weight)
    assert run.ema["norm.num_batches_tracked"] == STEPS  # what is counted is not averaged
    assert torch.equal(run.weights()["frozen.weight"], module.frozen.weight)
    assert torch.equal(run.weights()["first.weight"], run.ema["first.weight"])


def test_the_average_of_half_precision_weights_is_kept_in_full(tmp_path: Path) -> None:
    objective = Sums()
    objective.net.last.to(torch.bfloat16)
    assert trainer(tmp_path, objective).ema["last.weight"].dtype == torch.float32


def test_without_an_average_the_last_weights_ship(tmp_path: Path) -> None:
    run = trainer(tmp_path, config=replace(CONFIG, ema_decay=None))
    run.fit()
    assert run.ema == {}
    shipped = run.weights()
    assert shipped.keys() == run.objective.module.state_dict().keys()
    assert torch.equal(shipped["last.weight"], run.objective.module.last.weight)


def test_the_average_shares_no_memory_with_the_weights(tmp_path: Path) -> None:
    run = trainer(tmp_path)
    with torch.no_grad():
        run.objective.module.first.weight.fill_(7.0)
    assert not bool((run.ema["first.weight"] == 7).any())
