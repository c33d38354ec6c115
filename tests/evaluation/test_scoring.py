import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from omni_diffusion.errors import EvaluationError
from omni_diffusion.evaluation.scoring import Mark, figure, right, share


@given(st.lists(st.booleans(), min_size=1, max_size=50))
def test_right_and_wrong_answers_are_binomial(answers: list[bool]) -> None:
    found = figure([right(answer) for answer in answers])
    n, p = len(answers), sum(answers) / len(answers)
    assert found["n"] == n
    assert found["value"] == pytest.approx(p)
    assert found["stderr"] == pytest.approx(math.sqrt(p * (1 - p) / n))


def test_word_errors_are_counted_over_all_words_not_averaged_over_sentences() -> None:
    assert share([Mark(1, 1), Mark(0, 9)]) == pytest.approx(0.1)


def test_the_bootstrap_agrees_with_the_spread_of_fresh_draws() -> None:
    generator = torch.Generator().manual_seed(0)

    def draw() -> list[Mark]:
        lengths = torch.randint(4, 12, (60,), generator=generator).tolist()
        wrong = [int((torch.rand(n, generator=generator) < 0.2).sum()) for n in lengths]
        return [Mark(w, n) for w, n in zip(wrong, lengths, strict=True)]

    spread = float(torch.tensor([share(draw()) for _ in range(300)]).std())
    told = [figure(draw())["stderr"] for _ in range(10)]
    assert sum(told) / len(told) == pytest.approx(spread, rel=0.15)
    marks = draw()
    assert figure(marks) == figure(marks)


def test_nothing_cannot_be_scored() -> None:
    with pytest.raises(EvaluationError, match="nothing to score"):
        figure([])
    with pytest.raises(EvaluationError, match="nothing to score"):
        share([Mark(0, 0)])
