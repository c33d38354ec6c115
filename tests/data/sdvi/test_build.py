"""An SDVI set from written manifests: complete, independent of order, resumable."""

from __future__ import annotations

import json
import os
import random
import shlex
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from tests.data.sdvi import sine_synthesizer
from tests.data.sdvi.sine_synthesizer import JUDGE
from tests.data.sdvi.written_manifests import caption, vqa, written

from omni_diffusion.data.manifest import MANIFEST, read_samples
from omni_diffusion.data.sdvi.build import CARD, REJECTED, SdviBuilder, VoicePool, read_voices
from omni_diffusion.data.sdvi.quality_filter import QualityFilter
from omni_diffusion.data.sdvi.sources import Sources
from omni_diffusion.data.sdvi.synthesizer import SpeechSynthesizer
from omni_diffusion.data.validate import validate
from omni_diffusion.errors import DataError, StorageError
from omni_diffusion.media import Waveform

SINES = "tests.data.sdvi.sine_synthesizer:Sines"
ASKING = ("anna", "ben", "cleo", "dan")
QUESTIONS = [
    vqa("What is on the left?", "A boat.", name="q0"),
    vqa("How many are there?", "Two.", name="q1"),
    vqa("Is it red?", "It is red.", name="q2"),
    vqa("What is on the right?", "A boat.", name="q3"),
    vqa("Solve for y.", "2", name="q4"),
]
CAPTIONS = [
    caption("a red boat", name="c0"),
    caption("picture of a dog", name="c1"),
    caption("three", name="c2"),
]


@pytest.fixture(autouse=True)
def silence() -> None:
    sine_synthesizer.said.clear()
    sine_synthesizer.heard.clear()


@pytest.fixture
def builder(tmp_path: Path) -> SdviBuilder:
    sources = Sources(
        written(tmp_path, "vqa.jsonl", QUESTIONS), written(tmp_path, "t2i.jsonl", CAPTIONS)
    )
    voices = VoicePool(ASKING, "answerer")
    return SdviBuilder(sources, tmp_path / "out", SpeechSynthesizer.from_line(SINES), voices, JUDGE)


def rows(builder: SdviBuilder) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (builder.out / MANIFEST).read_text().splitlines()]


def everything(builder: SdviBuilder) -> dict[str, bytes]:
    """All files of the set except the journals."""
    found = {path: builder.out / path for path in (MANIFEST, REJECTED, CARD)}
    found |= {str(p.relative_to(builder.out)): p for p in builder.out.rglob("*.flac")}
    return {name: path.read_bytes() for name, path in sorted(found.items())}


def rejections(builder: SdviBuilder) -> str:
    return (builder.out / REJECTED).read_text()


# ------------------------------------------------------------------------------------------- whole
def test_the_set_is_a_good_manifest_of_both_tasks(builder: SdviBuilder) -> None:
    result = builder.run()
    assert (result.samples, len(result.rejected), result.missing) == (7, 1, 0)
    report = validate(builder.out / MANIFEST, decode=True)
    assert not report.problems
    assert report.tasks == {"svqa": 4, "s2i": 3}
    first = rows(builder)[0]
    assert [message["content"] for message in first["messages"]] == [
        "Please response the input audio based on the given image.",
        "<|audio|>\n<|image|>",
        "A boat.\n<|audio|>",
    ]
    assert first["images"] == ["../boat.png"]
    assert rejections(builder).endswith("vqa.jsonl:5: svqa-q4-1: mathematics\n")


def test_the_recordings_say_the_written_texts(builder: SdviBuilder) -> None:
    builder.run()
    spoken = {}
    for sample in read_samples(builder.out / MANIFEST):
        sounds = [medium for medium in sample.media if medium.kind == "speech"]
        spoken[sample.name] = [
            sine_synthesizer.transcribe(Waveform.read(sound.path)) for sound in sounds
        ]
    assert spoken["svqa-q0-1"] == ["what is on the left", "a boat"]
    assert spoken["s2i-c1"] == ["picture of a dog"]


