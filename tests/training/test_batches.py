"""Masked canvases, laid into micro-batches: nothing depends on what lies beside what."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.training.test_denoising import CROWD, VOCABULARY, canvas

from omni_diffusion.canvas import Canvas, rounded
from omni_diffusion.data.mixture import DrawnCanvas
from omni_diffusion.diffusion.masking import MaskingConfig, ratios
from omni_diffusion.training.batches import (
    BUCKETS,
    TOKEN_KINDS,
    MaskedExample,
    MicroBatch,
    mask_answer,
    micro_batches,
)

PLAIN = MaskingConfig()


def masked(one: Canvas, seed: int, masking: MaskingConfig = PLAIN, group: int = 0) -> MaskedExample:
    t = ratios(masking, 1, torch.Generator().manual_seed(seed))
    return mask_answer(DrawnCanvas(one, seed, 0), group, t, masking, "plain", VOCABULARY)


EXAMPLES = [masked(one, seed, group=seed % 2) for seed, one in enumerate(CROWD)]


def test_a_canvas_is_masked_by_its_own_seed() -> None:
    one = CROWD[5]
    first, again, other = masked(one, 1), masked(one, 1), masked(one, 2)
    assert torch.equal(first.canvas.ids, again.canvas.ids)
    assert not torch.equal(first.canvas.ids, other.canvas.ids)
    hidden = first.canvas.ids == VOCABULARY.mask
    assert torch.equal(hidden, first.masked)
    assert torch.equal(one.ids[hidden], first.targets)
    assert torch.equal(one.ids[~hidden], first.canvas.ids[~hidden])
    assert first.normaliser == len(first.targets) == float(first.weights.sum())


def test_a_sample_takes_the_ratio_of_its_number_and_further_answers_their_own() -> None:
    one = canvas(2, 400)
    t = torch.tensor([0.1, 0.5, 0.9])
    shares = [
        len(mask_answer(DrawnCanvas(one, 7, n), 0, t, PLAIN, "plain", VOCABULARY).targets) / 400
        for n in (0, 1, 2)
    ]
    assert shares == pytest.approx([0.1, 0.5, 0.9], abs=0.08)
    own = [
        len(mask_answer(DrawnCanvas(one, n, None), 0, t, PLAIN, "plain", VOCABULARY).targets) / 400
        for n in range(40)
    ]
    assert max(own) > 0.8
    assert min(own) < 0.2


def test_kinds_and_buckets() -> None:
    one = canvas(2, 8, 2)
    v = VOCABULARY
    firsts = (v.text.start, v.speech.start, v.image.start, v.begin_of_image)
    one.ids[2:10] = torch.tensor([id for id in firsts for _ in range(2)])
    whole = MaskingConfig(full=1.0, gamma=1.0)
    example = masked(one, 0, whole)
    named = [TOKEN_KINDS[number] for number in example.kind.tolist()]
    expected = ["text"] * 2 + ["speech"] * 2 + ["image"] * 2 + ["special"] * 2 + ["pad"] * 2
    assert named == expected
    assert BUCKETS[example.bucket] == "75_100"
    few = mask_answer(DrawnCanvas(one, 0, 0), 0, torch.tensor([0.001]), PLAIN, "plain", VOCABULARY)
    assert BUCKETS[few.bucket] == "0_25"  # one of eight


@settings(deadline=None)
@given(max_length=st.sampled_from([None, 20, 45]), places=st.sampled_from([None, 1, 30, 64, 200]))
def test_every_example_is_laid_once(max_length: int | None, places: int | None) -> None:
    laid = list(micro_batches(EXAMPLES, VOCABULARY.pad, max_length=max_length, max_tokens=places))
    targets = sorted(token for micro in laid for token in micro.targets.tolist())
    assert targets == sorted(token for one in EXAMPLES for token in one.targets.tolist())
    for micro in laid:
        assert bool((micro.batch.ids[micro.masked] == VOCABULARY.mask).all())
        assert int(micro.masked.sum()) == len(micro.targets) == len(micro.weights)
        assert len(micro.group) == len(micro.kind) == len(micro.bucket) == len(micro.targets)
        rows, length = micro.batch.ids.shape
        assert places is None or rows == 1 or rows * length <= places
        assert max_length is None or length <= max_length
        assert max_length is not None or len(micro.group.unique()) == 1
    slots = sum(len(micro.batch.slots) for micro in laid)
    assert slots == sum(len(one.canvas.slots) for one in EXAMPLES)


def test_targets_stand_in_the_order_of_the_masked_places() -> None:
    (micro,) = micro_batches(EXAMPLES[:6], VOCABULARY.pad, max_length=60, max_tokens=None)
    plain = {one.canvas.ids.tolist().__repr__(): one for one in EXAMPLES}
    assert len(plain) == len(EXAMPLES)
    taken = 0
    assert micro.batch.segments is not None
    for row, segments in zip(micro.batch.ids, micro.batch.segments, strict=True):
        for number in range(1, int(segments.max()) + 1):
            example = plain[row[segments == number].tolist().__repr__()]
            count = len(example.targets)
            assert torch.equal(micro.targets[taken : taken + count], example.targets)
            assert torch.equal(micro.weights[taken : taken + count], example.weights)
            taken += count
    assert taken == len(micro.targets)


def test_shapes_are_rounded_and_what_fills_them_up_does_not_count() -> None:
    for longest, most in ((None, None), (None, 100), (45, 200)):
        for micro in micro_batches(EXAMPLES, VOCABULARY.pad, max_length=longest, max_tokens=most):
            length = micro.batch.ids.shape[1]
            assert length in (rounded(length), longest)
            computed = int(micro.queried.sum())
            free = micro.masked.numel() - len(micro.targets)
            assert computed == min(rounded(len(micro.targets)), len(micro.targets) + free)
            assert bool(micro.queried[micro.masked].all())


def test_few_sizes_recur_once_rounded() -> None:
    sizes = {rounded(size) for size in range(1, 2000)}
    assert len(sizes) < 75
    assert all(size <= rounded(size) <= size * 9 / 8 for size in range(1, 2000))
    assert all(rounded(size) == size for size in sizes)


def test_an_empty_turn_has_no_loss_and_no_gradient() -> None:
    micro = MicroBatch.empty(VOCABULARY.pad)
    assert len(micro.targets) == int(micro.masked.sum()) == 0
    assert micro.to(torch.device("cpu")) is micro
