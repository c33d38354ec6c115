"""Ray makes the same shards; without Ray the error says how to install it."""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from tests.data.manifest_files import ROWS, row, write
from tests.tiny import checkers, tiny_model, tone

from omni_diffusion.data.pretokenize_ray import PretokenizeConfig, ShardActor, pretokenize_on_ray
from omni_diffusion.data.shard_store import SHARD_INDEX, Shards
from omni_diffusion.errors import DataError, MissingDependencyError

pytest.importorskip("pyarrow")
RAY = importlib.util.find_spec("ray") is not None


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("model") / "tiny"
    tiny_model().save(folder)
    return folder


@pytest.fixture
def options(model: Path, tmp_path: Path) -> PretokenizeConfig:
    tone(0.5).write(tmp_path / "a.wav")
    tone(0.4, hertz=330).write(tmp_path / "b.wav")
    checkers(20).write(tmp_path / "c.png")
    bad = row("<|image|>", "a dog", images=["none.png"])
    manifest = write(tmp_path / "train.jsonl", *ROWS, bad)
    return PretokenizeConfig(
        manifest, tmp_path / "out", model, max_bad_fraction=0.5, batch_size=2, workers=2
    )


def test_an_actor_makes_the_shards_of_a_plain_run(
    options: PretokenizeConfig, tmp_path: Path
) -> None:
    expected = options.open().run(of=3)
    other = replace(options, out=tmp_path / "other")
    results = ShardActor(other, 3)({"id": np.array([2, 0, 1])})["result"]
    assert len(results) == 3
    assert all('"record"' in each for each in results)
    assert not (other.out / SHARD_INDEX).exists()
    other.open().job(3).finish()
    assert Shards(other.out).index.shards == tuple(expected)


def test_an_actor_returns_its_errors(options: PretokenizeConfig) -> None:
    strict = replace(options, max_bad_fraction=0.0)
    (results,) = ShardActor(strict, 1)({"id": np.array([0])})["result"]
    assert "1 of 8 lines are broken" in results
    nowhere = replace(options, model=options.out)
    (results,) = ShardActor(nowhere, 1)({"id": np.array([0])})["result"]
    assert '"error": "no model at' in results


@pytest.mark.skipif(RAY, reason="Ray is installed")
def test_without_ray_the_error_names_the_extra(options: PretokenizeConfig) -> None:
    with pytest.raises(MissingDependencyError, match=r"pip install 'omni-diffusion\[ray\]'"):
        pretokenize_on_ray(options)


@pytest.mark.slow
def test_ray_is_not_imported_before_it_is_needed() -> None:
    code = "import sys, omni_diffusion.data.pretokenize_ray; assert 'ray' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)


@pytest.mark.skipif(not RAY, reason="Ray is not installed: pip install 'omni-diffusion[ray]'")
@pytest.mark.filterwarnings("default")  # what Ray warns of is its own
def test_a_cluster_makes_the_bytes_of_a_plain_run(
    options: PretokenizeConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import ray

    monkeypatch.setenv("HOME", str(tmp_path))  # where Ray keeps a key of its own
    for name in ("a.wav", "b.wav", "c.png"):
        os.utime(tmp_path / name, ns=(0, 0))
    expected = options.open().run(of=3)
    ray.init("local", num_cpus=2, log_to_driver=False)
    try:
        done: list[float] = []
        other = replace(options, out=tmp_path / "other")
        assert pretokenize_on_ray(other, 3, progress=done.append) == expected
        assert done == [1 / 3, 2 / 3, 1]
        names = {path.name for path in options.out.iterdir()}
        assert names == {path.name for path in other.out.iterdir()}
        for name in names:
            assert (options.out / name).read_bytes() == (other.out / name).read_bytes()
        strict = replace(options, out=tmp_path / "strict", max_bad_fraction=0.0)
        with pytest.raises(DataError, match=r"shard-.*: 1 of \d lines are broken"):
            pretokenize_on_ray(strict, 3)
        assert not (strict.out / SHARD_INDEX).exists()
    finally:
        ray.shutdown()
