"""Waveform and Picture: audio samples with their rate, and pixels; read, write, resample.

Input files are not trusted: size limits are checked from the header before anything is decoded.
"""

from __future__ import annotations

import io
import math
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, Literal, TypeAlias, TypeVar, get_args

import numpy as np
import PIL.Image
import soundfile
import soxr
import torch
from torch import Tensor

from omni_diffusion.errors import MediaError
from omni_diffusion.io import files
from omni_diffusion.io.pixels import rgb, upright_size, white_part, without_comments
from omni_diffusion.io.sound_files import sound_length, with_length

Source: TypeAlias = str | Path | bytes | BinaryIO
Resampling: TypeAlias = Literal["soxr", "sinc"]
Columns: TypeAlias = np.ndarray[tuple[int, int], np.dtype[np.float32]]
SampleArray: TypeAlias = "np.ndarray[Any, Any] | Tensor"
Used = TypeVar("Used")

SPEECH_RATE = 16_000  # Hz, the rate of all speech encoders
SILENCE = 1e-3  # -60 dB of full scale; a recording that never exceeds it counts as silent
LOUDEST = 8.0  # full scale is 1; beyond this, whole numbers were not scaled
MAX_CHANNELS = 32
MAX_SECONDS = 600.0
MAX_BYTES = 2**30  # of a pipe
MAX_VALUES = 2**28  # samples times channels: 1 GiB decoded
UNKNOWN_LENGTH = 2**63 - 1  # libsndfile reports it for a FLAC that was streamed to its file
MAX_PIXELS = 50_000_000
MAX_SIDE = 16_384
SOUND_FORMATS = {".wav": ("WAV", "PCM_16"), ".flac": ("FLAC", "PCM_16"), ".ogg": ("OGG", "VORBIS")}
PICTURE_FORMATS = {".png": "PNG", ".jpg": "JPEG", ".jpeg": "JPEG", ".webp": "WEBP"}
# Only decoders that run in this process: Pillow starts another program for PostScript.
READABLE_PICTURES = ("PNG", "JPEG", "WEBP", "BMP", "GIF", "TIFF", "PPM")
SINC_ZEROS = 6  # zero crossings of the sinc on either side, where its window ends
SINC_ROLLOFF = 0.99  # fraction of the lower of both Nyquist frequencies that passes
MAX_WEIGHTS = 2**24  # of one sinc filter: 128 MiB in float64
GATHERED = 2**22  # samples gathered for the filter at once: 16 MiB
BLOCK = 65_536  # libsndfile's Vorbis writer overflows its stack on one very long write


