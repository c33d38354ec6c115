import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from omni_diffusion.diffusion import proposal, upstream
from omni_diffusion.diffusion.confidence import Measure
from omni_diffusion.diffusion.params import SamplingParams
from omni_diffusion.diffusion.proposal import Logits, StepInputs, propose
from omni_diffusion.errors import SamplingError

MASK = 590


def ask(
    logits: Tensor,
    params: SamplingParams,
    low: int = 0,
    high: int | None = None,
    **given: Tensor,
) -> tuple[Tensor, Tensor]:
    """A token and its confidence for each position, all of them with one range."""
    m, size = logits.shape
    allowed = torch.tensor([[low, size if high is None else high]]).expand(m, 2)
    repeated = given.pop("repeated", torch.empty(0, dtype=torch.long))
    return propose(Logits.of([logits]), [StepInputs(params, allowed, MASK, repeated, **given)])


def test_stored_cases_of_the_published_confidence_function(parity_dir: Path) -> None:
    stored = load_file(parity_dir / "backbone/sample_tokens.safetensors")
    cases = json.loads((parity_dir / "backbone/sample_tokens.json").read_text())
    logits = stored["logits"]
    for name, told in cases.items():
        measure = "max_probability"
        measure = "margin" if told.get("margin_confidence") else measure
        measure = "entropy" if told.get("neg_entropy") else measure
        q = told.get("max_position_penalty", 1.0)
        past = stored["past_x"][0] if "past_x" in told else torch.empty(0, dtype=torch.long)
        params = SamplingParams(
            confidence=measure,
            top_p=told.get("top_p"),
            top_k=told.get("top_k"),
            repetition_penalty=told.get("repeat_penalty", 1.0),
            constrain=False,
            rules="upstream",
        )
        tokens, sure = ask(
            logits,
            params,
            repeated=past[(past != MASK) & (past != 0)].unique(),
            scale=upstream.position_factor(len(logits), q),
        )
        assert torch.equal(tokens, stored[f"{name}/x0"].long()), name
        torch.testing.assert_close(sure, stored[f"{name}/confidence"], atol=2e-6, rtol=1e-5)


@pytest.mark.parametrize("rules", ["paper", "upstream"])
@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_each_place_keeps_to_its_own_range_and_never_takes_the_mask(rules, temperature) -> None:
    m, size = 60, 40
    logits = torch.randn(m, size) * 3
    logits[:, 7] = 50.0  # the mask id, likeliest everywhere
    logits[:, 0] = 20.0
    low = torch.randint(0, 30, (m,))
    allowed = torch.stack([low, low + torch.randint(2, 10, (m,))], dim=1)
    uniforms = torch.rand(m, dtype=torch.float64) if temperature else None
    params = SamplingParams(
        rules=rules, temperature=temperature, top_p=0.9, top_k=5, repetition_penalty=1.2
    )
    given = StepInputs(params, allowed, 7, torch.tensor([3, 12]), None, uniforms)
    tokens, sure = propose(Logits.of([logits]), [given])
    assert ((tokens >= allowed[:, 0]) & (tokens < allowed[:, 1])).all()
    assert (tokens != 7).all()
    assert sure.isfinite().all()


def test_ranges_together_equal_ranges_alone() -> None:
    logits = torch.randn(12, 50)
    allowed = torch.tensor([[0, 10], [10, 50], [5, 30]]).repeat(4, 1)
    scale = torch.linspace(1, 0.5, 12)
    params = SamplingParams(repetition_penalty=1.5, confidence="margin")
    repeated = torch.tensor([2, 15, 40])
    given = StepInputs(params, allowed, 49, repeated, scale)
    together = propose(Logits.of([logits]), [given])
    for i in range(12):
        own = slice(i, i + 1)
        given = StepInputs(params, allowed[own], 49, repeated, scale[own])
        alone = propose(Logits.of([logits[own]]), [given])
        assert together[0][i] == alone[0][0]
        torch.testing.assert_close(together[1][i], alone[1][0])


