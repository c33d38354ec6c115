"""Answers as a client takes them: pictures and sound in the container that was asked for."""

from __future__ import annotations

import base64
import io
from dataclasses import dataclass
from typing import Any, Literal, Self

import numpy as np
import soundfile
import soxr

from omni_diffusion.conversation import Image, Part, Text
from omni_diffusion.media import BLOCK, Picture, Waveform

OPENAI_RATE = 24_000  # Hz of raw PCM, as OpenAI's clients expect it


@dataclass(frozen=True)
class Container:
    """A sound format: libsndfile's names, the media type, and the rate it is written at.

    rate: None keeps the model's. live: "yes" can be sent as it is made, "sizeless" with a header
    that says an unknown size, "no" only whole.
    """

    kind: str
    subtype: str
    media_type: str
    rate: int | None = None
    live: Literal["yes", "sizeless", "no"] = "no"


OPTIONS: dict[str, dict[str, Any]] = {  # of libsndfile
    "RAW": {"endian": "LITTLE"},
    # A constant bit rate: without it, the length of a stream cannot be told from its beginning.
    "MP3": {"bitrate_mode": "CONSTANT", "compression_level": 0.7},
}
UNKNOWN_SIZE = b"\xff" * 4
CONTAINERS = {
    "mp3": Container("MP3", "MPEG_LAYER_III", "audio/mpeg", OPENAI_RATE, live="yes"),
    "opus": Container("OGG", "OPUS", "audio/ogg; codecs=opus", OPENAI_RATE, live="yes"),
    "ogg": Container("OGG", "VORBIS", "audio/ogg", live="yes"),
    "flac": Container("FLAC", "PCM_16", "audio/flac"),
    "wav": Container("WAV", "PCM_16", "audio/wav", live="sizeless"),
    "pcm": Container("RAW", "PCM_16", "audio/pcm", OPENAI_RATE, live="yes"),
    "aiff": Container("AIFF", "PCM_16", "audio/aiff"),
    "au": Container("AU", "PCM_16", "audio/basic"),
    "caf": Container("CAF", "PCM_16", "audio/x-caf"),
    "w64": Container("W64", "PCM_16", "audio/x-w64"),
}


class SoundWriter:
    """Sound to the bytes of a container, piece by piece; used as a context, which it ends with.

    Pieces are waveforms of one rate; `finish` gives what is left. Containers that are live "no" are
    refused by ValueError.
    """

    def __init__(self, container: Container) -> None:
        if container.live == "no":
            raise ValueError(f"{container.kind} cannot be sent as it is made")
        self.container = container
        self._buffer = io.BytesIO()
        self._sent = 0
        self._file: soundfile.SoundFile | None = None
        self._resampler: soxr.ResampleStream | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        if self._file is not None:
            self._file.close()

    @property
    def begun(self) -> bool:
        """Whether any sound was written."""
        return self._file is not None

    def write(self, waveform: Waveform) -> bytes:
        """Add sound; returns the bytes that follow those before."""
        if self._file is None:
            target = self.container.rate or waveform.rate
            if target != waveform.rate:
                self._resampler = soxr.ResampleStream(waveform.rate, target, 1, dtype="float32")
            self._file = sound_file(self._buffer, self.container, target)
        self._add(waveform.mono().samples[0].numpy(), last=False)
        self._file.flush()
        return self._fresh()

    def finish(self) -> bytes:
        """The last bytes."""
        self._add(np.zeros(0, np.float32), last=True)
        if self._file is not None:
            self._file.close()
        return self._fresh()

    def _add(self, samples: np.ndarray[Any, Any], *, last: bool) -> None:
        if self._resampler is not None:
            samples = self._resampler.resample_chunk(samples, last=last)
        if self._file is not None:
            write_blocks(self._file, samples)

    def _fresh(self) -> bytes:
        fresh = self._buffer.getbuffer()[self._sent :].tobytes()
        first, self._sent = not self._sent, self._sent + len(fresh)
        return _headed(fresh, self.container.kind) if first else fresh


def sound_file(out: io.BytesIO, container: Container, rate: int) -> soundfile.SoundFile:
    """A file of one channel to write to."""
    return soundfile.SoundFile(
        out, "w", rate, 1, format=container.kind, subtype=container.subtype,
        **OPTIONS.get(container.kind, {}),
    )  # fmt: skip


def write_blocks(file: soundfile.SoundFile, samples: np.ndarray[Any, Any]) -> None:
    """Write samples [n]; values outside [-1, 1] are clipped."""
    for start in range(0, len(samples), BLOCK):
        file.write(np.clip(samples[start : start + BLOCK], -1, 1))


def _headed(start: bytes, kind: str) -> bytes:
    """The first bytes of a stream, with a header that says nothing of its length."""
    if kind == "WAV":  # RIFF and data sizes at their maximum, as for a stream
        return start[:4] + UNKNOWN_SIZE + start[8:40] + UNKNOWN_SIZE + start[44:]
    if kind == "MP3":  # without its first frame, which is to say how many there are
        return start[max(0, start.find(start[:2], 4)) :]
    return start


def encoded_sound(waveform: Waveform, container: Container) -> bytes:
    """A whole recording in a container, with a complete header."""
    rate = container.rate or waveform.rate
    out = io.BytesIO()
    with sound_file(out, container, rate) as file:
        write_blocks(file, waveform.mono().resample(rate).samples[0].numpy())
    return out.getvalue()


def pcm16(waveform: Waveform) -> bytes:
    """Samples as 16-bit little-endian integers, one channel, at the waveform's rate."""
    return encoded_sound(waveform, Container("RAW", "PCM_16", "audio/pcm"))


def encoded_picture(picture: Picture, kind: str = "png", compression: int | None = None) -> bytes:
    """A picture as png, jpeg or webp; compression: 0 to 100, of jpeg and webp, as OpenAI has it."""
    out = io.BytesIO()
    options = {} if compression is None or kind == "png" else {"quality": 100 - compression}
    picture.to_pil().save(out, format=kind.upper(), **options)
    return out.getvalue()


def scaled(picture: Picture, width: int, height: int) -> Picture:
    """The picture at another size, by bicubic interpolation."""
    if (picture.width, picture.height) == (width, height):
        return picture
    return Picture.from_pil(picture.to_pil().resize((width, height)))


def base64_of(data: bytes) -> str:
    """Bytes as base64 text."""
    return base64.b64encode(data).decode()


def data_uri(data: bytes, media_type: str) -> str:
    """Bytes as an address that holds them."""
    return f"data:{media_type};base64,{base64_of(data)}"


def native_part(part: Part) -> dict[str, Any]:
    """A part as /v1/jobs and /v1/infill give it."""
    if isinstance(part, Text):
        return {"type": "text", "text": part.text}
    if isinstance(part, Image):
        return {"type": "image", "data": data_uri(encoded_picture(part.picture), "image/png")}
    waveform = part.waveform
    data = data_uri(encoded_sound(waveform, CONTAINERS["wav"]), "audio/wav")
    return {"type": "audio", "data": data, "seconds": round(waveform.seconds, 3)}
