"""What a person names becomes what a task is asked."""

from pathlib import Path

import pytest
import torch
from tests.tiny import checkers, tone

from omni_diffusion.conversation import Image, Speech, Text
from omni_diffusion.engine import handover
from omni_diffusion.engine.handover import Named
from omni_diffusion.errors import TaskError
from omni_diffusion.media import Picture
from omni_diffusion.tasks import catalog
from omni_diffusion.tasks.parts import Blank, Draft, PartialImage


@pytest.fixture
def named(tmp_path: Path) -> Named:
    """Words and the paths of a picture and of a hum."""
    checkers().write(tmp_path / "it.png")
    tone().write(tmp_path / "it.wav")
    return Named("what _ it?", tmp_path / "it.png", tmp_path / "it.wav")


def only(named: Named, *kinds: str) -> Named:
    return Named(**{kind: getattr(named, kind) for kind in kinds})


@pytest.mark.parametrize("task", [t for t in catalog.TASKS if t.answer], ids=lambda t: t.name)
def test_a_task_is_asked_with_all_that_it_takes(task: catalog.Task, named: Named) -> None:
    kinds = task.inputs or ("text",)
    (draft,) = handover.conversation(task, only(named, *kinds))
    given = {Text: "text", Image: "image", Speech: "speech"}
    assert draft.role == "user"
    assert sorted(given[type(part)] for part in draft.parts) == sorted(kinds)


def test_inpainting_is_a_picture_with_a_hole(named: Named) -> None:
    asked = Named("a dog", named.image, mask="2,0,8,4")
    user, answer = handover.conversation(catalog.task("inpaint"), asked)
    assert user == Draft("user", (Text("a dog"),))
    (part,) = answer.parts
    assert isinstance(part, PartialImage)
    assert part.hole[:4, 2:].all()
    assert int(part.hole.sum()) == 24


def test_a_mask_file_is_a_hole_where_it_is_bright(tmp_path: Path) -> None:
    drawn = torch.zeros(8, 8, 3, dtype=torch.uint8)
    drawn[1, 2:5] = 255
    Picture(drawn).write(tmp_path / "mask.png")
    hole = handover.read_mask(str(tmp_path / "mask.png"), checkers())
    assert hole.nonzero().tolist() == [[1, 2], [1, 3], [1, 4]]
    with pytest.raises(TaskError, match="8 x 8, the picture 9 x 9; give both the same size"):
        handover.read_mask(str(tmp_path / "mask.png"), checkers(9))
    Picture(torch.zeros(8, 8, 3, dtype=torch.uint8)).write(tmp_path / "black.png")
    with pytest.raises(TaskError, match="no white part"):
        handover.read_mask(str(tmp_path / "black.png"), checkers())


@pytest.mark.parametrize(("kind", "words"), [("image", "Describe"), ("speech", "Convert")])
def test_infill_is_about_what_is_seen_or_heard(named: Named, kind: str, words: str) -> None:
    user, answer = handover.conversation(catalog.task("infill"), only(named, "text", kind))
    assert isinstance(user.parts[0], Text)
    assert user.parts[0].text.startswith(words)
    assert isinstance(user.parts[1], Image if kind == "image" else Speech)
    assert answer.parts == (Text("what"), Blank("text", 1), Text(" it?"))
    with pytest.raises(TaskError, match="not both"):
        handover.conversation(catalog.task("infill"), named)


def test_only_pictures_that_are_cut_get_a_note() -> None:
    tall = Picture(torch.zeros(20, 10, 3, dtype=torch.uint8))
    hole = PartialImage(tall, torch.ones(20, 10, dtype=torch.bool))
    drafts = (Draft("user", (Image(checkers()), Text("a"))), Draft("assistant", (hole,)))
    assert handover.notes(drafts) == [
        "the picture is 10 x 20: the model sees the 10 x 10 in its middle"
    ]


@pytest.mark.parametrize(
    ("task", "out", "path"),
    [
        ("t2i", None, "t2i.png"),
        ("inpaint", None, "inpaint.png"),
        ("svqa", None, "svqa.wav"),
        ("caption", None, None),
        ("tts", "a.ogg", "a.ogg"),
    ],
)
def test_where_an_answer_goes(task: str, out: str | None, path: str | None) -> None:
    planned = handover.plan_out(catalog.task(task), None if out is None else Path(out))
    assert planned == (None if path is None else Path(path))