def test_all_answers_have_one_voice_and_each_is_synthesized_once(builder: SdviBuilder) -> None:
    builder.run()
    answers = [text for text, voice in sine_synthesizer.said if voice == "answerer"]
    assert sorted(answers) == ["A boat.", "It is red.", "Two."]
    assert {voice for _, voice in sine_synthesizer.said} <= {*ASKING, "answerer"}


def test_voices_follow_seed_and_name_and_a_new_one_takes_only_its_questions() -> None:
    names = [f"q{i}" for i in range(400)]
    four, five = VoicePool(ASKING, "x"), VoicePool((*ASKING, "eve"), "x")
    first = [four.for_question(name)[0] for name in names]
    assert [VoicePool(ASKING[::-1], "x").for_question(name)[0] for name in names] == first
    assert [VoicePool(ASKING, "x", seed=1).for_question(name)[0] for name in names] != first
    assert all(70 < first.count(voice) < 130 for voice in ASKING)  # 100 expected, 8.7 apart
    now = [five.for_question(name)[0] for name in names]
    assert {new for old, new in zip(first, now, strict=True) if old != new} == {"eve"}
    assert all(len(set(four.for_question(name))) == 3 for name in names)


def test_order_workers_and_shards_change_nothing(builder: SdviBuilder, tmp_path: Path) -> None:
    builder.run()
    sounds = {name: data for name, data in everything(builder).items() if name.endswith(".flac")}
    by_name = {row["id"]: row for row in rows(builder)}
    shuffled = QUESTIONS[:]
    random.Random(3).shuffle(shuffled)
    other = replace(
        builder,
        out=tmp_path / "other",
        sources=replace(builder.sources, vqa=written(tmp_path, "shuffled.jsonl", shuffled)),
    )
    assert other.run(2, of=3, workers=4).missing
    assert not (other.out / MANIFEST).exists()
    assert other.run(0, of=3).missing
    assert not other.run(1, of=3, workers=2).missing
    found = everything(other)
    assert {name: data for name, data in found.items() if name.endswith(".flac")} == sounds
    assert {row["id"]: row for row in rows(other)} == by_name


def test_the_card_describes_the_set(builder: SdviBuilder) -> None:
    replace(builder, command="omni-diffusion data sdvi out --seed 0").run()
    card = (builder.out / CARD).read_text()
    seconds = sum(sample.media[0].read().waveform.seconds for sample in read_samples(  # type: ignore[union-attr]
        builder.out / MANIFEST
    ))  # fmt: skip
    for line in (
        "| samples | 7 |",
        "| spoken questions about a picture | 4 |",
        f"| hours of questions and descriptions | {seconds / 3600:.3f} |",
        "| distinct recordings of answers | 3 |",
        f"| synthesizer | {SINES} |",
        "| ASR check | tones |",
        "| mathematics | 1 |",
        "| below 1 | 10 | 0 |",
        "0 of 31 words of the good takes are wrong, 0.00%.",
        "omni-diffusion data sdvi out --seed 0",
        "## Licence",
    ):
        assert line in card, line


# -------------------------------------------------------------------------------------------- gate
def test_a_misheard_voice_is_replaced_by_another(builder: SdviBuilder) -> None:
    voices = VoicePool(("mumbler", "anna"), "answerer", retries=1)
    result = replace(builder, voices=voices).run()
    assert len(result.rejected) == 1
    tried = {voice for text, voice in sine_synthesizer.said if voice != "answerer"}
    assert tried == {"mumbler", "anna"}  # it was drawn, and none of it was kept
    assert "| anna | 7 |" in (builder.out / CARD).read_text()
    assert "mumbler" not in (builder.out / CARD).read_text()


