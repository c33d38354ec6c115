"""LoRA: trained with our own objective, saved, opened again and merged."""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path

import peft
import pytest
import torch
from peft import AutoPeftModel, AutoPeftModelForCausalLM, PeftModel, get_peft_model
from tests.tasks.tiny_scenes import CONVERSATIONS, filled
from tests.tiny import tiny_model
from transformers import AutoModel

from omni_diffusion.backbone.dream import Dream
from omni_diffusion.canvas import Canvas
from omni_diffusion.data.mixture import TaskGroup
from omni_diffusion.errors import ConfigError, MissingDependencyError
from omni_diffusion.integrations.transformers import OmniDiffusionModel, OmniDiffusionProcessor
from omni_diffusion.io import weights
from omni_diffusion.models.lora import lora_config
from omni_diffusion.models.omni import OmniModel
from omni_diffusion.tasks import catalog
from omni_diffusion.tasks.render import render
from omni_diffusion.training.denoising import DenoisingConfig, DenoisingObjective

IDS = torch.arange(12)[None]
STEPS = 30


class Few:
    """The same few canvases in every step."""

    def __init__(self, canvases: list[Canvas]) -> None:
        self.groups = [TaskGroup.of("t2i", 1.0, canvases)]

    def draw(self, step: int, generator: torch.Generator) -> list[TaskGroup]:
        return self.groups


def trained(omni: OmniModel, folder: Path, **options: object) -> tuple[PeftModel, list[float]]:
    """A model of the folder with factors that learned a few canvases by heart, and its losses."""
    torch.manual_seed(0)
    model = get_peft_model(OmniDiffusionModel.from_pretrained(folder), lora_config(8, **options))
    canvas = render(catalog.task("t2i"), CONVERSATIONS["t2i"], omni).canvas
    backbone = model.get_base_model().backbone
    mixture = Few([filled(canvas), filled(canvas)])
    objective = DenoisingObjective(backbone, omni.vocabulary, mixture, DenoisingConfig())
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], 1e-2)
    generator, losses = torch.Generator().manual_seed(0), []
    for step in range(STEPS):
        loss, _ = objective.loss(step, generator)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(float(loss.detach()))
    return model.eval(), losses


def logits(model: torch.nn.Module) -> torch.Tensor:
    with torch.no_grad():
        return model(input_ids=IDS).logits


def test_by_default_the_blocks_learn_and_nothing_else(omni: OmniModel, folder: Path) -> None:
    before = omni.backbone.state_dict()
    model, losses = trained(omni, folder)
    assert max(losses[-5:]) < min(losses[:2])  # as far as a head of small random rows allows
    learning = {name for name, p in model.named_parameters() if p.requires_grad}
    layers = omni.config.backbone.num_layers
    assert len(learning) == 2 * 7 * layers  # two factors for each of seven projections
    assert all(".layers." in name and ".lora_" in name for name in learning)
    for name, tensor in model.unload().backbone.state_dict().items():
        assert torch.equal(tensor, before[name]), name


@pytest.mark.slow
def test_saved_opened_and_merged(omni: OmniModel, folder: Path, tmp_path: Path) -> None:
    model, _ = trained(omni, folder)
    model.save_pretrained(tmp_path / "adapter")
    stored = weights.read_tensors(tmp_path / "adapter/adapter_model.safetensors")
    assert len(stored) == 2 * 7 * omni.config.backbone.num_layers  # the factors alone
    again = PeftModel.from_pretrained(AutoModel.from_pretrained(folder), tmp_path / "adapter")
    torch.testing.assert_close(logits(again), logits(model), rtol=0, atol=0)
    merged = again.merge_and_unload()
    assert isinstance(merged, OmniDiffusionModel)
    torch.testing.assert_close(logits(merged), logits(model), rtol=1e-4, atol=1e-5)
    assert not torch.allclose(logits(merged), logits(OmniDiffusionModel.from_omni(omni)), atol=0.01)
    merged.save_pretrained(tmp_path / "merged")
    omni.codecs.save(tmp_path / "merged")
    opened = OmniModel.from_pretrained(tmp_path / "merged")
    with torch.no_grad():
        assert torch.equal(opened.backbone(IDS), logits(merged))


def test_new_rows_and_the_adapter_are_trained_whole(
    omni: OmniModel, folder: Path, tmp_path: Path
) -> None:
    image = omni.vocabulary.image
    new = range(image.start, image.stop)
    model, losses = trained(omni, folder, new_ids=new, adapter=True)
    assert max(losses[-5:]) < 0.7 * losses[0]
    model.save_pretrained(tmp_path)
    stored = weights.read_tensors(tmp_path / "adapter_model.safetensors")
    rows = [tensor.shape for name, tensor in stored.items() if "trainable_tokens" in name]
    assert rows == [(len(new), 32)] * 2  # of embedding and head, and no row more
    assert sum("audio_projection" in name for name in stored) == 4
    unmerged = logits(model)
    merged = model.merge_and_unload()
    torch.testing.assert_close(logits(merged), unmerged, rtol=1e-4, atol=1e-5)
    for table in (merged.backbone.model.embed_tokens, merged.backbone.lm_head):
        name = "lm_head" if table is merged.backbone.lm_head else "model.embed_tokens"
        changed = (table.weight != omni.backbone.state_dict()[f"{name}.weight"]).any(1)
        assert bool(changed[image.start : image.stop].any())
        assert not bool(changed[: image.start].any())