@dataclass(frozen=True, eq=False)
class Waveform:
    """Audio: `samples` float32 [channels, n], nominally in [-1, 1], at `rate` Hz."""

    samples: Tensor
    rate: int

    def __post_init__(self) -> None:
        shape = tuple(self.samples.shape)
        if self.samples.dtype != torch.float32 or len(shape) != 2 or shape[0] < 1:
            raise MediaError(
                f"samples are {self.samples.dtype} {shape}",
                field="samples",
                value=shape,
                fix="give float32 [channels, n]",
            )
        if self.rate < 1:
            raise _bad_rate(self.rate)

    @property
    def seconds(self) -> float:
        """Duration."""
        return self.samples.shape[1] / self.rate

    def mono(self) -> Waveform:
        """The mean over channels, [1, n]."""
        return Waveform(self.samples.mean(0, keepdim=True), self.rate)

    def first_channel(self) -> Waveform:
        """The first channel that is not silent, [1, n]; the very first if all are."""
        heard = (_loudness(self.samples) >= SILENCE).nonzero()
        first = int(heard[0]) if len(heard) else 0
        return Waveform(self.samples[first : first + 1], self.rate)

    def check_heard(self, name: str = "the recording") -> None:
        """Raise MediaError if nothing can be heard in the mean over channels, or nothing sensible.

        That is what the speech encoder hears: channels may cancel each other there. A constant
        offset is not sound.
        """
        if not self.samples.numel():
            raise MediaError(
                f"{name} has no samples", field="speech", fix="give audio of some length"
            )
        loudest = float(self.samples.abs().max())
        if math.isfinite(loudest) and loudest <= LOUDEST:
            if float(_loudness(self.mono().samples).max()) >= SILENCE:
                return
            if float(_loudness(self.samples).max()) >= SILENCE:
                problem, fix = "has channels that cancel each other", "give one of its channels"
            elif loudest >= SILENCE:
                problem, fix = f"has the constant value {loudest:g}", "record it again"
            else:
                problem, fix = (
                    "is silent: no sample exceeds -60 dB",
                    "record it louder or give another",
                )
        elif math.isfinite(loudest):
            problem, fix = f"has samples of {loudest:g}", "scale them to -1..1"
        else:
            problem, fix = "has samples that are not finite", "export it again"
        raise MediaError(f"{name} {problem}", field="speech", value=name, fix=fix)

    def resample(self, rate: int, method: Resampling = "soxr") -> Waveform:
        """The waveform at another rate; with "sinc" it has ceil(n * rate / old rate) samples.

        "soxr" (high quality) has a long, steep filter, flat up to 0.45 of the lower rate. "sinc" is
        the short Hann-windowed sinc of the published encoders (equal to torchaudio's
        transforms.Resample within 1e-6); it attenuates what lies above 0.4 of the lower rate and
        lets some aliases through. On a full-scale sweep up to 0.45 of the lower rate the two differ
        by 0.03 to 0.04 RMS (0.4 at most), up to 0.35 of it by 0.002 RMS (0.013 at most). Returns
        the waveform itself if the rate is equal. Raises MediaError for a rate below 1, an unknown
        method, and for rates with so small a common divisor that a "sinc" filter would not fit in
        memory.
        """
        if rate < 1:
            raise _bad_rate(rate)
        if method not in get_args(Resampling):
            raise MediaError(
                f"resampling method is {method!r}",
                field="method",
                value=method,
                fix="give 'soxr' or 'sinc'",
            )
        if rate == self.rate:
            return self
        if method == "sinc":
            return Waveform(_sinc_resampled(self.samples, self.rate, rate), rate)
        resampled = soxr.resample(self._columns(), self.rate, rate, quality="HQ")
        return Waveform(torch.from_numpy(np.ascontiguousarray(resampled.T)), rate)

    @classmethod
    def read(
        cls,
        source: Source,
        *,
        max_seconds: float = MAX_SECONDS,
        section: tuple[float, float] | None = None,
    ) -> Waveform:
        """Decode WAV, FLAC, OGG or MP3 of any rate and channel count, from a path, bytes or file.

        section: (start, stop) in seconds; only this part is decoded. Raises MediaError for missing,
        empty, corrupt or too long audio, for audio that breaks off before its header says, a
        section outside it, and non-finite samples.
        """
        stream, name = _open_sound(source)
        with stream, _audio_errors(name):
            length = sound_length(stream)
            if section is None and length.missing is not None:
                raise _broken_off(name, length.missing)
            with soundfile.SoundFile(stream) as sound:
                rate = int(sound.samplerate)
                if section is None and sound.frames + rate // 10 < length.at_least:
                    raise _broken_off(name, "its length is not in a header, and its bitrate varies")
                data = _decode(sound, name, max_seconds, section)
        if not data.size:
            raise MediaError(f"{name} has no samples", value=name, fix="give audio of some length")
        if not np.isfinite(data).all():
            raise MediaError(
                f"{name} has samples that are not finite", value=name, fix="export it again"
            )
        return cls(torch.from_numpy(np.ascontiguousarray(data.T)), rate)

    @classmethod
    def from_array(cls, values: SampleArray, rate: int) -> Waveform:
        """From samples [n], [channels, n], or [n, channels] as soundfile and scipy give them.

        The shorter axis is that of the channels, at most 32. Floats are taken as they are; int8,
        int16 and int32 are divided by their range, and uint8 has its zero at 128, as in WAV files.
        Raises MediaError for other types and shapes, and for samples that are not finite.
        """
        return cls(torch.from_numpy(_float_samples(values)), _whole_rate(rate))

    def write(self, path: str | Path) -> None:
        """Write to `path` atomically; the suffix selects 16-bit WAV, FLAC or OGG."""
        path = Path(path)
        kind = SOUND_FORMATS.get(path.suffix.lower())
        if kind is None:
            raise MediaError(
                f"{path} ends in none of {', '.join(SOUND_FORMATS)}",
                field="path",
                value=str(path),
                fix="rename it",
            )
        files.write_bytes(path, self._encode(*kind))

    def wav_bytes(self) -> bytes:
        """As a 16-bit WAV file; values outside [-1, 1] are clipped."""
        return self._encode(*SOUND_FORMATS[".wav"])

    def _encode(self, kind: str, subtype: str) -> bytes:
        columns = self._columns()
        if not np.isfinite(columns).all():
            raise MediaError(
                "the waveform has samples that are not finite", fix="give finite samples"
            )
        out = io.BytesIO()
        try:
            with soundfile.SoundFile(
                out, "w", self.rate, columns.shape[1], format=kind, subtype=subtype
            ) as sound:
                for start in range(0, len(columns), BLOCK):
                    sound.write(columns[start : start + BLOCK])
        except soundfile.SoundFileError as error:
            raise MediaError(
                f"{kind} cannot hold {columns.shape[1]} channels at {self.rate} Hz"
                f" ({_line(error)})",
                fix="resample or use WAV",
            ) from error
        return out.getvalue()

    def _columns(self) -> Columns:
        """SampleArray [n, channels], the layout of the audio libraries."""
        return np.ascontiguousarray(self.samples.detach().cpu().numpy().T)


