"""The shipped inputs: every task, small files, scenes that training never shows."""

import pytest
import torch
from tests.tiny import SENTENCES

from omni_diffusion.codecs.text import TextCodec
from omni_diffusion.demo.jobs import DEMO_JOBS, INPUTS, InputFiles, Job, with_gaps, yours
from omni_diffusion.engine.ask import read_speech
from omni_diffusion.media import Picture
from omni_diffusion.mini import scenes
from omni_diffusion.tasks import catalog

SCENES = {
    "penguin-cow.png": "a penguin to the left of a cow on a blue background",
    "cameras.png": "three cameras on a pink background",
    "houses.png": "four houses on a green background",
}


def test_every_task_is_shown_once() -> None:
    assert sorted(job.task for job in DEMO_JOBS) == sorted(catalog.CATALOG)


@pytest.mark.parametrize(("name", "caption"), SCENES.items())
def test_a_shipped_picture_is_a_held_out_scene(name: str, caption: str) -> None:
    scene = scenes.parse(caption)
    assert scene is not None
    assert scenes.held_out(scene)
    assert torch.equal(Picture.read(INPUTS / name).pixels, scenes.render_scene(scene).pixels)


@pytest.mark.parametrize("task", ["t2i", "asr", "s2i"])
def test_a_described_scene_is_held_out(task: str) -> None:
    (job,) = (job for job in DEMO_JOBS if job.task == task)
    said = {"t2i": job.inputs.text, "asr": job.right, "s2i": job.spoken}[task]
    scene = scenes.parse(said or "")
    assert scene is not None
    assert scenes.held_out(scene)


def test_shipped_speech_is_short_and_small() -> None:
    found = sorted(INPUTS.glob("*.ogg"))
    assert len(found) == 4
    for path in found:
        assert 1 < read_speech(path).seconds < 3
        assert path.stat().st_size < 20_000


def test_bracketed_words_become_gaps_of_as_many_tokens() -> None:
    codec = TextCodec.train(SENTENCES, 300)
    job = with_gaps(Job("infill", InputFiles("a [red] dog on a [blue] table")), codec)
    gaps = ["_" * len(codec.encode(word)) for word in (" red", " blue")]
    assert job.inputs.text == f"a {gaps[0]} dog on a {gaps[1]} table"
    plain = Job("t2i", InputFiles("a [red] dog"))
    assert with_gaps(plain, codec) is plain


@pytest.mark.parametrize(
    ("kinds", "tasks"),
    [
        ("", ""),
        ("text", "chat tts t2i"),
        ("image", "caption"),
        ("speech", "asr s2i sqa"),
        ("text image", "chat tts t2i caption vqa"),
        ("image speech", "asr caption s2i svqa sqa"),
    ],
)
def test_ones_own_inputs_go_to_every_task_that_takes_them(kinds: str, tasks: str) -> None:
    everything = {"text": "hello", "image": INPUTS / "a.png", "speech": INPUTS / "a.wav"}
    jobs = yours(InputFiles(**{kind: everything[kind] for kind in kinds.split()}))
    assert [job.task for job in jobs] == tasks.split()
    assert all(job.inputs.kinds == tuple(sorted_kinds(job)) for job in jobs)
    assert all(job.key == f"your-{job.task}" for job in jobs)


def sorted_kinds(job: Job) -> list[str]:
    return [kind for kind in ("text", "image", "speech") if kind in takes(job.task)]


def takes(task: str) -> tuple[str, ...]:
    return catalog.task(task).inputs or ("text",)
