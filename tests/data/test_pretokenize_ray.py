"""Ray makes the same shards; with no Ray there is one line that says what installs it."""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from tests.data.test_examples import row
from tests.data.test_pretokenize import ROWS, write
from tests.tiny import checkers, tiny_model, tone

from omni_diffusion.data import pretokenize_ray
from omni_diffusion.data.pretokenize_ray import Maker, Order
from omni_diffusion.data.shard_store import INDEX, Shards
from omni_diffusion.errors import DataError, ModelError

pytest.importorskip("pyarrow")
RAY = importlib.util.find_spec("ray") is not None


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("model") / "tiny"
    tiny_model().save(folder)
    return folder


@pytest.fixture
def order(model: Path, tmp_path: Path) -> Order:
    tone(0.5).write(tmp_path / "a.wav")
    tone(0.4, hertz=330).write(tmp_path / "b.wav")
    checkers(20).write(tmp_path / "c.png")
    bad = row("<|image|>", "a dog", images=["none.png"])
    manifest = write(tmp_path / "train.jsonl", *ROWS, bad)
    return Order(manifest, tmp_path / "out", model, most_bad=0.5, batch=2, workers=2)


def test_a_process_of_the_cluster_makes_what_a_worker_makes(order: Order, tmp_path: Path) -> None:
    expected = order.worker().run(of=3)
    other = replace(order, out=tmp_path / "other")
    told = Maker(other, 3)({"id": np.array([2, 0, 1])})["told"]
    assert len(told) == 3
    assert all('"record"' in each for each in told)
    assert not (other.out / INDEX).exists()
    other.worker().job(3).finish()
    assert Shards(other.out).index.shards == tuple(expected)


def test_what_goes_wrong_in_a_process_is_an_answer(order: Order) -> None:
    strict = replace(order, most_bad=0.0)
    (told,) = Maker(strict, 1)({"id": np.array([0])})["told"]
    assert "1 of 8 lines are broken" in told
    nowhere = replace(order, model=order.out)
    (told,) = Maker(nowhere, 1)({"id": np.array([0])})["told"]
    assert '"error": "no model at' in told


@pytest.mark.skipif(RAY, reason="Ray is installed")
def test_without_ray_one_line_says_what_installs_it(order: Order) -> None:
    with pytest.raises(ModelError, match=r"pip install 'omni-diffusion\[ray\]'"):
        pretokenize_ray.run(order)


def test_ray_is_not_imported_before_it_is_needed() -> None:
    code = "import sys, omni_diffusion.data.pretokenize_ray; assert 'ray' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)


@pytest.mark.skipif(not RAY, reason="Ray is not installed: pip install 'omni-diffusion[ray]'")
@pytest.mark.filterwarnings("default")  # what Ray warns of is its own
def test_a_cluster_makes_the_bytes_of_plain_workers(
    order: Order, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import ray

    monkeypatch.setenv("HOME", str(tmp_path))  # where Ray keeps a key of its own
    for name in ("a.wav", "b.wav", "c.png"):
        os.utime(tmp_path / name, ns=(0, 0))
    expected = order.worker().run(of=3)
    ray.init("local", num_cpus=2, log_to_driver=False)
    try:
        done: list[float] = []
        other = replace(order, out=tmp_path / "other")
        assert pretokenize_ray.run(other, 3, progress=done.append) == expected
        assert done == [1 / 3, 2 / 3, 1]
        names = {path.name for path in order.out.iterdir()}
        assert names == {path.name for path in other.out.iterdir()}
        for name in names:
            assert (order.out / name).read_bytes() == (other.out / name).read_bytes()
        strict = replace(order, out=tmp_path / "strict", most_bad=0.0)
        with pytest.raises(DataError, match=r"shard-.*: 1 of \d lines are broken"):
            pretokenize_ray.run(strict, 3)
        assert not (strict.out / INDEX).exists()
    finally:
        ray.shutdown()