def test_paper_confidence_is_that_of_the_whole_distribution() -> None:
    logits = torch.randn(9, 30)
    p = logits.softmax(-1)
    entropy = (p * (p + 1e-10).log()).sum(-1)
    tokens, sure = ask(logits, SamplingParams(top_p=0.5, top_k=2))
    torch.testing.assert_close(sure, entropy)
    assert torch.equal(tokens, logits.argmax(-1))


def test_paper_repetition_can_bring_back_what_filters_would_drop() -> None:
    logits = torch.tensor([[4.0, 3.0, 2.9, -1.0]])
    repeated = torch.tensor([0])
    params = SamplingParams(repetition_penalty=2.0, top_k=1)
    assert ask(logits, params, repeated=repeated)[0] == 1
    like_upstream = SamplingParams(repetition_penalty=2.0, top_k=1, rules="upstream")
    assert ask(logits, like_upstream, repeated=repeated)[0] == 0


def test_half_precision_logits_are_weighed_in_float32_and_left_alone() -> None:
    logits = torch.randn(5, 30).bfloat16()
    before = logits.clone()
    low = ask(logits, SamplingParams())
    wide = ask(logits.float(), SamplingParams())
    assert low[1].dtype == torch.float32
    assert torch.equal(low[0], wide[0])
    assert torch.equal(low[1], wide[1])
    assert torch.equal(logits, before)


@pytest.mark.parametrize("rules", ["paper", "upstream"])
def test_equal_logits_take_the_lowest_id(rules) -> None:
    logits = torch.zeros(3, 5000)
    for filters in ({}, {"top_k": 7}, {"top_p": 0.5}, {"top_p": 0.001, "top_k": 50}):
        tokens, _ = ask(logits, SamplingParams(rules=rules, **filters), 10)
        assert tokens.tolist() == [10, 10, 10]


def test_range_outside_of_the_model_is_refused() -> None:
    logits = torch.zeros(2, 5)
    with pytest.raises(SamplingError, match="ids up to 8, the logits have 5"):
        ask(logits, SamplingParams(), 0, 9)


@pytest.mark.parametrize("measure", ["entropy", "margin", "max_probability"])
@pytest.mark.parametrize("spread", [0.1, 3.0, 40.0])
def test_a_vocabulary_in_parts_is_the_whole_one(
    measure: Measure, spread: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    logits = torch.randn(20, 1000) * spread
    logits[3, [100, 700]] = logits.max() + 1  # two likeliest: the first of them is taken
    given = {"repeated": torch.tensor([100, 500, 999]), "scale": torch.linspace(1, 0.5, 20)}
    params = SamplingParams(confidence=measure, repetition_penalty=1.3)
    whole = ask(logits, params, **given)
    monkeypatch.setattr(proposal, "PART", 37)
    tokens, sure = ask(logits, params, **given)
    assert torch.equal(tokens, whole[0])
    torch.testing.assert_close(sure, whole[1], atol=2e-5, rtol=1e-4)


def test_no_more_logits_are_computed_than_needed() -> None:
    asked: list[tuple[int, int, int]] = []

    def compute(rows: Tensor, low: int, high: int) -> Tensor:
        asked.append((len(rows), low, high))
        return torch.randn(len(rows), high - low)

    pixels, words = torch.tensor([[20, 30]]), torch.tensor([[0, 20]])
    params, nothing = SamplingParams(), torch.empty(0, dtype=torch.long)
    sequences = [
        StepInputs(params, torch.cat([pixels, pixels, words]), 3, nothing),
        StepInputs(params, torch.cat([words, words]), 3, nothing),
        StepInputs(SamplingParams(rules="upstream"), words, 3, nothing),
    ]
    propose(Logits(compute, 6, 30, torch.device("cpu")), sequences)
    assert sorted(asked) == [(1, 0, 20), (2, 20, 30), (3, 0, 20)]
