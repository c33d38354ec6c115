import io
import math
import os
import struct
import zlib
from pathlib import Path

import numpy as np
import PIL.Image
import PIL.PngImagePlugin
import pytest
import soundfile
import soxr as soxr_library
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file

from omni_diffusion import media
from omni_diffusion.errors import MediaError, StorageError
from omni_diffusion.media import Picture, Waveform


def tone(
    rate: int = 16_000, seconds: float = 0.5, channels: int = 1, hertz: float = 440.0
) -> Waveform:
    time = torch.arange(round(rate * seconds)) / rate
    wave = 0.5 * torch.sin(2 * math.pi * hertz * time)
    return Waveform(torch.stack([wave / (1 + c) for c in range(channels)]), rate)


def sound_bytes(wave: Waveform, kind: str, subtype: str | None = None) -> bytes:
    out = io.BytesIO()
    soundfile.write(out, wave.samples.T.numpy(), wave.rate, format=kind, subtype=subtype)
    return out.getvalue()


def picture(height: int = 6, width: int = 9) -> Picture:
    return Picture(torch.randint(0, 256, (height, width, 3), dtype=torch.uint8))


# --- sound ---


@pytest.mark.parametrize(
    ("kind", "subtype", "close"),
    [
        ("WAV", "PCM_16", 1e-4),
        ("WAV", "PCM_U8", 1e-2),
        ("WAV", "FLOAT", 1e-7),
        ("FLAC", "PCM_24", 1e-6),
        ("OGG", "VORBIS", 0.1),
        ("MP3", None, 0.1),
    ],
)
@pytest.mark.parametrize(("rate", "channels"), [(8_000, 1), (44_100, 2)])
def test_every_format_from_bytes_file_and_path(
    tmp_path: Path, kind: str, subtype: str | None, close: float, rate: int, channels: int
) -> None:
    wave = tone(rate, channels=channels)
    data = sound_bytes(wave, kind, subtype)
    (tmp_path / "sound").write_bytes(data)
    for source in (data, io.BytesIO(data), tmp_path / "sound", str(tmp_path / "sound")):
        back = Waveform.read(source)
        assert back.rate == rate
        assert back.samples.shape == wave.samples.shape
        assert back.samples.dtype == torch.float32
        assert (back.samples - wave.samples).abs().max() < close


def test_channels_and_seconds() -> None:
    wave = tone(channels=2)
    assert wave.seconds == pytest.approx(0.5)
    assert torch.equal(wave.first_channel().samples, wave.samples[:1])
    assert torch.allclose(wave.mono().samples, wave.samples.sum(0, keepdim=True) / 2)


@pytest.mark.parametrize(("old", "new"), [(48_000, 16_000), (8_000, 22_050)])
def test_resampling_keeps_the_tone(old: int, new: int) -> None:
    resampled = tone(old, channels=2).resample(new)
    wanted = tone(new, channels=2)
    assert resampled.rate == new
    assert resampled.samples.shape == wanted.samples.shape
    inner = slice(500, -500)  # the filter rings at the edges
    assert torch.allclose(resampled.samples[:, inner], wanted.samples[:, inner], atol=1e-3)


def test_resampling_cuts_what_the_new_rate_cannot_hold() -> None:
    high = tone(48_000, hertz=12_000).resample(16_000)
    assert high.samples[:, 500:-500].abs().max() < 1e-3


def test_the_same_rate_changes_nothing() -> None:
    wave = tone()
    assert wave.resample(wave.rate) is wave
    assert wave.resample(wave.rate, "sinc") is wave


@pytest.mark.parametrize("old", [44_100, 48_000, 8_000, 22_050])
def test_sinc_is_the_resampling_of_torchaudio(old: int) -> None:
    stored = load_file(Path(__file__).parent / "resample.safetensors")
    resampled = Waveform(stored[f"{old}.in"], old).resample(16_000, "sinc")
    assert resampled.rate == 16_000
    torch.testing.assert_close(resampled.samples, stored[f"{old}.out"], atol=1e-6, rtol=0)


