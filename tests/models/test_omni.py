"""A model and its folder: it is saved and opened, and parts that do not fit are refused."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from tests.tiny import tiny_model

from omni_diffusion.backbone.config import DreamConfig
from omni_diffusion.backbone.quantization import QuantizedLinear
from omni_diffusion.codecs.suite import SuiteConfig
from omni_diffusion.conversation import Message, Text
from omni_diffusion.diffusion.params import SamplingParams
from omni_diffusion.engine.engine import Engine
from omni_diffusion.engine.request import Request
from omni_diffusion.errors import ConfigError, ModelError, OmniError, StorageError, WeightsError
from omni_diffusion.models.omni import ModelConfig, OmniModel
from omni_diffusion.tasks.defaults import GenerationConfig
from omni_diffusion.vocab import Vocabulary

IDS = torch.arange(12)[None]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    tiny_model().save(tmp_path / "tiny")
    return tmp_path / "tiny"


def test_opened_as_it_was_saved(folder: Path) -> None:
    model, again = tiny_model(), OmniModel.open(folder)
    assert again.config == model.config
    assert again.vocabulary == model.vocabulary
    with torch.no_grad():
        assert torch.equal(again.backbone(IDS), model.backbone(IDS))
    assert not any(tensor.is_meta for tensor in again.backbone.parameters())
    assert again.device == torch.device("cpu")


def test_half_precision_weights_open_as_asked(tmp_path: Path) -> None:
    tiny_model().save(tmp_path, torch.float16)
    weight = OmniModel.open(tmp_path).backbone.lm_head.weight
    assert weight.dtype == torch.float32
    assert OmniModel.open(tmp_path, dtype=torch.bfloat16).backbone.lm_head.weight.dtype == (
        torch.bfloat16
    )
    torch.testing.assert_close(weight, tiny_model().backbone.lm_head.weight, atol=1e-4, rtol=0)


def test_its_own_lengths_and_sampling_come_back(tmp_path: Path) -> None:
    tiny = tiny_model()
    config = replace(
        tiny.config,
        generation=GenerationConfig({"tts": (4.0, 8)}, {"t2i": SamplingParams(guidance=1.5)}),
    )
    OmniModel(config, tiny.codecs, tiny.backbone).save(tmp_path)
    again = OmniModel.open(tmp_path)
    assert again.generation.lengths == {"tts": (4.0, 8)}
    assert again.generation.sampling["t2i"].guidance == 1.5


@pytest.mark.slow
def test_the_same_seed_gives_the_same_model() -> None:
    one, two, other = tiny_model(), tiny_model(), tiny_model(1)
    assert torch.equal(one.backbone.lm_head.weight, two.backbone.lm_head.weight)
    assert not torch.equal(one.backbone.lm_head.weight, other.backbone.lm_head.weight)


def test_no_model_here(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=r"no model at .*nowhere"):
        OmniModel.open(tmp_path / "nowhere")


def test_missing_and_cut_weights_are_named(folder: Path) -> None:
    path = folder / "model.safetensors"
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(WeightsError, match=r"model\.safetensors is truncated"):
        OmniModel.open(folder)
    path.unlink()
    with pytest.raises(WeightsError, match=r"no weights at .*model\.safetensors"):
        OmniModel.open(folder)


def test_a_misspelt_key_is_named(folder: Path) -> None:
    path = folder / "config.json"
    data = json.loads(path.read_text())
    data["backbone"]["hidden"] = 3
    path.write_text(json.dumps(data))
    with pytest.raises(ConfigError, match="unknown key 'hidden'"):
        OmniModel.open(folder)


def test_a_folder_of_another_kind_is_told_apart(folder: Path) -> None:
    path = folder / "config.json"
    path.write_text(path.read_text().replace('"omni_diffusion"', '"Dream"'))
    with pytest.raises(ModelError, match=r"config\.json is not of model_type 'omni_diffusion'"):
        OmniModel.open(folder)
    path.write_text("{")
    with pytest.raises(ModelError, match=r"config\.json is not valid JSON"):
        OmniModel.open(folder)


def test_generation_config_is_wanted_and_honoured(folder: Path) -> None:
    path = folder / "generation_config.json"
    path.write_text(json.dumps({"sampling": {"t2i": {"steps": 3}}, "longest": 7}))
    again = OmniModel.open(folder)
    assert (again.generation.sampling["t2i"].steps, again.config.generation.longest) == (3, 7)
    path.write_text(json.dumps({"sampling": {"t2i": {"step": 3}}}))
    with pytest.raises(ConfigError, match=r"sampling\.t2i has an unknown key 'step'"):
        OmniModel.open(folder)
    path.unlink()
    with pytest.raises(ConfigError, match=r"cannot read .*generation_config\.json"):
        OmniModel.open(folder)


def test_quantized_when_opened_and_not_to_be_saved(folder: Path, tmp_path: Path) -> None:
    exact, close = OmniModel.open(folder), OmniModel.from_pretrained(folder, quantization="int8")
    assert (exact.quantization, close.quantization) == (None, "int8")
    assert isinstance(close.backbone.model.layers[0].mlp.up_proj, QuantizedLinear)
    assert torch.equal(close.backbone.lm_head.weight, exact.backbone.lm_head.weight)
    with torch.inference_mode():
        torch.testing.assert_close(close.backbone(IDS), exact.backbone(IDS), atol=0.02, rtol=0.05)
    with pytest.raises(ModelError, match="quantized"):
        close.save(tmp_path / "again")
    assert not (tmp_path / "again").exists()


@pytest.mark.slow
def test_the_shipped_model_paints_nearly_the_same_in_8_bits() -> None:
    asked = Request("t2i", [Message("user", (Text("three houses on a blue background"),))])
    painted = []
    for quantization in (None, "int8"):
        model = OmniModel.open(quantization=quantization)
        (result,) = Engine(model).run([asked])
        assert result.canvas is not None
        painted.append(result.canvas.ids[slice(*result.canvas.answer)])
    assert float((painted[0] == painted[1]).float().mean()) > 0.9


def test_parts_of_different_models_are_refused() -> None:
    tiny = tiny_model()
    for field, what in (("text_size", "the tokenizer"), ("speech_size", "the speech codec")):
        size = getattr(tiny.vocabulary, field) + 1
        config = replace(tiny.config, vocabulary=replace(tiny.vocabulary, **{field: size}))
        with pytest.raises(ModelError, match=f"{what} has"):
            OmniModel(config, tiny.codecs, tiny.backbone)
    for sizes in (
        replace(tiny.config.backbone, vocab_size=5),
        replace(tiny.config.backbone, speech_dim=5),
    ):
        with pytest.raises(ModelError, match="use parts of one model"):
            OmniModel(replace(tiny.config, backbone=sizes), tiny.codecs, tiny.backbone)


@pytest.mark.parametrize("device", ["abacus", "cuda:77"])
def test_a_device_that_is_not_there(folder: Path, device: str) -> None:
    with pytest.raises(ModelError, match=f"device '{device}'"):
        OmniModel.open(folder, device=device)


def test_a_file_where_the_folder_should_be(tmp_path: Path) -> None:
    (tmp_path / "taken").write_text("")
    with pytest.raises(StorageError, match="taken"):
        tiny_model().save(tmp_path / "taken")


def test_published_sizes_fit_one_another() -> None:

    config = ModelConfig(
        "omni-diffusion", Vocabulary.official(), DreamConfig.dream_7b(), SuiteConfig.official()
    )
    assert config.vocabulary.size == config.backbone.vocab_size
    assert config.codecs.image.codes == config.vocabulary.image_size
    assert config.codecs.hearing.dim == config.backbone.speech_dim


ABSURD = {  # a file, and the path of one of its numbers
    "config.json": (
        ("backbone", "hidden_size"),
        ("backbone", "num_layers"),
        ("backbone", "num_kv_heads"),
        ("vocabulary", "image_size"),
        ("codecs", "image", "channels"),
        ("codecs", "image", "bits"),
        ("codecs", "hearing", "blocks"),
        ("codecs", "hearing", "heads"),
    ),
    "speech/config.json": (
        ("tokenizer", "layers"),
        ("tokenizer", "pool"),
        ("flow", "mel_bins"),
        ("flow", "estimator", "heads"),
        ("vocoder", "iterations"),
    ),
    "generation_config.json": (("longest",),),
}


@pytest.mark.parametrize(
    ("name", "path"), [(name, path) for name, paths in ABSURD.items() for path in paths]
)
def test_absurd_numbers_of_a_config_are_refused_by_name(
    folder: Path, name: str, path: tuple[str, ...]
) -> None:
    whole = (folder / name).read_text()
    for number in ("99999999999", "1e999", "-1", "0.5", "true", '"8"', "9" * 400, "9" * 5000):
        data = json.loads(whole)
        inner = data
        for key in path[:-1]:
            inner = inner[key]
        inner[path[-1]] = "@"
        (folder / name).write_text(json.dumps(data).replace('"@"', number))
        with pytest.raises(OmniError) as caught:
            OmniModel.open(folder)
        text = str(caught.value)
        assert "\n" not in text
        if len(number) < 5000:  # else it is not read at all
            assert path[-1] in text or path[-1] == "image_size", text


def test_a_config_with_a_byte_order_mark_opens(folder: Path) -> None:
    for name in ("config.json", "generation_config.json", "speech/config.json"):
        (folder / name).write_bytes(b"\xef\xbb\xbf" + (folder / name).read_bytes())
    assert OmniModel.open(folder).config == tiny_model().config
