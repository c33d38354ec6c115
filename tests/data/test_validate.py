"""Problems of a manifest and its media, and statistics of the good samples."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import soundfile
import torch
from tests.tiny import checkers, tone

from omni_diffusion.codecs.magvit2 import check_aspect
from omni_diffusion.data.manifest import Problem
from omni_diffusion.data.validate import MediaLimits, validate
from omni_diffusion.errors import DataError, MediaError
from omni_diffusion.media import Picture, Waveform

HEAR = "Convert the speech to text.\n<|audio|>"


def row(asked: str, answer: str, **media: Any) -> dict[str, Any]:
    messages = [{"role": "user", "content": asked}, {"role": "assistant", "content": answer}]
    return {"messages": messages, **media}


def manifest(folder: Path, *rows: dict[str, Any] | str) -> Path:
    path = folder / "train.jsonl"
    lines = [each if isinstance(each, str) else json.dumps(each) for each in rows]
    path.write_text("".join(line + "\n" for line in lines), encoding="utf-8")
    return path


def located(problems: list[Problem]) -> list[tuple[int, str]]:
    return [(problem.source.line, problem.message) for problem in problems]


@pytest.fixture
def corpus(tmp_path: Path) -> Path:
    """A folder of media, one of each kind of defect."""
    tone(2.0).write(tmp_path / "two.wav")
    tone(4.0, 8_000).write(tmp_path / "four.flac")
    tone(1.0, 4_000).write(tmp_path / "low.wav")
    tone(0.05).write(tmp_path / "short.wav")
    checkers(40).write(tmp_path / "it.png")
    checkers(12).write(tmp_path / "small.png")
    whole = (tmp_path / "it.png").read_bytes()
    (tmp_path / "half.png").write_bytes(whole[: len(whole) // 2])
    (tmp_path / "text.wav").write_text("no sound")
    return tmp_path


def test_counts_hours_sizes_and_histograms(corpus: Path) -> None:
    section = {"path": "four.flac", "start": 1, "stop": 2}
    path = manifest(
        corpus,
        row(HEAR, "a dog on a blue background", audios=["two.wav"]),
        row(HEAR, "a dog", audios=[section]),
        row("Convert the text to speech.\nhello", "<|audio|>", audios=["four.flac"]),
        row("Describe the image.\n<|image|>", "a cat", images=["it.png"]),
        row("hello", "hi"),
        row("<|image|> more?", "<|image|><|audio|>", images=["it.png"] * 2, audios=["two.wav"]),
    )
    stats = validate(path)
    assert stats.problems == []
    assert (stats.lines, stats.samples) == (6, 6)
    assert dict(stats.tasks) == {"asr": 2, "tts": 1, "caption": 1, "chat": 1, "infill": 1}
    assert stats.hours["heard"] == pytest.approx(3 / 3600)
    assert stats.hours["said"] == pytest.approx(6 / 3600)
    assert dict(stats.rates) == {16_000: 2, 8_000: 2}
    assert list(stats.seconds.rows()) == [("1 to 2", 1), ("2 to 5", 3)]
    assert dict(stats.sizes) == {"40 x 40": 3}
    assert list(stats.sides.rows()) == [("below 64", 3)]
    assert list(stats.words.rows()) == [("1 to 5", 3), ("5 to 10", 1)]
    plain = json.loads(json.dumps(stats.as_json()))
    assert plain["tasks"]["asr"] == 2
    assert plain["speech"]["rates"] == {"8000": 2, "16000": 2}
    assert plain["answers"]["words"] == {"edges": [1, 5, 10, 20, 50, 100, 200]} | {
        "counts": [0, 3, 1, 0, 0, 0, 0, 0]
    }


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("none.wav", "cannot read {}: No such file or directory; check the path"),
        ("text.wav", "{} is not readable audio (Error opening"),
        ("low.wav", "{} is sampled at 4000 Hz; export it at 8000 to 192000 Hz"),
        ("short.wav", "{} lasts 0.05 s; give 0.1 to 3 s, cut it or move the limit"),
        ("four.flac", "{} lasts 4 s; give 0.1 to 3 s, cut it or move the limit"),
        ("small.png", "{} is 12 x 12; give sides of 16 or more"),
        ("text.wav.png", "cannot read {}: No such file"),
    ],
)
def test_media_that_cannot_be_trained_on(corpus: Path, name: str, message: str) -> None:
    tag, key = ("<|image|>", "images") if name.endswith("png") else ("<|audio|>", "audios")
    path = manifest(corpus, row("hello", "hi"), row(tag, "a dog", **{key: [name]}))
    stats = validate(path, limits=MediaLimits(max_seconds=3.0))
    ((line, problem),) = located(stats.errors)
    assert line == 2
    assert problem.startswith(message.format(corpus / name))
    assert (stats.lines, stats.samples, sum(stats.tasks.values())) == (2, 1, 1)


def test_a_section_must_lie_inside_its_recording(corpus: Path) -> None:
    section = {"path": "two.wav", "start": 1, "stop": 2.5}
    stats = validate(manifest(corpus, row(HEAR, "a dog", audios=[section])))
    path = corpus / "two.wav"
    assert located(stats.errors) == [(1, f"{path} lasts 2 s, its section ends at 2.5 s; move it")]


def test_a_recording_of_unknown_length_is_a_warning(corpus: Path) -> None:
    data = bytearray((corpus / "four.flac").read_bytes())
    data[21] &= 0xF0  # the 36 bits that count the samples
    data[22:26] = bytes(4)
    (corpus / "stream.flac").write_bytes(data)
    stats = validate(manifest(corpus, row(HEAR, "a dog", audios=["stream.flac"])))
    assert stats.errors == []
    assert "does not state its length" in stats.problems[0].message
    assert stats.samples == 1


def test_broken_pixels_are_found_by_decoding(corpus: Path) -> None:
    path = manifest(corpus, row("<|image|>", "a dog", images=["half.png"]))
    assert validate(path).errors == []
    ((line, message),) = located(validate(path, decode=True).errors)
    assert line == 1
    assert "half.png is not a readable image" in message


def test_headers_are_enough(corpus: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(soundfile.SoundFile, "read", None)
    assert validate(manifest(corpus, row(HEAR, "a dog", audios=["two.wav"]))).errors == []


def test_duplicates_name_the_first_line(corpus: Path) -> None:
    one = row(HEAR, "a dog", audios=["two.wav"])
    two = row(HEAR, "a dog", audios=["four.flac"])
    path = manifest(corpus, one, two | {"id": "x"}, one | {"id": "y"}, row("a", "b", id="x"))
    found = validate(path).problems
    assert located(found) == [
        (3, "the same sample is on line 1; remove one"),
        (4, "the id 'x' is on line 2 too; make ids unique"),
    ]
    assert [problem.warning for problem in found] == [False, True]


def test_problems_are_in_line_order_and_a_bad_line_stops_nothing(corpus: Path) -> None:
    rows: list[dict[str, Any] | str] = [
        row(f"question {i}", "yes") if i % 2 else "{" for i in range(1500)
    ]
    fractions: list[float] = []
    stats = validate(manifest(corpus, *rows), progress=fractions.append)
    assert [line for line, _ in located(stats.errors)] == list(range(1, 1501, 2))
    assert (stats.lines, stats.samples) == (1500, 750)
    assert len(fractions) == 3
    assert fractions == sorted(fractions)
    assert fractions[-1] == 1.0


def test_an_empty_and_a_missing_manifest(tmp_path: Path) -> None:
    (tmp_path / "empty.jsonl").touch()
    (problem,) = validate(tmp_path / "empty.jsonl").errors
    assert str(problem).endswith("empty.jsonl:1: the manifest is empty; add samples")
    with pytest.raises(DataError, match=r"cannot read .*none\.jsonl"):
        validate(tmp_path / "none.jsonl")


def test_paths_may_be_relative_to_another_folder(corpus: Path, tmp_path: Path) -> None:
    elsewhere = tmp_path / "manifests"
    elsewhere.mkdir()
    path = manifest(elsewhere, row(HEAR, "a dog", audios=["two.wav"]))
    assert len(validate(path).errors) == 1
    assert validate(path, corpus).errors == []


def test_silence_of_many_channels_counts_once(tmp_path: Path) -> None:
    Waveform(torch.zeros(2, 16_000), 16_000).write(tmp_path / "a.wav")
    stats = validate(manifest(tmp_path, row(HEAR, "a dog", audios=["a.wav"])))
    assert stats.hours["heard"] == pytest.approx(1 / 3600)


def test_decoding_finds_what_breaks_off_and_what_cannot_be_heard(tmp_path: Path) -> None:
    sound = tone(2.0, 24_000)
    sound = Waveform(sound.samples + 0.05 * torch.randn_like(sound.samples), sound.rate)
    names = []
    for kind in ("WAV", "AIFF", "AU", "W64", "FLAC", "OGG", "MP3"):
        names.append(f"cut.{kind.lower()}")
        soundfile.write(tmp_path / names[-1], sound.samples.T.numpy(), 24_000, format=kind)
        data = (tmp_path / names[-1]).read_bytes()
        (tmp_path / names[-1]).write_bytes(data[: len(data) - 600])
    path = manifest(tmp_path, *(row(HEAR, f"a {name}", audios=[name]) for name in names))
    stats = validate(path, decode=True)
    assert stats.samples == 0
    assert [problem.source.line for problem in stats.errors] == list(range(1, len(names) + 1))
    for problem, name in zip(stats.errors, names, strict=True):
        assert name in problem.message

    opposite = torch.cat([sound.samples, -sound.samples])
    for name, samples in (
        ("opposite", opposite), ("silent", 0 * opposite), ("offset", 0 * opposite + 0.5),
        ("one-sided", torch.cat([0 * sound.samples, sound.samples])),
    ):  # fmt: skip
        Waveform(samples, 24_000).write(tmp_path / f"{name}.wav")
    names = ["opposite", "silent", "offset", "one-sided"]
    path = manifest(tmp_path, *(row(HEAR, f"a {n}", audios=[f"{n}.wav"]) for n in names))
    assert validate(path).problems == []
    stats = validate(path, decode=True)
    assert stats.samples == 4
    assert [problem.warning for problem in stats.problems] == [True] * 3
    for problem, words in zip(stats.problems, ("cancel", "silent", "constant"), strict=True):
        assert words in problem.message


@pytest.mark.parametrize("size", [(2000, 16), (16, 2000), (1601, 16)])
def test_sides_are_those_that_the_codec_takes(tmp_path: Path, size: tuple[int, int]) -> None:
    wide = Picture(torch.zeros(size[1], size[0], 3, dtype=torch.uint8))
    wide.write(tmp_path / "wide.png")
    path = manifest(tmp_path, row("Describe the image.\n<|image|>", "a", images=["wide.png"]))
    (problem,) = validate(path).problems
    assert not problem.warning
    assert f"is {size[0]} x {size[1]}; crop it to sides within 1 : 100" in problem.message
    with pytest.raises(MediaError, match="1 : 100"):
        check_aspect(*size)
    check_aspect(1600, 16)