@settings(max_examples=60, deadline=None)
@given(st.integers(1, 90), st.integers(1, 90), st.integers(0, 200))
def test_sinc_is_its_formula_at_every_rate_and_length(old: int, new: int, n: int) -> None:
    samples = torch.rand(1, n, generator=torch.Generator().manual_seed(n)) * 2 - 1
    found = Waveform(samples, old).resample(new, "sinc").samples
    assert found.shape == (1, -(-n * new // old))
    if old == new:
        return
    cut = 0.99 * min(old, new) / old
    places = torch.arange(found.shape[1], dtype=torch.float64)[:, None] * old / new
    scaled = cut * (torch.arange(n) - places)
    window = torch.cos(torch.pi * scaled / 12).square() * (scaled.abs() < 6)
    wanted = (cut * torch.sinc(scaled) * window) @ samples[0].double()
    assert torch.allclose(found[0].double(), wanted, atol=2e-5)  # places are rounded to float32


def test_sinc_in_pieces_is_sinc_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    wave = tone(44_100, channels=2, seconds=0.1)
    whole = wave.resample(16_000, "sinc")
    monkeypatch.setattr(media, "GATHERED", 1000)
    assert torch.equal(wave.resample(16_000, "sinc").samples, whole.samples)


def chirp(rate: int, top: float, seconds: float = 2.0) -> Waveform:
    """A full-scale sweep from 0 to `top` hertz."""
    time = torch.arange(int(rate * seconds), dtype=torch.float64) / rate
    return Waveform(torch.sin(math.pi * top * time.square() / seconds).float()[None], rate)


@pytest.mark.parametrize("old", [44_100, 48_000, 8_000, 22_050])
@pytest.mark.parametrize(
    ("share", "rms", "most"), [(0.3, 9e-4, 4e-3), (0.35, 2.2e-3, 0.013), (0.45, 0.042, 0.41)]
)
def test_how_far_soxr_and_sinc_differ(old: int, share: float, rms: float, most: float) -> None:
    sweep = chirp(old, share * min(old, 16_000))
    soxr, sinc = (sweep.resample(16_000, method).samples for method in ("soxr", "sinc"))
    difference = (soxr - sinc)[:, 300:-300]
    assert rms / 2 < difference.square().mean().sqrt() < rms
    assert difference.abs().max() < most


def test_soxr_is_what_it_was() -> None:
    wave = tone(44_100)
    assert torch.equal(wave.resample(16_000).samples, wave.resample(16_000, "soxr").samples)
    columns = soxr_library.resample(wave.samples.T.numpy(), 44_100, 16_000, quality="HQ")
    assert torch.equal(wave.resample(16_000).samples, torch.from_numpy(columns.T.copy()))


def test_resampling_that_cannot_be_done() -> None:
    with pytest.raises(MediaError, match="method is 'linear'; give 'soxr' or 'sinc'"):
        tone().resample(8_000, "linear")  # type: ignore[arg-type]
    with pytest.raises(MediaError, match="need a sinc filter of"):
        tone().resample(2_000_000_011, "sinc")


@pytest.mark.parametrize("suffix", [".wav", ".flac", ".ogg", ".WAV"])
def test_written_sound_reads_back(tmp_path: Path, suffix: str) -> None:
    wave = tone(24_000, seconds=6, channels=2)  # several blocks
    wave.write(tmp_path / f"a{suffix}")
    back = Waveform.read(tmp_path / f"a{suffix}")
    assert back.rate == wave.rate
    assert back.samples.shape == wave.samples.shape
    assert (back.samples - wave.samples).abs().max() < 0.1


def test_wav_bytes_are_16_bit_and_clip() -> None:
    loud = Waveform(torch.tensor([[0.0, 2.0, -2.0]]), 16_000)
    data = loud.wav_bytes()
    assert soundfile.info(io.BytesIO(data)).subtype == "PCM_16"
    assert Waveform.read(data).samples.tolist()[0] == pytest.approx([0, 1, -1], abs=1e-4)


def test_broken_sounds_are_one_line_errors(tmp_path: Path) -> None:
    flac = sound_bytes(tone(), "FLAC")
    silent = sound_bytes(Waveform(torch.zeros(1, 0), 16_000), "WAV")
    nan = sound_bytes(Waveform(torch.tensor([[0.0, math.nan]]), 16_000), "WAV", "FLOAT")
    (tmp_path / "empty.wav").touch()
    (tmp_path / "text.wav").write_text("this is not a sound")
    (tmp_path / "a.raw").write_bytes(b"\0" * 64)
    cases: list[tuple[media.Source, str]] = [
        (b"", "data is empty"),
        (io.BytesIO(), "data is empty"),
        (tmp_path / "empty.wav", r"empty\.wav is empty"),
        (tmp_path / "none.wav", r"cannot read .*none\.wav: No such file"),
        (tmp_path, "cannot read .*: Is a directory"),
        (tmp_path / "text.wav", r"text\.wav is not readable audio .*give WAV, FLAC, OGG or MP3"),
        (tmp_path / "a.raw", "not readable audio"),
        (flac[: len(flac) // 2], "not readable audio"),
        (silent, "has no samples"),
        (nan, "not finite"),
        (picture().png_bytes(), "not readable audio"),
    ]
    for source, message in cases:
        with pytest.raises(MediaError, match=message) as caught:
            Waveform.read(source)
        assert "\n" not in str(caught.value)


def test_a_long_sound_fails_before_it_is_decoded(monkeypatch: pytest.MonkeyPatch) -> None:
    data = sound_bytes(tone(seconds=2), "FLAC")
    assert Waveform.read(data, max_seconds=2).seconds == 2
    with monkeypatch.context() as patch:
        patch.setattr(soundfile.SoundFile, "read", None)
        with pytest.raises(MediaError, match=r"2\.0 s; cut it to 1\.5 s at most"):
            Waveform.read(data, max_seconds=1.5)
        patch.setattr(media, "MAX_VALUES", 16_000)
        with pytest.raises(MediaError, match="cut it to 1 s at most"):
            Waveform.read(data)


def test_a_streamed_flac_tells_no_length() -> None:
    data = streamed(tone(seconds=2))
    assert Waveform.read(data).seconds == 2
    assert media.sound_header(data).seconds is None
    with pytest.raises(MediaError, match=r"cut it to 1 s at most"):
        Waveform.read(data, max_seconds=1)
    with pytest.raises(MediaError, match="no section 0 to 1 s; its length is unknown"):
        Waveform.read(data, section=(0, 1))


@pytest.mark.parametrize(
    ("kind", "subtype"),
    [("WAV", "PCM_16"), ("WAV", "PCM_24"), ("FLAC", None), ("OGG", "VORBIS"), ("OGG", "OPUS"),
     ("MP3", None), ("AIFF", None), ("AU", None), ("CAF", None), ("W64", None), ("RF64", None)],
)  # fmt: skip
def test_a_sound_that_breaks_off_is_refused(kind: str, subtype: str | None) -> None:
    noisy = tone(24_000, 2)
    noisy = Waveform(noisy.samples + 0.05 * torch.randn_like(noisy.samples), noisy.rate)
    data = sound_bytes(noisy, kind, subtype)
    assert Waveform.read(data).samples.shape == noisy.samples.shape
    for cut in (len(data) // 2, len(data) - 400):
        with pytest.raises(MediaError, match=r"breaks off|not readable audio"):
            Waveform.read(data[:cut])
    hurt = bytearray(data)
    hurt[len(data) // 2 : len(data) // 2 + 400] = bytes(400)
    if kind in ("FLAC", "OGG", "MP3"):  # in other formats, zeros are sound
        with pytest.raises(MediaError, match=r"breaks off|not readable audio"):
            Waveform.read(bytes(hurt))


def test_a_section_before_the_break_is_good() -> None:
    whole = tone(seconds=3)
    data = sound_bytes(whole, "WAV")[:60_000]
    part = Waveform.read(data, section=(0.5, 1.5))
    assert torch.allclose(part.samples, whole.samples[:, 8_000:24_000], atol=1e-4)
    with pytest.raises(MediaError, match=r"no section 1 to 2\.5 s"):
        Waveform.read(data, section=(1, 2.5))


def test_a_wav_of_a_pipe_has_its_length() -> None:
    wave = tone()
    for claim in (0, 0xFFFF_FFFF, 0x7FFF_F000):
        data = bytearray(sound_bytes(wave, "WAV"))
        data[40:44] = struct.pack("<I", claim)
        assert (Waveform.read(bytes(data)).samples - wave.samples).abs().max() < 1e-4
        assert media.sound_header(bytes(data)).seconds == wave.seconds


def test_pipes_are_read_and_empty_ones_are_empty() -> None:
    for data in (tone().wav_bytes(), b""):
        reading, writing = os.pipe()
        os.write(writing, data)
        os.close(writing)
        if data:
            assert Waveform.read(f"/dev/fd/{reading}").seconds == tone().seconds
        else:
            with pytest.raises(MediaError, match=f"/dev/fd/{reading} is empty"):
                Waveform.read(f"/dev/fd/{reading}")
        os.close(reading)


STEREO = torch.stack([tone().samples[0], 0.5 * tone(hertz=300).samples[0]])
ARRAYS = {
    "float32": STEREO.numpy(),
    "float64 [n, channels]": STEREO.T.double().numpy(),
    "float16": STEREO.half().numpy(),
    "bfloat16 tensor": STEREO.bfloat16(),
    "big-endian": STEREO.numpy().astype(">f4"),
    "int16 [n, channels]": (STEREO.T * 32_768).short().numpy(),
    "int16 tensor": (STEREO * 32_768).short(),
    "int32": (STEREO.double() * 2**31).to(torch.int64).int().numpy(),
    "int8": (STEREO * 128).to(torch.int8).numpy(),
    "uint8 [n, channels]": (STEREO.T * 128 + 128.5).to(torch.uint8).numpy(),
}


@pytest.mark.parametrize("name", ARRAYS)
def test_arrays_of_every_type_and_layout_are_the_same_sound(name: str) -> None:
    wave = Waveform.from_array(ARRAYS[name], 16_000)
    assert wave.samples.shape == STEREO.shape
    assert (wave.samples - STEREO).abs().max() < (0.01 if "8" in name or "b" in name else 1e-3)
    left = ARRAYS[name][:, 0] if "[n" in name else ARRAYS[name][0]
    assert torch.equal(Waveform.from_array(left, 16_000).samples, wave.samples[:1])


@pytest.mark.parametrize(
    ("values", "told"),
    [
        (STEREO.numpy() + 0j, "samples are complex64"),
        ((STEREO * 1000).long(), "samples are int64"),
        (np.zeros(9, dtype=np.uint16), "samples are uint16"),
        (np.zeros(9, dtype=bool), "samples are bool"),
        (np.array(["a"]), "samples are <U1"),
        (np.zeros((40, 40)), r"shape \(40, 40\); give \[n\]"),
        (np.zeros((1, 2, 9)), r"shape \(1, 2, 9\)"),
        (np.zeros((2, 0)), r"shape \(2, 0\)"),
        (np.float32(1.0).reshape(()), r"shape \(\)"),
        (np.array([0.0, np.nan]), "not all finite"),
        (torch.tensor([0.0, torch.inf]), "not all finite"),
    ],
)
def test_arrays_that_are_no_sound(values: media.SampleArray, told: str) -> None:
    with pytest.raises(MediaError, match=told):
        Waveform.from_array(values, 16_000)


def test_rates_of_every_numeric_type() -> None:
    for rate in (16_000, 16_000.0, np.int64(16_000), np.float32(16_000), torch.tensor(16_000)):
        made = Waveform.from_array(np.zeros(9), rate)
        assert (made.rate, type(made.rate)) == (16_000, int)
    for rate in (0, -1, 8_000.5, math.nan, math.inf, "16000", None):
        with pytest.raises(MediaError, match="rate is"):
            Waveform.from_array(np.zeros(9), rate)  # type: ignore[arg-type]


HUM = tone().samples[0]
NOTHING = torch.zeros_like(HUM)
UNHEARD = {
    "silence": ([NOTHING], "is silent: no sample exceeds -60 dB"),
    "a whisper": ([5e-4 * HUM], "is silent"),
    "antiphase": ([HUM, -HUM], "has channels that cancel each other"),
    "nearly antiphase": ([HUM, -0.999 * HUM], "cancel each other"),
    "three that cancel": ([HUM, HUM, -2 * HUM], "cancel each other"),
    "antiphase with an offset": ([HUM + 0.1, 0.1 - HUM], "cancel each other"),
    "an offset": ([NOTHING + 0.5], "has the constant value 0.5"),
    "two offsets": ([NOTHING + 0.5, NOTHING - 0.25], "constant value 0.5"),
    "unscaled": ([20_000 * HUM], "scale them to -1..1"),
    "not a number": ([HUM * math.nan], "not finite"),
    "no samples": ([HUM[:0]], "has no samples"),
}
HEARD = {
    "one silent channel": [NOTHING, HUM],
    "an offset": [HUM + 0.3],
    "quiet": [0.01 * HUM],
    "clipped": [3 * HUM],
}


@pytest.mark.parametrize("name", UNHEARD)
def test_what_cannot_be_heard_is_refused(name: str) -> None:
    channels, told = UNHEARD[name]
    with pytest.raises(MediaError, match=told) as error:
        Waveform(torch.stack(channels), 16_000).check_heard("it.wav")
    assert str(error.value).startswith("it.wav ")
    assert error.value.field == "speech"


@pytest.mark.parametrize("name", HEARD)
def test_what_can_be_heard_is_taken(name: str) -> None:
    Waveform(torch.stack(HEARD[name]), 16_000).check_heard()


def test_a_silent_first_channel_is_not_the_one_that_speaks() -> None:
    wave = Waveform(torch.stack([NOTHING, HUM, 0.5 * HUM]), 16_000)
    assert torch.equal(wave.first_channel().samples, HUM[None])
    offset = Waveform(torch.stack([NOTHING + 0.5, HUM]), 16_000)
    assert torch.equal(offset.first_channel().samples, HUM[None])
    silent = Waveform(torch.stack([NOTHING, NOTHING]), 16_000)
    assert torch.equal(silent.first_channel().samples, NOTHING[None])


def streamed(wave: Waveform) -> bytes:
    """A FLAC whose header does not say how long it is."""
    data = bytearray(sound_bytes(wave, "FLAC"))
    data[21] &= 0xF0  # the 36 bits of STREAMINFO that count the samples
    data[22:26] = bytes(4)
    return bytes(data)


@pytest.mark.parametrize("kind", ["WAV", "FLAC", "OGG", "MP3"])
def test_a_section_is_that_part_of_the_whole(kind: str) -> None:
    data = sound_bytes(tone(seconds=3, channels=2), kind)
    whole = Waveform.read(data)
    part = Waveform.read(data, section=(0.5, 2.25))
    assert part.seconds == 1.75
    assert torch.allclose(part.samples, whole.samples[:, 8_000:36_000], atol=1e-4)
    assert Waveform.read(data, section=(1, 2), max_seconds=1).seconds == 1
    for wrong in ((2.0, 3.5), (2.0, 2.0), (-1.0, 2.0)):
        with pytest.raises(MediaError, match="its length is 3 s"):
            Waveform.read(data, section=wrong)


def test_headers_tell_rate_length_and_size_without_decoding(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(soundfile.SoundFile, "read", None)
    header = media.sound_header(sound_bytes(tone(8_000, 2.5, channels=2), "OGG"))
    assert header == media.SoundHeader(rate=8_000, channels=2, seconds=2.5)
    png = picture(6, 9).png_bytes()
    assert media.picture_size(png[:60]) == (9, 6)
    with pytest.raises(MediaError, match="is 9 x 6; scale it to at most 53 pixels"):
        media.picture_size(png, max_pixels=53)
    for read in (media.sound_header, media.picture_size):
        with pytest.raises(MediaError, match=r"is not( a)? readable"):
            read(b"neither")


def test_sound_that_cannot_be_made_or_written(tmp_path: Path) -> None:
    with pytest.raises(MediaError, match=r"give float32 \[channels, n\]"):
        Waveform(torch.zeros(4), 16_000)
    with pytest.raises(MediaError, match="float64"):
        Waveform(torch.zeros(1, 4, dtype=torch.float64), 16_000)
    with pytest.raises(MediaError, match="rate is 0"):
        Waveform(torch.zeros(1, 4), 0)
    with pytest.raises(MediaError, match="rate is -1"):
        tone().resample(-1)
    with pytest.raises(MediaError, match=r"ends in none of .wav, .flac, .ogg"):
        tone().write(tmp_path / "a.mid")
    with pytest.raises(MediaError, match="FLAC cannot hold 9 channels"):
        tone(channels=9).write(tmp_path / "a.flac")
    with pytest.raises(MediaError, match="not finite"):
        Waveform(torch.tensor([[math.inf]]), 16_000).write(tmp_path / "a.wav")
    with pytest.raises(StorageError, match="create its folder first"):
        tone().write(tmp_path / "none" / "a.wav")
    assert list(tmp_path.iterdir()) == []


# --- pictures ---


def test_a_picture_survives_its_files(tmp_path: Path) -> None:
    original = picture()
    assert (original.width, original.height) == (9, 6)
    original.write(tmp_path / "a.png")
    png = original.png_bytes()
    for source in (tmp_path / "a.png", str(tmp_path / "a.png"), png, io.BytesIO(png)):
        assert torch.equal(Picture.read(source).pixels, original.pixels)
    assert torch.equal(Picture.from_pil(original.to_pil()).pixels, original.pixels)


@pytest.mark.parametrize("suffix", [".jpg", ".jpeg", ".webp"])
def test_lossy_files_keep_size_and_tint(tmp_path: Path, suffix: str) -> None:
    red = Picture(torch.tensor([200, 30, 40], dtype=torch.uint8).expand(16, 24, 3))
    red.write(tmp_path / f"a{suffix}")
    back = Picture.read(tmp_path / f"a{suffix}")
    assert (back.width, back.height) == (24, 16)
    assert (back.pixels.int() - red.pixels.int()).abs().max() < 12


def pil_bytes(image: PIL.Image.Image, kind: str = "PNG", **options: object) -> bytes:
    out = io.BytesIO()
    image.save(out, format=kind, **options)
    return out.getvalue()


def test_other_modes_become_rgb() -> None:
    grey = PIL.Image.new("L", (3, 2), 77)
    assert Picture.read(pil_bytes(grey)).pixels.flatten().tolist() == [77] * 18
    clear = PIL.Image.new("RGBA", (3, 2), (10, 20, 30, 0))
    assert Picture.read(pil_bytes(clear)).pixels[0, 0].tolist() == [255, 255, 255]
    palette = PIL.Image.new("P", (3, 2))
    palette.putpalette([1, 2, 3, 4, 5, 6])
    data = pil_bytes(palette, transparency=b"\x00\xff")
    assert Picture.read(data).pixels[0, 0].tolist() == [255, 255, 255]
    deep = PIL.Image.fromarray(np.array([[0, 256, 65_535]], dtype=np.uint16))
    assert Picture.read(pil_bytes(deep)).pixels[0, :, 0].tolist() == [0, 1, 255]


def test_a_photo_stands_upright_with_and_without_decoding() -> None:
    exif = PIL.Image.Exif()
    exif[0x0112] = 6
    data = pil_bytes(PIL.Image.new("RGB", (8, 4)), "JPEG", exif=exif)
    assert (Picture.read(data).width, Picture.read(data).height) == (4, 8)
    assert media.picture_size(data) == (4, 8)


def test_a_png_with_a_huge_comment_is_read() -> None:
    original, notes = picture(), PIL.PngImagePlugin.PngInfo()
    notes.add_text("workflow", "a" * 3_000_000, zip=True)
    data = pil_bytes(original.to_pil(), pnginfo=notes)
    assert torch.equal(Picture.read(data).pixels, original.pixels)
    assert media.picture_size(data) == (9, 6)


def png_header(width: int, height: int) -> bytes:
    """A PNG that claims a size and holds next to nothing."""

    def chunk(kind: bytes, body: bytes) -> bytes:
        return (
            struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))
        )

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(b"\0"))


@pytest.mark.parametrize(
    ("width", "height"), [(8_000, 8_000), (10_000, 9_000), (60_000, 60_000), (16_385, 1)]
)
def test_a_huge_picture_fails_before_it_is_decoded(width: int, height: int) -> None:
    with pytest.raises(MediaError, match="scale it to") as caught:
        Picture.read(png_header(width, height))
    assert "\n" not in str(caught.value)


def test_the_size_limit_is_told() -> None:
    with pytest.raises(MediaError, match="9 x 6; scale it to at most 53 pixels and 16384 a side"):
        Picture.read(picture().png_bytes(), max_pixels=53)
    assert Picture.read(picture().png_bytes(), max_pixels=54).width == 9


def test_broken_pictures_are_one_line_errors(tmp_path: Path) -> None:
    jpeg = pil_bytes(picture(64, 64).to_pil(), "JPEG")
    png = picture(64, 64).png_bytes()
    cases: list[tuple[media.Source, str]] = [
        (b"", "data is empty"),
        (b"hello", "not a readable image"),
        (jpeg[: len(jpeg) // 2], "not a readable image .*truncated"),
        (png[: len(png) // 2], "not a readable image"),
        (png[:100] + bytes(100) + png[200:], "not a readable image"),
        (png_header(4, 4), "not a readable image"),
        (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n", "not a readable image"),
        (tmp_path / "none.png", r"cannot read .*none\.png"),
        (tone().wav_bytes(), "not a readable image"),
    ]
    for source, message in cases:
        with pytest.raises(MediaError, match=message) as caught:
            Picture.read(source)
        assert "\n" not in str(caught.value)


def test_pictures_that_cannot_be_made_or_written(tmp_path: Path) -> None:
    for shape in ((2, 2), (2, 2, 4), (0, 2, 3)):
        with pytest.raises(MediaError, match=r"give uint8 \[H, W, 3\]"):
            Picture(torch.zeros(shape, dtype=torch.uint8))
    with pytest.raises(MediaError, match="float32"):
        Picture(torch.zeros(2, 2, 3))
    with pytest.raises(MediaError, match=r"ends in none of .png"):
        picture().write(tmp_path / "a.psd")
    with pytest.raises(MediaError, match=r"WEBP cannot hold 16384 x 1 .*use PNG"):
        picture(1, 16_384).write(tmp_path / "a.webp")
    assert list(tmp_path.iterdir()) == []
