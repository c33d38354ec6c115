import pytest

from omni_diffusion.errors import TrainingError
from omni_diffusion.tasks.catalog import CATALOG
from omni_diffusion.training.stages import CORPORA, paper_stage


def test_the_papers_stages_are_those_of_its_table() -> None:
    first, second, third = (paper_stage(number) for number in (1, 2, 3))
    assert [first.lr, second.lr, third.lr] == [1e-4, 1e-4, 1e-5]
    assert first.task_weights.keys() == {"chat", "caption", "t2i"}
    assert second.task_weights.keys() == first.task_weights.keys() | {"vqa", "asr", "tts", "sqa"}
    assert third.task_weights.keys() == (second.task_weights.keys() - {"caption"}) | {"svqa", "s2i"}
    assert first.task_weights["caption"] == 10e6
    assert second.task_weights["vqa"] == 2_820_000
    assert second.task_weights["asr"] == 1354 * 360  # hours at 10 seconds a sample
    assert second.task_weights["tts"] == 5108 * 360
    assert third.task_weights["svqa"] == third.task_weights["s2i"] == 30_000
    assert {corpus.task for corpus in CORPORA} <= CATALOG.keys()
    with pytest.raises(TrainingError, match="no stage 0; give 1, 2 or 3"):
        paper_stage(0)
