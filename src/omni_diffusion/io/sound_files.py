"""What the headers of a sound file say about its length.

The audio library takes the end of a file for the end of its sound, so a download that broke off
looks like a shorter recording. Only the headers tell. Checked: RIFF, RIFX, RF64, W64, AIFF, 8SVX,
CAF, AU, NIST SPHERE, OGG and MP3; FLAC is checked by its decoder.
"""

from __future__ import annotations

import io
import os
import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import BinaryIO, Literal, TypeAlias

ByteOrder: TypeAlias = Literal["little", "big"]

# Bytes. A program that writes to a pipe cannot know the length; it claims this much or more.
UNKNOWN = 0x7FFF_F000
MP3_RATES = (44_100, 48_000, 32_000)  # Hz, of MPEG-1; MPEG-2 has half of them, MPEG-2.5 a quarter
MP3_KBITS = (
    (0, 8, 16, 24, 32, 40, 48, 56, 64, 80, 96, 112, 128, 144, 160),  # MPEG-2 and 2.5, layer III
    (0, 32, 40, 48, 56, 64, 80, 96, 112, 128, 160, 192, 224, 256, 320),  # MPEG-1, layer III
)
MP3_TAILS = (b"TAG", b"APE", b"LYR", b"ID3")  # tags behind the last frame


@dataclass(frozen=True)
class SoundLength:
    """What a file says about its length, as far as it can be told.

    missing: why it is not whole, None if it is, or if its headers do not tell. at_least: samples
    that it has in each channel, where its frames are counted and no header gives the number.
    """

    missing: str | None = None
    at_least: int = 0


@dataclass(frozen=True)
class _Samples:
    """The bytes of samples that a header claims, and where: the claim itself may be written."""

    start: int
    claimed: int
    claim_at: int = 0
    claim_width: int = 4
    order: ByteOrder = "little"


def sound_length(stream: BinaryIO) -> SoundLength:
    """What the headers say; the stream is back at its beginning afterwards."""
    size = stream.seek(0, os.SEEK_END)
    magic = _read(stream, 0, 12)
    if magic[:4] == b"OggS":
        found = SoundLength(_ogg(stream, size))
    elif magic[:3] == b"ID3" or (len(magic) > 3 and _mp3_frame(magic) is not None):
        found = _mp3(stream, size)
    else:
        samples = _samples(stream, magic, size)
        missing = samples is not None and samples.claimed < UNKNOWN
        if samples is None or not missing or samples.start + samples.claimed <= size:
            found = SoundLength()
        else:
            found = SoundLength(
                f"its header announces {samples.claimed} bytes of sound,"
                f" {max(size - samples.start, 0)} follow"
            )
    stream.seek(0)
    return found


def with_length(stream: BinaryIO) -> BinaryIO:
    """The stream, or a copy in memory with a header that states the length.

    A program that wrote WAV or AU to a pipe may have left a length of 0; the sound then goes on to
    the end of the file.
    """
    size = stream.seek(0, os.SEEK_END)
    samples = _samples(stream, _read(stream, 0, 12), size)
    stream.seek(0)
    if samples is None or samples.claimed or not samples.claim_at or samples.start >= size:
        return stream
    order = samples.order
    if _are_chunks(stream, samples.start, size, order):  # an empty sound before other chunks
        return stream
    data = bytearray(stream.read())
    at, width = samples.claim_at, samples.claim_width
    data[at : at + width] = (size - samples.start).to_bytes(width, order)
    return io.BytesIO(bytes(data))


def _read(stream: BinaryIO, at: int, count: int) -> bytes:
    stream.seek(at)
    return stream.read(count)


def _number(data: bytes, order: ByteOrder) -> int:
    return int.from_bytes(data, order)


def _samples(stream: BinaryIO, magic: bytes, size: int) -> _Samples | None:
    """Where the samples of an uncompressed format are; None for another format."""
    head, form = magic[:4], magic[8:12]
    if head in (b"RIFF", b"RIFX", b"RF64", b"BW64") and form == b"WAVE":
        return _riff(stream, head, size)
    if head == b"riff":
        for name, start, length in _chunks(stream, 40, size, "little", name=16, align=8):
            if name[:4] == b"data":
                return _Samples(start, length)
    if head == b"FORM":
        for name, start, length in _chunks(stream, 12, size, "big"):
            if name in (b"SSND", b"BODY"):
                return _Samples(start, length)
    if head == b"caff":
        for name, start, length in _chunks(stream, 8, size, "big", length=8, align=1):
            if name == b"data":
                return _Samples(start, length)  # -1, an unknown length, is a huge number here
    if head in (b".snd", b"dns."):
        order: ByteOrder = "big" if head == b".snd" else "little"
        return _Samples(_number(magic[4:8], order), _number(magic[8:12], order), 8, 4, order)
    if magic[:7] == b"NIST_1A":
        return _sphere(_read(stream, 0, 1024))
    return None


