"""From a filled canvas back to parts: round trips, composites, and nonsense read without a fall."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.tasks.tiny_scenes import CONVERSATIONS, SAID, filled
from tests.tiny import checkers, tiny_model

from omni_diffusion.conversation import Blank, Codes, Image, Message, Speech, Text, Turn
from omni_diffusion.diffusion.params import SamplingParams
from omni_diffusion.models.omni import OmniModel
from omni_diffusion.tasks.catalog import CATALOG, task
from omni_diffusion.tasks.encode import encode
from omni_diffusion.tasks.infill import box, inpainting
from omni_diffusion.tasks.read import image_ids, read, speech_ids, text_ids
from omni_diffusion.tasks.render import layout_training, render
from omni_diffusion.vocab import Vocabulary

TINY = Vocabulary(text_size=300, speech_size=32, image_size=16)
TRUTH = {
    "text": Text("two dogs, well"),
    "image": Codes("image", torch.arange(16)),
    "speech": Codes("speech", torch.tensor([3, 1, 4, 1, 5])),
}
ANSWERING = [name for name, known in CATALOG.items() if known.answer]


@pytest.mark.parametrize("name", ANSWERING)
@pytest.mark.parametrize("constrain", [True, False])
def test_the_true_answer_is_read_back(name: str, constrain: bool, model: OmniModel) -> None:
    params = SamplingParams(constrain=constrain)
    prepared = render(task(name), CONVERSATIONS[name], model, params, max_tokens=68)
    answer = Turn("assistant", tuple(TRUTH[kind] for kind in task(name).answer))
    turns = (*encode(CONVERSATIONS[name], model.codecs), answer)
    length = prepared.canvas.answer[1] - prepared.canvas.answer[0]
    truth = layout_training(task(name), turns, model.vocabulary, model.codecs.text, length=length)
    blank = prepared.canvas.blank
    canvas = prepared.canvas.fill(blank.nonzero().flatten(), truth.ids[blank])
    found = read(canvas, prepared, model)
    assert found.notes == ()
    for part, kind in zip(found.parts, task(name).answer, strict=True):
        if isinstance(part, Text):
            assert part == TRUTH["text"]
        elif isinstance(part, Image):
            assert torch.equal(
                part.picture.pixels, model.codecs.image.decode(torch.arange(16)).pixels
            )
        else:
            assert kind == "speech"
            wanted = model.codecs.speech.decode(torch.tensor([3, 1, 4, 1, 5]))
            assert torch.equal(part.waveform.samples, wanted.samples)


@pytest.mark.parametrize("name", CATALOG)
@pytest.mark.parametrize("params", [None, SamplingParams(rules="upstream", constrain=False)])
def test_whatever_is_allowed_can_be_read(
    name: str, params: SamplingParams | None, model: OmniModel
) -> None:
    prepared = render(task(name), CONVERSATIONS[name], model, params)
    for seed in range(3):
        found = read(filled(prepared.canvas, seed), prepared, model)
        assert len(found.parts) + len(found.notes) >= len(task(name).answer)
        for part in found.parts:
            assert isinstance(part, Text | Image | Speech)
    assert read(prepared.canvas, prepared, model).parts is not None  # nothing filled yet


def test_pictures_are_always_whole_when_constrained(model: OmniModel) -> None:
    prepared = render(task("t2i"), CONVERSATIONS["t2i"], model)
    found = read(filled(prepared.canvas), prepared, model)
    assert found.notes == ()
    assert isinstance(found.parts[0], Image)


def test_inpainting_keeps_every_given_pixel(model: OmniModel) -> None:
    picture = checkers(8)
    hole = box(picture, 2, 2, 5, 6)
    prepared = render(task("inpaint"), inpainting(picture, hole, "a dog"), model)
    (part,) = read(filled(prepared.canvas), prepared, model).parts
    assert isinstance(part, Image)
    assert torch.equal(part.picture.pixels[~hole], picture.pixels[~hole])
    assert not torch.equal(part.picture.pixels[hole], picture.pixels[hole])


def test_text_cut_by_blanks_is_one_part(model: OmniModel) -> None:
    words = (Text("a "), Blank("text", 2), Text(" dog"), Blank("image", 16), Text("end"))
    conversation = (Message("user", (SAID,)), Message("assistant", words))
    prepared = render(task("infill"), conversation, model)
    canvas = prepared.canvas
    start = prepared.spans[1].start
    image = prepared.spans[3]
    canvas = canvas.fill([start, start + 1], model.codecs.text.encode("xq"))
    canvas = canvas.fill(
        list(range(image.start, image.stop)), model.vocabulary.image.lift(torch.arange(16))
    )
    first, picture, last = read(canvas, prepared, model).parts
    assert first == Text("a xq dog")
    assert isinstance(picture, Image)
    assert last == Text("end")


def test_empty_answers_are_noted(model: OmniModel) -> None:
    prepared = render(task("svqa"), CONVERSATIONS["svqa"], model, max_tokens=20)
    blank = prepared.canvas.blank.nonzero().flatten()
    pads = torch.full((len(blank),), model.vocabulary.pad)
    found = read(prepared.canvas.fill(blank, pads), prepared, model)
    assert found.parts == (Text(""),)
    assert found.notes == (
        "the answer has no text: the model wrote no word",
        "the answer has no speech: the model wrote no speech code",
    )


# ------------------------------------------------------------------------------ splitting of ids
def _image(*codes: int) -> list[int]:
    return [TINY.image.lift(code) for code in codes]


def test_text_ends_at_the_turns_end_or_at_a_pad() -> None:
    ids = [1, TINY.begin_of_image, 2, TINY.speech.lift(3), TINY.mask, 3]
    assert text_ids(torch.tensor([*ids, TINY.im_end, 4]), TINY).tolist() == [1, 2, 3]
    assert text_ids(torch.tensor([*ids, TINY.pad, 4]), TINY).tolist() == [1, 2, 3]


def test_speech_ends_at_its_end() -> None:
    code = TINY.speech.lift(5)
    for end in (TINY.end_of_audio, TINY.im_end, TINY.pad):
        assert speech_ids(torch.tensor([code, 7, code, end, code]), TINY).tolist() == [5, 5]


def test_missing_cells_repeat_their_neighbour() -> None:
    ids = torch.tensor([TINY.mask, *_image(4), TINY.mask, 9, *_image(6), TINY.im_end])
    assert image_ids(ids, TINY).tolist() == [4, 4, 4, 4, 6, 6]
    assert image_ids(ids, TINY, upstream=True).tolist() == [4, 6, 6, 6, 6, 6]
    assert image_ids(torch.tensor([TINY.mask, 3]), TINY).tolist() == []


@settings(max_examples=100, deadline=None)
@given(st.lists(st.integers(0, TINY.size - 1), min_size=1, max_size=20), st.booleans())
def test_any_ids_can_be_taken_apart(found: list[int], published: bool) -> None:
    ids = torch.tensor(found)
    assert len(image_ids(ids, TINY, upstream=published)) in (0, len(ids))
    for local, size in (
        (text_ids(ids, TINY), TINY.text_size),
        (speech_ids(ids, TINY), TINY.speech_size),
        (image_ids(ids, TINY, upstream=published), TINY.image_size),
    ):
        assert not len(local) or 0 <= int(local.min()) <= int(local.max()) < size


def test_the_vocabulary_above_is_the_tiny_models() -> None:
    assert tiny_model().vocabulary == TINY
