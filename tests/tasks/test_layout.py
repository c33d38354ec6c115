"""The arithmetic of answers against brute force."""

import pytest

from omni_diffusion.errors import TaskError
from omni_diffusion.tasks.layout import minimum_length, segments_of


def _room(answer: tuple[str, ...], length: int, at: float) -> list[int] | None:
    """How many codes each part may have in so many places, by the table of the module."""
    if answer == ("text",):
        return [length - 2]
    if answer == ("speech",):
        return [length - 4]
    quarter = int(at * length)
    return [quarter, length - quarter - 4] if quarter else None


@pytest.mark.parametrize("at", [0.25, 0.2])
@pytest.mark.parametrize("answer", [("text",), ("speech",), ("text", "speech")])
def test_least_length_is_the_first_that_fits(answer: tuple, at: float) -> None:  # type: ignore[type-arg]
    for first in (0, 1, 2, 5, 9):
        for second in (0, 1, 7, 30) if len(answer) == 2 else (0,):
            sizes = (first, second)[: len(answer)]
            fits = (
                length
                for length in range(1, 200)
                if (room := _room(answer, length, at)) is not None
                and all(r >= s for r, s in zip(room, sizes, strict=True))
            )
            assert minimum_length(answer, sizes, at) == next(fits), sizes


def test_a_picture_takes_its_cells_whatever_the_length() -> None:
    for length in (0, 7, 500):
        (run,) = segments_of(("image",), length, 64, 0.25)
        assert (run.length, run.open) == (64, False)
    assert minimum_length(("image",), (64,), 0.25) == 68


def test_a_text_before_a_picture_takes_the_length() -> None:
    text, image = segments_of(("text", "image"), 9, 64, 0.25)
    assert (text.kind, text.length, text.open) == ("text", 9, True)
    assert (image.kind, image.length, image.open) == ("image", 64, False)
    for size, least in ((0, 1), (1, 1), (12, 12)):
        assert minimum_length(("text", "image"), (size, 64), 0.25) == least


@pytest.mark.parametrize(
    ("answer", "length"),
    [(("text",), 0), (("text", "speech"), 3), (("text", "image"), 0)],
)
def test_too_short(answer: tuple, length: int) -> None:  # type: ignore[type-arg]
    with pytest.raises(TaskError, match=f"an answer of {length} tokens is too short"):
        segments_of(answer, length, 0, 0.25)


def test_an_answer_nobody_knows() -> None:
    with pytest.raises(TaskError, match="use the task 'infill'"):
        segments_of(("image", "text"), 50, 16, 0.25)
