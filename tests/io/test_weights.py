import errno
import json
import os
import pickle
import shutil
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import torch
from torch import Tensor, nn

from omni_diffusion.errors import StorageError, WeightsError
from omni_diffusion.io import weights


def some() -> dict[str, Tensor]:
    return {
        "a.weight": torch.randn(4, 3),
        "a.bias": torch.randn(4).bfloat16(),
        "count": torch.tensor(7),
        "none": torch.zeros(0, 2),
    }


def same(left: dict[str, Tensor], right: dict[str, Tensor]) -> bool:
    return left.keys() == right.keys() and all(
        torch.equal(left[name], right[name]) and left[name].dtype == right[name].dtype
        for name in left
    )


# --- files ---


def test_one_file_and_its_metadata(tmp_path: Path) -> None:
    path = tmp_path / "model.safetensors"
    weights.write_tensors(some_tensors := some(), path, {"step": "3"})
    assert same(weights.read_tensors(path), some_tensors)
    assert same(weights.read_tensors(tmp_path), some_tensors)
    with safetensors.safe_open(path, "pt") as file:
        assert file.metadata() == {"format": "pt", "step": "3"}
    assert list(tmp_path.iterdir()) == [path]


def test_shared_sliced_and_turned_tensors_are_stored_whole(tmp_path: Path) -> None:
    base = torch.randn(6, 4)
    tensors = {"base": base, "again": base, "rows": base[2:4], "turned": base.T, "cut": base[:, 1]}
    weights.write_tensors(tensors, tmp_path / "a.safetensors")
    assert same(weights.read_tensors(tmp_path / "a.safetensors"), tensors)


def test_shards_hold_everything_within_their_limit(tmp_path: Path) -> None:
    tensors = {f"t{i}": torch.randn(10) for i in range(7)} | {"big": torch.randn(50)}
    path = tmp_path / "model.safetensors"
    weights.write_tensors(tensors, path, max_shard_bytes=100)
    assert not path.exists()
    for source in (path, tmp_path, tmp_path / "model.safetensors.index.json"):
        assert same(weights.read_tensors(source), tensors)
    index = json.loads((tmp_path / "model.safetensors.index.json").read_text())
    assert index["metadata"]["total_size"] == 4 * (70 + 50)
    assert sorted(set(index["weight_map"].values())) == [
        f"model-{i:05}-of-00005.safetensors" for i in range(1, 6)
    ]


def test_writing_anew_leaves_nothing_stale(tmp_path: Path) -> None:
    path = tmp_path / "model.safetensors"
    for limit in (100, 10**9, 40, 100, 10**9):
        tensors = {f"t{i}": torch.randn(10) for i in range(7)}
        weights.write_tensors(tensors, path, max_shard_bytes=limit)
        assert same(weights.read_tensors(path), tensors)
        assert same(weights.read_tensors(tmp_path), tensors)
    assert list(tmp_path.iterdir()) == [path]


def test_a_full_disk_leaves_the_old_shards_and_nothing_else(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "model.safetensors"
    tensors = {f"t{i}": torch.randn(10) for i in range(7)}
    weights.write_tensors(tensors, path, max_shard_bytes=100)
    before = sorted(tmp_path.iterdir())
    real, calls = weights._stream, []

    def full_disk(*args: Any) -> None:
        calls.append(args)
        if len(calls) == 2:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        real(*args)

    monkeypatch.setattr(weights, "_stream", full_disk)
    newer = {name: tensor + 1 for name, tensor in tensors.items()}
    with pytest.raises(StorageError, match=r"00002-of-00004.* No space left .*free some space"):
        weights.write_tensors(newer, path, max_shard_bytes=100)
    assert sorted(tmp_path.iterdir()) == before
    assert same(weights.read_tensors(path), tensors)


def test_room_is_looked_for_before_anything_is_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    usage = shutil.disk_usage(tmp_path)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage._replace(free=999))
    path = tmp_path / "new" / "model.safetensors"
    with pytest.raises(StorageError, match=r"takes 1e-06 GB, its disk has 9\.99e-07 GB free; free"):
        weights.write_tensors({"a": torch.zeros(250)}, path)
    assert list(tmp_path.iterdir()) == []
    path.parent.mkdir()
    weights.write_tensors({"a": torch.zeros(250)}, path, dtype=torch.float16)  # half of it has room


