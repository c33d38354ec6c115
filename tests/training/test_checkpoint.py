from pathlib import Path

import pytest
import torch
from tests.training.tiny_objective import Sums
from torch import Tensor, nn

from omni_diffusion import weights
from omni_diffusion.errors import TrainingError
from omni_diffusion.training import checkpoint
from omni_diffusion.training.optim import OptimConfig, adamw


def trained(module: nn.Module, steps: int = 2) -> torch.optim.AdamW:
    optimizer = adamw([module], OptimConfig())
    for _ in range(steps):
        module(torch.randn(8, 4)).sum().backward()
        optimizer.step()
        optimizer.zero_grad()
    return optimizer


def averaged(module: nn.Module) -> dict[str, Tensor]:
    return {name: value.clone() + 1 for name, value in module.state_dict().items()}


def test_a_state_holds_all_under_plain_names() -> None:
    module = Sums().net
    packed = checkpoint.pack(module, averaged(module), trained(module), 5)
    assert int(packed["step"]) == 5
    assert torch.equal(packed["model.first.weight"], module.first.weight)
    assert torch.equal(packed["average.frozen.bias"], module.frozen.bias + 1)
    names = {name.split(".")[0] for name in packed}
    assert names == {"model", "average", "optim", "step"}
    assert {name for name in packed if name.startswith("optim.0.")} == {
        "optim.0.step",
        "optim.0.exp_avg",
        "optim.0.exp_avg_sq",
    }


def test_there_and_back(tmp_path: Path) -> None:
    module, other = Sums(0).net, Sums(1).net
    optimizer, average = trained(module), averaged(module)
    path = tmp_path / "state.safetensors"
    checkpoint.save(path, module, average, optimizer, 9)
    empty = {name: torch.zeros_like(value) for name, value in average.items()}
    fresh = adamw([other], OptimConfig())
    assert checkpoint.restore(path, other, empty, fresh) == 9
    ours = checkpoint.pack(module, average, optimizer, 9)
    theirs = checkpoint.pack(other, empty, fresh, 9)
    assert ours.keys() == theirs.keys()
    assert all(torch.equal(ours[name], theirs[name]) for name in ours)


def test_moments_take_the_layout_of_their_weights(tmp_path: Path) -> None:
    def net() -> nn.Module:
        return nn.Conv2d(3, 5, 3).to(memory_format=torch.channels_last)

    def step(module: nn.Module, optimizer: torch.optim.Optimizer) -> None:
        module(torch.ones(1, 3, 4, 4)).sum().backward()
        optimizer.step()

    module, other = net(), net()
    optimizer, fresh = adamw([module], OptimConfig()), adamw([other], OptimConfig())
    step(module, optimizer)
    path = tmp_path / "state.safetensors"
    checkpoint.save(path, module, {}, optimizer, 1)
    checkpoint.restore(path, other, {}, fresh)
    moment = fresh.state[other.weight]["exp_avg"]
    assert moment.stride() == other.weight.stride()
    assert torch.equal(moment, optimizer.state[module.weight]["exp_avg"])


def test_a_state_before_the_first_step(tmp_path: Path) -> None:
    module = Sums().net
    path = tmp_path / "state.safetensors"
    checkpoint.save(path, module, {}, trained(module, steps=0), 0)
    assert checkpoint.restore(path, module, {}, adamw([module], OptimConfig())) == 0


def test_however_large_a_state_is_one_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    defaults = weights.write.__kwdefaults__
    monkeypatch.setitem(defaults, "max_shard_bytes", 64)
    module = Sums().net
    path = tmp_path / "state.safetensors"
    checkpoint.save(path, module, {}, trained(module), 1)
    assert [found.name for found in tmp_path.iterdir()] == ["state.safetensors"]


def test_weights_alone_are_no_state(tmp_path: Path) -> None:
    module = Sums().net
    path = tmp_path / "weights.safetensors"
    weights.write({"model.x": torch.zeros(1)}, path)
    with pytest.raises(TrainingError, match="is no training checkpoint: it holds no step"):
        checkpoint.restore(path, module, {}, adamw([module], OptimConfig()))


@pytest.mark.parametrize("frozen", ["first", "norm"])
def test_moments_of_other_trainable_parts_are_refused(tmp_path: Path, frozen: str) -> None:
    module, other = Sums(0).net, Sums(1).net
    path = tmp_path / "state.safetensors"
    checkpoint.save(path, module, {}, trained(module), 3)
    other.get_submodule(frozen).requires_grad_(False)
    with pytest.raises(TrainingError, match="with other parts trainable"):
        checkpoint.restore(path, other, {}, adamw([other], OptimConfig()))
