"""What a user of the installed wheel does; run by `test_wheel` outside of the repository.

python wheel_script.py FOLDER    (of `published.published_files`, with sizes.json)
"""

import sys
from pathlib import Path

import torch

import omni_diffusion
from omni_diffusion import Engine, OmniModel, Request, Text
from omni_diffusion.conversation import Message
from omni_diffusion.demo.demo import order
from omni_diffusion.demo.jobs import SHIPPED
from omni_diffusion.diffusion.params import SamplingParams
from omni_diffusion.io import config as configs
from omni_diffusion.models.omni import convert
from omni_diffusion.models.upstream import Parts, Sizes


def main(folder: Path) -> None:
    installed = Path(omni_diffusion.__file__).parent
    assert installed.parent.name == "site-packages", installed
    assert Path(sys.prefix) in installed.parents, installed

    asked = Request("chat", [Message("user", (Text("what is a cake?"),))])
    [answer] = Engine(OmniModel.open()).run([asked])
    assert "food" in "".join(part.text for part in answer.parts if isinstance(part, Text))

    names = ("magvitv2", "tokenizer", "decoder", "sensevoice")
    sizes = configs.load(Sizes, folder / "sizes.json")
    parts = Parts(*(folder / name for name in names), sizes)
    for published in ("omni", "dream"):
        opened = OmniModel.from_pretrained(folder / published, parts=parts)
        convert(folder / published, Path(published), parts=parts)
        again = OmniModel.open(published, dtype=torch.bfloat16)
        left, right = everything(opened), everything(again)
        assert left.keys() == right.keys()
        assert all(torch.equal(tensor, right[name]) for name, tensor in left.items())

    model = OmniModel.from_pretrained(folder / "omni", parts=parts, dtype=torch.float32)
    params = SamplingParams(steps=2)
    for job in SHIPPED:
        drafts = order(job, model, None, 0).drafts
        [result] = Engine(model).run([Request(job.task, drafts, params)])
        assert result.error is None, (job.task, result.error)
    print(len(SHIPPED), "tasks")


def everything(model: OmniModel) -> dict[str, torch.Tensor]:
    codecs = model.codecs
    modules = (model.backbone, codecs.image, codecs.hearing, codecs.speech)
    return {f"{i} {n}": t for i, m in enumerate(modules) for n, t in m.state_dict().items()}


main(Path(sys.argv[1]))
