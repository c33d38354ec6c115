import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from omni_diffusion.errors import EvaluationError
from omni_diffusion.evaluation.scoring import Score, aggregate, capped, correct, ratio


@given(st.lists(st.booleans(), min_size=1, max_size=50))
def test_right_and_wrong_answers_are_binomial(answers: list[bool]) -> None:
    metric = aggregate([correct(answer) for answer in answers])
    n, p = len(answers), sum(answers) / len(answers)
    assert metric["n"] == n
    assert metric["value"] == pytest.approx(p)
    assert metric["stderr"] == pytest.approx(math.sqrt(p * (1 - p) / n))


def test_word_errors_are_counted_over_all_words_not_averaged_over_sentences() -> None:
    assert ratio([Score(1, 1), Score(0, 9)]) == pytest.approx(0.1)


def test_the_bootstrap_agrees_with_the_spread_of_fresh_draws() -> None:
    generator = torch.Generator().manual_seed(0)

    def draw() -> list[Score]:
        lengths = torch.randint(4, 12, (60,), generator=generator).tolist()
        wrong = [int((torch.rand(n, generator=generator) < 0.2).sum()) for n in lengths]
        return [Score(w, n) for w, n in zip(wrong, lengths, strict=True)]

    spread = float(torch.tensor([ratio(draw()) for _ in range(300)]).std())
    stderrs = [aggregate(draw())["stderr"] for _ in range(10)]
    assert sum(stderrs) / len(stderrs) == pytest.approx(spread, rel=0.15)
    scores = draw()
    assert aggregate(scores) == aggregate(scores)


def test_nothing_cannot_be_scored() -> None:
    with pytest.raises(EvaluationError, match="nothing to score"):
        aggregate([])
    with pytest.raises(EvaluationError, match="nothing to score"):
        ratio([Score(0, 0)])


def test_a_capped_score_counts_at_most_all_words() -> None:
    assert capped(Score(9, 4)) == Score(4, 4)
    assert capped(Score(3, 4)) == Score(3, 4)
