"""What the tasks of the catalog take and refuse."""

import pytest
import torch

from omni_diffusion.conversation import Codes, EncodedPart, Frames, Text, Turn
from omni_diffusion.errors import TaskError
from omni_diffusion.tasks.catalog import CATALOG, task
from omni_diffusion.tasks.defaults import Length

SAID, HEARD = Text("a dog"), Frames(torch.zeros(3, 4))
SEEN = Codes("image", torch.arange(4))


def test_the_catalog_is_complete() -> None:
    wanted = "chat asr tts t2i caption vqa s2i svqa sqa inpaint infill"
    assert sorted(CATALOG) == sorted(wanted.split())
    assert all(name == known.name and known.title for name, known in CATALOG.items())


@pytest.mark.parametrize(
    ("name", "near"), [("vqaa", "vqa"), ("t2", "t2i"), ("transcribe", "give one of chat, asr")]
)
def test_an_unknown_task_names_near_ones(name: str, near: str) -> None:
    with pytest.raises(TaskError, match=near) as caught:
        task(name)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("name", "parts", "message"),
    [
        ("asr", (), "'asr' needs speech; add it"),
        ("svqa", (), "'svqa' needs image and speech; add it"),
        ("vqa", (SAID,), "'vqa' needs image"),
        ("tts", (SAID, HEARD), "'tts' takes text, got speech"),
        ("caption", (SEEN, SEEN), "takes one image, got more"),
    ],
)
def test_parts_that_do_not_fit(name: str, parts: tuple[EncodedPart, ...], message: str) -> None:
    with pytest.raises(TaskError, match=message):
        task(name).dress([Turn("user", parts)])


def test_one_turn_where_a_template_stands() -> None:
    turns = [Turn("user", (SAID,)), Turn("assistant", (SAID,)), Turn("user", (SAID,))]
    with pytest.raises(TaskError, match="turns of user, assistant, user; give one user message"):
        task("tts").dress(turns)
    assert task("chat").dress(turns) == tuple(turns)


def test_the_order_of_the_parts_is_the_templates() -> None:
    (one,) = task("vqa").dress([Turn("user", (SEEN, SAID))])
    (two,) = task("vqa").dress([Turn("user", (SAID, SEEN))])
    assert one == two
    assert one.parts[1] is SAID


def test_a_description_is_optional_for_inpainting() -> None:
    (turn,) = task("inpaint").dress([Turn("user", ())])
    assert "".join(part.text for part in turn.parts if isinstance(part, Text)) == (
        task("inpaint").null_prompt
    )


@pytest.mark.parametrize(
    ("rule", "counted", "places"),
    [
        (task("tts").length, {"text": 20, "speech": 900}, 70),
        (task("tts").length, {"text": 1}, 8),
        (task("asr").length, {"speech": 104, "text": 900}, 20),
        (task("vqa").length, {"text": 900}, 64),
        (Length(0.7, 8, "speech"), {"speech": 37}, 33),
    ],
)
def test_lengths(rule: Length, counted: dict[str, int], places: int) -> None:
    assert rule.tokens(counted) == places


@pytest.mark.parametrize("numbers", [(-1.0, 0), (float("nan"), 0), (1.0, -1)])
def test_lengths_that_make_no_sense(numbers: tuple[float, int]) -> None:
    with pytest.raises(TaskError, match="give a factor from 0"):
        Length(*numbers)