def _riff(stream: BinaryIO, head: bytes, size: int) -> _Samples | None:
    order: ByteOrder = "big" if head == b"RIFX" else "little"
    long = None  # the 64-bit length of RF64
    for name, start, length in _chunks(stream, 12, size, order):
        if name == b"ds64":
            long = _number(_read(stream, start + 8, 8), order)
        if name != b"data":
            continue
        if long is not None and length == 0xFFFF_FFFF:
            return _Samples(start, long, 28, 8, order)
        return _Samples(start, length, start - 4, 4, order)
    return None


def _sphere(header: bytes) -> _Samples | None:
    fields = dict(re.findall(rb"^(\w+) -i (\d+)", header, re.MULTILINE))
    frames, channels, width = (
        int(fields.get(name, 1)) for name in (b"sample_count", b"channel_count", b"sample_n_bytes")
    )
    start = header[8:16].strip()
    return _Samples(int(start), frames * channels * width) if start.isdigit() else None


def _chunks(
    stream: BinaryIO,
    at: int,
    size: int,
    order: ByteOrder,
    *,
    name: int = 4,
    length: int = 4,
    align: int = 2,
) -> Iterator[tuple[bytes, int, int]]:
    """Each chunk from byte `at` on as (name, start of its content, length of its content).

    name, length: bytes of these fields. In W64 (16-byte names) the length counts the header too.
    """
    if name == 16:
        length = 8
    header = name + length
    while at + header <= size:
        fields = _read(stream, at, header)
        count = _number(fields[name:], order) - (header if name == 16 else 0)
        yield fields[:name], at + header, max(count, 0)
        at += header + max(count, 0)
        at += -at % align


def _are_chunks(stream: BinaryIO, start: int, size: int, order: ByteOrder) -> bool:
    """Whether the bytes from `start` on are RIFF chunks up to the end; the stream is rewound."""
    end, names = start, list[bytes]()
    for name, begin, length in _chunks(stream, start, size, order):
        names.append(name)
        end = begin + length
    stream.seek(0)
    return bool(names) and size - 1 <= end <= size and all(map(bytes.isascii, names))


def _ogg(stream: BinaryIO, size: int) -> str | None:
    """Why an OGG file is not whole: its last page is marked as such."""
    at, ended = 0, False
    while at < size:
        head = _read(stream, at, 27)
        if head[:4] != b"OggS":
            break
        table = stream.read(head[26]) if len(head) == 27 else b""
        if len(head) < 27 or len(table) < head[26] or at + 27 + len(table) + sum(table) > size:
            return "its last OGG page is cut"
        at += 27 + len(table) + sum(table)
        ended = bool(head[5] & 4)
    return None if ended else f"its OGG pages end at byte {at} without a last one"


def _mp3_frame(header: bytes) -> tuple[int, int] | None:
    """(bytes, samples) of the layer III frame with this header; None for another header."""
    version, layer = header[1] >> 3 & 3, header[1] >> 1 & 3
    kbits, rate = header[2] >> 4, header[2] >> 2 & 3
    if header[0] != 0xFF or header[1] < 0xE0 or version == 1 or layer != 1:
        return None
    if kbits in (0, 15) or rate == 3:
        return None
    first = version == 3
    hertz = MP3_RATES[rate] >> (0 if first else 1 if version == 2 else 2)
    bits = (144_000 if first else 72_000) * MP3_KBITS[first][kbits]
    return bits // hertz + (header[2] >> 1 & 1), 1152 if first else 576


def _mp3(stream: BinaryIO, size: int) -> SoundLength:
    """Counts the frames of an MP3, and compares them with the number in its first one."""
    at, count, samples, announced = _behind_tag(stream), 0, 0, 0
    while at + 4 <= size and (frame := _mp3_frame(_read(stream, at, 4))) is not None:
        length, samples = frame
        if at + length > size:
            return SoundLength("its last MP3 frame is cut")
        if not count and not announced and (announced := _announced(_read(stream, at, length))):
            at += length
            continue  # the frame that announces holds no sound
        count, at = count + 1, at + length
    if not count:
        return SoundLength()
    if announced:
        # Some programs count the announcing frame too.
        whole = count >= announced - 1
        return SoundLength(
            None if whole else f"its header announces {announced} MP3 frames, {count} follow"
        )
    rest = _read(stream, at, size)
    if rest.strip(b"\0") and not rest.startswith(MP3_TAILS):
        return SoundLength(f"its MP3 frames are interrupted at byte {at}")
    return SoundLength(at_least=count * samples)


def _behind_tag(stream: BinaryIO) -> int:
    """The byte behind an ID3v2 tag at the beginning."""
    head = _read(stream, 0, 10)
    if head[:3] != b"ID3" or len(head) < 10:
        return 0
    count = 0
    for byte in head[6:]:  # 7 bits in each byte
        count = count << 7 | byte & 0x7F
    return 10 + count + (10 if head[5] & 0x10 else 0)


def _announced(frame: bytes) -> int:
    """The number of frames that a Xing, Info or VBRI header gives; 0 without one."""
    for name, skip in ((b"Xing", 8), (b"Info", 8), (b"VBRI", 14)):
        at = frame.find(name, 4, 64)
        if at < 0 or (skip == 8 and not frame[at + 7] & 1):
            continue
        return _number(frame[at + skip : at + skip + 4], "big")
    return 0
