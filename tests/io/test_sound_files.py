"""Sounds that break off are told from whole ones, and lengths that pipes left open are read."""

import io
import struct

import numpy as np
import pytest
import soundfile

from omni_diffusion.io.sound_files import sound_length, with_length

RATE = 24_000
COUNT = 30_000
TIME = np.arange(COUNT) / RATE
NOISE = 0.05 * np.random.default_rng(0).standard_normal(COUNT)
SOUND = (0.3 * np.sin(2 * np.pi * 440 * TIME) + NOISE).astype(np.float32)

CONTAINERS = [
    *(("WAV", subtype) for subtype in ("PCM_U8", "PCM_16", "PCM_24", "FLOAT", "ULAW", "IMA_ADPCM")),
    ("WAVEX", "PCM_16"), ("RF64", "PCM_16"), ("W64", "PCM_24"), ("W64", "FLOAT"),
    ("AIFF", "PCM_16"), ("AIFF", "FLOAT"), ("SVX", "PCM_16"), ("CAF", "PCM_16"), ("AU", "PCM_16"),
    ("AU", "ULAW"), ("NIST", "PCM_16"), ("NIST", "ULAW"), ("OGG", "VORBIS"), ("OGG", "OPUS"),
    ("MP3", "MPEG_LAYER_III"),
]  # fmt: skip


def encoded(kind: str, subtype: str | None = None, channels: int = 1, **how: str) -> bytes:
    out = io.BytesIO()
    columns = np.stack([SOUND] * channels, 1)
    soundfile.write(out, columns, RATE, format=kind, subtype=subtype, **how)
    return out.getvalue()


def missing(data: bytes) -> str | None:
    stream = io.BytesIO(data)
    found = sound_length(stream).missing
    assert stream.tell() == 0
    return found


