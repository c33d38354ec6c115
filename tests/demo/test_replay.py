"""The page's cells tell what the trace tells."""

import pytest
import torch
from tests.tiny import checkers

from omni_diffusion.conversation import Image, Message, Text
from omni_diffusion.demo.replay import SHOTS, replay
from omni_diffusion.diffusion.params import SamplingParams
from omni_diffusion.engine.engine import Engine
from omni_diffusion.engine.request import Request, Result
from omni_diffusion.engine.stream import token_label
from omni_diffusion.models.omni import OmniModel
from omni_diffusion.tasks.infill import box, inpainting


def ask(model: OmniModel, task: str, *drafts: object, **params: object) -> Result:
    request = Request(task, drafts, SamplingParams(**params), max_tokens=12, trace=True)
    (result,) = Engine(model).run([request])
    assert result.error is None, result.error
    return result


@pytest.mark.parametrize("task", ["t2i", "tts", "chat"])
def test_every_place_is_given_or_committed_once(model: OmniModel, task: str) -> None:
    result = ask(model, task, Message("user", (Text("a red apple"),)), steps=5)
    shown = replay(result, model)
    assert shown is not None
    assert shown.steps == result.steps == 5
    assert result.canvas is not None
    ids = result.canvas.ids[slice(*result.canvas.answer)].tolist()
    assert [cell.token for cell in shown.cells] == [token_label(id, model) for id in ids]
    for number, record in enumerate(result.trace, 1):
        at = [place for place, cell in enumerate(shown.cells) if cell.step == number]
        assert at == record.positions.tolist()
        assert [shown.cells[place].confidence for place in at] == pytest.approx(
            record.confidences.tolist(), abs=1e-4
        )
    given = [cell for cell in shown.cells if cell.step == 0]
    assert len(given) + sum(len(record.positions) for record in result.trace) == len(ids)
    assert all(cell.confidence is cell.sure is None for cell in given)
    assert all(0 <= cell.sure <= 1 for cell in shown.cells if cell.sure is not None)


def test_a_picture_is_shown_on_its_way_and_ends_as_the_answer(model: OmniModel) -> None:
    result = ask(model, "t2i", Message("user", (Text("a red apple"),)))
    shown = replay(result, model)
    assert shown is not None
    assert shown.columns == 4
    steps = [shot.step for shot in shown.shots]
    assert steps == sorted(set(steps))
    assert len(steps) == SHOTS
    assert steps[-1] == shown.steps == 16
    answer = result.parts[0]
    assert isinstance(answer, Image)
    assert torch.equal(shown.shots[-1].picture.pixels, answer.picture.pixels)
    grey = (shown.shots[0].picture.pixels == 128).all(-1)  # nothing is known of most cells yet
    assert int(grey.sum()) >= 4 * (16 - steps[0])


def test_what_was_given_is_shown_as_it_was(model: OmniModel) -> None:
    picture = checkers()
    result = ask(model, "inpaint", *inpainting(picture, box(picture, 0, 0, 4, 8)))
    shown = replay(result, model)
    assert shown is not None
    assert [cell.step == 0 for cell in shown.cells if cell.kind == "image"] == [0, 0, 1, 1] * 4
    for shot in shown.shots:
        assert torch.equal(shot.picture.pixels[:, 4:], picture.pixels[:, 4:])


def test_without_a_trace_there_is_nothing_to_show(model: OmniModel) -> None:
    request = Request("t2i", (Message("user", (Text("a"),)),))
    assert replay(Engine(model).run([request])[0], model) is None


def test_tokens_are_named_for_a_reader(model: OmniModel) -> None:
    vocabulary = model.vocabulary
    text = vocabulary.text.lift(model.codecs.text.encode(" \n"))
    assert "".join(token_label(int(id), model) for id in text) == "·⏎"
    assert token_label(vocabulary.pad, model) == "pad"
    assert token_label(vocabulary.im_end, model) == "im_end"
    assert token_label(vocabulary.image.lift(3), model) == "image_3"