@dataclass(frozen=True, eq=False)
class Picture:
    """An image: `pixels` uint8 [H, W, 3], RGB."""

    pixels: Tensor

    def __post_init__(self) -> None:
        shape = tuple(self.pixels.shape)
        if self.pixels.dtype != torch.uint8 or len(shape) != 3 or shape[2] != 3 or 0 in shape:
            raise MediaError(
                f"pixels are {self.pixels.dtype} {shape}",
                field="pixels",
                value=shape,
                fix="give uint8 [H, W, 3]",
            )

    @property
    def width(self) -> int:
        """W, in pixels."""
        return self.pixels.shape[1]

    @property
    def height(self) -> int:
        """H, in pixels."""
        return self.pixels.shape[0]

    @classmethod
    def read(cls, source: Source, *, max_pixels: int = MAX_PIXELS) -> Picture:
        """Decode PNG, JPEG, WebP, BMP, GIF (first frame), TIFF or PPM to RGB, as `from_pil` does.

        Raises MediaError for a missing, empty, corrupt or too large image.
        """
        return _decoded(source, max_pixels, cls.from_pil)

    @classmethod
    def from_pil(cls, image: PIL.Image.Image) -> Picture:
        """From a Pillow image of any mode.

        It is turned as its EXIF orientation says, transparent parts are on white, and grey of more
        than 8 bits is scaled. The published code does none of this. Raises MediaError for grey
        that is negative or not finite.
        """
        return cls(torch.from_numpy(np.array(rgb(image))))

    def to_pil(self) -> PIL.Image.Image:
        """As a Pillow RGB image."""
        return PIL.Image.fromarray(self.pixels.cpu().contiguous().numpy())

    def write(self, path: str | Path) -> None:
        """Write to `path` atomically; the suffix selects PNG, JPEG or WebP."""
        path = Path(path)
        kind = PICTURE_FORMATS.get(path.suffix.lower())
        if kind is None:
            raise MediaError(
                f"{path} ends in none of {', '.join(PICTURE_FORMATS)}",
                field="path",
                value=str(path),
                fix="rename it",
            )
        files.write_bytes(path, self._encode(kind))

    def png_bytes(self) -> bytes:
        """As a PNG file."""
        return self._encode("PNG")

    def _encode(self, kind: str) -> bytes:
        out = io.BytesIO()
        try:
            self.to_pil().save(out, format=kind)
        except (OSError, ValueError) as error:
            size = f"{self.width} x {self.height}"
            raise MediaError(
                f"{kind} cannot hold {size} ({_line(error)})", fix="use PNG"
            ) from error
        return out.getvalue()


@dataclass(frozen=True)
class SoundHeader:
    """Header of an audio file; `seconds` is None if the header does not give the length."""

    rate: int
    channels: int
    seconds: float | None


