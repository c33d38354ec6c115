import shutil
from pathlib import Path

import pytest
import torch

from omni_diffusion.data.mixture import TaskShare
from omni_diffusion.io.config import from_dict, to_dict
from omni_diffusion.io.weights import write_tensors
from omni_diffusion.mini import recipe
from omni_diffusion.mini.mixture import TASK_OF_SHARE, TEXT_ALONE
from omni_diffusion.mini.recipe import MiniStage, make_stage
from omni_diffusion.models.omni import SMALL_MODEL, OmniModel
from omni_diffusion.tasks.catalog import CATALOG

STAGES = recipe.stages()
PHRASES = next(one for one in STAGES if one.name == "phrases")


def tasks(one: MiniStage) -> set[str]:
    return {share.task for share in one.shares}


def test_a_stage_says_how_it_is_run() -> None:
    made = make_stage(
        "one", (TaskShare("t2i", 4),), steps=70, lr=3e-4, seed=5, warmup=7, floor=0.25
    )
    assert (made.loop.steps, made.loop.seed) == (70, 5)
    assert (made.loop.optim.lr, made.loop.optim.warmup, made.loop.optim.floor) == (3e-4, 7, 0.25)
    assert made.denoising.masking.variant == "cosine"
    assert made.denoising.masking.gamma == 0.6  # pads are masked less, as in the paper


def test_each_stage_adds_to_the_one_before() -> None:
    pictures, joint, interaction, listening, presence, *spoken, phrases, last = map(tasks, STAGES)
    assert pictures < joint < interaction
    assert joint - pictures == {"asr", "tts"}
    assert interaction - joint == {"s2i", "sqa", "svqa", "spoken_presence"}
    assert listening == interaction
    assert presence - interaction == {"text_presence"}
    assert all(each == (presence | interaction) - {"spoken_presence"} for each in spoken)
    assert phrases - interaction == {"text_presence", "spoken_relation"}
    assert last - phrases == {*TEXT_ALONE}
    assert phrases - last == {"spoken_presence", "spoken_relation"}


def test_every_stage_has_a_name_and_tasks_that_exist() -> None:
    for one in STAGES:
        assert tasks(one) <= CATALOG.keys() | TASK_OF_SHARE.keys()
        assert len(tasks(one)) == len(one.shares)
        assert all(share.samples > 0 and share.weight > 0 for share in one.shares)
    assert len({one.name for one in STAGES}) == len(STAGES)


def test_a_stage_is_data() -> None:
    for one in STAGES:
        assert from_dict(MiniStage, to_dict(one)) == one


def test_a_stage_starts_from_the_mean_of_four_stages(tmp_path: Path) -> None:
    shutil.copy(SMALL_MODEL / "tokenizer.json", tmp_path)
    shipped = OmniModel.open().backbone.state_dict()
    for factor, name in zip((1.0, 3.0, 2.0, 2.0), PHRASES.start, strict=True):
        tensors = {key: factor * tensor for key, tensor in shipped.items()}
        (tmp_path / name).mkdir()
        write_tensors(tensors, tmp_path / name / "weights.safetensors")
    mean = recipe.Mini(tmp_path, tmp_path).averaged(PHRASES.start).state_dict()
    for key, tensor in shipped.items():
        torch.testing.assert_close(mean[key], 2 * tensor)


def test_means_have_whole_shares_of_stages_before() -> None:
    names = [one.name for one in STAGES]
    starts = [(one.start, names[:i]) for i, one in enumerate(STAGES) if one.start]
    assert len(starts) == 3
    for shares, before in starts:
        assert set(shares) <= set(before)
        assert sum(shares.values()) == pytest.approx(1)
