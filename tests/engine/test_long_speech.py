"""A text longer than one canvas is spoken whole."""

import pytest
from tests.tiny import tiny_model

from omni_diffusion.conversation import Message, Speech, Text
from omni_diffusion.diffusion.params import SamplingParams
from omni_diffusion.engine.engine import Engine, Progress
from omni_diffusion.engine.long_speech import recite
from omni_diffusion.engine.request import Request
from omni_diffusion.errors import TaskError
from omni_diffusion.tasks.chunking import joined, spoken_passages

TEXT = "A red apple on a blue background. Two dogs to the left of a tree. A dog, and a dog."


def test_the_sound_is_that_of_all_passages_in_order() -> None:
    engine, params = Engine(tiny_model(), max_batch=1), SamplingParams(steps=2)
    passages = spoken_passages(TEXT, engine.model, most=150)
    assert len(passages) > 1
    sounds = []
    for passage in passages:
        [result] = engine.run([Request("tts", (Message("user", (Text(passage),)),), params)])
        sounds += [part.waveform for part in result.parts if isinstance(part, Speech)]
    assert len(sounds) == len(passages)
    whole = recite(engine, TEXT, params, most=150, pause=0.1)
    assert whole.samples.equal(joined(sounds, 0.1).samples)
    assert engine.pending == 0


def test_a_failed_passage_fails_the_recital() -> None:
    engine = Engine(tiny_model())

    def abort(_: Progress) -> None:
        engine.abort("request-1")

    with pytest.raises(TaskError, match="was aborted"):
        recite(engine, TEXT, most=150, progress=abort)
    with pytest.raises(TaskError, match="the text is empty"):
        recite(engine, " ")
