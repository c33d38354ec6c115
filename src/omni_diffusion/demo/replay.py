"""From the trace of a request to the cells and pictures that the page steps through."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from omni_diffusion.conversation import Image
from omni_diffusion.demo.page import Cell, Replay, Shot
from omni_diffusion.diffusion.confidence import Measure
from omni_diffusion.engine import stream
from omni_diffusion.engine.request import Result
from omni_diffusion.media import Picture
from omni_diffusion.models.omni import OmniModel
from omni_diffusion.vocab import Vocabulary

SHOTS = 10  # pictures kept of an image answer, at most
MEASURES = {"entropy": "minus the entropy in nats", "max_probability": "probability"}


def replay(result: Result, model: OmniModel) -> Replay | None:
    """The denoising of a traced result, step by step; None where no canvas was laid out."""
    if result.canvas is None or result.params is None or not result.trace:
        return None
    measure = result.params.confidence
    start, stop = result.canvas.answer
    ids = result.canvas.ids[start:stop]
    committed: dict[int, tuple[int, float]] = {}
    for number, record in enumerate(result.trace, 1):
        for position, value in zip(
            record.positions.tolist(), record.confidences.tolist(), strict=True
        ):
            committed[position] = (number, value)
    cells = tuple(
        _cell(model, int(id), committed.get(position), measure) for position, id in enumerate(ids)
    )
    shots = _shots(result, ids, model)
    columns = math.isqrt(sum(cell.kind == "image" for cell in cells))
    return Replay(cells, len(result.trace), MEASURES.get(measure, measure), columns, shots)


def _cell(model: OmniModel, id: int, committed: tuple[int, float] | None, measure: Measure) -> Cell:
    vocabulary = model.vocabulary
    kind, token = (
        vocabulary.span(id).name.replace("specials", "special"),
        stream.token_label(id, model),
    )
    if id == vocabulary.mask:
        return Cell(kind, token, None)
    if committed is None:
        return Cell(kind, token, 0)
    step, confidence = committed
    sure = stream.certainty(confidence, measure)
    return Cell(kind, token, step, round(confidence, 4), round(sure, 3))


def _shots(result: Result, ids: Tensor, model: OmniModel) -> tuple[Shot, ...]:
    """The picture so far, after up to SHOTS steps; empty where the answer is not a picture.

    Given cells are shown as in the answer, which keeps given pixels.
    """
    answer = next((part.picture for part in result.parts if isinstance(part, Image)), None)
    positions = model.vocabulary.image.holds(ids).nonzero().flatten()
    if answer is None or not len(positions):
        return ()
    trace, count = result.trace, min(SHOTS, len(result.trace))
    before = _image_codes(trace[0].ids[positions], model.vocabulary) >= 0
    before[torch.isin(positions, trace[0].positions)] = False
    numbers = sorted({round(len(trace) * (i + 1) / count) for i in range(count)})
    shots = []
    for number in numbers[:-1]:
        codes = _image_codes(trace[number - 1].ids[positions], model.vocabulary)
        picture = stream.preview(stream.CommittedSpan("image", codes, False), model.codecs.image)
        if picture is not None:
            shots.append(Shot(number, _mixed(picture, answer, before)))
    return (*shots, Shot(len(trace), answer))


def _mixed(picture: Picture, answer: Picture, cells: Tensor) -> Picture:
    """The picture, with the cells bool [N] taken from the answer, if that has the same size."""
    if answer.pixels.shape != picture.pixels.shape:  # painted into a picture of another size
        return picture
    side = math.isqrt(len(cells))
    whole = cells.view(side, side).repeat_interleave(picture.height // side, 0)
    whole = whole.repeat_interleave(picture.width // side, 1)
    return Picture(torch.where(whole[..., None], answer.pixels, picture.pixels))


def _image_codes(ids: Tensor, vocabulary: Vocabulary) -> Tensor:
    """Local image codes [n], -1 where masked."""
    return torch.where(vocabulary.image.holds(ids), ids - vocabulary.image.start, -1)
