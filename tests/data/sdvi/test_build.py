"""A spoken set from written manifests: whole, the same in any order, and never begun anew."""

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
from tests.data.sdvi.test_sources import caption, vqa, written

from omni_diffusion.data import manifest
from omni_diffusion.data.sdvi.build import CARD, LEFT, MANIFEST, Builder, Voices, voices_of
from omni_diffusion.data.sdvi.quality_filter import Gate
from omni_diffusion.data.sdvi.sources import Sources
from omni_diffusion.data.sdvi.synthesizer import Synthesizer
from omni_diffusion.data.validate import check
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
def builder(tmp_path: Path) -> Builder:
    sources = Sources(
        written(tmp_path, "vqa.jsonl", QUESTIONS), written(tmp_path, "t2i.jsonl", CAPTIONS)
    )
    voices = Voices(ASKING, "answerer")
    return Builder(sources, tmp_path / "out", Synthesizer.named(SINES), voices, JUDGE)


def rows(builder: Builder) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (builder.out / MANIFEST).read_text().splitlines()]


def everything(builder: Builder) -> dict[str, bytes]:
    """All that is read later, without the journals."""
    found = {path: builder.out / path for path in (MANIFEST, LEFT, CARD)}
    found |= {str(p.relative_to(builder.out)): p for p in builder.out.rglob("*.flac")}
    return {name: path.read_bytes() for name, path in sorted(found.items())}


def left(builder: Builder) -> str:
    return (builder.out / LEFT).read_text()


# ------------------------------------------------------------------------------------------- whole
def test_the_set_is_a_good_manifest_of_both_tasks(builder: Builder) -> None:
    done = builder.run()
    assert (done.samples, len(done.left), done.missing) == (7, 1, 0)
    report = check(builder.out / MANIFEST, decode=True)
    assert not report.problems
    assert report.tasks == {"svqa": 4, "s2i": 3}
    first = rows(builder)[0]
    assert [message["content"] for message in first["messages"]] == [
        "Please response the input audio based on the given image.",
        "<|audio|>\n<|image|>",
        "A boat.\n<|audio|>",
    ]
    assert first["images"] == ["../boat.png"]
    assert left(builder).endswith("vqa.jsonl:5: svqa-q4-1: mathematics\n")


def test_what_is_heard_is_what_was_written(builder: Builder) -> None:
    builder.run()
    spoken = {}
    for sample in manifest.read(builder.out / MANIFEST):
        sounds = [medium for medium in sample.media if medium.kind == "speech"]
        spoken[sample.name] = [
            sine_synthesizer.transcribe(Waveform.read(sound.path)) for sound in sounds
        ]
    assert spoken["svqa-q0-1"] == ["what is on the left", "a boat"]
    assert spoken["s2i-c1"] == ["picture of a dog"]


def test_all_answers_are_in_one_voice_and_each_is_said_once(builder: Builder) -> None:
    builder.run()
    answers = [text for text, voice in sine_synthesizer.said if voice == "answerer"]
    assert sorted(answers) == ["A boat.", "It is red.", "Two."]
    assert {voice for _, voice in sine_synthesizer.said} <= {*ASKING, "answerer"}


def test_a_voice_is_drawn_by_seed_and_name_and_a_further_one_takes_only_its_own() -> None:
    names = [f"q{i}" for i in range(400)]
    four, five = Voices(ASKING, "x"), Voices((*ASKING, "eve"), "x")
    first = [four.of(name)[0] for name in names]
    assert [Voices(ASKING[::-1], "x").of(name)[0] for name in names] == first
    assert [Voices(ASKING, "x", seed=1).of(name)[0] for name in names] != first
    assert all(70 < first.count(voice) < 130 for voice in ASKING)  # 100 expected, 8.7 apart
    now = [five.of(name)[0] for name in names]
    assert {new for old, new in zip(first, now, strict=True) if old != new} == {"eve"}
    assert all(len(set(four.of(name))) == 3 for name in names)


def test_order_workers_and_shares_change_nothing(builder: Builder, tmp_path: Path) -> None:
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


def test_the_card_tells_what_is_there(builder: Builder) -> None:
    replace(builder, command="omni-diffusion data sdvi out --seed 0").run()
    card = (builder.out / CARD).read_text()
    seconds = sum(sample.media[0].read().waveform.seconds for sample in manifest.read(  # type: ignore[union-attr]
        builder.out / MANIFEST
    ))  # fmt: skip
    for line in (
        "| lines | 7 |",
        "| of them spoken questions about a picture | 4 |",
        f"| hours heard (what users say) | {seconds / 3600:.3f} |",
        "| different recordings of answers | 3 |",
        f"| synthesizer | {SINES} |",
        "| recogniser | tones |",
        "| mathematics | 1 |",
        "| below 1 | 10 | 0 |",
        "0 of 31 words of the good takes are wrong, 0.00%.",
        "omni-diffusion data sdvi out --seed 0",
        "## Licence",
    ):
        assert line in card, line


