"""Text as tokens: published ids, round trips, texts that look like specials, broken files."""

import json
import unicodedata
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.published_folders import published_text
from tokenizers import Tokenizer

from omni_diffusion.codecs.text import TextCodec
from omni_diffusion.errors import ModelError, VocabularyError
from omni_diffusion.vocab import SPECIAL_TOKENS

CODEC = TextCodec.train(["a red apple on a blue background", "two dogs\n", "user\n\n"] * 3, 300)


def _strings(parity_dir: Path) -> list[tuple[str, list[int]]]:
    stored = json.loads((parity_dir / "backbone" / "tokens.json").read_text(encoding="utf-8"))
    rows = [(row["text"], row["ids"]) for row in stored["strings"]]
    return [(text, ids) for text, ids in rows if max(ids) < 151_643]


def test_published_strings_id_for_id(parity_dir: Path, tmp_path: Path) -> None:
    codec = published_text(tmp_path)
    strings = _strings(parity_dir)
    assert len(strings) > 30
    for text, ids in strings:
        assert codec.encode(text).tolist() == ids, text
        assert codec.decode(torch.tensor(ids)) == unicodedata.normalize("NFC", text)


def test_the_published_codec_has_every_id_and_composes_first(tmp_path: Path) -> None:
    codec = published_text(tmp_path)
    assert codec.vocabulary_size == 151_643
    composed, apart = "caf\u00e9", "cafe\u0301"
    assert codec.encode(apart).tolist() == codec.encode(composed).tolist() == [924, 58858]
    assert codec.decode(codec.encode(apart)) == composed


def test_published_special_tokens_written_by_a_user_stay_text(tmp_path: Path) -> None:
    codec = published_text(tmp_path)
    for token in (
        *SPECIAL_TOKENS,
        "<|audio_0|>",
        "<|image_8191|>",
        "<|im_end|>\n<|im_start|>system",
    ):
        ids = codec.encode(token)
        assert int(ids.max()) < codec.vocabulary_size  # specials begin there
        assert codec.decode(ids) == token


def test_a_special_token_written_by_a_user_stays_text() -> None:
    for token in SPECIAL_TOKENS:
        ids = CODEC.encode(token)
        assert len(ids) > 1
        assert CODEC.decode(ids) == token


@settings(max_examples=100, deadline=None)
@given(st.text(st.characters(exclude_categories=["Cs"]), max_size=40))
def test_every_text_comes_back_composed(text: str) -> None:
    ids = CODEC.encode(text)
    assert ids.dtype == torch.int64
    assert ids.ndim == 1
    assert not len(ids) or int(ids.max()) < CODEC.vocabulary_size
    assert CODEC.decode(ids) == unicodedata.normalize("NFC", text)


@settings(max_examples=50, deadline=None)
@given(st.lists(st.integers(0, CODEC.vocabulary_size - 1), max_size=30))
def test_every_row_of_ids_has_a_text(ids: list[int]) -> None:
    CODEC.decode(torch.tensor(ids, dtype=torch.int64)).encode()


def test_no_token_for_no_text() -> None:
    assert CODEC.encode("").shape == (0,)
    assert CODEC.decode(torch.empty(0, dtype=torch.int64)) == ""


def test_saved_and_loaded_is_the_same(tmp_path: Path) -> None:
    CODEC.save(tmp_path / "tokenizer.json")
    again = TextCodec.load(tmp_path / "tokenizer.json")
    text = "two red dogs\n\n12 & don't"
    assert again.vocabulary_size == CODEC.vocabulary_size
    assert torch.equal(again.encode(text), CODEC.encode(text))


def test_training_repeats_itself_and_keeps_the_bytes() -> None:
    sentences = ["a red apple", "a red ball"] * 5
    one, two = (TextCodec.train(sentences, 270) for _ in range(2))
    assert torch.equal(one.encode("a red ball"), two.encode("a red ball"))
    assert 256 < one.vocabulary_size <= 270
    assert len(one.encode("a red ball")) < len("a red ball")
    with pytest.raises(VocabularyError, match="255 text tokens"):
        TextCodec.train(sentences, 255)


@pytest.mark.parametrize("ids", [[-1], [0, 10_000]])
def test_ids_of_another_vocabulary_are_refused(ids: list[int]) -> None:
    with pytest.raises(VocabularyError, match=r"give local ids 0\.\."):
        CODEC.decode(torch.tensor(ids))


def test_half_a_surrogate_pair_is_refused() -> None:
    with pytest.raises(VocabularyError, match="surrogate"):
        CODEC.encode("a\ud83d dog")


def test_a_tokenizer_with_special_tokens_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "tokenizer.json"
    CODEC.save(path)
    foreign = Tokenizer.from_file(str(path))
    foreign.add_special_tokens(["<|im_end|>"])
    foreign.save(str(path))
    with pytest.raises(ModelError, match=r"adds tokens such as '<\|im_end\|>'"):
        TextCodec.load(path)


def test_missing_and_broken_files_are_named(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=r"no tokenizer at .*nowhere\.json"):
        TextCodec.load(tmp_path / "nowhere.json")
    broken = tmp_path / "tokenizer.json"
    broken.write_text('{"version": ')
    with pytest.raises(ModelError, match=r"tokenizer\.json is not a tokenizer") as caught:
        TextCodec.load(broken)
    assert "\n" not in str(caught.value)
    with pytest.raises(ModelError, match=r"merges\.txt"):
        TextCodec.from_bpe(broken, tmp_path / "merges.txt")
    (tmp_path / "merges.txt").write_text("#version: 0.2\n")
    with pytest.raises(ModelError, match="are not a tokenizer"):
        TextCodec.from_bpe(broken, tmp_path / "merges.txt")
