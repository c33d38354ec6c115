"""Turns on a canvas: published prompts, answer layouts, training and inference side by side."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from tests.published_folders import published_text
from tests.tasks.tiny_scenes import names

from omni_diffusion.codecs.text import TextCodec
from omni_diffusion.conversation import Blank, Codes, EncodedPart, Frames, Partial, Text, Turn
from omni_diffusion.errors import TaskError
from omni_diffusion.models.omni import OmniModel
from omni_diffusion.tasks.arrange import arrange
from omni_diffusion.tasks.catalog import CATALOG, task
from omni_diffusion.tasks.render import layout_training
from omni_diffusion.tasks.task import kind_of
from omni_diffusion.vocab import Vocabulary

HEARD = Frames(torch.zeros(5, 16))
SEEN = Codes("image", torch.tensor([0, 1, 2, 3]))
ASKED: dict[str, tuple[EncodedPart, ...]] = {
    "chat": (Text("a red apple"),),
    "asr": (HEARD,),
    "tts": (Text("a red apple"),),
    "t2i": (Text("a red apple"),),
    "caption": (SEEN,),
    "vqa": (Text("what is there?"), SEEN),
    "s2i": (HEARD,),
    "svqa": (HEARD, SEEN),
    "sqa": (HEARD,),
}
TRUTH: dict[str, EncodedPart] = {
    "text": Text("a dog"),
    "image": SEEN,
    "speech": Codes("speech", torch.arange(6)),
}
ANSWERING = [name for name, known in CATALOG.items() if known.answer]


def _turns(name: str, *, answered: bool) -> tuple[Turn, ...]:
    asked = Turn("user", ASKED[name])
    if not answered:
        return (asked,)
    return asked, Turn("assistant", tuple(TRUTH[kind] for kind in task(name).answer))


# ------------------------------------------------------------------------------ published prompts
OFFICIAL = Vocabulary.official()
SHORT_IMAGE = Codes("image", torch.tensor([0, 1, 17, 8191]))
PROMPTS: dict[str, tuple[str, tuple[EncodedPart, ...]]] = {
    "asr": ("asr", (HEARD,)),
    "tts": ("tts", (Text("Get the trust fund to the bank early."),)),
    "t2i": (
        "t2i",
        (
            Text(
                "The image shows a landscape background with double exposure glasses of wine,"
                " displaying a hyperealistic and detailed view of the subject."
            ),
        ),
    ),
    "vqa_shortened_image": (
        "vqa",
        (Text("Is the glass of orange juice half empty or half full?"), SHORT_IMAGE),
    ),
    "s2i": ("s2i", (HEARD,)),
    "svqa_shortened_image": ("svqa", (HEARD, SHORT_IMAGE)),
    "sqa": ("sqa", (HEARD,)),
}
NULL_PROMPTS = {"cfg_s2i_uncond": "s2i", "cfg_t2i_length_reference": "t2i"}


@pytest.fixture(scope="module")
def published(tmp_path_factory: pytest.TempPathFactory) -> TextCodec:
    return published_text(tmp_path_factory.mktemp("published"))


@pytest.fixture(scope="module")
def stored(parity_dir: Path) -> dict[str, list[int]]:
    data = json.loads((parity_dir / "backbone" / "tokens.json").read_text(encoding="utf-8"))
    return {name: row["ids"] for name, row in data["prompts"].items()}


def _heard(ids: list[int]) -> list[int]:
    """The stored prompt with its speech tag laid out: begin, five context places, end."""
    tag = OFFICIAL.id("audio")
    heard = [OFFICIAL.begin_of_audio, *[OFFICIAL.context_of_audio] * 5, OFFICIAL.end_of_audio]
    return [id for token in ids for id in (heard if token == tag else [token])]


@pytest.mark.parametrize("name", PROMPTS)
def test_published_prompt_id_for_id(
    name: str, published: TextCodec, stored: dict[str, list[int]]
) -> None:
    known, parts = PROMPTS[name]
    canvas = arrange(
        task(known), [Turn("user", parts)], OFFICIAL, published, length=40, cells=256
    ).canvas
    assert canvas.ids[: canvas.answer[0]].tolist() == _heard(stored[name])


@pytest.mark.parametrize("name", NULL_PROMPTS)
def test_published_null_prompt_id_for_id(
    name: str, published: TextCodec, stored: dict[str, list[int]]
) -> None:
    known = NULL_PROMPTS[name]
    parts = HEARD if known == "s2i" else Text("a dog")
    canvas = arrange(
        task(known), [Turn("user", (parts,))], OFFICIAL, published, cells=256, null=True
    ).canvas
    assert canvas.ids[: canvas.answer[0]].tolist() == stored[name]
    assert canvas.length - canvas.answer[0] == 260


# --------------------------------------------------------------------- training meets inference
@pytest.mark.parametrize("name", ANSWERING)
def test_training_and_inference_share_prompt_and_layout(name: str, model: OmniModel) -> None:
    known, text, vocabulary = task(name), model.codecs.text, model.vocabulary
    trained = layout_training(known, _turns(name, answered=True), vocabulary, text, tail=5)
    start, stop = trained.answer
    asked = arrange(
        known, _turns(name, answered=False), vocabulary, text, length=stop - start, cells=4
    ).canvas
    assert asked.answer == trained.answer
    assert torch.equal(asked.ids[:start], trained.ids[:start])
    assert not bool(trained.blank.any())
    assert not bool(asked.blank[:start].any())
    given = ~asked.blank
    assert torch.equal(asked.ids[given], trained.ids[given])
    assert bool((asked.ids[asked.blank] == vocabulary.mask).all())
    assert [slot.start for slot in asked.slots] == [slot.start for slot in trained.slots]
    # The true answer can be reached: each place allows it, but for the line end after speech,
    # which lies among the text ids.
    low, high = asked.allowed.unbind(1)
    missed = (trained.ids < low) | (trained.ids >= high)
    newline = int(text.encode("\n"))
    assert set(trained.ids[missed].tolist()) <= ({newline} if "speech" in known.answer else set())


@pytest.mark.parametrize("name", ANSWERING)
def test_null_prompt_keeps_the_answer_block(name: str, model: OmniModel) -> None:
    known = task(name)
    for answered in (True, False):
        turns = _turns(name, answered=answered)
        laid, null = (
            arrange(
                known,
                turns,
                model.vocabulary,
                model.codecs.text,
                length=24,
                cells=4,
                null=flag,
            ).canvas
            for flag in (False, True)
        )
        ours, theirs = slice(*laid.answer), slice(*null.answer)
        assert torch.equal(laid.ids[ours], null.ids[theirs])
        assert torch.equal(laid.blank[ours], null.blank[theirs])
        assert torch.equal(laid.allowed[ours], null.allowed[theirs])
        assert null.answer[0] < laid.answer[0]
        assert null.slots == ()


# -------------------------------------------------------------------------------- answer layouts
def _answer(name: str, model: OmniModel, tail: int) -> list[str]:
    canvas = layout_training(
        task(name), _turns(name, answered=True), model.vocabulary, model.codecs.text, tail=tail
    )
    return names(canvas.ids[slice(*canvas.answer)], model.vocabulary)


def test_answer_layouts(model: OmniModel) -> None:
    dog = [str(id) for id in model.codecs.text.encode("a dog").tolist()]
    newline = str(int(model.codecs.text.encode("\n")))
    end, pads = ["im_end", newline], ["endoftext"] * 3
    cells = [f"image_{i}" for i in range(4)]
    codes = [f"audio_{i}" for i in range(6)]
    assert _answer("caption", model, 3) == [*dog, *end, *pads]
    assert _answer("t2i", model, 3) == ["begin_of_image", *cells, "end_of_image", *end]
    spoken = ["begin_of_audio", *codes, "end_of_audio", *end]
    assert _answer("tts", model, 3) == [*spoken, *pads]
    both = _answer("svqa", model, 3)
    quarter = len(both) // 4
    assert both[: len(dog)] == dog
    assert set(both[len(dog) : quarter]) <= {"endoftext"}
    assert both[quarter : quarter + len(spoken)] == spoken
    assert set(both[quarter + len(spoken) :]) == {"endoftext"}


@pytest.mark.parametrize("length", [5, 20, 37, 128])
@pytest.mark.parametrize("share", [0.25, 0.2])
def test_speech_begins_at_its_share(length: int, share: float, model: OmniModel) -> None:
    laid = arrange(
        task("svqa"),
        _turns("svqa", answered=False),
        model.vocabulary,
        model.codecs.text,
        length=length,
        speech_at=share,
    )
    start, stop = laid.canvas.answer
    given = (~laid.canvas.blank[start:stop]).nonzero().flatten().tolist()
    assert stop - start == length
    assert given == [int(share * length)]
    assert int(laid.canvas.ids[start + given[0]]) == model.vocabulary.begin_of_audio
    assert [section.kind for section in laid.spans] == ["text", "speech"]
    assert laid.spans[1].start == start + given[0] + 1


@pytest.mark.parametrize(("words", "codes"), [("a", 1), ("a dog", 3), ("a red apple", 40)])
def test_least_room_for_text_and_speech(words: str, codes: int, model: OmniModel) -> None:
    turns = [
        Turn("user", ASKED["sqa"]),
        Turn("assistant", (Text(words), Codes("speech", torch.arange(codes) % 32))),
    ]

    def length(asked: int | None) -> int:
        canvas = layout_training(
            task("sqa"), turns, model.vocabulary, model.codecs.text, length=asked
        )
        return canvas.answer[1] - canvas.answer[0]

    least = length(None)
    assert length(least + 7) == least + 7
    with pytest.raises(TaskError, match=r"needs \d+ tokens|too short"):
        length(least - 1)


@pytest.mark.parametrize("name", ["caption", "t2i", "tts", "svqa"])
def test_without_scaffold_only_a_begin_inside_the_answer_is_given(
    name: str, model: OmniModel
) -> None:
    canvas = arrange(
        task(name),
        _turns(name, answered=False),
        model.vocabulary,
        model.codecs.text,
        length=20,
        cells=16,
        scaffold=False,
    ).canvas
    start, stop = canvas.answer
    assert stop - start == 20
    assert canvas.blanks == (19 if name == "svqa" else 20)


# ---------------------------------------------------------------------------------------- turns
def test_texts_between_specials_are_tokenised_in_one_piece(
    published: TextCodec, stored: dict[str, list[int]]
) -> None:
    text = "Get the trust fund to the bank early."
    cut = [Text(text[:11]), Text(text[11:12]), Text(""), Text(text[12:])]
    canvas = arrange(
        task("chat"),
        [Turn("user", (Text("Convert the text to speech.\n"), *cut))],
        OFFICIAL,
        published,
        length=8,
    ).canvas
    assert canvas.ids[: canvas.answer[0]].tolist() == stored["tts"]


def test_an_earlier_answer_is_laid_as_it_was_answered(model: OmniModel) -> None:
    chat, text, vocabulary = task("chat"), model.codecs.text, model.vocabulary
    first = [Turn("user", (Text("what is\n"),)), Turn("assistant", (Text("\na dog"),))]
    trained = layout_training(chat, first, vocabulary, text)
    more = arrange(chat, [*first, Turn("user", (Text("why?"),))], vocabulary, text, length=8).canvas
    assert torch.equal(more.ids[: trained.length], trained.ids)


def test_a_system_turn_of_the_conversation_replaces_the_tasks(model: OmniModel) -> None:
    own = Turn("system", (Text("be brief"),))
    user = Turn("user", (HEARD,))
    text = model.codecs.text
    for null in (False, True):
        laid = arrange(task("sqa"), [own, user], model.vocabulary, text, length=8, null=null)
        said = laid.canvas.ids[: laid.canvas.answer[0]]
        assert text.decode(said[1:].masked_select(said[1:] < text.vocabulary_size)).startswith(
            "system\nbe brief\nuser\n"
        )


@pytest.mark.parametrize(
    ("parts", "blanks"),
    [
        ((Text("a "), Blank("text", 2), Text("apple")), 2),
        ((Blank("image", 4), Text("a dog"), Blank("speech", 3)), 7),
        ((Partial("speech", torch.arange(4), torch.tensor([True, False, True, True])),), 3),
        ((Blank("text", 1), Partial("image", torch.arange(4), torch.arange(4) > 1)), 3),
        ((SEEN, Blank("text", 3), TRUTH["speech"]), 3),
    ],
)
def test_any_mix_of_known_and_blank_parts(
    parts: tuple[EncodedPart, ...], blanks: int, model: OmniModel
) -> None:
    turns = [Turn("user", (Text("go on"),)), Turn("assistant", parts)]
    laid = arrange(task("infill"), turns, model.vocabulary, model.codecs.text)
    canvas = laid.canvas
    assert canvas.blanks == blanks
    assert [section.kind for section in laid.spans] == [kind_of(part) for part in parts]
    assert not bool(canvas.blank[: canvas.answer[0]].any())
    assert int(canvas.ids[canvas.answer[1] - 2]) == model.vocabulary.im_end
    low, high = canvas.allowed[canvas.blank].unbind(1)
    spans = {(span.start, span.stop) for span in model.vocabulary.spans}
    assert {(int(a), int(b)) for a, b in zip(low, high, strict=True)} <= spans


def test_blanks_in_earlier_turns(model: OmniModel) -> None:
    turns = [
        Turn("user", (Text("hello"),)),
        Turn("assistant", (Blank("text", 3),)),
        Turn("user", (HEARD, Text("why?"))),
        Turn("assistant", (Text("because "), Blank("text", 2))),
    ]
    laid = arrange(task("infill"), turns, model.vocabulary, model.codecs.text)
    assert laid.canvas.blanks == 5
    assert [s.stop - s.start for s in laid.spans][::2] == [3, 2]
    assert len(laid.canvas.slots) == 1
    null = arrange(task("infill"), turns, model.vocabulary, model.codecs.text, null=True).canvas
    assert torch.equal(null.ids[slice(*null.answer)], laid.canvas.ids[slice(*laid.canvas.answer)])


def test_refusals(model: OmniModel) -> None:
    text, vocabulary = model.codecs.text, model.vocabulary
    asked = Turn("user", ASKED["t2i"])
    wrong = Turn("assistant", (Text("no picture"),))
    with pytest.raises(TaskError, match="answers with image, the given answer is text"):
        layout_training(task("t2i"), [asked, wrong], vocabulary, text)
    with pytest.raises(TaskError, match="the given answer is empty"):
        layout_training(task("t2i"), [asked, Turn("assistant", ())], vocabulary, text)
    with pytest.raises(TaskError, match="no token is masked"):
        arrange(task("infill"), [Turn("user", (Text("hi"),))], vocabulary, text)
    with pytest.raises(TaskError, match="got nothing to answer"):
        arrange(task("chat"), [], vocabulary, text, length=8)
    with pytest.raises(TaskError, match="needs 7 tokens, it has 3"):
        layout_training(task("chat"), _turns("chat", answered=True), vocabulary, text, length=3)
    with pytest.raises(TaskError, match="speech input stands in a turn"):
        arrange(task("infill"), [Turn("user", (HEARD, Blank("text", 2)))], vocabulary, text)