# -------------------------------------------------------------------------------------------- gate
def test_a_mumbling_voice_is_told_by_ear_and_another_one_asks(builder: Builder) -> None:
    voices = Voices(("mumbler", "anna"), "answerer", again=1)
    done = replace(builder, voices=voices).run()
    assert len(done.left) == 1
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
def test_what_no_voice_says_well_is_left_out(
    builder: Builder, asking: str, answering: str, reason: str
) -> None:
    builder = replace(builder, voices=Voices([asking], answering))
    done = builder.run()
    assert reason in left(builder)
    assert done.samples == (0 if asking != "anna" else 3)  # captions have no spoken answer
    before = len(sine_synthesizer.said)
    assert builder.run().made == 0
    assert len(sine_synthesizer.said) == before


@pytest.mark.parametrize(
    ("line", "gate", "reason"),
    [
        ("tests.data.sdvi.sine_synthesizer:short", Gate(), "question: too short (0.01 s"),
        (SINES, Gate(max_seconds=1.0), "question: too long (1.20 s"),
    ],
)
def test_too_short_and_too_long_sounds(
    builder: Builder, line: str, gate: Gate, reason: str
) -> None:
    builder = replace(builder, synthesizer=Synthesizer.named(line), gate=gate)
    builder.run()
    assert reason in left(builder)
    assert not any("left" in text for text in sine_synthesizer.heard)  # nobody listens to those


def test_a_text_without_words_for_the_judge_is_left_out(builder: Builder, tmp_path: Path) -> None:
    path = written(tmp_path, "it.jsonl", [caption("it", name="c")])
    replace(builder, sources=Sources(None, path)).run()
    assert "question: no words to compare" in left(builder)


def test_another_threshold_says_and_hears_nothing_again(builder: Builder) -> None:
    half = replace(builder, voices=Voices(["mumbler"], "anna"))
    half.run()
    said = len(sine_synthesizer.said)
    strict = replace(builder, voices=Voices(ASKING, "anna"))
    strict.run()
    assert len(sine_synthesizer.said) > said
    said, heard = len(sine_synthesizer.said), len(sine_synthesizer.heard)
    replace(strict, gate=Gate(most_errors=0.0)).run()
    assert (len(sine_synthesizer.said), len(sine_synthesizer.heard)) == (said, heard)


def test_a_judge_that_comes_later_hears_what_was_kept(builder: Builder) -> None:
    replace(builder, judge=None).run()
    said = len(sine_synthesizer.said)
    assert not sine_synthesizer.heard
    assert builder.run().samples == 7
    assert len(sine_synthesizer.said) == said
    assert len(sine_synthesizer.heard) == said


# ---------------------------------------------------------------------------------------- going on
def test_a_second_run_says_nothing_and_changes_nothing(builder: Builder) -> None:
    builder.run()
    before, count = everything(builder), len(sine_synthesizer.said)
    done = replace(builder, synthesizer=Synthesizer.named(SINES)).run(workers=2)
    assert (done.made, done.samples) == (0, 7)
    assert len(sine_synthesizer.said) == count
    assert everything(builder) == before


def test_what_changed_is_made_anew_and_nothing_else(builder: Builder, tmp_path: Path) -> None:
    builder.run()
    sine_synthesizer.said.clear()
    other = [vqa("What is on the right?", "A dog.", name="q0"), *QUESTIONS[1:]]
    changed = replace(builder.sources, vqa=written(tmp_path, "changed.jsonl", other))
    replace(builder, sources=changed).run()
    assert sorted(text for text, _ in sine_synthesizer.said) == ["A dog.", "What is on the right?"]
    sine_synthesizer.said.clear()
    replace(builder, sources=changed, voices=Voices(ASKING, "eve")).run()
    assert sorted(sine_synthesizer.said) == [
        (text, "eve") for text in ("A boat.", "A dog.", "It is red.", "Two.")
    ]
    sine_synthesizer.said.clear()
    builder.run()
    synthesizer = Synthesizer.named(SINES + " seconds=0")
    assert replace(builder, synthesizer=synthesizer).run().made == 10
    named = {path for row in rows(builder) for path in row["audios"]}
    assert {name for name in everything(builder) if name.endswith(".flac")} == named  # old ones go


def test_another_voice_file_is_another_voice(builder: Builder, tmp_path: Path) -> None:
    sample = tmp_path / "anna.wav"
    sample.write_bytes(b"one")
    voices = Voices([str(sample)], "answerer")
    assert replace(builder, voices=voices).run().made == 10
    sample.write_bytes(b"two")
    assert replace(builder, voices=voices).run().made == 7


def test_an_old_manifest_does_not_stand_beside_new_sounds(builder: Builder) -> None:
    builder.run()
    again = replace(builder, voices=Voices(ASKING, "eve"))
    assert again.run(0, of=2).missing
    assert not (builder.out / MANIFEST).exists()
    assert not again.run(1, of=2).missing
    assert (builder.out / MANIFEST).exists()