@pytest.mark.parametrize(
    ("asking", "answering", "reason"),
    [
        ("mumbler", "anna", "question: misheard (5 of 5 wrong, heard"),
        ("anna", "mumbler", "answer: misheard (2 of 2 wrong, heard"),
        ("mute", "anna", "question: silent (root mean square 0)"),
    ],
)
def test_a_sample_that_no_voice_says_well_is_rejected(
    builder: SdviBuilder, asking: str, answering: str, reason: str
) -> None:
    builder = replace(builder, voices=VoicePool([asking], answering))
    result = builder.run()
    assert reason in rejections(builder)
    assert result.samples == (0 if asking != "anna" else 3)  # captions have no spoken answer
    before = len(sine_synthesizer.said)
    assert builder.run().made == 0
    assert len(sine_synthesizer.said) == before


@pytest.mark.parametrize(
    ("line", "quality", "reason"),
    [
        ("tests.data.sdvi.sine_synthesizer:short", QualityFilter(), "question: too short (0.01 s"),
        (SINES, QualityFilter(max_seconds=1.0), "question: too long (1.20 s"),
    ],
)
def test_too_short_and_too_long_recordings(
    builder: SdviBuilder, line: str, quality: QualityFilter, reason: str
) -> None:
    builder = replace(builder, synthesizer=SpeechSynthesizer.from_line(line), quality=quality)
    builder.run()
    assert reason in rejections(builder)
    assert not any("left" in text for text in sine_synthesizer.heard)  # nobody listens to those


def test_a_text_without_words_to_compare_is_rejected(builder: SdviBuilder, tmp_path: Path) -> None:
    path = written(tmp_path, "it.jsonl", [caption("it", name="c")])
    replace(builder, sources=Sources(None, path)).run()
    assert "question: no words to compare" in rejections(builder)


def test_another_max_wer_repeats_no_synthesis_and_no_check(builder: SdviBuilder) -> None:
    half = replace(builder, voices=VoicePool(["mumbler"], "anna"))
    half.run()
    said = len(sine_synthesizer.said)
    strict = replace(builder, voices=VoicePool(ASKING, "anna"))
    strict.run()
    assert len(sine_synthesizer.said) > said
    said, heard = len(sine_synthesizer.said), len(sine_synthesizer.heard)
    replace(strict, quality=QualityFilter(max_wer=0.0)).run()
    assert (len(sine_synthesizer.said), len(sine_synthesizer.heard)) == (said, heard)


def test_a_later_asr_check_uses_the_kept_recordings(builder: SdviBuilder) -> None:
    replace(builder, judge=None).run()
    said = len(sine_synthesizer.said)
    assert not sine_synthesizer.heard
    assert builder.run().samples == 7
    assert len(sine_synthesizer.said) == said
    assert len(sine_synthesizer.heard) == said


# ---------------------------------------------------------------------------------------- going on
def test_a_second_run_synthesizes_nothing_and_changes_nothing(builder: SdviBuilder) -> None:
    builder.run()
    before, count = everything(builder), len(sine_synthesizer.said)
    result = replace(builder, synthesizer=SpeechSynthesizer.from_line(SINES)).run(workers=2)
    assert (result.made, result.samples) == (0, 7)
    assert len(sine_synthesizer.said) == count
    assert everything(builder) == before


def test_only_changed_samples_are_synthesized_again(builder: SdviBuilder, tmp_path: Path) -> None:
    builder.run()
    sine_synthesizer.said.clear()
    other = [vqa("What is on the right?", "A dog.", name="q0"), *QUESTIONS[1:]]
    changed = replace(builder.sources, vqa=written(tmp_path, "changed.jsonl", other))
    replace(builder, sources=changed).run()
    assert sorted(text for text, _ in sine_synthesizer.said) == ["A dog.", "What is on the right?"]
    sine_synthesizer.said.clear()
    replace(builder, sources=changed, voices=VoicePool(ASKING, "eve")).run()
    assert sorted(sine_synthesizer.said) == [
        (text, "eve") for text in ("A boat.", "A dog.", "It is red.", "Two.")
    ]
    sine_synthesizer.said.clear()
    builder.run()
    synthesizer = SpeechSynthesizer.from_line(SINES + " seconds=0")
    assert replace(builder, synthesizer=synthesizer).run().made == 10
    named = {path for row in rows(builder) for path in row["audios"]}
    assert {name for name in everything(builder) if name.endswith(".flac")} == named  # old ones go


