import itertools
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from tests.mini.codecs.tones import recorded

from omni_diffusion.errors import DataError
from omni_diffusion.mini.codecs import ctc
from omni_diffusion.mini.codecs.ctc import Words, edit_distance
from omni_diffusion.mini.speech_plan import Utterance

SENTENCES = st.lists(st.integers(1, 4), max_size=5)


def test_words_there_and_back(tmp_path: Path) -> None:
    words = Words.of(["Is there a key?", "no, there is no key"])
    assert words.known == ("a", "is", "key", "no", "there")
    assert words.size == 6
    assert words.decode(words.encode("Is there a key?").tolist()) == "is there a key"
    words.save(tmp_path / "words.json")
    assert Words.load(tmp_path / "words.json") == words


def test_a_strange_word_is_named() -> None:
    with pytest.raises(DataError, match="words zebra of 'a zebra'"):
        Words.of(["a key"]).encode("a zebra")


def test_recordings_are_those_of_the_split_that_exist(tmp_path: Path) -> None:
    wave = recorded(1)[0][1]
    lines = [Utterance(i, "caption", s, "v", "low") for i, s in enumerate(["train", "test"] * 2)]
    for index in (0, 1):
        wave.write(tmp_path / f"{index:05d}.flac")
    assert [line.index for line, _ in ctc.recorded_lines(lines, tmp_path)] == [0]
    assert [line.index for line, _ in ctc.recorded_lines(lines, tmp_path, split="test")] == [1]


def test_nothing_recorded_is_an_error() -> None:
    with pytest.raises(DataError, match="record the speech first"):
        ctc.clips([], Words(()), lambda wave: wave.samples)


def test_draws_follow_the_weights_and_keep_lengths_together() -> None:
    lengths = torch.arange(100)
    weights = torch.ones(100)
    weights[50:] = 3.0
    weights[7] = 0.0
    generator = torch.Generator().manual_seed(0)
    drawn = [ctc.draw(lengths, 10, generator, weights) for _ in range(300)]
    counts = torch.bincount(torch.tensor(drawn).flatten(), minlength=100).float()
    assert counts[7] == 0
    assert counts[50:].mean() / counts[:50].mean() == pytest.approx(3 * 50 / 49, rel=0.15)
    spans = torch.tensor([max(batch) - min(batch) for batch in drawn]).float()
    assert spans.mean() < 30  # a batch drawn without sorting spans more than 80


def test_padding_is_each_clips_own_silence() -> None:
    rows = [torch.tensor([[1.0], [2.0], [3.0]]), torch.tensor([[5.0], [4.0]])]
    padded, counts = ctc.pad(rows, 2)
    assert padded[..., 0].tolist() == [[1, 2, 3, 1], [5, 4, 4, 4]]
    assert counts.tolist() == [3, 2]


def test_ctc_is_the_sum_over_all_alignments() -> None:
    logits = torch.randn(2, 4, 3)
    counts, words = torch.tensor([4, 3]), [torch.tensor([1, 1]), torch.tensor([2])]
    total = 0.0
    for row, count, said in zip(logits.softmax(-1), counts.tolist(), words, strict=True):
        likelihood = 0.0
        for path in itertools.product(range(3), repeat=count):
            kept = [s for s, _ in itertools.groupby(path) if s]
            if kept == said.tolist():
                likelihood += float(row[range(count), list(path)].prod())
        total -= torch.tensor(likelihood).log().item()
    assert float(ctc.ctc_loss(logits, counts, words)) == pytest.approx(total / 3, rel=1e-5)


def test_a_clip_that_is_too_short_for_its_words_costs_nothing() -> None:
    loss = ctc.ctc_loss(torch.randn(1, 1, 3), torch.tensor([1]), [torch.tensor([1, 2])])
    assert float(loss) == 0


def test_greedy_merges_repeats_between_blanks() -> None:
    path = torch.tensor([[1, 1, 0, 1, 2, 2, 2], [0, 0, 2, 0, 1, 1, 1]])
    logits = torch.nn.functional.one_hot(path, 3).float()
    assert ctc.greedy(logits, torch.tensor([7, 4])) == [[1, 1, 2], [2]]


@given(SENTENCES, SENTENCES)
def test_word_errors_against_the_recursive_definition(a: list[int], b: list[int]) -> None:
    def distance(a: list[int], b: list[int]) -> int:
        if not a or not b:
            return len(a) + len(b)
        change = distance(a[1:], b[1:]) + (a[0] != b[0])
        return min(change, distance(a[1:], b) + 1, distance(a, b[1:]) + 1)

    assert edit_distance(a, b) == distance(a, b)


def test_the_error_rate_counts_words_not_clips() -> None:
    words = Words(("low", "mid"))
    clips = ctc.clips(
        [
            (Utterance(0, "caption", "test", "v", "low"), recorded(1)[0][1]),
            (Utterance(1, "caption", "test", "v", "mid low mid"), recorded(1)[0][1]),
        ],
        words,
        lambda wave: wave.samples.T[:5],
    )

    def deaf(some: object) -> tuple[torch.Tensor, torch.Tensor]:
        logits = torch.zeros(2, 5, 3)
        logits[:, 0, 1] = 1.0  # always hears "low", once
        return logits, torch.tensor([5, 5])

    assert ctc.ctc_word_error_rate(clips, deaf) == pytest.approx(2 / 4)
