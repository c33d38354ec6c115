import pytest
import torch

from omni_diffusion.errors import DataError
from omni_diffusion.mini import scenes, speech_plan
from omni_diffusion.mini.phrases import PHRASES, join_phrases, split_phrases


def sentences() -> list[str]:
    captions = [text for scene in scenes.every_scene()[::41] for text in scenes.captions(scene)]
    return captions + speech_plan.answers()


def test_every_sentence_is_made_of_phrases() -> None:
    for text in sentences():
        assert " ".join(split_phrases(text)) == text.replace(",", "").lower()
    assert len(set(PHRASES)) == len(PHRASES)


@pytest.mark.parametrize(
    ("text", "phrases"),
    [
        ("I see two octopuses.", ["i see", "two octopuses"]),
        ("a cat to the left of a key on an orange background", None),
        ("no, there is no cow", ["no", "there is no", "cow"]),
        (
            "a flat picture of a bus over a car on gray",
            ["a flat picture of", "a bus", "over", "a car", "on gray"],
        ),
        ("a banana is yellow", ["a banana", "is yellow"]),
        ("", []),
    ],
)
def test_phrases_are_as_long_as_possible(text: str, phrases: list[str] | None) -> None:
    if phrases is None:
        with pytest.raises(DataError, match="no phrase begins with 'on'") as error:
            split_phrases(text)
        assert error.value.field == "text"
    else:
        assert split_phrases(text) == phrases


def test_takes_are_joined_in_order() -> None:
    takes = {"a cat": torch.tensor([1, 2]), "on blue": torch.tensor([3]), "yes": torch.tensor([4])}
    assert join_phrases("yes, a cat on blue", takes).tolist() == [4, 1, 2, 3]
    with pytest.raises(DataError, match="no take of 'on pink'"):
        join_phrases("a cat on pink", takes)
