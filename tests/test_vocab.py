import json
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from omni_diffusion.errors import VocabularyError
from omni_diffusion.vocab import SPECIAL_NAMES, SPECIAL_TOKENS, Span, Vocabulary

sizes = st.integers(0, 300)
vocabularies = st.builds(Vocabulary, text_size=sizes, speech_size=sizes, image_size=sizes)


def test_the_official_ids_are_those_of_the_published_tokenizer(parity_dir: Path) -> None:
    published = json.loads((parity_dir / "backbone" / "tokens.json").read_text())
    official = Vocabulary.official()
    assert official.size == published["total_vocab"]
    tokens = {official.token(id): id for id in range(official.specials.start, official.size)}
    assert len(tokens) == official.size - official.specials.start
    for token, id in (published["added_tokens"] | published["key_ids"]).items():
        assert tokens[token] == id
    assert dict(zip(SPECIAL_TOKENS, range(151_643, 151_688), strict=True)).items() <= (
        published["added_tokens"].items()
    )


def test_named_ids() -> None:
    v = Vocabulary.official()
    assert (v.pad, v.im_start, v.im_end, v.mask) == (151643, 151644, 151645, 151666)
    assert (v.begin_of_image, v.end_of_image, v.context_of_image) == (151667, 151668, 151669)
    assert (v.begin_of_audio, v.end_of_audio, v.context_of_audio) == (151684, 151685, 151686)
    assert (v.id("beginoftext"), v.id("image"), v.id("audio")) == (151665, 151682, 151687)
    assert v.id("audio") + 1 == v.speech.start


def test_ranges() -> None:
    v = Vocabulary(text_size=100, speech_size=7, image_size=5)
    assert v.size == 157
    assert v.range("any") == (0, 157)
    assert v.range("text") == (0, 145)
    assert v.range("speech") == (100, 152)
    assert v.span_of("text") == Span("text", 0, 100)
    assert v.span_of("speech") == Span("speech", 145, 152)
    assert v.span_of("image") == Span("image", 152, 157)


@given(vocabularies)
def test_spans_tile_the_ids(v: Vocabulary) -> None:
    assert v.spans[0].start == 0
    assert all(a.stop == b.start for a, b in zip(v.spans, v.spans[1:], strict=False))
    assert v.spans[-1].stop == v.size == sum(len(span) for span in v.spans)
    assert [v.id(name) for name in SPECIAL_NAMES] == list(range(v.specials.start, v.specials.stop))


@given(vocabularies, st.data())
def test_lift_and_lower_are_inverse(v: Vocabulary, data: st.DataObject) -> None:
    id = data.draw(st.integers(0, v.size - 1))
    span = v.span(id)
    local = span.lower(id)
    assert 0 <= local < len(span)
    assert span.lift(local) == id
    every = torch.arange(len(span), dtype=torch.int16)
    assert torch.equal(span.lower(span.lift(every)), every.long())
    assert span.holds(torch.arange(v.size)).sum() == len(span)


@given(vocabularies, st.data())
def test_names_are_one_to_one(v: Vocabulary, data: st.DataObject) -> None:
    id = data.draw(st.integers(v.specials.start, v.size - 1))
    name = v.name(id)
    if id in v.specials:
        assert v.id(name) == id
    else:
        kind, number = name.split("_")
        assert (v.speech if kind == "audio" else v.image).lift(int(number)) == id


def test_small_codes_do_not_wrap_round() -> None:
    codes = torch.tensor([0, 255], dtype=torch.uint8)
    assert Vocabulary.official().image.lift(codes).tolist() == [168_072, 168_327]


@pytest.mark.parametrize("bad", [-1, 10, torch.tensor([0, 10]), torch.tensor([[-1]])])
def test_out_of_range_ids_are_named(bad: int | torch.Tensor) -> None:
    span = Span("speech", 100, 110)
    with pytest.raises(VocabularyError, match=r"local speech id (-1|10) .*give 0\.\.9"):
        span.lift(bad)
    with pytest.raises(VocabularyError, match=r"global speech id .*give 100\.\.109"):
        span.lower(bad)


def test_other_mistakes() -> None:
    v = Vocabulary(text_size=10, speech_size=0, image_size=0)
    with pytest.raises(VocabularyError, match="give integers"):
        v.text.lift(torch.tensor([0.5]))
    with pytest.raises(VocabularyError, match="'msk'"):
        v.id("msk")
    with pytest.raises(VocabularyError, match="text, which has no name"):
        v.token(3)
    with pytest.raises(VocabularyError, match=r"give 0\.\.54"):
        v.span(55)
    with pytest.raises(VocabularyError, match="image_size is -1"):
        Vocabulary(text_size=1, speech_size=1, image_size=-1)
    assert v.speech.lift(torch.zeros(0, dtype=torch.long)).tolist() == []