def test_another_voice_file_is_another_voice(builder: SdviBuilder, tmp_path: Path) -> None:
    sample = tmp_path / "anna.wav"
    sample.write_bytes(b"one")
    voices = VoicePool([str(sample)], "answerer")
    assert replace(builder, voices=voices).run().made == 10
    sample.write_bytes(b"two")
    assert replace(builder, voices=voices).run().made == 7


def test_an_old_manifest_is_removed_before_new_recordings(builder: SdviBuilder) -> None:
    builder.run()
    again = replace(builder, voices=VoicePool(ASKING, "eve"))
    assert again.run(0, of=2).missing
    assert not (builder.out / MANIFEST).exists()
    assert not again.run(1, of=2).missing
    assert (builder.out / MANIFEST).exists()


def test_a_lost_recording_is_made_again(builder: SdviBuilder) -> None:
    builder.run()
    before = everything(builder)
    next(builder.out.rglob("*.flac")).unlink()
    assert builder.run().made == 1
    assert everything(builder) == before


KILLED = """
import sys
from pathlib import Path
from tests.data.sdvi.sine_synthesizer import JUDGE
from omni_diffusion.data.sdvi.build import SdviBuilder, VoicePool
from omni_diffusion.data.sdvi.sources import Sources
from omni_diffusion.data.sdvi.synthesizer import SpeechSynthesizer
folder = Path(sys.argv[1])
sources = Sources(folder / "vqa.jsonl", folder / "t2i.jsonl")
line = "tests.data.sdvi.sine_synthesizer:Sines seconds=0.15"
voices = VoicePool(("anna", "ben", "cleo", "dan"), "answerer")
synthesizer = SpeechSynthesizer.from_line(line)
SdviBuilder(sources, folder / "out", synthesizer, voices, JUDGE).run(workers=2)
"""


@pytest.mark.slow
def test_a_killed_run_resumes_and_ends_as_an_unbroken_one(
    builder: SdviBuilder, tmp_path: Path
) -> None:
    line = SINES + " seconds=0.15"
    builder = replace(builder, synthesizer=SpeechSynthesizer.from_line(line))
    process = subprocess.Popen([sys.executable, "-c", KILLED, str(tmp_path)])
    journal = builder.out / "takes" / "all.jsonl"
    while not journal.exists() or journal.read_bytes().count(b"\n") < 3:
        assert process.poll() is None
        time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    process.wait()
    kept = journal.read_bytes().count(b"\n")
    journal.write_bytes(journal.read_bytes() + b'{"key": "00')  # as a write that broke off
    (builder.out / "sounds" / "00").mkdir(exist_ok=True)
    partial = builder.out / "sounds" / "00" / ".11.partial"
    partial.write_bytes(b"half")
    os.utime(partial, (0, 0))
    assert not (builder.out / MANIFEST).exists()
    assert builder.run().made == 10 - kept
    whole = replace(builder, out=tmp_path / "whole")
    whole.run()
    assert everything(builder) == everything(whole)
    assert not partial.exists()


# ---------------------------------------------------------------------------------------- failures
SCRIPT = shlex.join(
    [sys.executable, str(Path(sine_synthesizer.__file__).with_name("speaking_program.py"))]
)


