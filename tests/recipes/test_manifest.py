"""Training on shards: it learns, goes on exactly, and refuses what does not belong together."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from tests.data.test_exercises import row
from tests.tiny import checkers, tiny_model, tone

from omni_diffusion.data.sharding import Worker
from omni_diffusion.errors import ConfigError, DataError, TrainingError
from omni_diffusion.model import OmniModel
from omni_diffusion.recipes.manifest import Plan, begin, train

pytest.importorskip("pyarrow")


@pytest.fixture(scope="module")
def plan(tmp_path_factory: pytest.TempPathFactory) -> Plan:
    """Six samples of two tasks, and the tiny model."""
    folder = tmp_path_factory.mktemp("plan")
    tone(0.5).write(folder / "a.wav")
    checkers(20).write(folder / "c.png")
    rows = [
        row("Convert the speech to text.\n<|audio|>", f"dog {n}", audios=["a.wav"]) for n in "ab"
    ]
    rows += [row(f"what is this, {n}?\n<|image|>", f"apple {n}", images=["c.png"]) for n in "abcd"]
    path = folder / "train.jsonl"
    path.write_text("".join(json.dumps(each) + "\n" for each in rows))
    model = tiny_model()
    model.save(folder / "model")
    Worker(path, folder / "shards", model.codecs).run(of=2)
    return Plan((folder / "shards",), folder / "model", steps=6, samples=4, lr=1e-3)


def test_a_run_that_was_stopped_ends_as_the_unbroken_one(plan: Plan, tmp_path: Path) -> None:
    train(plan, tmp_path / "whole")
    whole = OmniModel.open(tmp_path / "whole" / "model").backbone.state_dict()
    trainer = begin(plan, tmp_path / "broken")
    for _ in range(3):
        trainer.advance()
    trainer.save()
    assert begin(plan, tmp_path / "broken").step == 3
    train(plan, tmp_path / "broken")
    resumed = OmniModel.open(tmp_path / "broken" / "model").backbone.state_dict()
    assert all(torch.equal(value, whole[name]) for name, value in resumed.items())
    start = OmniModel.open(plan.model).backbone.state_dict()
    assert any(not torch.equal(value, start[name]) for name, value in whole.items())


def test_it_learns(plan: Plan, tmp_path: Path) -> None:
    rows: list[dict[str, float]] = []
    longer = replace(plan, steps=100, samples=6, lr=1e-2)
    train(longer, tmp_path, report=lambda _, figures: rows.append(figures))
    assert rows[-1].keys() >= {"asr_loss", "asr_right", "pads", "vqa_loss", "vqa_right"}
    assert rows[-1]["loss"] < 0.7 * rows[0]["loss"]


def test_another_plan_is_refused(plan: Plan, tmp_path: Path) -> None:
    begin(plan, tmp_path)
    with pytest.raises(TrainingError, match="was begun with samples 4, not 5; give the same"):
        begin(replace(plan, samples=5), tmp_path)


def test_shards_of_another_models_codecs_are_refused(plan: Plan, tmp_path: Path) -> None:
    tiny_model(seed=1).save(tmp_path / "other")
    with pytest.raises(DataError, match="was made with other codecs than those of tiny"):
        begin(replace(plan, model=tmp_path / "other"), tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_numbers_that_cannot_be(plan: Plan, tmp_path: Path) -> None:
    with pytest.raises(TrainingError, match="0 steps of 4 samples"):
        replace(plan, steps=0)
    with pytest.raises(ConfigError, match=r"lr -1"):
        begin(replace(plan, lr=-1.0), tmp_path / "out")
    assert not (tmp_path / "out").exists()
