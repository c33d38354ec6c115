"""Speaks a text of any length: its passages side by side in one engine, their sounds joined."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from omni_diffusion.conversation import Message, Speech, Text
from omni_diffusion.diffusion.params import SamplingParams
from omni_diffusion.engine.engine import Engine, Progress
from omni_diffusion.engine.request import Request, Result
from omni_diffusion.errors import ModelError
from omni_diffusion.media import Waveform
from omni_diffusion.tasks.chunking import PAUSE, joined, spoken_passages


def recite(
    engine: Engine,
    text: str,
    params: SamplingParams | None = None,
    *,
    most: int | None = None,
    pause: float = PAUSE,
    progress: Callable[[Progress], None] | None = None,
) -> Waveform:
    """All of the text as one sound, `pause` seconds of silence between its passages.

    most: places of one canvas, see `spoken_passages`. Raises TaskError for a text that cannot be
    cut to fit, and the error of the first passage that failed: nothing is passed over in silence.
    """
    passages = spoken_passages(text, engine.model, most=most)
    return recite_passages(engine, passages, params, pause=pause, progress=progress)


def recite_passages(
    engine: Engine,
    passages: Sequence[str],
    params: SamplingParams | None = None,
    *,
    pause: float = PAUSE,
    progress: Callable[[Progress], None] | None = None,
) -> Waveform:
    """The same for a text that is cut already."""
    requests = [Request("tts", (Message("user", (Text(each),)),), params) for each in passages]
    results = engine.run(requests, progress)
    sounds = [_sound(each, result) for each, result in zip(passages, results, strict=True)]
    return joined(sounds, pause)


def _sound(passage: str, result: Result) -> Waveform:
    if result.error is not None:
        raise result.error
    for part in result.parts:
        if isinstance(part, Speech):
            return part.waveform
    raise ModelError(f"the model said nothing for {passage[:40]!r}; ask again with another seed")