def test_cast_and_written_in_pieces(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(weights, "PIECE", 5)
    tensors = some() | {"turned": torch.randn(4, 3).T, "yes": torch.tensor([True, False])}
    weights.write_tensors(tensors, tmp_path / "a.safetensors", dtype=torch.bfloat16)
    found = weights.read_tensors(tmp_path / "a.safetensors")
    wanted = {n: t.bfloat16() if t.is_floating_point() else t for n, t in tensors.items()}
    assert same(found, wanted)
    assert weights.stored_bytes(tensors, torch.bfloat16) == sum(t.nbytes for t in found.values())
    with pytest.raises(WeightsError, match=r"a is of torch\.complex64, which the format lacks"):
        weights.write_tensors(
            {"a": torch.zeros(2, dtype=torch.complex64)}, tmp_path / "b.safetensors"
        )


def test_mapped_tensors_are_written_from_their_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As `read` maps them: a copy of any would be at another address."""
    weights.write_tensors(some(), tmp_path / "a.safetensors")
    mapped = weights.read_tensors(tmp_path / "a.safetensors")
    real, given = weights._stream, {}

    def watch(tensors: dict[str, Tensor], *args: Any) -> None:
        given.update({name: tensor.data_ptr() for name, tensor in tensors.items()})
        real(tensors, *args)

    monkeypatch.setattr(weights, "_stream", watch)
    weights.write_tensors(mapped, tmp_path / "b.safetensors", max_shard_bytes=10)
    assert given == {name: tensor.data_ptr() for name, tensor in mapped.items()}
    assert same(weights.read_tensors(tmp_path / "b.safetensors"), mapped)


@pytest.mark.parametrize("suffix", [".bin", ".pt", ".pth", ".ckpt"])
@pytest.mark.parametrize("nested", [False, True])
def test_pickles_of_tensors(tmp_path: Path, suffix: str, nested: bool) -> None:
    tensors = some()
    torch.save({"state_dict": tensors, "epoch": 3} if nested else tensors, tmp_path / f"a{suffix}")
    assert same(weights.read_tensors(tmp_path / f"a{suffix}"), tensors)
    assert same(weights.read_tensors(tmp_path), tensors)


def test_an_outline_is_what_reading_would_give(tmp_path: Path) -> None:
    weights.write_tensors(some(), tmp_path / "whole.safetensors")
    weights.write_tensors(some(), tmp_path / "cut.safetensors", max_shard_bytes=40)
    torch.save(some(), tmp_path / "a.pt")
    for name in ("whole.safetensors", "cut.safetensors", "a.pt"):
        told = weights.outline(tmp_path / name)
        assert all(tensor.is_meta for tensor in told.values())
        known = {name: (tensor.shape, tensor.dtype) for name, tensor in told.items()}
        assert known == {name: (tensor.shape, tensor.dtype) for name, tensor in some().items()}


class Bomb:
    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, (os.environ["BOMB"],)


def test_a_pickle_with_code_does_not_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("BOMB", str(tmp_path / "exploded"))
    torch.save({"a": Bomb()}, tmp_path / "zip.pt")
    (tmp_path / "plain.pt").write_bytes(pickle.dumps({"a": Bomb()}, protocol=2))
    for name in ("zip.pt", "plain.pt"):
        with pytest.raises(WeightsError, match=r"might run code; convert it to .safetensors"):
            weights.read_tensors(tmp_path / name)
    assert not (tmp_path / "exploded").exists()


def test_broken_files_are_one_line_errors(tmp_path: Path) -> None:
    weights.write_tensors(some(), tmp_path / "good.safetensors")
    torch.save(some(), tmp_path / "good.pt")
    torch.save([1, 2], tmp_path / "list.pt")
    torch.save({"a": 1}, tmp_path / "number.pt")
    for name in ("good.safetensors", "good.pt"):
        whole = (tmp_path / name).read_bytes()
        for part in (0, 4, len(whole) // 2, len(whole) - 1):
            (tmp_path / f"cut{part}-{name}").write_bytes(whole[:part])
    (tmp_path / "text.safetensors").write_text("<html>404 not found</html>" * 9)
    (tmp_path / "text.pt").write_text("<html>404 not found</html>" * 9)
    (tmp_path / "text.txt").write_text("hello")
    broken = [p for p in tmp_path.iterdir() if not p.name.startswith("good")]
    assert len(broken) == 13
    for path in [*broken, tmp_path / "none.pt", tmp_path]:
        for look in (weights.read_tensors, weights.outline):
            with pytest.raises(WeightsError) as caught:
                look(path)
            assert str(path) in str(caught.value)
            assert "\n" not in str(caught.value)


def test_broken_indexes(tmp_path: Path) -> None:
    index = tmp_path / "model.safetensors.index.json"
    weights.write_tensors({"a": torch.zeros(1)}, tmp_path / "one.safetensors")
    for content, message in (
        ("{", "not an index of shards"),
        ("[]", "not an index of shards"),
        ('{"weight_map": {"a": 3}}', "not an index of shards"),
        ('{"weight_map": {"a": "../one.safetensors"}}', "outside its folder"),
        ('{"weight_map": {"a": "two.safetensors"}}', "two.safetensors, which is missing"),
        ('{"weight_map": {"b": "one.safetensors"}}', "'b', which no shard has"),
    ):
        index.write_text(content)
        with pytest.raises(WeightsError, match=message):
            weights.read_tensors(tmp_path)


def test_what_cannot_be_written(tmp_path: Path) -> None:
    with pytest.raises(WeightsError, match=r"does not end in .safetensors"):
        weights.write_tensors(some(), tmp_path / "a.pt")
    with pytest.raises(StorageError, match="create its folder first"):
        weights.write_tensors(some(), tmp_path / "none" / "a.safetensors")
    with pytest.raises(WeightsError, match="give plain tensors"):
        weights.write_tensors({"a": torch.eye(2).to_sparse()}, tmp_path / "a.safetensors")
    assert list(tmp_path.iterdir()) == []


# --- modules ---


def net() -> Any:
    return nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4))


def test_load_into_copies_casts_and_renames() -> None:
    source, target = net(), net().bfloat16()
    tensors: dict[str, Tensor] = {f"model.{k}": v for k, v in source.state_dict().items()}
    tensors["ctc.weight"] = torch.zeros(1)

    def rename(name: str) -> str | None:
        return name.removeprefix("model.") if name.startswith("model.") else None

    before = target[0].weight
    weights.load_into(target, tensors, rename=rename)
    assert target[0].weight is before
    assert before.dtype == torch.bfloat16
    assert torch.equal(before, source[0].weight.bfloat16())


def test_load_into_the_meta_device() -> None:
    source = net()
    with torch.device("meta"):
        target = net().bfloat16()
    weights.load_into(target, source.state_dict())
    assert torch.equal(target[0].weight, source[0].weight.bfloat16())
    assert target[0].weight.requires_grad
    assert target[1].num_batches_tracked.dtype == torch.long


def test_everything_wrong_stands_in_one_table_and_nothing_is_copied() -> None:
    target = net()
    before = {k: v.clone() for k, v in target.state_dict().items()}
    tensors = {k: v + 1 for k, v in before.items() if k != "0.bias"}
    tensors["0.weight"] = torch.zeros(4, 5)
    tensors["x.extra"] = torch.zeros(1)
    tensors["x.1.bias"] = torch.zeros(4)
    with pytest.raises(WeightsError) as caught:
        weights.load_into(
            target, tensors, rename=lambda name: name.removeprefix("x."), where="model.pt"
        )
    assert str(caught.value).splitlines() == [
        "model.pt do not fit Sequential; check that both are of the same model and sizes:",
        "  missing    0.bias [4]",
        "  unexpected extra (from x.extra)",
        "  mis-shaped 0.weight [4, 5], the module has [4, 3]",
        "  twice      1.bias (again from x.1.bias)",
    ]
    assert same(dict(target.state_dict()), before)


def test_a_long_table_is_cut() -> None:
    tensors = {f"t{i}": torch.zeros(1) for i in range(50)}
    with pytest.raises(WeightsError, match=r"unexpected \.\.\. and 30 more"):
        weights.load_into(nn.Identity(), tensors)


def private_bytes() -> int:
    """Memory of this process beside the files that it maps."""
    [line] = [one for one in Path("/proc/self/status").read_text().splitlines() if "RssAnon" in one]
    return int(line.split()[1]) * 1024


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="Linux only")
def test_weights_of_a_file_are_not_copied_when_they_are_loaded(tmp_path: Path) -> None:
    size = 4096
    weights.write_tensors({"weight": torch.ones(size, size)}, tmp_path / "big.safetensors")
    before = private_bytes()
    module = weights.module_for(lambda: nn.Linear(size, size, bias=False), tmp_path)
    weights.load_into(module, weights.read_tensors(tmp_path))
    with torch.no_grad():
        assert float(module(torch.ones(size)).sum()) == size**2
    assert private_bytes() - before < 4 * size**2 / 4
    given = {"weight": torch.ones(2, 2)}
    owned = weights.module_for(lambda: nn.Linear(2, 2, bias=False), given)
    weights.load_into(owned, given)
    with torch.no_grad():
        owned.weight.zero_()
    assert bool(given["weight"].all())


def test_an_empty_module_has_shapes_and_draws_nothing() -> None:
    torch.manual_seed(0)
    expected = torch.rand(1)
    torch.manual_seed(0)
    with weights.empty_modules():
        module = nn.Sequential(nn.Linear(2, 3), nn.Embedding(4, 5), nn.Conv1d(2, 3, 1))
        nn.init.normal_(tensor=module[0].weight)
    assert torch.equal(torch.rand(1), expected)
    assert {tensor.device.type for tensor in module.state_dict().values()} == {"meta"}
    assert module[1].weight.shape == (4, 5)
    assert not nn.Linear(2, 3).weight.is_meta  # outside, all is as ever
