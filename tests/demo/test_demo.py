"""The whole demo with the tiny model: every file, every card, failures on their cards."""

import io
import json
from pathlib import Path

import pytest
from rich.console import Console

from omni_diffusion.demo.demo import present
from omni_diffusion.demo.jobs import DEMO_JOBS, InputFiles, Job
from omni_diffusion.errors import MediaError, StorageError
from omni_diffusion.media import Picture, Waveform
from omni_diffusion.models.omni import OmniModel


def quiet() -> Console:
    return Console(file=io.StringIO(), width=120)


@pytest.mark.slow
def test_every_job_has_its_files_its_card_and_its_line(model: OmniModel, tmp_path: Path) -> None:
    console = quiet()
    cards = present(model, DEMO_JOBS, tmp_path / "new" / "folder", steps=2, console=console)
    out = tmp_path / "new" / "folder"
    assert [card.name for card in cards] == [job.task for job in DEMO_JOBS]
    assert [card.fault for card in cards] == [None] * len(cards)
    assert all(card.replay is not None and card.replay.steps == 2 for card in cards)
    for name, width in (("t2i", 8), ("s2i", 8), ("inpaint", 64)):  # as the given picture
        assert Picture.read(out / f"{name}.png").width == width
    assert Waveform.read(out / "tts.wav").rate == 22_050
    results = json.loads((out / "results.json").read_text())
    assert [result["task"] for result in results] == [job.task for job in DEMO_JOBS]
    page = (out / "index.html").read_text(encoding="utf-8")
    assert all(f'id="{job.key}"' in page for job in DEMO_JOBS)
    assert isinstance(console.file, io.StringIO)
    said = console.file.getvalue()
    assert all(any(line.startswith(job.key) for line in said.splitlines()) for job in DEMO_JOBS)
    assert not list(out.glob(".*"))


def test_a_job_that_fails_says_so_and_the_others_go_on(model: OmniModel, tmp_path: Path) -> None:
    jobs = (Job("t2i", InputFiles("word " * 2000)), Job("t2i", InputFiles("a dog"), yours=True))
    failed, fine = present(model, jobs, tmp_path, steps=1, console=quiet())
    assert failed.fault is not None
    assert "the model has 1024" in failed.fault
    assert fine.fault is None
    assert "the model has 1024" in (tmp_path / "index.html").read_text(encoding="utf-8")


def test_an_input_that_cannot_be_read_stops_all_before_the_work(
    model: OmniModel, tmp_path: Path
) -> None:
    jobs = (DEMO_JOBS[0], Job("caption", InputFiles(image=tmp_path / "none.png")))
    with pytest.raises(MediaError, match=r"none\.png"):
        present(model, jobs, tmp_path / "out", console=quiet())
    assert not (tmp_path / "out").exists()


def test_a_folder_that_is_a_file_is_told(model: OmniModel, tmp_path: Path) -> None:
    (tmp_path / "out").touch()
    with pytest.raises(StorageError, match=r"cannot create .*out: .*; choose another folder"):
        present(model, DEMO_JOBS[:1], tmp_path / "out", console=quiet())


def test_the_same_seed_shows_the_same_answers(model: OmniModel, tmp_path: Path) -> None:
    told = []
    for name in ("a", "b"):
        cards = present(model, DEMO_JOBS[:3], tmp_path / name, steps=4, seed=5, console=quiet())
        told.append([card.replay for card in cards])
    assert [each.cells for each in told[0] if each] == [each.cells for each in told[1] if each]