def sound_header(source: Source) -> SoundHeader:
    """Header of an audio file, without decoding it; raises MediaError for another file."""
    stream, name = _open_sound(source)
    with stream, _audio_errors(name), soundfile.SoundFile(stream) as sound:
        rate = int(sound.samplerate)
        known = sound.frames < UNKNOWN_LENGTH
        return SoundHeader(rate, sound.channels, sound.frames / rate if known else None)


def picture_size(source: Source, *, max_pixels: int = MAX_PIXELS) -> tuple[int, int]:
    """Width and height of an image as `Picture.read` turns it, without decoding it.

    Raises MediaError for another file or too large an image; broken pixels are not noticed.
    """
    return _decoded(source, max_pixels, upright_size)


def mask_hole(mask: Source | PIL.Image.Image) -> Tensor:
    """The hole of a drawn mask, bool [H, W]: True where it is white, see `io.pixels.white_part`.

    mask: an image file, turned as its EXIF orientation says, or a Pillow image. Raises MediaError
    for a mask that cannot be read, or whose transparency makes the hole ambiguous.
    """
    drawn = (
        white_part(mask)
        if isinstance(mask, PIL.Image.Image)
        else _decoded(mask, MAX_PIXELS, white_part)
    )
    return torch.from_numpy(drawn)


def _loudness(samples: Tensor) -> Tensor:
    """The largest deviation of each channel from its mean; samples [channels, n] -> [channels]."""
    return (samples - samples.mean(1, keepdim=True)).abs().amax(1)


def _float_samples(values: SampleArray) -> Columns:
    """SampleArray of any accepted type and layout as float32 [channels, n]."""
    if isinstance(values, Tensor):
        plain = values.detach().cpu()
        values = (plain.float() if plain.is_floating_point() else plain).numpy()
    kind, width = values.dtype.kind, values.dtype.itemsize
    known = values.ndim == 1 or (values.ndim == 2 and min(values.shape) <= MAX_CHANNELS)
    if not known or not values.size:
        raise MediaError(
            f"samples have the shape {values.shape}",
            field="audio",
            value=values.shape,
            fix=f"give [n], or [channels, n] with at most {MAX_CHANNELS} channels",
        )
    if not (kind == "f" or (kind == "i" and width <= 4) or (kind == "u" and width == 1)):
        raise MediaError(
            f"samples are {values.dtype}",
            field="audio",
            value=str(values.dtype),
            fix="give floats in [-1, 1], or int16, int32, int8 or uint8",
        )
    rows = values[None] if values.ndim == 1 else values
    if rows.shape[0] > rows.shape[1]:
        rows = rows.T
    floats = rows.astype(np.float64)
    if kind == "i":
        floats /= 2.0 ** (8 * width - 1)
    elif kind == "u":
        floats = (floats - 128) / 128
    if not np.isfinite(floats).all():
        raise MediaError("samples are not all finite", field="audio", fix="give finite samples")
    return np.ascontiguousarray(floats, dtype=np.float32)


def _whole_rate(rate: Any) -> int:
    """A rate of any numeric type as an int; raises MediaError for one that is not whole."""
    try:
        if int(rate) == rate:
            return int(rate)
    except (TypeError, ValueError, OverflowError):
        pass
    raise _bad_rate(rate)


