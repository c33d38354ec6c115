"""The bound on -log p against exact enumeration, on the real tiny model."""

import itertools
import json
import math
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from tests.tiny import checkers, tiny_model, tone

from omni_diffusion.canvas import Canvas
from omni_diffusion.engine.ask import Inputs
from omni_diffusion.errors import EvaluationError
from omni_diffusion.evaluation.likelihood import (
    answer_canvas,
    bound_metrics,
    choose_option,
    manifest_bounds,
    sequence_bound,
)
from omni_diffusion.models.omni import OmniModel


@pytest.fixture(scope="module")
def model() -> OmniModel:
    return tiny_model()


@pytest.fixture(scope="module")
def short(model: OmniModel) -> Canvas:
    """An answer of four tokens: text, the end of the turn and a new line."""
    canvas = answer_canvas(model, "chat", Inputs("a red apple"), "a tree")
    start, stop = canvas.answer
    return replace(canvas, answer=(start, start + min(4, stop - start)))


def exact_losses(model: OmniModel, canvas: Canvas) -> dict[tuple[int, ...], dict[int, float]]:
    """For each set of masked positions, -log p of each of its tokens."""
    positions = range(*canvas.answer)
    table = {}
    for size in range(1, len(positions) + 1):
        for chosen in itertools.combinations(positions, size):
            ids = canvas.ids.clone()
            ids[list(chosen)] = model.vocabulary.mask
            with torch.no_grad():
                log_p = model.backbone(ids[None])[0].double().log_softmax(-1)
            table[chosen] = {i: -float(log_p[i, canvas.ids[i]]) for i in chosen}
    return table


def exact_bound(table: dict[tuple[int, ...], dict[int, float]], n: int) -> dict[int, float]:
    """The bound's share of each position: the mean over k of n/k times the mean over sets."""
    shares: dict[int, float] = {}
    for chosen, losses in table.items():
        size = len(chosen)
        weight = 1 / n * n / size / math.comb(n, size)
        for position, loss in losses.items():
            shares[position] = shares.get(position, 0.0) + weight * loss
    return shares


def any_order_nats(table: dict[tuple[int, ...], dict[int, float]], canvas: Canvas) -> float:
    """-log p where the order of the tokens is drawn uniformly, which the bound bounds."""
    positions, orders = range(*canvas.answer), []
    for order in itertools.permutations(positions):
        chain = (table[tuple(sorted(order[i:]))][order[i]] for i in range(len(order)))
        orders.append(-sum(chain))
    return -(torch.tensor(orders, dtype=torch.float64).logsumexp(0).item() - math.log(len(orders)))


def test_the_estimate_is_the_exact_bound_and_above_the_exact_likelihood(
    model: OmniModel, short: Canvas
) -> None:
    table = exact_losses(model, short)
    shares = exact_bound(table, short.answer[1] - short.answer[0])
    found = sequence_bound(model, short, samples=1500)
    exact = sum(shares.values())
    assert found.total.tokens == len(shares) == 4
    assert 0 < found.total.stderr < 0.05 * exact
    assert abs(found.total.nats - exact) < 3.5 * found.total.stderr
    assert exact >= any_order_nats(table, short)
    for name, span in (("text", model.vocabulary.text), ("special", model.vocabulary.specials)):
        own = [share for i, share in shares.items() if int(short.ids[i]) in span]
        if own:
            assert abs(found.kinds[name].nats - sum(own)) < 3.5 * found.kinds[name].stderr


def test_the_error_falls_with_the_square_root_of_the_samples(
    model: OmniModel, short: Canvas
) -> None:
    few, many = (sequence_bound(model, short, samples=n).total.stderr for n in (100, 1600))
    assert few / many == pytest.approx(4, rel=0.3)
    again = sequence_bound(model, short, samples=100)
    assert again == sequence_bound(model, short, samples=100)


def test_each_modality_of_a_manifest_has_its_bound(model: OmniModel, tmp_path: Path) -> None:
    checkers(8).write(tmp_path / "it.png")
    tone(0.3).write(tmp_path / "it.wav")
    rows = [
        {
            "messages": [
                {"role": "user", "content": "Describe the image.\n<|image|>"},
                {"role": "assistant", "content": "a red apple"},
            ],
            "images": ["it.png"],
        },
        {
            "messages": [
                {"role": "user", "content": "Convert the text to speech.\na red apple"},
                {"role": "assistant", "content": "<|audio|>"},
            ],
            "audios": ["it.wav"],
        },
    ]
    path = tmp_path / "manifest.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    lines = list(manifest_bounds(model, path, samples=4))
    assert [line.task for line in lines] == ["caption", "tts"]
    assert [line.source.line for line in lines] == [1, 2]
    for line in lines:
        kinds = line.bound.kinds.values()
        assert sum(kind.tokens for kind in kinds) == line.bound.total.tokens
        assert sum(kind.nats for kind in kinds) == pytest.approx(line.bound.total.nats)
    metrics = bound_metrics(lines)
    assert set(metrics) == {"all", "task caption", "task tts", "text", "speech", "special"}
    # weights of a random model know nothing: about log V nats a token
    assert metrics["all"]["value"] == pytest.approx(math.log(model.vocabulary.size), rel=0.15)
    assert len(list(manifest_bounds(model, path, samples=2, limit=1))) == 1


def test_mistakes_are_named(model: OmniModel, short: Canvas) -> None:
    with pytest.raises(EvaluationError, match="2 or more"):
        sequence_bound(model, short, samples=1)
    with pytest.raises(EvaluationError, match="fewer than two"):
        choose_option(model, "chat", Inputs("a"), ["a"])


@pytest.mark.slow
def test_the_shipped_model_chooses_the_right_answer() -> None:
    """Questions about a scene with four options each; chance is a quarter."""
    import random

    from omni_diffusion.mini import scenes

    small, rng, right = OmniModel.open(), random.Random(0), []
    for _ in range(8):
        scene = scenes.sample_scene(rng, split="test")
        question = scenes.questions(scene, rng)[0]
        options = rng.sample([c for c in scenes.BACKGROUNDS if c != question.answer], 3)
        options.insert(rng.randrange(4), question.answer)
        asked = Inputs(question.text, scenes.render_scene(scene))
        choice = choose_option(small, "vqa", asked, options, samples=8)
        right.append(options[choice.index] == question.answer)
    assert sum(right) >= 6
