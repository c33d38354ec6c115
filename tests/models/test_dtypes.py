"""The dtype that a folder states is the one that computes, through every door."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from tests.tiny import tiny_model

from omni_diffusion.cli.options import open_model
from omni_diffusion.errors import ConfigError, ModelError
from omni_diffusion.models.doctor import folder_size
from omni_diffusion.models.dtypes import (
    BACKBONE_DTYPES,
    WIDE,
    WORTH,
    bfloat16_speedup,
    compute_dtype,
    faster_dtype,
)
from omni_diffusion.models.omni import OmniModel

transformers = pytest.importorskip("transformers")
pytest.importorskip("diffusers")

from omni_diffusion.integrations.diffusers import OmniDiffusionPipeline  # noqa: E402
from omni_diffusion.integrations.transformers import (  # noqa: E402
    OmniDiffusionModel,
    OmniDiffusionProcessor,
)

IDS = torch.arange(12)[None]
CPU = torch.device("cpu")


def pipeline(folder: Path, dtype: Any = None) -> OmniModel:
    return OmniDiffusionPipeline.from_pretrained(folder, torch_dtype=dtype).model


def typed(folder: Path, dtype: Any = None) -> OmniModel:
    return open_model(folder, "cpu", dtype="auto" if dtype is None else str(dtype)[6:])


def auto(folder: Path, dtype: Any = None) -> OmniDiffusionModel:
    model: OmniDiffusionModel = transformers.AutoModel.from_pretrained(folder, dtype=dtype)
    return model


DOORS: dict[str, Callable[..., Any]] = {
    "open": lambda folder, dtype=None: OmniModel.open(folder, dtype=dtype),
    "from_pretrained": lambda folder, dtype=None: OmniModel.from_pretrained(folder, dtype=dtype),
    "AutoModel": auto,
    "pipeline": pipeline,
    "command line": typed,
}


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder for each dtype, named after it."""
    out = tmp_path_factory.mktemp("dtypes")
    for name, dtype in BACKBONE_DTYPES.items():
        model = tiny_model()
        model.backbone.to(dtype)
        model.save(out / name)
    return out


@pytest.mark.slow
@pytest.mark.parametrize("door", DOORS)
@pytest.mark.parametrize("name", BACKBONE_DTYPES)
def test_what_config_json_says_computes(folders: Path, door: str, name: str) -> None:
    opened = DOORS[door](folders / name)
    stated = BACKBONE_DTYPES[name]
    assert {p.dtype for p in opened.backbone.parameters()} == {stated}
    with torch.no_grad():
        logits = opened.backbone(IDS)
        expected = tiny_model().backbone.to(stated)(IDS)
    assert logits.dtype == stated
    assert torch.equal(logits, expected)
    asked = DOORS[door](folders / name, dtype=torch.float32)
    assert {p.dtype for p in asked.backbone.parameters()} == {torch.float32}


@pytest.mark.slow
def test_smaller_weights_compute_in_what_config_json_says(tmp_path: Path) -> None:
    tiny_model().save(tmp_path, torch.float16)
    assert json.loads((tmp_path / "config.json").read_text())["dtype"] == "float32"
    for door in DOORS.values():
        assert door(tmp_path).backbone.lm_head.weight.dtype == torch.float32


def test_sizes_follow_the_dtype(folders: Path) -> None:
    whole, half = folder_size(folders / "float32"), folder_size(folders / "bfloat16")
    assert half.dtype == torch.bfloat16
    assert half.components["backbone"].bytes * 2 == whole.components["backbone"].bytes
    assert folder_size(folders / "bfloat16", "float32") == whole


@pytest.mark.slow
def test_a_saved_copy_states_it_again(folders: Path, tmp_path: Path) -> None:
    folder = folders / "bfloat16"
    OmniModel.open(folder).save(tmp_path / "a")
    OmniDiffusionProcessor.from_pretrained(folder).save_pretrained(tmp_path / "b")
    auto(folder).save_pretrained(tmp_path / "c")
    for name in "abc":
        assert json.loads((tmp_path / name / "config.json").read_text())["dtype"] == "bfloat16"


@pytest.mark.parametrize("name", ["bf16", "int8", "Float32", "float64", "", 16, None, ["float32"]])
def test_an_unknown_dtype_of_a_folder_is_refused_by_every_door(
    folders: Path, tmp_path: Path, name: object
) -> None:
    for file in (folders / "float32").rglob("*"):
        if file.is_file():
            copy = tmp_path / file.relative_to(folders / "float32")
            copy.parent.mkdir(exist_ok=True)
            copy.write_bytes(file.read_bytes())
    path = tmp_path / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"dtype": name}))
    readers = [OmniDiffusionProcessor.from_pretrained, transformers.AutoConfig.from_pretrained]
    for door in (*DOORS.values(), *readers, folder_size):
        with pytest.raises(ConfigError, match=r"config\.json\.dtype is .*'float32', 'bfloat16', '"):
            door(tmp_path)


@pytest.mark.parametrize("dtype", ["bf16", "int8", torch.int8, torch.float64, "Float32"])
def test_another_dtype_cannot_be_asked_for(folders: Path, dtype: Any, tmp_path: Path) -> None:
    words = r"dtype is .*; give one of float32, bfloat16, float16"
    for name, door in DOORS.items():
        if name != "command line":
            with pytest.raises(ModelError, match=words):
                door(folders / "float32", dtype=dtype)
    with pytest.raises(ModelError, match=words):
        open_model(folders / "float32", "cpu", dtype=str(dtype))
    with pytest.raises(ModelError, match=words):
        tiny_model().save(tmp_path / "saved", dtype)


def test_a_name_or_nothing_may_be_asked_for() -> None:
    for asked in (None, "auto"):
        assert compute_dtype(asked, torch.float16) == torch.float16
    for asked in ("bfloat16", torch.bfloat16, "torch.bfloat16"):
        assert compute_dtype(asked, torch.float16) == torch.bfloat16


@pytest.mark.slow
def test_bfloat16_only_where_it_is_much_faster() -> None:
    assert bfloat16_speedup(CPU) > 0
    chosen = torch.bfloat16 if bfloat16_speedup(CPU) >= WORTH else torch.float32
    assert faster_dtype(torch.float32, CPU, WIDE) == chosen
    assert faster_dtype(torch.float32, CPU, WIDE - 1) == torch.float32
    assert OmniModel.open(dtype="auto").dtype == torch.float32  # the small model is narrow


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_a_smaller_dtype_stays(dtype: torch.dtype) -> None:
    assert faster_dtype(dtype, CPU, WIDE) == dtype


@pytest.mark.slow
def test_a_processor_without_bfloat16_computes_in_float32() -> None:
    about = Path("/proc/cpuinfo")
    if not about.is_file() or "bf16" in about.read_text():
        pytest.skip("this processor has bfloat16")
    assert faster_dtype(torch.float32, CPU, WIDE) == torch.float32
