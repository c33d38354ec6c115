"""What is new in an answer: text, sound and previews, each as soon as it is sure.

Works on updates of a feed; runs on a media thread, since sound and previews are decoded here.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TypeAlias

import torch

from omni_diffusion.codecs.glm_voice.stream import VoiceStream
from omni_diffusion.conversation import Speech, text_of
from omni_diffusion.engine.stream import CommittedSpan, committed_text, preview
from omni_diffusion.media import Picture, Waveform
from omni_diffusion.models.omni import OmniModel
from omni_diffusion.serving.feed import Update
from omni_diffusion.tasks.chunking import PASSAGE_PAUSE

FIRST_SECONDS = 0.5  # of speech in the first block that is decoded
GROWTH = 1.6  # of the blocks after it: a later block costs more, since all before it is drawn again
LONGEST_SECONDS = 3.0


@dataclass(frozen=True)
class TextDelta:
    """Text that follows what was sent."""

    text: str


@dataclass(frozen=True, eq=False)
class SoundDelta:
    """Sound that follows what was sent."""

    waveform: Waveform


@dataclass(frozen=True, eq=False)
class PictureDelta:
    """The picture so far, as the step `step` of `total` left it."""

    picture: Picture
    step: int
    total: int


Delta: TypeAlias = TextDelta | SoundDelta | PictureDelta


class Deltas:
    """The news of one answer, update by update.

    previews: how many pictures to show of one that forms, at equal distances. sound: whether speech
    is decoded as it is committed. every: a preview every so many steps, instead of `previews`.
    """

    def __init__(
        self, model: OmniModel, *, previews: int = 0, sound: bool = False, every: int | None = None
    ) -> None:
        self.model, self.previews, self.sound, self.every = model, previews, sound, every
        self._text = ""
        self._shown = 0
        self._voices: dict[int, _Voice] = {}
        self._passage = 0  # the one that is heard now

    def of(self, update: Update) -> list[Delta]:
        """What is new since the update before."""
        with torch.no_grad():
            return [*self._new_text(update), *self._new_sound(update), *self._new_picture(update)]

    def _new_text(self, update: Update) -> Iterator[TextDelta]:
        if update.result is not None:
            text = text_of(update.result.parts)
        else:
            text = settled_text(update.spans, self.model)
        if text.startswith(self._text) and len(text) > len(self._text):
            yield TextDelta(text[len(self._text) :])
            self._text = text

    def _new_sound(self, update: Update) -> Iterator[SoundDelta]:
        if not self.sound:
            return
        voice = self._voices.setdefault(update.passage, _Voice(self.model))
        voice.take(update)
        while (voice := self._voices.get(self._passage)) is not None:  # type: ignore[assignment]
            waveform = voice.speak()
            if waveform is not None and waveform.samples.numel():
                if self._passage and voice.first:
                    pause = round(PASSAGE_PAUSE * waveform.rate)
                    silence = waveform.samples.new_zeros(1, pause)
                    waveform = Waveform(torch.cat([silence, waveform.samples], 1), waveform.rate)
                voice.first = False
                yield SoundDelta(waveform)
            if not voice.over:
                return
            self._passage += 1

    def _new_picture(self, update: Update) -> Iterator[PictureDelta]:
        span = next((span for span in update.spans if span.kind == "image"), None)
        if span is None or span.whole or not self._due(update, span):
            return
        picture = preview(span, self.model.codecs.image)
        if picture is not None:
            yield PictureDelta(picture, update.step, update.total)

    def _due(self, update: Update, span: CommittedSpan) -> bool:
        """Whether the picture has grown enough since the one shown before."""
        if self.every is not None:
            due = update.step >= self._shown + self.every
            self._shown = update.step if due else self._shown
            return due
        committed = int((span.codes >= 0).sum())
        number = (self.previews + 1) * committed // max(1, len(span.codes))
        due = number > self._shown
        self._shown = max(self._shown, number)
        return due


class _Voice:
    """The sound of one passage, decoded in blocks."""

    def __init__(self, model: OmniModel) -> None:
        codec = model.codecs.speech
        self.first, self.over = True, False
        self._stream = VoiceStream(codec.flow, codec.vocoder)
        self._rate = codec.codes_per_second
        self._codes = torch.zeros(0, dtype=torch.long)
        self._pushed = 0
        self._block = FIRST_SECONDS
        self._whole: Waveform | None = None
        self._ended = False

    def take(self, update: Update) -> None:
        """Note the codes committed so far."""
        if update.result is not None:
            self._ended = True
            sounds = [part.waveform for part in update.result.parts if isinstance(part, Speech)]
            self._whole = sounds[0] if sounds else None
            return
        for span in update.spans:
            if span.kind == "speech" and len(span.codes) >= len(self._codes):
                self._codes = span.codes
                # Without a code the sound has not begun: what stands there is skipped in the end.
                self._ended = span.whole and len(span.codes) > 0

    def speak(self) -> Waveform | None:
        """The sound that is now sure; None if there is none yet."""
        if self.over:
            return None
        if self._ended and not self._pushed and self._whole is not None:
            self.over = True
            return self._whole  # nothing was heard yet: the whole, as it was decoded at once
        if self._ended and (self._pushed or self._whole is None):
            return self._end()
        fresh = len(self._codes) - self._pushed
        if fresh < self._block * self._rate:
            return None
        self._block = min(self._block * GROWTH, LONGEST_SECONDS)
        block, self._pushed = self._codes[self._pushed :], len(self._codes)
        return self._stream.push(block)

    def _end(self) -> Waveform | None:
        self.over = True
        rest = self._codes[self._pushed :]
        return self._stream.finish(rest) if self._pushed or len(rest) else None


def settled_text(spans: Sequence[CommittedSpan], model: OmniModel) -> str:
    """The text of an answer so far, without white space around it."""
    pieces = []
    for span in spans:
        if span.kind == "text":
            pieces.append(committed_text(span, model.codecs.text))
            if not span.whole:
                break
    return "".join(pieces).strip()
