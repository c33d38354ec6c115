"""Training on shards: it learns, goes on exactly, and refuses what does not belong together."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from tests.data.manifest_files import row
from tests.tiny import checkers, tiny_model, tone

from omni_diffusion.data.pretokenize import Pretokenizer
from omni_diffusion.errors import ConfigError, DataError, StorageError, TrainingError
from omni_diffusion.io import files
from omni_diffusion.models.omni import OmniModel
from omni_diffusion.training.denoising import DenoisingObjective
from omni_diffusion.training.finetune import Plan, RunOptions, build_trainer, train
from omni_diffusion.training.stages import paper_stage

pytest.importorskip("pyarrow")

QUIET = RunOptions(report_to=())

QUIET = RunOptions(report_to=())


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
    Pretokenizer(path, folder / "shards", model.codecs).run(of=2)
    return Plan((folder / "shards",), folder / "model", steps=6, batch_size=4, lr=1e-3)


@pytest.mark.slow
def test_a_run_that_was_stopped_ends_as_the_unbroken_one(plan: Plan, tmp_path: Path) -> None:
    train(plan, tmp_path / "whole", options=QUIET)
    whole = OmniModel.open(tmp_path / "whole" / "model").backbone.state_dict()
    trainer = build_trainer(plan, tmp_path / "broken", options=QUIET)
    for _ in range(3):
        trainer.advance()
    trainer.save()
    assert build_trainer(plan, tmp_path / "broken", options=QUIET).step == 3
    train(plan, tmp_path / "broken", options=QUIET)
    resumed = OmniModel.open(tmp_path / "broken" / "model").backbone.state_dict()
    assert all(torch.equal(value, whole[name]) for name, value in resumed.items())
    start = OmniModel.open(plan.model).backbone.state_dict()
    assert any(not torch.equal(value, start[name]) for name, value in whole.items())


@pytest.mark.slow
def test_it_learns(plan: Plan, tmp_path: Path) -> None:
    rows: list[dict[str, float]] = []
    longer = replace(plan, steps=100, batch_size=6, lr=1e-2)
    train(longer, tmp_path, report=lambda _, metrics: rows.append(metrics), options=QUIET)
    assert rows[-1].keys() >= {"asr_loss", "asr_accuracy", "padding", "vqa_loss", "vqa_accuracy"}
    assert rows[-1]["loss"] < 0.7 * rows[0]["loss"]


@pytest.mark.slow
def test_another_plan_is_refused(plan: Plan, tmp_path: Path) -> None:
    build_trainer(plan, tmp_path, options=QUIET)
    with pytest.raises(TrainingError, match="batch_size 4, not 5") as error:
        build_trainer(replace(plan, batch_size=5), tmp_path, options=QUIET)
    assert (error.value.field, error.value.value) == ("batch_size", 5)


@pytest.mark.slow
def test_shards_of_another_models_codecs_are_refused(plan: Plan, tmp_path: Path) -> None:
    tiny_model(seed=1).save(tmp_path / "other")
    with pytest.raises(DataError, match="other codecs than those of tiny"):
        build_trainer(replace(plan, model=tmp_path / "other"), tmp_path / "out", options=QUIET)
    assert not (tmp_path / "out").exists()


def test_numbers_that_cannot_be(plan: Plan, tmp_path: Path) -> None:
    for name in ("steps", "batch_size", "lora"):
        with pytest.raises(TrainingError, match=f"{name} is 0") as error:
            replace(plan, **{name: 0})
        assert (error.value.field, error.value.value) == (name, 0)
    with pytest.raises(TrainingError) as error:
        replace(plan, data=())
    assert error.value.field == "data"
    with pytest.raises(ConfigError, match=r"lr is -1"):
        build_trainer(replace(plan, lr=-1.0), tmp_path / "out", options=QUIET)
    assert not (tmp_path / "out").exists()


def parameters(folder: Path) -> dict[str, torch.Tensor]:
    return OmniModel.open(folder).backbone.state_dict()


@pytest.mark.slow
def test_a_manifest_does_as_well_as_its_shards(plan: Plan, tmp_path: Path) -> None:
    train(plan, tmp_path / "shards", options=QUIET)
    manifest = replace(plan, data=(plan.data[0].parent / "train.jsonl",))
    train(manifest, tmp_path / "manifest", options=QUIET)
    assert (tmp_path / "manifest/shards/0-train/index.json").exists()
    theirs = parameters(tmp_path / "shards/model")
    # one shard lists the samples in another order than two
    assert parameters(tmp_path / "manifest/model").keys() == theirs.keys()
    with pytest.raises(DataError, match=r"cannot read no\.jsonl"):
        build_trainer(replace(plan, data=(Path("no.jsonl"),)), tmp_path / "none")
    assert not (tmp_path / "none").exists()


@pytest.mark.slow
def test_only_what_is_trainable_changes(plan: Plan, tmp_path: Path) -> None:
    trained = replace(plan, trainable=("model.layers.1.*", "model.norm.*"))
    train(trained, tmp_path, options=QUIET)
    start, end = parameters(plan.model), parameters(tmp_path / "model")  # type: ignore[arg-type]
    changed = {name for name, value in end.items() if not torch.equal(value, start[name])}
    assert changed
    assert all(name.startswith(("model.layers.1.", "model.norm.")) for name in changed)
    with pytest.raises(TrainingError, match=r"no weight matches 'layers\.\*'"):
        build_trainer(replace(plan, trainable=("layers.*",)), tmp_path / "other", options=QUIET)


@pytest.mark.slow
def test_lora_trains_factors_and_ships_them_merged_and_apart(plan: Plan, tmp_path: Path) -> None:
    peft = pytest.importorskip("peft")
    hub = pytest.importorskip("omni_diffusion.integrations.transformers.modeling")
    assert plan.model is not None
    tuned = replace(plan, lora=2, lr=1e-2, steps=8)
    trainer = build_trainer(tuned, tmp_path, options=QUIET)
    names = {n for n, p in trainer.objective.module.named_parameters() if p.requires_grad}
    assert names
    assert all(".lora_" in name for name in names)
    torch.manual_seed(5)  # the seed of the plan decides where factors start
    again = build_trainer(tuned, tmp_path / "again", options=QUIET).objective.module.state_dict()
    for name, value in trainer.objective.module.state_dict().items():
        assert torch.equal(value, again[name])
    for _ in range(3):
        trainer.advance()
    trainer.save()
    newest = trainer.checkpoints.newest()
    assert newest is not None
    assert (
        sum(f.stat().st_size for f in newest.iterdir())
        < 0.5 * sum(f.stat().st_size for f in plan.model.glob("model.safetensors")) + 300_000
    )  # the frozen weights are not in it
    train(tuned, tmp_path, options=QUIET)
    start, end = parameters(plan.model), parameters(tmp_path / "model")
    changed = {name for name, value in end.items() if not torch.equal(value, start[name])}
    assert changed
    assert all("_proj.weight" in name for name in changed)
    base = hub.OmniDiffusionModel.from_omni(OmniModel.open(plan.model))
    reread = peft.PeftModel.from_pretrained(base, tmp_path / "adapter").merge_and_unload()
    for name, value in reread.backbone.state_dict().items():
        torch.testing.assert_close(value, end[name], rtol=1e-5, atol=1e-6)
    with pytest.raises(TrainingError, match="LoRA trains its factors"):
        replace(tuned, trainable=("model.*",))


@pytest.mark.slow
def test_a_stage_sets_rate_mix_and_mean(plan: Plan, tmp_path: Path) -> None:
    staged = build_trainer(replace(plan, stage=2, lr=None), tmp_path / "2", options=QUIET)
    assert staged.config.optim.lr == 1e-4
    objective = staged.objective
    assert isinstance(objective, DenoisingObjective)
    assert objective.config.loss_average == "token"
    assert objective.config.micro_batch_tokens == objective.config.max_length  # a row at a time
    shares = {share.task: share.samples for share in objective.mixture.shares}  # type: ignore[attr-defined]
    weights = paper_stage(2).task_weights
    assert shares["vqa"] / shares["asr"] == pytest.approx(weights["vqa"] / weights["asr"])
    assert sum(shares.values()) == pytest.approx(4)
    last = build_trainer(
        replace(plan, stage=3, lr=None, task_weights={"vqa": 1.0}),
        tmp_path / "3",
        options=QUIET,
    )
    assert last.config.optim.lr == 1e-5
    (share,) = last.objective.mixture.shares  # type: ignore[attr-defined]
    assert (share.task, share.samples) == ("vqa", 4)
    with pytest.raises(DataError, match="tts"):
        build_trainer(replace(plan, task_weights={"tts": 1.0}), tmp_path / "none", options=QUIET)


@pytest.mark.parametrize(
    ("stage", "batch_size"),
    [
        (None, 32),
        (2, 128),
        pytest.param(1, 128, marks=pytest.mark.slow),
        pytest.param(3, 128, marks=pytest.mark.slow),
    ],
)
def test_the_batch_size_is_the_stages(
    plan: Plan, tmp_path: Path, stage: int | None, batch_size: int
) -> None:
    staged = replace(plan, stage=stage, batch_size=None, task_weights={"vqa": 1.0})
    trainer = build_trainer(staged, tmp_path, options=QUIET)
    (share,) = trainer.objective.mixture.shares  # type: ignore[attr-defined]
    assert share.samples == batch_size


@pytest.mark.slow
def test_a_run_shows_itself(plan: Plan, tmp_path: Path) -> None:
    options = RunOptions(log_every=2, report_to=("page",), sample_every=3)
    trainer = build_trainer(plan, tmp_path / "shown", options=options)
    trainer.fit()
    page = (tmp_path / "shown/training/index.html").read_text()
    assert "<audio" in page  # what was asked of asr
    assert "<img" in page
    assert page.count("<summary>Step ") == 2
    assert page.count("<summary>Step ") == 2
    lines = (tmp_path / "shown/training/metrics.jsonl").read_text().splitlines()
    row = json.loads(lines[-1])
    assert row.keys() >= {"tokens_per_second", "mfu", "text_loss", "data_wait_s"}
    with pytest.raises(TrainingError, match="log_every is 0; give 1 or more"):
        RunOptions(log_every=0)


@pytest.mark.slow
def test_a_run_samples_five_times_by_default(plan: Plan, tmp_path: Path) -> None:
    options = RunOptions(report_to=("page",))
    build_trainer(replace(plan, steps=10), tmp_path, options=options).fit()
    page = (tmp_path / "training/index.html").read_text()
    assert page.count("<summary>Step ") == 5


@pytest.mark.slow
def test_a_named_state_is_gone_on_from(plan: Plan, tmp_path: Path) -> None:
    train(
        plan, tmp_path / "run", options=RunOptions(save_steps=2, keep_checkpoints=5, report_to=())
    )
    at = tmp_path / "run/training/checkpoints/step-00000002"
    assert build_trainer(plan, tmp_path / "run", resume=at, options=QUIET).step == 2
    with pytest.raises(TrainingError, match="no is incomplete"):
        build_trainer(plan, tmp_path / "run", resume=tmp_path / "no", options=QUIET)


def test_two_runs_do_not_share_a_folder(plan: Plan, tmp_path: Path) -> None:
    with files.exclusive(tmp_path), pytest.raises(StorageError, match="is in use by another"):
        train(plan, tmp_path, options=QUIET)
    assert list(tmp_path.iterdir()) == []  # told before any work


SLOWER = ("a line more", "another order", "a recording")


@pytest.mark.parametrize(
    "change", ["a word", *(pytest.param(name, marks=pytest.mark.slow) for name in SLOWER)]
)
def test_a_run_does_not_resume_with_other_data(plan: Plan, tmp_path: Path, change: str) -> None:
    source = plan.data[0].parent
    for name in ("a.wav", "c.png", "train.jsonl"):
        (tmp_path / name).write_bytes((source / name).read_bytes())
    manifest = tmp_path / "train.jsonl"
    plan, out = replace(plan, data=(manifest,)), tmp_path / "out"
    trainer = build_trainer(plan, out, options=QUIET)
    trainer.advance()
    trainer.save()
    assert build_trainer(plan, out, options=QUIET).step == 1
    lines = manifest.read_text().splitlines(keepends=True)
    if change == "a recording":
        tone(0.5, hertz=300).write(tmp_path / "a.wav")
    elif change == "a line more":
        manifest.write_text("".join([*lines, lines[0].replace("dog a", "dog z")]))
    elif change == "another order":
        manifest.write_text("".join(reversed(lines)))
    else:
        manifest.write_text("".join(lines).replace("dog a", "cat a"))
    with pytest.raises(TrainingError, match=r"train\.jsonl or its media changed since the run"):
        build_trainer(plan, out, options=QUIET)
