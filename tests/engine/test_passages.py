"""A text longer than one canvas is spoken whole, whoever asks."""

from __future__ import annotations

from dataclasses import replace

import pytest
from tests.tiny import tiny_model

from omni_diffusion.conversation import Message, Speech, Text
from omni_diffusion.diffusion.params import SamplingParams
from omni_diffusion.engine.engine import Engine, Progress
from omni_diffusion.engine.request import Request
from omni_diffusion.models.omni import OmniModel
from omni_diffusion.tasks.chunking import joined, spoken_passages
from omni_diffusion.tasks.defaults import GenerationConfig

TEXT = "A red apple on a blue background. Two dogs to the left of a tree. A dog, and a dog."


@pytest.fixture(scope="module")
def model() -> OmniModel:
    """One that was trained on canvases of 150 tokens at most."""
    model = tiny_model()
    config = replace(model.config, generation=GenerationConfig(longest=150))
    return OmniModel(config, model.codecs, model.backbone)


def speak(text: str, **options: object) -> Request:
    params = SamplingParams(steps=2)
    return Request("tts", (Message("user", (Text(text),)),), params, **options)  # type: ignore[arg-type]


@pytest.mark.slow
def test_the_sound_is_that_of_all_passages_in_order(model: OmniModel) -> None:
    engine = Engine(model, max_batch=1)
    passages = spoken_passages(TEXT, model, max_positions=150)
    assert len(passages) > 1
    sounds = []
    for passage in passages:
        [result] = engine.run([speak(passage)])
        sounds += [part.waveform for part in result.parts if isinstance(part, Speech)]
    assert len(sounds) == len(passages)
    [whole] = engine.run([speak(TEXT)])
    assert whole.error is None
    (part,) = whole.parts
    assert isinstance(part, Speech)
    assert part.waveform.samples.equal(joined(sounds).samples)
    assert whole.notes == (f"spoken in {len(passages)} passages",)
    assert whole.steps == 2 * len(passages)
    assert engine.pending == 0


def test_a_preset_speaks_in_passages_too(model: OmniModel) -> None:
    request = replace(speak(TEXT, preset="paper"), params={"steps": 2})
    [result] = Engine(model).run([request])
    assert result.notes[-1].startswith("spoken in ")


def test_a_length_or_a_trace_is_asked_of_one_canvas(model: OmniModel) -> None:
    for options in ({"max_tokens": 40}, {"trace": True}):
        [result] = Engine(model).run([speak(TEXT, **options)])
        assert result.canvas is not None
        assert result.notes == ()


def test_passages_are_one_request_to_the_outside(model: OmniModel) -> None:
    engine = Engine(model)
    seen: list[Progress] = []
    [result] = engine.run([speak(TEXT, id="mine")], seen.append)
    assert result.id == "mine"
    fractions = [each.fraction for each in seen]
    assert fractions == sorted(fractions)
    assert (seen[-1].finished, seen[-1].total, seen[-1].fraction) == (1, 1, 1.0)
    id = engine.add(speak(TEXT))
    finished: list[str] = []
    while engine.pending:
        finished += engine.step()
    assert finished == [id]
    assert engine.result(id).error is None
    id = engine.add(speak(TEXT))
    engine.step()
    assert engine.abort(id)
    assert engine.pending == 0
    assert not engine.abort(id)


def test_a_failed_passage_fails_all_of_them(
    model: OmniModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    broken = RuntimeError("broken")

    def refuse(codes: object) -> None:
        raise broken

    monkeypatch.setattr(model.codecs.speech, "decode", refuse)
    engine = Engine(model)
    id = engine.add(speak(TEXT))
    while engine.pending:
        engine.step()
    assert engine.result(id).error is broken


def test_an_empty_text_is_an_error_of_its_request(model: OmniModel) -> None:
    engine = Engine(model)
    id = engine.add(speak(" "))
    while engine.pending:
        engine.step()
    assert engine.result(id).canvas is not None  # one canvas, as for any short text
