"""The paper's text rules on questions in the style of LLaVA-OneVision."""

from __future__ import annotations

import pytest

from omni_diffusion.data.sdvi.text_rules import SpeakablePair, Unspeakable, speakable, split_options

OPTIONS = """What is the man holding?
Choices:
A. a racket
B. a bat
C. an umbrella
Answer with the option's letter from the given choices directly."""


@pytest.mark.parametrize(
    ("question", "answer"),
    [
        ("What color is the car?", "Red."),
        ("How many people are there?", "3"),
        ("What time is it on the clock?", "It is 10:30."),
        ("Is the class full of students?", "Yes, from the first row to the last."),
        ("What does the sign say?", "STOP, select a lane."),
        ("What is plotted, and for which year?", "Sales of $5 to $10 in 2019."),
        ("Where is the table?", "In front of the window, at an angle."),
        ("What does A. Smith hold?", "A racket."),
    ],
)
def test_plain_questions_stay_as_they_are(question: str, answer: str) -> None:
    assert speakable(question, answer) == SpeakablePair(question, answer)


@pytest.mark.parametrize(
    ("question", "answer"),
    [
        ("Find the value of x.", r"\frac{3}{4}"),
        ("In triangle ABC, how long is AB?", "5"),
        ("What is the perimeter of the figure?", "12"),
        ("Solve for y in the picture.", "2"),
        ("What is shown?", "The line y = 3"),
        ("What is 3x + 2 = 8?", "2"),
        ("How large is ∠ABC?", "30"),
        ("What is $x^2$ here?", "4"),
    ],
)
def test_mathematics_is_rejected(question: str, answer: str) -> None:
    assert speakable(question, answer) == Unspeakable("mathematics")


@pytest.mark.parametrize(
    ("question", "answer"),
    [
        ("Write Python code that draws this plot.", "import matplotlib"),
        ("What does it print?", "```\nhello\n```"),
        ("What is on the screen?", "print('hello')"),
        ("Rebuild the page.", "<div class='a'>Hello</div>"),
        ("What does this do?", "def add(a, b):\n    return a"),
        ("Which query is it?", "SELECT name FROM people WHERE age"),
    ],
)
def test_programming_is_rejected(question: str, answer: str) -> None:
    assert speakable(question, answer) == Unspeakable("programming")


@pytest.mark.parametrize("answer", ["B", "B.", "(B)", "B. a bat", "The answer is B", "a bat", "b"])
def test_multiple_choice_becomes_an_open_question(answer: str) -> None:
    assert speakable(OPTIONS, answer) == SpeakablePair("What is the man holding?", "a bat")


@pytest.mark.parametrize(
    ("question", "stem", "options"),
    [
        (OPTIONS, "What is the man holding?", ["a racket", "a bat", "an umbrella"]),
        ("Is it red? (A) Yes (B) No", "Is it red?", ["Yes", "No"]),
        ("Is it red?\nOptions: (A) Yes, (B) No", "Is it red?", ["Yes", "No"]),
        ("Is it red?\nA) Yes\nB) No\n", "Is it red?", ["Yes", "No"]),
        ("Please select the right option.\nIs it red?\nA: Yes\nB: No", "Is it red?", ["Yes", "No"]),
        ("What is below it?\nA. a cat\nB. a dog", "What is below it?", ["a cat", "a dog"]),
        ("Is it red?\nB. Yes\nC. No", "Is it red?\nB. Yes\nC. No", []),
        ("A. What is it?", "A. What is it?", []),
    ],
)
def test_options_of_every_form(question: str, stem: str, options: list[str]) -> None:
    found = split_options(question)
    assert found[0] == stem
    assert list(found[1].values()) == options
    assert list(found[1]) == list("ABC"[: len(options)])


def test_options_that_cannot_be_removed_or_are_not_answered() -> None:
    pointing = OPTIONS.replace("What is", "Which of the following is")
    assert speakable(pointing, "B") == Unspeakable("the question points at its choices")
    below = SpeakablePair("What is below it?", "a dog")
    assert speakable("What is below it?\nA. a cat\nB. a dog", "B") == below
    assert speakable(OPTIONS, "D") == Unspeakable("the answer is none of the choices")
    assert speakable(OPTIONS, "Both.") == Unspeakable("the answer is none of the choices")


def test_long_and_empty_answers_are_rejected() -> None:
    assert isinstance(speakable("What is it?", "word " * 100), SpeakablePair)
    too_long = Unspeakable("the answer has more than 100 words")
    assert speakable("What is it?", "word " * 101) == too_long
    assert speakable("What is it?", " ") == Unspeakable("the question or the answer is empty")
