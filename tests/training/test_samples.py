import random
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy
import pytest
import torch
import torch.distributed as dist
from tests.tasks.tiny_scenes import CONVERSATIONS, filled
from tests.tiny import tiny_model
from torch import Tensor
from torch.distributed.device_mesh import DeviceMesh, init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import DTensor

from omni_diffusion.conversation import Image, Speech, Text
from omni_diffusion.data.mixture import TaskGroup
from omni_diffusion.diffusion.params import SamplingParams
from omni_diffusion.engine.request import Request
from omni_diffusion.errors import TrainingError
from omni_diffusion.models.omni import OmniModel
from omni_diffusion.tasks import catalog
from omni_diffusion.tasks.render import render
from omni_diffusion.training.denoising import DenoisingConfig, DenoisingObjective
from omni_diffusion.training.optim import OptimConfig
from omni_diffusion.training.page import PageLog
from omni_diffusion.training.samples import Samples
from omni_diffusion.training.trainer import LoopConfig, Trainer

TASKS = ("chat", "tts", "t2i", "svqa", "inpaint")
FEW = SamplingParams(steps=3, temperature=0.7)


def requests() -> list[Request]:
    return [Request(task, CONVERSATIONS[task], FEW, max_tokens=8) for task in TASKS]


class Fixed:
    """The same canvases in every step, their answers some ids of the right kind."""

    def __init__(self, model: OmniModel) -> None:
        laid = (
            render(catalog.task(task), CONVERSATIONS[task], model, max_tokens=8)
            for task in ("chat", "svqa")
        )
        self.groups = [
            TaskGroup.of(str(number), 1.0, [filled(each.canvas)])
            for number, each in enumerate(laid)
        ]

    def draw(self, step: int, generator: torch.Generator) -> list[TaskGroup]:
        return self.groups


def trained(folder: Path, asked: Sequence[Request]) -> dict[str, Tensor]:
    """The whole state after a few steps, with the requests answered after every second."""
    model = tiny_model()
    objective = DenoisingObjective(
        model.backbone, model.vocabulary, Fixed(model), DenoisingConfig(precision="bfloat16")
    )
    config = LoopConfig(4, optim=OptimConfig(lr=0.01, warmup=1))
    page = PageLog(folder)
    watch = Samples(model, asked).every(2, [page]) if asked else None
    run = Trainer(objective, config, folder, logs=[page], on_step=watch)
    run.fit()
    assert len(list((folder / "page").glob("*.html"))) == (2 if asked else 0)
    found = {f"module.{name}": value for name, value in model.backbone.state_dict().items()}
    found |= {f"ema.{name}": value for name, value in run.ema.items()}
    for number, state in run.optimizer.state_dict()["state"].items():
        found |= {f"optimizer.{number}.{name}": value for name, value in state.items()}
    return found


@pytest.mark.slow
def test_training_with_samples_is_the_same_training(tmp_path: Path) -> None:
    without, with_them = trained(tmp_path / "a", ()), trained(tmp_path / "b", requests())
    assert without.keys() == with_them.keys()
    assert all(torch.equal(without[name], with_them[name]) for name in without)


def test_modes_gradients_and_random_states_stay() -> None:
    model = tiny_model()
    backbone = model.backbone.train()
    backbone.model.layers[0].eval()  # someone keeps a part of it still
    for parameter in backbone.parameters():
        parameter.grad = torch.ones_like(parameter)
    modes = [part.training for part in backbone.modules()]
    before = (torch.get_rng_state(), random.getstate(), numpy.random.get_state()[1].tolist())
    Samples(model, requests()).answers()
    assert [part.training for part in backbone.modules()] == modes
    assert all(bool((p.grad == 1).all()) for p in backbone.parameters())
    assert all(p.requires_grad and not p.is_inference() for p in backbone.parameters())
    assert torch.equal(torch.get_rng_state(), before[0])
    assert random.getstate() == before[1]
    assert numpy.random.get_state()[1].tolist() == before[2]


@pytest.fixture
def group() -> Iterator[DeviceMesh]:
    """A process group of this process alone."""
    dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)
    yield init_device_mesh("cpu", (1,))
    dist.destroy_process_group()


def test_sharded_weights_are_trained_on_after_samples(group: DeviceMesh) -> None:
    model = tiny_model()
    backbone = model.backbone.train()
    for part in (*backbone.model.layers, backbone):
        fully_shard(part, mesh=group)
    samples = Samples(model, requests()[:1])
    for _ in range(2):  # before the first step and after it
        (shown,) = samples.answers()
        assert shown.error is None
        assert all(isinstance(parameter, DTensor) for parameter in backbone.parameters())
        backbone(torch.zeros(1, 4, dtype=torch.long)).sum().backward()


def test_every_request_is_shown_with_its_answer() -> None:
    shown = {one.name: one for one in Samples(tiny_model(), requests()).answers()}
    assert tuple(shown) == TASKS
    assert all(one.error is None for one in shown.values())
    assert [type(part) for part in shown["svqa"].prompt] == [Speech, Image]
    assert isinstance(shown["t2i"].answer[0], Image)
    assert any(isinstance(part, Speech) for part in shown["tts"].answer)
    assert shown["chat"].prompt == (Text("a red apple"),)


def test_answers_change_with_the_weights_alone() -> None:
    model = tiny_model()
    samples = Samples(model, requests()[:1])
    first = samples.answers()
    assert samples.answers() == first
    with torch.no_grad():
        model.backbone.lm_head.weight.mul_(-30)
    assert samples.answers() != first


def test_what_fails_says_so_and_the_others_are_answered(monkeypatch: pytest.MonkeyPatch) -> None:
    model = tiny_model()
    monkeypatch.setattr(model.codecs.image, "decode", lambda codes: 1 / 0)
    asked = [Request("nothing", ()), *requests()[:3]]
    shown = {one.name: one.error for one in Samples(model, asked).answers()}
    assert shown["nothing"].startswith("no task is called 'nothing'")
    assert shown["t2i"] == "ZeroDivisionError: division by zero"
    assert shown["chat"] is shown["tts"] is None


def test_names_are_ids_and_differ() -> None:
    again = Request("chat", CONVERSATIONS["chat"], FEW, max_tokens=8, id="again")
    shown = Samples(tiny_model(), [requests()[0], again]).answers()
    assert [one.name for one in shown] == ["chat", "again"]
    with pytest.raises(TrainingError, match="chat; give each"):
        Samples(tiny_model(), [requests()[0], requests()[0]])