@pytest.mark.slow
def test_an_adapted_model_generates(
    omni: OmniModel, folder: Path, processor: OmniDiffusionProcessor
) -> None:
    model, _ = trained(omni, folder)
    inputs = processor(text="a red apple", task="t2i")
    steps = {"steps": 4}
    adapted = model.generate(**inputs, **steps)
    assert torch.equal(adapted, model.merge_and_unload().generate(**inputs, **steps))


def test_options_are_passed_on_and_mistakes_are_named(monkeypatch: pytest.MonkeyPatch) -> None:
    config = lora_config(4, target_modules=["q_proj"], lora_alpha=4, lora_dropout=0.1)
    assert isinstance(config, peft.LoraConfig)
    assert (config.r, config.lora_alpha, config.lora_dropout) == (4, 4, 0.1)
    assert set(config.target_modules) == {"q_proj"}
    with pytest.raises(ConfigError, match="rank is 0"):
        lora_config(0)
    monkeypatch.setitem(sys.modules, "peft", None)
    with pytest.raises(
        MissingDependencyError, match=r"peft is not installed; run: pip install 'omni-.*lora"
    ):
        lora_config()


@pytest.mark.parametrize("task_type", [None, "CAUSAL_LM", "FEATURE_EXTRACTION"])
def test_task_types_compute_the_same(
    folder: Path, processor: OmniDiffusionProcessor, tmp_path: Path, task_type: str | None
) -> None:
    config = lora_config(4, task_type=task_type, init_lora_weights=False)
    torch.manual_seed(1)
    model = get_peft_model(OmniDiffusionModel.from_pretrained(folder), config).eval()
    plain = PeftModel(OmniDiffusionModel.from_pretrained(folder), lora_config(4)).eval()
    plain.load_state_dict(model.state_dict())
    assert torch.equal(logits(model), logits(plain))
    inputs = processor(text="a red apple", task="t2i")
    made = model.generate(**inputs, steps=2)
    assert torch.equal(made, plain.generate(**inputs, steps=2))
    labels = torch.where(IDS > 5, IDS, -100)
    model(input_ids=IDS, attention_mask=torch.ones_like(IDS), labels=labels).loss.backward()
    assert all(p.grad is not None for p in model.parameters() if p.requires_grad)
    model.save_pretrained(tmp_path)
    known = {None: AutoPeftModel, "CAUSAL_LM": AutoPeftModelForCausalLM}
    if task_type in known:  # the adapter knows its base
        again = known[task_type].from_pretrained(tmp_path, import_allowlist=["omni_diffusion"])
        assert torch.equal(logits(again), logits(model))


@pytest.mark.parametrize("task_type", ["SEQ_CLS", "SEQ_2_SEQ_LM", "TOKEN_CLS", "causal_lm", 3])
def test_task_types_with_another_head_are_one_line(task_type: object) -> None:
    with pytest.raises(ConfigError, match=r"task_type is .*; give one of None, CAUSAL_LM, FEATURE"):
        lora_config(4, task_type=task_type)


def test_new_rows_of_tied_tables_are_those_of_the_one_table(tmp_path: Path) -> None:
    tiny = tiny_model()
    sizes = replace(tiny.config.backbone, tie_embeddings=True)
    OmniModel(replace(tiny.config, backbone=sizes), tiny.codecs, Dream(sizes)).save(tmp_path)
    base = OmniDiffusionModel.from_pretrained(tmp_path)
    table = base.backbone.model.embed_tokens.weight.detach().clone()
    model = get_peft_model(base, lora_config(4, new_ids=[5, 7], tied=True))
    rows = [p for name, p in model.named_parameters() if "trainable_tokens_delta" in name]
    assert [tuple(each.shape) for each in rows] == [(2, 32)]
    before = logits(model)
    with torch.no_grad():
        rows[0] += 1.0
    after = logits(model)
    assert bool((after[..., [5, 7]] != before[..., [5, 7]]).all())  # the rows are in the head too
    merged = model.merge_and_unload()
    torch.testing.assert_close(logits(merged), after, rtol=1e-4, atol=1e-5)
    changed = (merged.backbone.model.embed_tokens.weight != table).any(1)
    assert changed.nonzero().flatten().tolist() == [5, 7]