def test_a_lost_sound_is_made_again(builder: Builder) -> None:
    builder.run()
    before = everything(builder)
    next(builder.out.rglob("*.flac")).unlink()
    assert builder.run().made == 1
    assert everything(builder) == before


KILLED = """
import sys
from pathlib import Path
from tests.data.sdvi.sine_synthesizer import JUDGE
from omni_diffusion.data.sdvi.build import Builder, Voices
from omni_diffusion.data.sdvi.sources import Sources
from omni_diffusion.data.sdvi.synthesizer import Synthesizer
folder = Path(sys.argv[1])
sources = Sources(folder / "vqa.jsonl", folder / "t2i.jsonl")
line = "tests.data.sdvi.sine_synthesizer:Sines seconds=0.15"
voices = Voices(("anna", "ben", "cleo", "dan"), "answerer")
Builder(sources, folder / "out", Synthesizer.named(line), voices, JUDGE).run(workers=2)
"""


def test_a_killed_run_goes_on_and_ends_as_an_unbroken_one(builder: Builder, tmp_path: Path) -> None:
    line = SINES + " seconds=0.15"
    builder = replace(builder, synthesizer=Synthesizer.named(line))
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
SCRIPT = shlex.join([sys.executable, str(Path(sine_synthesizer.__file__).with_name("say.py"))])


def test_a_text_that_a_command_cannot_say_is_left_out_with_its_words(
    builder: Builder, tmp_path: Path
) -> None:
    path = written(tmp_path, "c.jsonl", [caption("an elephant", name="a"), caption("a dog")])
    synthesizer = Synthesizer.named(SCRIPT + " {voice} {out}")
    builder = replace(builder, sources=Sources(None, path), synthesizer=synthesizer)
    assert builder.run(workers=2).samples == 1
    told = "question: the synthesizer failed (the command ended with code 1: cannot say"
    assert told in left(builder)
    assert "| question: the synthesizer failed | 1 |" in (builder.out / CARD).read_text()
    assert builder.run().made == 0


def test_a_synthesizer_that_always_fails_ends_the_run_and_is_not_held_against_the_texts(
    builder: Builder, tmp_path: Path
) -> None:
    path = written(tmp_path, "c.jsonl", [caption(f"elephant {i}", name=f"{i}") for i in range(30)])
    broken = replace(builder, sources=Sources(None, path), synthesizer=Synthesizer.named(SINES))
    with pytest.raises(DataError, match=r"failed 20 times in a row; mend it; the last time: Value"):
        broken.run()
    assert not (builder.out / "takes" / "all.jsonl").exists()


def test_failures_are_tried_again_when_asked_for(builder: Builder, tmp_path: Path) -> None:
    path = written(tmp_path, "c.jsonl", [caption("an elephant", name="a"), caption("a dog")])
    builder = replace(builder, sources=Sources(None, path))
    builder.run()
    sine_synthesizer.said.clear()
    builder.run()
    assert not sine_synthesizer.said
    replace(builder, retry=True).run()
    assert [text for text, _ in sine_synthesizer.said] == ["an elephant"] * 3


def test_the_same_line_twice_is_one(builder: Builder, tmp_path: Path) -> None:
    path = written(tmp_path, "c.jsonl", [caption("a dog", name=name) for name in "ab"])
    builder = replace(builder, sources=Sources(None, path), voices=Voices(["anna"], "anna"))
    assert builder.run().samples == 1
    assert "s2i-b: the same as an earlier line" in left(builder)


def test_a_folder_with_other_files_is_left_alone(builder: Builder) -> None:
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
    ("asking", "again", "message"),
    [
        ([], 0, "there is no voice"),
        (["a", ""], 0, "one without a name"),
        (["a", "b", "a"], 0, "'a' is given twice"),
        (["a"], -1, "again is -1"),
    ],
)
def test_voices_that_cannot_be(asking: list[str], again: int, message: str) -> None:
    with pytest.raises(DataError, match=message):
        Voices(asking, "a", again=again)


@pytest.mark.parametrize("values", [{"most_errors": -1}, {"min_seconds": 9, "max_seconds": 3}])
def test_gates_that_cannot_be(values: dict[str, float]) -> None:
    with pytest.raises(DataError, match="give"):
        Gate(**values)


def test_shares_and_workers_that_cannot_be(builder: Builder) -> None:
    for shard, of, workers in ((2, 2, 1), (0, 0, 1), (None, 1, 0)):
        with pytest.raises(DataError, match="give"):
            builder.run(shard, of, workers)


def test_voices_from_a_file(tmp_path: Path) -> None:
    path = tmp_path / "voices.txt"
    path.write_text("anna\n\n ben \n")
    assert voices_of(path) == ["anna", "ben"]
    with pytest.raises(DataError, match="cannot read"):
        voices_of(tmp_path / "none.txt")


def test_progress_ends_at_one(builder: Builder) -> None:
    shares: list[float] = []
    builder.run(progress=shares.append)
    assert shares[-1] == 1
    assert shares == sorted(shares)
    assert torch.tensor(shares).numel() == 7