def _sinc_resampled(samples: Tensor, old: int, new: int) -> Tensor:
    """SampleArray [channels, n] at rate `old` -> [channels, ceil(n * new / old)] at `new`.

    Output k lies at p = k * old / new in the input and is the sum of the 2 * reach + 1
    samples around it, each weighted by its distance from p. Distances repeat every `new` outputs
    once both rates are divided by their greatest common divisor, so weights are made only once.
    """
    divisor = math.gcd(old, new)
    old, new = old // divisor, new // divisor
    weights = _sinc_weights(old, new).to(samples.device)
    taps = weights.shape[1]
    padded = torch.nn.functional.pad(samples, (taps // 2, taps // 2 + 1))
    windows = padded.unfold(-1, taps, 1)  # [channels, positions, taps], a view
    count = -(-samples.shape[1] * new // old)
    pieces = [samples[:, :0]]
    count_at_once = max(1, GATHERED // taps)
    for outputs in torch.split(torch.arange(count, device=samples.device), count_at_once):
        around = windows[:, outputs * old // new]
        pieces.append((around * weights[outputs % new]).sum(-1))
    return torch.cat(pieces, 1)


def _sinc_weights(old: int, new: int) -> Tensor:
    """Weights [new, 2 * reach + 1] in float32 of the samples around each of `new` outputs.

    With c = 0.99 min(1, new / old) the cut-off and d a sample's distance from the output, in
    samples: w(d) = c sinc(c d) cos^2(pi c d / 12) for |c d| < 6, and 0 beyond.
    """
    base = SINC_ROLLOFF * min(old, new)
    reach = math.ceil(SINC_ZEROS * old / base)
    if new * (2 * reach + 1) > MAX_WEIGHTS:
        raise MediaError(
            f"rates of {old} to {new} (divided by their common divisor) need a sinc filter of"
            f" {new * (2 * reach + 1)} weights",
            field="method",
            value="sinc",
            fix="resample with 'soxr', or to a close common rate first",
        )
    outputs = torch.arange(new)[:, None]
    around = outputs * old // new + torch.arange(-reach, reach + 1)
    # Positions of outputs are rounded to float32 as in torchaudio; exact ones change the result of
    # odd rates by 1e-4.
    scaled = (around.double() / old - (outputs / new).double()) * base
    scaled = scaled.clamp(-SINC_ZEROS, SINC_ZEROS)  # where the window is 0
    window = torch.cos(torch.pi * scaled / (2 * SINC_ZEROS)).square()
    return (base / old * torch.sinc(scaled) * window).float()


def _open(source: Source) -> tuple[BinaryIO, str]:
    """A seekable stream over `source`, and its name for errors."""
    if isinstance(source, (str, Path)):
        return _open_path(Path(source))
    if isinstance(source, bytes):
        return _held(source, "the given data"), "the given data"
    name = getattr(source, "name", None)
    name = name if isinstance(name, str) else "the given data"
    return _held(source.read(MAX_BYTES + 1), name), name


def _open_path(path: Path) -> tuple[BinaryIO, str]:
    try:
        stream = path.open("rb")
    except (OSError, ValueError) as error:  # ValueError: a name with a zero byte
        reason = error.strerror if isinstance(error, OSError) else str(error)
        raise MediaError(
            f"cannot read {path}: {reason}", value=str(path), fix="check the path"
        ) from error
    if not stream.seekable():  # a pipe, such as /dev/stdin or <(command)
        with stream:
            return _held(stream.read(MAX_BYTES + 1), str(path)), str(path)
    if stream.seek(0, io.SEEK_END) == 0:
        stream.close()
        return _held(b"", str(path)), str(path)
    stream.seek(0)
    return stream, str(path)


def _held(data: bytes, name: str) -> BinaryIO:
    """A stream over data in memory; raises MediaError if there is none or far too much."""
    if not data:
        raise MediaError(f"{name} is empty", field="source", value=name, fix="give a complete file")
    if len(data) > MAX_BYTES:
        raise MediaError(f"{name} is larger than {MAX_BYTES} bytes", value=name, fix="give less")
    return io.BytesIO(data)


def _open_sound(source: Source) -> tuple[BinaryIO, str]:
    """As `_open`, with a header that states the length."""
    stream, name = _open(source)
    stated = with_length(stream)
    if stated is not stream:
        stream.close()
    return stated, name


def _broken_off(name: str, reason: str) -> MediaError:
    return MediaError(
        f"{name} breaks off: {reason}",
        value=name,
        fix="give the whole file, or export what there is of it again",
    )


@contextmanager
def _audio_errors(name: str) -> Iterator[None]:
    """Turn errors of the audio library into MediaError."""
    try:
        yield
    except MediaError:
        raise
    except (soundfile.SoundFileError, TypeError, ValueError) as error:
        raise MediaError(
            f"{name} is not readable audio ({_line(error)})",
            value=name,
            fix="give WAV, FLAC, OGG or MP3",
        ) from error


@contextmanager
def _picture_errors(name: str, max_pixels: int) -> Iterator[None]:
    """Turn errors of the image library into MediaError."""
    try:
        yield
    except MediaError:
        raise
    except PIL.Image.DecompressionBombError as error:  # raised before the size is known
        raise MediaError(
            f"{name} is far too large",
            value=name,
            fix=f"scale it to at most {max_pixels} pixels and {MAX_SIDE} a side",
        ) from error
    except Exception as error:  # errors of decoders have no common base class
        raise MediaError(
            f"{name} is not a readable image ({_line(error)})",
            value=name,
            fix=f"give {', '.join(READABLE_PICTURES)}",
        ) from error


def _decoded(source: Source, max_pixels: int, use: Callable[[PIL.Image.Image], Used]) -> Used:
    """What `use` makes of an image, of which only the header is read before."""
    stream, name = _open(source)
    with stream, _picture_errors(name, max_pixels):
        try:
            return use(_undecoded(stream, name, max_pixels))
        except ValueError as error:
            if "MAX_TEXT" not in str(error):
                raise
            return use(_undecoded(without_comments(stream), name, max_pixels))


def _undecoded(stream: BinaryIO, name: str, max_pixels: int) -> PIL.Image.Image:
    """An image of which only the header is read; raises MediaError if it is too large."""
    with warnings.catch_warnings():  # about sizes, which are checked below
        warnings.simplefilter("ignore", PIL.Image.DecompressionBombWarning)
        image = PIL.Image.open(stream, formats=READABLE_PICTURES)
    _check_size(image.width, image.height, name, max_pixels)
    return image


def _decode(
    sound: soundfile.SoundFile,
    name: str,
    max_seconds: float,
    section: tuple[float, float] | None,
) -> Columns:
    """SampleArray [n, channels]; too long audio fails before much of it is decoded."""
    frames = sound.frames if section is None else _seek(sound, name, section)
    limit = int(min(max_seconds * sound.samplerate, MAX_VALUES // sound.channels))
    fix = f"cut it to {limit / sound.samplerate:g} s at most"
    if limit < frames < UNKNOWN_LENGTH:
        seconds = frames / sound.samplerate
        raise MediaError(f"{name} is too long: {seconds:.1f} s", value=seconds, fix=fix)
    if frames == UNKNOWN_LENGTH:
        sound.seekable = lambda: False  # else the wrapper seeks to its end, which fails
    data: Columns = sound.read(min(frames, limit + 1), dtype="float32", always_2d=True)
    if len(data) > limit:
        raise MediaError(f"{name} is too long", fix=fix)
    # The frames of an MP3 are counted by `sound_length`; its delays make this number inexact.
    if len(data) < frames < UNKNOWN_LENGTH and not (sound.format == "MP3" and section is None):
        raise _broken_off(name, f"{len(data)} of {frames} samples can be decoded")
    return data


def _seek(sound: soundfile.SoundFile, name: str, section: tuple[float, float]) -> int:
    """Seek to the start of a section; returns its number of frames."""
    rate = int(sound.samplerate)
    start, stop = (round(seconds * rate) for seconds in section)
    if not 0 <= start < stop <= sound.frames or sound.frames == UNKNOWN_LENGTH:
        length = "unknown" if sound.frames == UNKNOWN_LENGTH else f"{sound.frames / rate:g} s"
        raise MediaError(
            f"{name} has no section {section[0]:g} to {section[1]:g} s; its length is {length}",
            field="section",
            value=section,
            fix="give a section inside it",
        )
    sound.seek(start)
    return stop - start


def _bad_rate(rate: int) -> MediaError:
    return MediaError(
        f"rate is {rate}", field="rate", value=rate, fix="give it in Hz, such as 16000"
    )


def _check_size(width: int, height: int, name: str, max_pixels: int) -> None:
    if width * height > max_pixels or max(width, height) > MAX_SIDE:
        raise MediaError(
            f"{name} is {width} x {height}",
            value=(width, height),
            fix=f"scale it to at most {max_pixels} pixels and {MAX_SIDE} a side",
        )


def _line(error: Exception) -> str:
    """The first line of a library's message."""
    return (str(error) or type(error).__name__).splitlines()[0]
