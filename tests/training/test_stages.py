import pytest

from omni_diffusion.data.mixture import Share
from omni_diffusion.errors import TrainingError
from omni_diffusion.io.config import from_dict, to_dict
from omni_diffusion.mini import recipe
from omni_diffusion.tasks.catalog import CATALOG
from omni_diffusion.training.stages import CORPORA, Stage, paper, stage

STAGES = recipe.stages()


def tasks(one: Stage) -> set[str]:
    return {share.task for share in one.shares}


def test_a_stage_says_how_it_is_run() -> None:
    made = stage("one", (Share("t2i", 4),), steps=70, lr=3e-4, seed=5, warmup=7, floor=0.25)
    assert (made.loop.steps, made.loop.seed) == (70, 5)
    assert (made.loop.optim.lr, made.loop.optim.warmup, made.loop.optim.floor) == (3e-4, 7, 0.25)
    assert made.denoising.masking.variant == "cosine"
    assert made.denoising.masking.gamma == 0.6  # pads are masked less, as in the paper


def test_each_stage_adds_to_the_one_before() -> None:
    pictures, joint, interaction = map(tasks, STAGES)
    assert pictures < joint < interaction
    assert joint - pictures == {"asr", "tts"}
    assert interaction - joint == {"s2i", "sqa", "svqa"}


def test_every_stage_has_tasks_names_and_seeds_of_its_own() -> None:
    for one in STAGES:
        assert tasks(one) <= CATALOG.keys()
        assert len(tasks(one)) == len(one.shares)
        assert all(share.samples > 0 and share.weight > 0 for share in one.shares)
    assert len({one.name for one in STAGES}) == len({one.loop.seed for one in STAGES}) == 3


def test_later_stages_learn_more_slowly() -> None:
    rates = [one.loop.optim.lr for one in STAGES]
    assert rates == sorted(rates, reverse=True)


def test_a_stage_is_data() -> None:
    for one in STAGES:
        assert from_dict(Stage, to_dict(one)) == one


def test_the_papers_stages_are_those_of_its_table() -> None:
    first, second, third = (paper(number) for number in (1, 2, 3))
    assert [first.lr, second.lr, third.lr] == [1e-4, 1e-4, 1e-5]
    assert first.mix.keys() == {"chat", "caption", "t2i"}
    assert second.mix.keys() == first.mix.keys() | {"vqa", "asr", "tts", "sqa"}
    assert third.mix.keys() == (second.mix.keys() - {"caption"}) | {"svqa", "s2i"}
    assert first.mix["caption"] == 10e6
    assert second.mix["vqa"] == 2_820_000
    assert second.mix["asr"] == 1354 * 360  # hours at 10 seconds a sample
    assert second.mix["tts"] == 5108 * 360
    assert third.mix["svqa"] == third.mix["s2i"] == 30_000
    assert {corpus.task for corpus in CORPORA} <= CATALOG.keys()
    with pytest.raises(TrainingError, match="has no stage 0; give 1, 2 or 3"):
        paper(0)
