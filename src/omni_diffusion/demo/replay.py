"""The trace of a request becomes cells and pictures that the page can step through.

Here token ids get the names that a reader sees. Runs no model but the image codec.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from omni_diffusion.conversation import Image
from omni_diffusion.demo.page import Cell, Replay, Shot
from omni_diffusion.engine import stream
from omni_diffusion.engine.request import Result
from omni_diffusion.media import Picture
from omni_diffusion.models.omni import OmniModel
from omni_diffusion.vocab import Vocabulary

SHOTS = 10  # pictures kept of an image answer, at most
MEASURES = {"entropy": "minus the entropy in nats", "max_probability": "probability"}


def replay(result: Result, model: OmniModel, measure: str) -> Replay | None:
    """How the answer of a traced result came to be; None where no canvas was laid out."""
    if result.canvas is None or not result.trace:
        return None
    start, stop = result.canvas.answer
    ids = result.canvas.ids[start:stop]
    committed: dict[int, tuple[int, float]] = {}
    for number, record in enumerate(result.trace, 1):
        for place, sure in zip(record.places.tolist(), record.confidences.tolist(), strict=True):
            committed[place] = (number, sure)
    cells = tuple(
        _cell(model, int(id), committed.get(place), measure) for place, id in enumerate(ids)
    )
    shots = _shots(result, ids, model)
    columns = math.isqrt(sum(cell.kind == "image" for cell in cells))
    return Replay(cells, len(result.trace), MEASURES.get(measure, measure), columns, shots)


def label(id: int, model: OmniModel) -> str:
    """What a reader sees of a token; a leading space is drawn as a dot, a line end as an arrow."""
    vocabulary = model.vocabulary
    if id in vocabulary.text:
        text = model.codecs.text.decode(torch.tensor([vocabulary.text.lower(id)]))
        return text.replace(" ", "·").replace("\n", "⏎")
    return "pad" if id == vocabulary.pad else vocabulary.name(id)


def _cell(model: OmniModel, id: int, committed: tuple[int, float] | None, measure: str) -> Cell:
    vocabulary = model.vocabulary
    kind, token = vocabulary.span(id).name.replace("specials", "special"), label(id, model)
    if id == vocabulary.mask:
        return Cell(kind, token, None)
    if committed is None:
        return Cell(kind, token, 0)
    step, confidence = committed
    sure = math.exp(confidence) if measure == "entropy" else confidence
    return Cell(kind, token, step, round(confidence, 4), round(min(max(sure, 0.0), 1.0), 3))


def _shots(result: Result, ids: Tensor, model: OmniModel) -> tuple[Shot, ...]:
    """The picture so far, after up to SHOTS steps; none where the answer is no picture.

    What was given beforehand is shown as it is in the answer, which keeps given pixels.
    """
    answer = next((part.picture for part in result.parts if isinstance(part, Image)), None)
    places = model.vocabulary.image.holds(ids).nonzero().flatten()
    if answer is None or not len(places):
        return ()
    trace, count = result.trace, min(SHOTS, len(result.trace))
    before = _sure(trace[0].ids[places], model.vocabulary) >= 0
    before[torch.isin(places, trace[0].places)] = False
    numbers = sorted({round(len(trace) * (i + 1) / count) for i in range(count)})
    shots = []
    for number in numbers[:-1]:
        sure = _sure(trace[number - 1].ids[places], model.vocabulary)
        picture = stream.preview(stream.Settled("image", sure, False), model.codecs.image)
        if picture is not None:
            shots.append(Shot(number, _mixed(picture, answer, before)))
    return (*shots, Shot(len(trace), answer))


def _mixed(picture: Picture, answer: Picture, cells: Tensor) -> Picture:
    """The picture, with the cells bool [N] taken from the answer of the same size."""
    side = math.isqrt(len(cells))
    whole = cells.view(side, side).repeat_interleave(picture.height // side, 0)
    whole = whole.repeat_interleave(picture.width // side, 1)
    return Picture(torch.where(whole[..., None], answer.pixels, picture.pixels))


def _sure(ids: Tensor, vocabulary: Vocabulary) -> Tensor:
    """Local image codes [n], -1 where still blank."""
    return torch.where(vocabulary.image.holds(ids), ids - vocabulary.image.start, -1)
