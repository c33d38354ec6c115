"""Uses the installed wheel as a user does; `test_wheel` runs it outside of the repository.

    python wheel_script.py FOLDER

FOLDER: written by `published_folders.write_published`, with sizes.json.
"""

from __future__ import annotations

import sys
from pathlib import Path

import torch

import omni_diffusion
from omni_diffusion import Engine, OmniModel, Request, Text
from omni_diffusion.conversation import Message
from omni_diffusion.demo.demo import request_of
from omni_diffusion.demo.jobs import DEMO_JOBS, with_gaps
from omni_diffusion.io import config as configs
from omni_diffusion.models.omni import convert
from omni_diffusion.models.upstream import CodecConfigs, CodecSources


def main(folder: Path) -> None:
    installed = Path(omni_diffusion.__file__).parent
    assert installed.parent.name == "site-packages", installed
    assert Path(sys.prefix) in installed.parents, installed

    asked = Request("chat", [Message("user", (Text("what is a cake?"),))])
    [answer] = Engine(OmniModel.open()).run([asked])
    assert "food" in "".join(part.text for part in answer.parts if isinstance(part, Text))

    names = ("magvitv2", "tokenizer", "decoder", "sensevoice")
    sizes = configs.load(CodecConfigs, folder / "sizes.json")
    sources = CodecSources(*(folder / name for name in names), sizes)
    for published in ("omni", "dream"):
        opened = OmniModel.from_pretrained(folder / published, codec_sources=sources)
        convert(folder / published, Path(published), codec_sources=sources)
        again = OmniModel.open(published, dtype=torch.bfloat16)
        left, right = everything(opened), everything(again)
        assert left.keys() == right.keys()
        assert all(torch.equal(tensor, right[name]) for name, tensor in left.items())

    model = OmniModel.from_pretrained(folder / "omni", codec_sources=sources, dtype=torch.float32)
    for job in DEMO_JOBS:
        request = request_of(with_gaps(job, model.codecs.text), steps=2, seed=0)
        [result] = Engine(model).run([request])
        assert result.error is None, (job.task, result.error)
    print(len(DEMO_JOBS), "tasks")


def everything(model: OmniModel) -> dict[str, torch.Tensor]:
    codecs = model.codecs
    modules = (model.backbone, codecs.image, codecs.hearing, codecs.speech)
    return {f"{i} {n}": t for i, m in enumerate(modules) for n, t in m.state_dict().items()}


main(Path(sys.argv[1]))
