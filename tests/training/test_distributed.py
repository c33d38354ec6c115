"""Two processes train as one does; a world of one; what `World.join` refuses."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from tests.training import distributed_worker
from tests.training.distributed_worker import SAVED, SETTINGS, STEPS, Setting
from tests.training.test_denoising import backbone

from omni_diffusion.errors import TrainingError
from omni_diffusion.training.distributed import (
    World,
    full_tensor,
    gather_to_main,
    is_sharded,
    shard,
)

ROOT = Path(__file__).parents[2]


# ----------------------------------------------------------------------------------------- joining
def test_a_world_of_one_needs_nobody(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("WORLD_SIZE", raising=False)
    world = World.join()
    assert (world.rank, world.size, world.is_main, world.control_group) == (0, 1, True, None)
    assert world.device == torch.device("cpu")
    values = torch.tensor([1.5, 2.0])
    assert world.sum(values) is values
    assert world.max([3, 1]) == [3, 1]
    world.barrier()
    world.close()
    model = backbone()
    shard(model, list(model.model.layers), world, "bfloat16")
    assert not is_sharded(model)
    weight = model.lm_head.weight.detach()
    assert full_tensor(weight) is weight
    assert torch.equal(gather_to_main({"w": weight}, world)["w"], weight)


@pytest.mark.parametrize(
    ("given", "told"),
    [
        ({"WORLD_SIZE": "two"}, "WORLD_SIZE is 'two', not a number; start with"),
        ({"RANK": None}, "RANK is None, not a number; start with torchrun"),
        ({"LOCAL_RANK": ""}, "LOCAL_RANK is '', not a number"),
        ({"MASTER_PORT": None}, "MASTER_PORT is None, not a number"),
        ({"MASTER_ADDR": None}, "WORLD_SIZE is set, MASTER_ADDR is not; start with torchrun"),
    ],
)
def test_an_environment_that_torchrun_did_not_make_is_told(
    monkeypatch: pytest.MonkeyPatch, given: dict[str, str | None], told: str
) -> None:
    whole = {
        "WORLD_SIZE": "2",
        "RANK": "0",
        "LOCAL_RANK": "0",
        "MASTER_ADDR": "localhost",
        "MASTER_PORT": "1",
    }
    for name, value in (whole | given).items():
        if value is None:
            monkeypatch.delenv(name, raising=False)
        else:
            monkeypatch.setenv(name, value)
    with pytest.raises(TrainingError, match=told):
        World.join()


def test_a_device_that_cannot_train_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(TrainingError, match="'mps' is not supported; use cpu or cuda"):
        World.join("mps")
    for name, value in {"WORLD_SIZE": "999", "RANK": "998", "LOCAL_RANK": "998"}.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(TrainingError, match=r"process 998 .* has no GPU: there are \d+;"):
        World.join("cuda")


# ------------------------------------------------------------------------------------ two and one
class Both:
    """The same runs by one process and by two: what each told, and what each process had."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        one, two = folder / "one", folder / "two"
        self.one: dict[str, Any] = {
            name: distributed_worker.run(setting, one / name, World())
            for name, setting in SETTINGS.items()
        }
        state = one / "float32" / "checkpoints" / f"step-{SAVED:08}"
        torchrun = ["-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2"]
        ran = subprocess.run(
            [
                sys.executable,
                *torchrun,
                "-m",
                "tests.training.distributed_worker",
                str(two),
                str(state),
            ],
            cwd=ROOT,
            env=os.environ | {"PYTHONPATH": f"{ROOT}:{ROOT / 'src'}", "OMP_NUM_THREADS": "1"},
            capture_output=True,
            text=True,
        )
        assert ran.returncode == 0, ran.stderr
        self.two: dict[str, Any] = json.loads((two / "told.json").read_text())

    def had(self, name: str) -> list[list[list[int]]]:
        """By process and step, samples and micro-batches."""
        folder = self.folder / "two" / name
        return [json.loads((folder / f"had-{rank}.json").read_text()) for rank in (0, 1)]


@pytest.fixture(scope="module")
def both(tmp_path_factory: pytest.TempPathFactory) -> Both:
    return Both(tmp_path_factory.mktemp("both"))


def figures(rows: list[dict[str, float]], name: str) -> list[float]:
    return [row[name] for row in rows]


@pytest.mark.parametrize(
    ("name", "loss", "norm"),
    [
        ("float32", 1e-5, 1e-5),
        ("one sample", 1e-5, 1e-5),
        ("uneven", 1e-5, 1e-5),
        # one process casts what is multiplied, several the weights that they gather
        ("bfloat16", 1e-2, 5e-2),
    ],
)
@pytest.mark.slow
def test_two_processes_train_as_one_does(both: Both, name: str, loss: float, norm: float) -> None:
    one, two = both.one[name]["rows"], both.two[name]["rows"]
    assert len(one) == len(two) == STEPS
    assert figures(two, "loss") == pytest.approx(figures(one, "loss"), rel=loss)
    assert figures(two, "gradient_norm") == pytest.approx(figures(one, "gradient_norm"), rel=norm)
    assert figures(two, "tokens") == figures(one, "tokens")
    if name != "bfloat16":  # where a gradient is nothing but rounding, Adam makes it a step
        for key, value in both.one[name]["weights"].items():
            torch.testing.assert_close(
                torch.tensor(both.two[name]["weights"][key]),
                torch.tensor(value),
                atol=1e-3,
                rtol=0,
            )


@pytest.mark.slow
def test_a_process_may_have_no_sample(both: Both) -> None:
    assert both.had("one sample") == [[[1, 1]] * STEPS, [[0, 0]] * STEPS]


@pytest.mark.slow
def test_a_process_may_have_more_micro_batches_than_another(both: Both) -> None:
    assert both.had("uneven") == [[[3, 3]] * STEPS, [[3, 1]] * STEPS]


@pytest.mark.slow
def test_two_go_on_from_the_state_of_one(both: Both) -> None:
    rows = both.two["gone on"]["rows"]
    for name in ("loss", "gradient_norm"):
        expected = figures(both.one["float32"]["rows"], name)[SAVED:]
        assert figures(rows, name) == pytest.approx(expected, rel=1e-5)


@pytest.mark.slow
def test_one_goes_on_from_the_state_of_two(both: Both, tmp_path: Path) -> None:
    folder = both.folder / "two" / "float32" / "checkpoints" / f"step-{SAVED:08}"
    assert len([*folder.iterdir()]) == 2  # each process wrote its part
    told: Any = distributed_worker.run(Setting(), tmp_path, World(), folder)
    for name in ("loss", "gradient_norm"):
        expected = figures(both.one["float32"]["rows"], name)[SAVED:]
        assert figures(told["rows"], name) == pytest.approx(expected, rel=1e-5)
