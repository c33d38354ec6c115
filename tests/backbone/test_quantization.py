"""Eight bits for the blocks: fewer bytes, close logits, nothing else touched."""

from __future__ import annotations

import sys

import pytest
import torch
from torch import Tensor

from omni_diffusion.backbone.config import DreamConfig
from omni_diffusion.backbone.dream import Dream
from omni_diffusion.backbone.quantization import bytes_saved, quantize
from omni_diffusion.errors import MissingDependencyError, ModelError

IDS = torch.arange(40)[None]
SIZES = DreamConfig.mini(vocab_size=64)


def held(tensor: Tensor) -> int:
    """Bytes of a tensor, those inside of a wrapped one counted."""
    if not hasattr(tensor, "__tensor_flatten__"):
        return tensor.nbytes
    names, _ = tensor.__tensor_flatten__()
    return sum(held(part) for name in names if (part := getattr(tensor, name)) is not None)


def bytes_of(module: torch.nn.Module) -> int:
    return sum(held(parameter.data) for parameter in module.parameters())


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_bytes_fall_as_reckoned_and_logits_stay_close(dtype: torch.dtype) -> None:
    backbone = Dream(SIZES).to(dtype).eval()
    before = bytes_of(backbone)
    with torch.inference_mode():
        exact = backbone(IDS).float()
    quantize(backbone, "int8")
    assert before - bytes_of(backbone) == bytes_saved(SIZES, dtype)
    assert bytes_of(backbone.model.layers) < before * (0.27 if dtype == torch.float32 else 0.52)
    with torch.inference_mode():
        close = backbone(IDS).float()
    assert float((close - exact).norm() / exact.norm()) < 0.04


def test_only_the_linear_layers_of_the_blocks_change() -> None:
    backbone = Dream(SIZES)
    before = {name: parameter.data for name, parameter in backbone.named_parameters()}
    quantize(backbone, "int8")
    changed = {
        name for name, p in backbone.named_parameters() if type(p.data) is not type(before[name])
    }
    assert changed == {
        name for name in before if ".layers." in name and name.endswith("proj.weight")
    }
    assert len(changed) == 7 * SIZES.num_layers


def test_another_name_and_a_missing_library_are_told(monkeypatch: pytest.MonkeyPatch) -> None:
    backbone = Dream(SIZES)
    with pytest.raises(ModelError, match="int4"):
        quantize(backbone, "int4")  # type: ignore[arg-type]
    monkeypatch.setitem(sys.modules, "torchao", None)
    monkeypatch.delitem(sys.modules, "torchao.quantization", raising=False)
    with pytest.raises(
        MissingDependencyError, match=r"torchao is not installed; run: pip .*\[quant\]"
    ):
        quantize(backbone, "int8")


def test_the_published_model_is_reckoned() -> None:
    saved = bytes_saved(DreamConfig.dream_7b(), torch.bfloat16)
    assert round(saved / 1e9, 1) == 6.5  # of 15.6 GB
