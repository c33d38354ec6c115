"""Eight and four bits for the blocks: fewer bytes, close logits, nothing else touched."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from omni_diffusion.backbone.config import DreamConfig
from omni_diffusion.backbone.dream import Dream
from omni_diffusion.backbone.quantization import (
    Quantization,
    QuantizedLinear,
    bytes_saved,
    quantize,
)
from omni_diffusion.errors import ModelError

IDS = torch.arange(40)[None]
SIZES = DreamConfig.mini(vocab_size=64)
ERRORS: dict[Quantization, float] = {"int8": 0.04, "int4": 0.3}


def bytes_of(module: nn.Module) -> int:
    tensors = [*module.parameters(), *module.buffers()]
    return sum(tensor.nbytes for tensor in tensors)


@pytest.mark.parametrize("how", ["int8", "int4"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_bytes_fall_as_reckoned_and_logits_stay_close(
    dtype: torch.dtype, how: Quantization
) -> None:
    backbone = Dream(SIZES).to(dtype).eval()
    before = bytes_of(backbone)
    with torch.inference_mode():
        exact = backbone(IDS).float()
    quantize(backbone, how)
    assert before - bytes_of(backbone) == bytes_saved(SIZES, dtype, how)
    with torch.inference_mode():
        close = backbone(IDS).float()
    error = float((close - exact).norm() / exact.norm())
    assert 0 < error < ERRORS[how] + (0.02 if dtype == torch.bfloat16 else 0)


@pytest.mark.parametrize("how", ["int8", "int4"])
def test_a_layer_is_the_product_with_its_own_rows(how: Quantization) -> None:
    linear = nn.Linear(128, 700)
    small = QuantizedLinear(linear, how)
    x = torch.randn(2, 3, 128)
    whole = small.rows(0, 700, torch.float32)
    with torch.no_grad():
        torch.testing.assert_close(small(x), x @ whole.T + linear.bias)
        step = (linear.weight.amax(1) - linear.weight.amin(1)) / (250 if how == "int8" else 15)
        assert bool(((whole - linear.weight).abs() <= step[:, None]).all())


def test_levels_that_fit_are_kept_exactly() -> None:
    linear = nn.Linear(64, 2, bias=False)
    with torch.no_grad():
        linear.weight.copy_(torch.arange(64).remainder(16).float().expand(2, 64) - 4)
    assert torch.equal(QuantizedLinear(linear, "int4").rows(0, 2, torch.float32), linear.weight)
    with torch.no_grad():
        linear.weight[:, 0] = 127
    assert torch.equal(QuantizedLinear(linear, "int8").rows(0, 2, torch.float32), linear.weight)


def test_a_constant_row_does_not_divide_by_zero() -> None:
    for dtype in (torch.float32, torch.float16):
        linear = nn.Linear(64, 3, bias=False).to(dtype)
        nn.init.zeros_(linear.weight)
        for how in ERRORS:
            assert not QuantizedLinear(linear, how).rows(0, 3, torch.float32).any()


def test_only_the_linear_layers_of_the_blocks_change() -> None:
    backbone = Dream(SIZES)
    kinds = {name: type(module) for name, module in backbone.named_modules()}
    quantize(backbone, "int8")
    changed = {n for n, module in backbone.named_modules() if type(module) is not kinds[n]}
    assert changed == {n for n in kinds if ".layers." in n and n.endswith("proj")}
    assert len(changed) == 7 * SIZES.num_layers


def test_another_name_is_refused() -> None:
    with pytest.raises(ModelError, match="int2"):
        quantize(Dream(SIZES), "int2")  # type: ignore[arg-type]


def test_the_published_model_is_reckoned() -> None:
    config = DreamConfig.dream_7b()
    saved = {how: bytes_saved(config, torch.bfloat16, how) / 1e9 for how in ERRORS}
    assert {how: round(gigabytes, 1) for how, gigabytes in saved.items()} == {
        "int8": 6.5,  # of 15.6
        "int4": 9.4,
    }
