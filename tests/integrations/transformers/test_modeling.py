"""The Auto classes on our own folder: the same weights both ways, answers as the engine's."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from tests.tasks.tiny_scenes import CONVERSATIONS
from tests.tiny import tiny_model
from torch.nn.functional import cross_entropy
from transformers import AutoConfig, AutoModel, Trainer, TrainingArguments

from omni_diffusion.backbone.config import DreamConfig
from omni_diffusion.engine.engine import Engine
from omni_diffusion.engine.request import Request
from omni_diffusion.errors import ConfigError, ModelError, SamplingError, WeightsError
from omni_diffusion.integrations.transformers import (
    OmniDiffusionConfig,
    OmniDiffusionModel,
    OmniDiffusionProcessor,
)
from omni_diffusion.io import weights
from omni_diffusion.models.omni import OmniModel
from omni_diffusion.tasks import catalog
from omni_diffusion.tasks.defaults import GenerationConfig

IDS = torch.arange(12)[None]


def same(one: torch.nn.Module, other: torch.nn.Module) -> None:
    ours, theirs = one.state_dict(), other.state_dict()
    assert list(ours) == list(theirs)
    assert all(torch.equal(tensor, theirs[name]) for name, tensor in ours.items())


def test_a_folder_of_ours_opens_as_a_config_and_a_model(omni: OmniModel, folder: Path) -> None:
    config = AutoConfig.from_pretrained(folder)
    assert isinstance(config, OmniDiffusionConfig)
    assert config.omni.backbone == omni.config.backbone
    assert (config.vocab_size, config.hidden_size, config.num_hidden_layers) == (
        omni.vocabulary.size,
        32,
        2,
    )
    model = AutoModel.from_pretrained(folder)
    assert isinstance(model, OmniDiffusionModel)
    assert not model.training
    assert not model.can_generate()  # in the sense of transformers: left to right
    same(model.backbone, omni.backbone)
    with torch.no_grad():
        assert torch.equal(model(IDS).logits, omni.backbone(IDS))


@pytest.mark.slow
@pytest.mark.parametrize(("size", "files"), [("1GB", 1), ("60KB", 3)])
def test_saved_by_transformers_and_opened_by_us(
    omni: OmniModel, folder: Path, tmp_path: Path, size: str, files: int
) -> None:
    model = AutoModel.from_pretrained(folder)
    out = tmp_path / "out"
    model.save_pretrained(out, max_shard_size=size)
    made = sorted(path.name for path in out.iterdir())
    assert made[:2] == ["config.json", "generation_config.json"]
    assert sum(name.endswith(".safetensors") for name in made) == files
    assert ("model.safetensors.index.json" in made) == (files > 1)
    assert (
        weights.read_tensors(out / "model.safetensors").keys() == omni.backbone.state_dict().keys()
    )
    omni.codecs.save(out)
    again = OmniModel.from_pretrained(out)
    same(again.backbone, omni.backbone)
    assert again.config == omni.config
    same(AutoModel.from_pretrained(out).backbone, omni.backbone)


def test_a_second_save_leaves_nothing_of_the_first(folder: Path, tmp_path: Path) -> None:
    model = AutoModel.from_pretrained(folder)
    for size in ("20KB", "1GB", "20KB"):
        with torch.no_grad():
            model.backbone.lm_head.weight.add_(1)
        model.save_pretrained(tmp_path, max_shard_size=size)
        found = weights.read_tensors(tmp_path / "model.safetensors")["lm_head.weight"]
        assert torch.equal(found, model.backbone.lm_head.weight)
        same(AutoModel.from_pretrained(tmp_path).backbone, model.backbone)


def test_dtype_and_device_map(folder: Path) -> None:
    assert AutoModel.from_pretrained(folder).dtype == torch.float32
    model = AutoModel.from_pretrained(folder, dtype=torch.bfloat16, device_map="cpu")
    assert {p.dtype for p in model.parameters()} == {torch.bfloat16}
    assert model.device == torch.device("cpu")


def test_the_dtype_of_a_saved_model_is_noted(folder: Path, tmp_path: Path) -> None:
    AutoModel.from_pretrained(folder, dtype=torch.bfloat16).save_pretrained(tmp_path)
    assert json.loads((tmp_path / "config.json").read_text())["dtype"] == "bfloat16"
    assert AutoModel.from_pretrained(tmp_path).dtype == torch.bfloat16


def test_a_config_without_weights_makes_a_model_that_starts_as_dream_does() -> None:
    omni = tiny_model()
    sizes = replace(omni.config.backbone, scale_residuals=True, num_layers=8)
    config = OmniDiffusionConfig.of(replace(omni.config, backbone=sizes))
    model = AutoModel.from_config(config)
    mlp = model.backbone.model.layers[0].mlp
    ratio = mlp.up_proj.weight.detach().std() / mlp.down_proj.weight.detach().std()
    assert float(ratio) == pytest.approx(4, rel=0.1)
    assert OmniDiffusionConfig().omni.backbone == DreamConfig.dream_7b()


@pytest.fixture
def own(folder: Path, tmp_path: Path) -> Path:
    """A copy to damage."""
    shutil.copytree(folder, tmp_path / "own")
    return tmp_path / "own"


def test_weights_that_do_not_fit_are_an_error_and_not_a_warning(own: Path) -> None:
    path = own / "model.safetensors"
    whole = weights.read_tensors(path)
    weights.write_tensors({n: t for n, t in whole.items() if n != "lm_head.weight"}, path)
    with pytest.raises(WeightsError, match=r"1 missing keys, such as backbone\.lm_head\.weight"):
        AutoModel.from_pretrained(own)
    weights.write_tensors(whole | {"more": torch.zeros(1)}, path)
    with pytest.raises(WeightsError, match="unexpected keys, such as more"):
        AutoModel.from_pretrained(own)


def test_broken_configs_are_named(own: Path) -> None:
    path = own / "config.json"
    data = json.loads(path.read_text())
    path.write_text(json.dumps(data | {"backbone": data["backbone"] | {"hidden": 3}}))
    with pytest.raises(ConfigError, match="unknown key 'hidden'"):
        AutoModel.from_pretrained(own)
    path.write_text(json.dumps(data))
    (own / "generation_config.json").unlink()
    with pytest.raises(ConfigError, match=r"no generation_config\.json at"):
        AutoModel.from_pretrained(own)


def test_speech_goes_to_its_places(
    model: OmniDiffusionModel, processor: OmniDiffusionProcessor
) -> None:
    batch = [CONVERSATIONS["svqa"], CONVERSATIONS["sqa"]]
    laid = processor.apply_chat_template(batch, task="chat", tokenize=True)
    inputs = {name: laid[name] for name in ("input_ids", "attention_mask", "input_features")}
    assert not bool(inputs["attention_mask"].all())
    with torch.no_grad():
        logits = model(**inputs).logits
        for row, prepared in enumerate(laid.prepared):
            canvas = prepared.canvas
            slots = [(0, slot) for slot in canvas.slots]
            alone = model.backbone(canvas.ids[None], slots=slots)[0]
            torch.testing.assert_close(logits[row, : canvas.length], alone)
    with pytest.raises(ModelError, match="speech tokens"):
        model(inputs["input_ids"], input_features=inputs["input_features"][1:])


def test_the_loss_is_that_of_the_asked_places_without_a_shift(model: OmniDiffusionModel) -> None:
    labels = torch.full_like(IDS, -100)
    labels[0, 3], labels[0, 7] = 5, 9
    with torch.no_grad():
        out = model(IDS, labels=labels)
    wanted = cross_entropy(out.logits[0, [3, 7]], torch.tensor([5, 9]))
    torch.testing.assert_close(out.loss, wanted)


def test_gradient_checkpointing_changes_no_gradient(folder: Path) -> None:
    model = AutoModel.from_pretrained(folder).train()
    found = []
    for switch in (model.activation_checkpointing_disable, model.activation_checkpointing_enable):
        switch()
        model.zero_grad()
        model(IDS, labels=IDS).loss.backward()
        found.append(model.backbone.model.embed_tokens.weight.grad.clone())
    assert model.backbone.model.checkpointing
    assert model.is_activation_checkpointing
    torch.testing.assert_close(*found)


@pytest.mark.slow
@pytest.mark.parametrize("task", CONVERSATIONS)
def test_answers_are_the_engines(
    omni: OmniModel, model: OmniDiffusionModel, processor: OmniDiffusionProcessor, task: str
) -> None:
    asked = CONVERSATIONS[task]
    (result,) = Engine(omni).run([Request(task, asked)])
    assert result.error is None
    inputs = processor.apply_chat_template(asked, task=task, tokenize=True)
    (filled,) = model.generate(**inputs)
    assert result.canvas is not None
    assert torch.equal(filled, result.canvas.ids)
    (answer,) = processor.post_process(filled[None], inputs)
    assert [type(part) for part in answer.parts] == [type(part) for part in result.parts]
    assert answer.notes == result.notes


def test_a_batch_is_padded_and_each_row_answered(
    model: OmniDiffusionModel, processor: OmniDiffusionProcessor
) -> None:
    texts = ["a red apple", "two dogs to the left of a tree on a blue background"]
    inputs = processor(text=texts, task="t2i")
    assert inputs["attention_mask"].sum(1).tolist() == [
        prepared.canvas.length for prepared in inputs.prepared
    ]
    filled = model.generate(**inputs, steps=4)
    assert not bool((filled == processor.vocabulary.mask).any())
    for row, text in enumerate(texts):
        alone = model.generate(**processor(text=text, task="t2i"), steps=4)[0]
        assert torch.equal(filled[row, : len(alone)], alone)


def test_sampling_is_asked_for_or_the_generation_configs(
    omni: OmniModel, processor: OmniDiffusionProcessor
) -> None:
    model = OmniDiffusionModel.from_omni(omni)
    inputs = processor(text=["a dog", "a dog"], task="t2i")
    hot = model.generate(**inputs, temperature=1.0, seed=1, guidance=1.0)
    assert torch.equal(hot, model.generate(**inputs, temperature=1.0, seed=1, guidance=1.0))
    assert not torch.equal(hot[0], hot[1])  # each row has a seed of its own
    assert not torch.equal(hot, model.generate(**inputs, temperature=1.0, seed=9, guidance=1.0))
    own = replace(catalog.task("t2i").params, temperature=1.0, seed=1, guidance=1.0)
    model.generation_config = GenerationConfig(sampling={"t2i": own})
    assert torch.equal(hot, model.generate(**inputs))
    with pytest.raises(SamplingError, match="max_new_tokens"):
        model.generate(**inputs, max_new_tokens=5)
    with pytest.raises(SamplingError, match="steps is 0"):
        model.generate(**inputs, steps=0)


@pytest.mark.slow
def test_the_trainer_of_transformers_trains_and_its_checkpoint_is_a_model_folder(
    omni: OmniModel, folder: Path, processor: OmniDiffusionProcessor, tmp_path: Path
) -> None:
    model = AutoModel.from_pretrained(folder)
    laid = processor(text=["a dog", "a cat"], task="t2i")
    filled = model.generate(**laid, steps=1)
    rows = [
        {"input_ids": ids, "labels": full}
        for ids, full in zip(laid["input_ids"], filled, strict=True)
    ]
    options = TrainingArguments(
        str(tmp_path), max_steps=2, save_steps=2, report_to=[], use_cpu=True, disable_tqdm=True
    )
    Trainer(model, options, train_dataset=rows, processing_class=processor).train()
    again = OmniModel.from_pretrained(tmp_path / "checkpoint-2")
    same(again.backbone, model.backbone)
    assert not torch.equal(again.backbone.lm_head.weight, omni.backbone.lm_head.weight)


def test_blocks_may_lie_on_the_disk(folder: Path, tmp_path: Path) -> None:
    backbone = "backbone.model"
    near = {f"{backbone}.{name}": "cpu" for name in ("embed_tokens", "norm", "audio_projection")}
    far = {f"{backbone}.layers": "disk"}
    places = {**near, **far, "backbone.lm_head": "cpu"}
    spread = AutoModel.from_pretrained(folder, device_map=places, offload_folder=tmp_path)
    with torch.no_grad():
        assert torch.equal(spread(IDS).logits, AutoModel.from_pretrained(folder)(IDS).logits)


def test_to_an_omni_model_and_back(omni: OmniModel, model: OmniDiffusionModel) -> None:
    again = model.to_omni(omni.codecs)
    assert again.config == omni.config
    assert again.backbone is omni.backbone
    with pytest.raises(ModelError, match="the model is quantized"):
        OmniDiffusionModel.from_omni(tiny_model().quantize("int8"))


@pytest.mark.parametrize("change", [8, -8, 10**6])
def test_the_vocabulary_cannot_be_resized(folder: Path, change: int) -> None:
    model = AutoModel.from_pretrained(folder)
    size, before = model.config.vocab_size, model(input_ids=IDS).logits
    table = model.get_input_embeddings()
    for same_size in (None, size):
        assert model.resize_token_embeddings(same_size) is table
    for call in (
        lambda: model.resize_token_embeddings(size + change),
        lambda: model.resize_token_embeddings(None, pad_to_multiple_of=size + 8),
        lambda: model.set_input_embeddings(torch.nn.Embedding(size + 8, 32)),
        lambda: model.set_output_embeddings(torch.nn.Linear(32, size + 8)),
    ):
        with pytest.raises(ModelError, match="vocabulary"):
            call()
    assert model.get_input_embeddings() is table
    assert model.config.vocab_size == len(table.weight) == len(model.backbone.lm_head.weight)
    assert torch.equal(model(input_ids=IDS).logits, before)


def test_the_loss_of_no_label_is_zero_and_of_some_their_mean(model: OmniDiffusionModel) -> None:
    logits = model(input_ids=IDS).logits[0]
    for count in (0, 1, 12):
        labels = torch.full_like(IDS, -100)
        labels[0, :count] = 3
        loss = model(input_ids=IDS, labels=labels).loss
        right = -logits[:count].log_softmax(-1)[:, 3].sum() / max(count, 1)
        torch.testing.assert_close(loss, right)
        loss.backward()
        assert all(bool(p.grad.isfinite().all()) for p in model.parameters() if p.grad is not None)
        model.zero_grad()


@pytest.mark.parametrize(
    ("option", "words"),
    [
        ({"labels": IDS + 10**6}, "a label is 1000000; give 0 to"),
        ({"labels": -1 - IDS}, "a label is -1"),
        ({"labels": IDS[:, :3]}, r"labels are \(1, 3\)"),
        ({"inputs_embeds": torch.zeros(1, 12, 32)}, "does not take inputs_embeds"),
        ({"output_hidden_states": True}, "does not take output_hidden_states"),
    ],
)
def test_what_forward_cannot_do_is_one_line(
    model: OmniDiffusionModel, option: dict[str, object], words: str
) -> None:
    with pytest.raises(ModelError, match=words):
        model(input_ids=IDS, **option)
    values = model(input_ids=IDS, return_dict=False, output_attentions=False)
    assert torch.equal(values[0], model(input_ids=IDS).logits)