@pytest.mark.parametrize(("kind", "subtype"), CONTAINERS)
@pytest.mark.parametrize("channels", [1, 2])
def test_a_sound_is_whole_or_breaks_off(kind: str, subtype: str, channels: int) -> None:
    if kind == "SVX" and channels == 2:
        pytest.skip("8SVX has one channel")
    data = encoded(kind, subtype, channels)
    assert missing(data) is None
    for cut in (len(data) // 3, len(data) // 2 + 1, len(data) - 300, len(data) - 2):
        assert missing(data[:cut]) is not None


@pytest.mark.parametrize(("kind", "endian"), [("WAV", "BIG"), ("AIFF", "LITTLE"), ("AU", "LITTLE")])
def test_the_other_byte_order(kind: str, endian: str) -> None:
    data = encoded(kind, "PCM_16", endian=endian)
    assert missing(data) is None
    assert missing(data[:-1000]) == (
        f"its header announces {2 * COUNT + 8 * (kind == 'AIFF')} bytes of sound,"
        f" {2 * COUNT - 1000 + 8 * (kind == 'AIFF')} follow"
    )


def test_other_chunks_and_tags_are_not_a_lack() -> None:
    wav = encoded("WAV", "PCM_16")
    note = b"LIST" + struct.pack("<I", 26) + b"INFOISFT" + struct.pack("<I", 14) + b"a long program"
    before = wav[:12] + note + wav[12:]
    for data in (wav + note, before, before + note):
        assert missing(data) is None
    assert missing(before[:-10]) is not None
    mp3 = encoded("MP3")
    tag = b"TAG" + bytes(125)
    head = b"ID3\x04\x00\x00\x00\x00\x02\x00" + bytes(256)
    for data in (mp3 + tag, head + mp3, head + mp3 + tag, mp3 + bytes(5000)):
        assert missing(data) is None
    assert missing((head + mp3)[:-500]) is not None


def frames(mp3: bytes) -> list[int]:
    """Where the frames of an MP3 of 24 kHz begin: their length follows from their third byte."""
    kbits = (0, 8, 16, 24, 32, 40, 48, 56, 64, 80, 96, 112, 128, 144, 160)
    at, found = 0, []
    while at + 4 <= len(mp3):
        found.append(at)
        at += 72_000 * kbits[mp3[at + 2] >> 4] // RATE + (mp3[at + 2] >> 1 & 1)
    return found


def test_an_mp3_that_lacks_whole_frames() -> None:
    mp3 = encoded("MP3")
    starts = frames(mp3)
    count = len(starts) - 1  # the first one announces them
    assert missing(mp3[: starts[-2]]) == (
        f"its header announces {count} MP3 frames, {count - 2} follow"
    )
    assert missing(mp3[: starts[9]] + bytes(300) + mp3[starts[9] + 300 :]) is not None
    bare = mp3[starts[1] :]  # announces nothing
    assert sound_length(io.BytesIO(bare)).at_least == count * 576
    assert missing(bare[:-7]) == "its last MP3 frame is cut"
    hurt = bare[: starts[9]] + bytes(300) + bare[starts[9] + 300 :]
    assert "interrupted" in str(missing(hurt))


def test_an_ogg_that_ends_between_its_pages() -> None:
    out = io.BytesIO()
    with soundfile.SoundFile(out, "w", RATE, 1, format="OGG", subtype="VORBIS") as sound:
        for _ in range(8):
            sound.write(SOUND)
    data = out.getvalue()
    assert missing(data) is None
    last = data.rfind(b"OggS")
    assert missing(data[:last]) == f"its OGG pages end at byte {last} without a last one"
    assert missing(data[: last + 10]) == "its last OGG page is cut"


@pytest.mark.parametrize("claim", [0xFFFF_FFFF, 0x7FFF_F000, 0x7FFF_FFFF, 0x8000_0000, 0])
@pytest.mark.parametrize("subtype", ["PCM_16", "PCM_24", "FLOAT"])
def test_the_length_that_a_pipe_left_open(claim: int, subtype: str) -> None:
    data = bytearray(encoded("WAV", subtype))
    at = data.index(b"data") + 4
    data[at : at + 4] = struct.pack("<I", claim)
    data[4:8] = struct.pack("<I", min(claim + 36, 0xFFFF_FFFF) if claim else 0)
    assert missing(bytes(data)) is None
    back, rate = soundfile.read(with_length(io.BytesIO(bytes(data))), dtype="float32")
    assert rate == RATE
    assert len(back) == COUNT
    assert np.abs(back - SOUND).max() < 1e-4


def test_open_lengths_of_other_containers() -> None:
    au = bytearray(encoded("AU", "PCM_16"))
    for claim in (0, 0xFFFF_FFFF):
        au[8:12] = struct.pack(">I", claim)
        assert missing(bytes(au)) is None
        assert len(soundfile.read(with_length(io.BytesIO(bytes(au))))[0]) == COUNT
    caf = bytearray(encoded("CAF", "PCM_16"))
    at = caf.index(b"data") + 4
    caf[at : at + 8] = b"\xff" * 8
    assert missing(bytes(caf)) is None
    wide = bytearray(encoded("RF64", "PCM_16"))
    wide[28:36] = bytes(8)
    at = wide.index(b"data") + 4
    wide[at : at + 4] = b"\xff" * 4
    assert len(soundfile.read(with_length(io.BytesIO(bytes(wide))))[0]) == COUNT


def test_an_empty_sound_stays_empty() -> None:
    out = io.BytesIO()
    soundfile.write(out, np.zeros(0), RATE, format="WAV")
    empty = out.getvalue()
    note = b"LIST" + struct.pack("<I", 12) + b"INFOISFT" + struct.pack("<I", 0)
    for data in (empty, empty + note):
        stream = io.BytesIO(data)
        assert with_length(stream) is stream
        assert missing(data) is None


@pytest.mark.parametrize(
    "data", [b"", b"RIFF", b"OggS", b"ID3", b"\xff\xfb", b"FORM1234AIFF", b"x" * 99]
)
def test_other_bytes_say_nothing_or_lack_something(data: bytes) -> None:
    sound_length(io.BytesIO(data))
    assert with_length(io.BytesIO(data)).read() == data