@pytest.mark.slow
def test_a_text_that_a_command_fails_at_is_rejected_with_its_error(
    builder: SdviBuilder, tmp_path: Path
) -> None:
    path = written(tmp_path, "c.jsonl", [caption("an elephant", name="a"), caption("a dog")])
    synthesizer = SpeechSynthesizer.from_line(SCRIPT + " {voice} {out}")
    builder = replace(builder, sources=Sources(None, path), synthesizer=synthesizer)
    assert builder.run(workers=2).samples == 1
    told = "question: the synthesizer failed (the command ended with code 1: cannot say"
    assert told in rejections(builder)
    assert "| question: the synthesizer failed | 1 |" in (builder.out / CARD).read_text()
    assert builder.run().made == 0


def test_a_synthesizer_that_always_fails_ends_the_run_and_rejects_no_text(
    builder: SdviBuilder, tmp_path: Path
) -> None:
    path = written(tmp_path, "c.jsonl", [caption(f"elephant {i}", name=f"{i}") for i in range(30)])
    broken = replace(
        builder, sources=Sources(None, path), synthesizer=SpeechSynthesizer.from_line(SINES)
    )
    with pytest.raises(DataError, match=r"failed 20 times in a row, at last with: Value"):
        broken.run()
    assert not (builder.out / "takes" / "all.jsonl").exists()


def test_failures_are_retried_on_request(builder: SdviBuilder, tmp_path: Path) -> None:
    path = written(tmp_path, "c.jsonl", [caption("an elephant", name="a"), caption("a dog")])
    builder = replace(builder, sources=Sources(None, path))
    builder.run()
    sine_synthesizer.said.clear()
    builder.run()
    assert not sine_synthesizer.said
    replace(builder, retry=True).run()
    assert [text for text, _ in sine_synthesizer.said] == ["an elephant"] * 3


def test_duplicate_lines_are_rejected(builder: SdviBuilder, tmp_path: Path) -> None:
    path = written(tmp_path, "c.jsonl", [caption("a dog", name=name) for name in "ab"])
    builder = replace(builder, sources=Sources(None, path), voices=VoicePool(["anna"], "anna"))
    assert builder.run().samples == 1
    assert "s2i-b: the same as an earlier line" in rejections(builder)


def test_a_folder_with_other_files_is_refused(builder: SdviBuilder) -> None:
    builder.out.mkdir()
    (builder.out / "notes.txt").write_text("mine")
    with pytest.raises(DataError, match="holds other files"):
        builder.run()
    (builder.out / "notes.txt").unlink()
    builder.out.rmdir()
    builder.out.write_text("a file")
    with pytest.raises(StorageError, match="cannot create"):
        builder.run()


@pytest.mark.parametrize(
    ("asking", "retries", "message"),
    [
        ([], 0, "there is no voice"),
        (["a", ""], 0, "one without a name"),
        (["a", "b", "a"], 0, "'a' is given twice"),
        (["a"], -1, "-1 retries"),
    ],
)
def test_invalid_voices(asking: list[str], retries: int, message: str) -> None:
    with pytest.raises(DataError, match=message):
        VoicePool(asking, "a", retries=retries)


@pytest.mark.parametrize("values", [{"max_wer": -1}, {"min_seconds": 9, "max_seconds": 3}])
def test_invalid_quality_filters(values: dict[str, float]) -> None:
    with pytest.raises(DataError, match="give"):
        QualityFilter(**values)


def test_invalid_shards_and_workers(builder: SdviBuilder) -> None:
    for shard, of, workers in ((2, 2, 1), (0, 0, 1), (None, 1, 0)):
        with pytest.raises(DataError, match="give"):
            builder.run(shard, of, workers)


def test_voices_from_a_file(tmp_path: Path) -> None:
    path = tmp_path / "voices.txt"
    path.write_text("anna\n\n ben \n")
    assert read_voices(path) == ["anna", "ben"]
    with pytest.raises(DataError, match="cannot read"):
        read_voices(tmp_path / "none.txt")


def test_progress_ends_at_one(builder: SdviBuilder) -> None:
    fractions: list[float] = []
    builder.run(progress=fractions.append)
    assert fractions[-1] == 1
    assert fractions == sorted(fractions)
    assert torch.tensor(fractions).numel() == 7
