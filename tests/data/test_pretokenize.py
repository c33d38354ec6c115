"""A manifest becomes shards once, whoever makes them; their canvases are those of the manifest."""

from __future__ import annotations

import json
import os
import re
import shutil
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
import torch
from tests.data.manifest_files import ROWS, row, write
from tests.tiny import checkers, tiny_model, tone
from torch import Tensor

from omni_diffusion.codecs.magvit2 import Magvit2
from omni_diffusion.data import fingerprint, manifest
from omni_diffusion.data.examples import training_examples
from omni_diffusion.data.manifest import LineIndex, SourceLine, read_samples
from omni_diffusion.data.pretokenize import Pretokenizer, codecs_digest
from omni_diffusion.data.shard_store import SHARD_INDEX, Shards, read_record, shard_name
from omni_diffusion.errors import DataError, StorageError
from omni_diffusion.media import Picture
from omni_diffusion.models.omni import OmniModel

pytest.importorskip("pyarrow")


@pytest.fixture(scope="module")
def model() -> OmniModel:
    return tiny_model()


@pytest.fixture
def source(tmp_path: Path) -> Path:
    """A manifest of ROWS with its media."""
    folder = tmp_path / "source"
    folder.mkdir()
    tone(0.5).write(folder / "a.wav")
    tone(0.4, hertz=330).write(folder / "b.wav")
    checkers(20).write(folder / "c.png")
    return write(folder / "train.jsonl", *ROWS)


@pytest.fixture
def pretokenizer(model: OmniModel, source: Path, tmp_path: Path) -> Pretokenizer:
    return Pretokenizer(source, tmp_path / "out", model.codecs)


@pytest.fixture
def encoded(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The sizes of the picture batches that were encoded."""
    seen: list[int] = []
    encode = Magvit2.encode_batch

    def counting(self: Magvit2, pictures: Sequence[Picture], *given: Any) -> Tensor:
        seen.append(len(pictures))
        return encode(self, pictures, *given)

    monkeypatch.setattr(Magvit2, "encode_batch", counting)
    return seen


def touch(path: Path, seconds: int = 60) -> None:
    """Set a file's mtime to so many seconds ago."""
    then = time.time_ns() - seconds * 10**9
    os.utime(path, ns=(then, then))


def fingerprints_of(number: int, of: int) -> str:
    return Path(shard_name(number, of)).stem + ".media.json"


def lines(out: Path) -> list[int]:
    found = Shards(out)
    return [found[number].line for number in range(len(found))]


# ---------------------------------------------------------------------------------------- the same
@pytest.mark.parametrize("of", [1, 3])
def test_shards_give_the_canvases_of_the_manifest(
    pretokenizer: Pretokenizer, model: OmniModel, of: int
) -> None:
    pretokenizer.run(of=of)
    found = Shards(pretokenizer.out)
    assert len(found) == len(ROWS)
    rows = sorted((found[i] for i in range(len(found))), key=lambda each: each.line)
    assert [each.name for each in rows] == ["talk"] + [None] * 6
    for each, sample in zip(rows, read_samples(pretokenizer.manifest), strict=True):
        ours = each.examples(found.manifest, model.generation.answers)
        theirs = training_examples(sample, model)
        assert [one.source for one in ours] == [one.source for one in theirs]
        assert [one.task for one in ours] == [one.task for one in theirs]
        assert ours[-1].task.name == each.task
        for one, other in zip(ours, theirs, strict=True):
            canvases = [
                it.canvas(model.vocabulary, model.codecs.text, tail=3) for it in (one, other)
            ]
            assert torch.equal(canvases[0].ids, canvases[1].ids)
            assert canvases[0].answer == canvases[1].answer
            for slot, true in zip(canvases[0].slots, canvases[1].slots, strict=True):
                assert slot.start == true.start
                assert torch.equal(slot.frames, true.frames.half().float())


def test_the_index_counts_tasks_and_rows(pretokenizer: Pretokenizer) -> None:
    pretokenizer.run(of=2)
    index = Shards(pretokenizer.out).index
    assert [record.rows for record in index.shards] == [4, 3]
    found = Shards(pretokenizer.out)
    assert found.counts() == {"asr": 1, "chat": 2, "infill": 1, "t2i": 1, "tts": 1, "vqa": 1}
    numbers = found.by_task()
    assert {task: len(each) for task, each in numbers.items()} == found.counts()
    assert all(found[int(n)].task == task for task, each in numbers.items() for n in each)
    assert lines(pretokenizer.out) == [1, 3, 5, 7, 2, 4, 6]


# ------------------------------------------------------------------------------------------ resume
def test_workers_make_their_shards_in_any_order_and_the_last_writes_the_index(
    pretokenizer: Pretokenizer,
) -> None:
    for number in (2, 0):
        pretokenizer.run(number, 3)
        with pytest.raises(DataError, match=r"has no index\.json; run data pretokenize"):
            Shards(pretokenizer.out)
    pretokenizer.run(1, 3)
    assert sorted(lines(pretokenizer.out)) == [1, 2, 3, 4, 5, 6, 7]
    assert {path.name for path in pretokenizer.out.iterdir()} == {
        SHARD_INDEX,
        *(shard_name(number, 3) for number in range(3)),
        *(fingerprints_of(number, 3) for number in range(3)),
    }


def test_a_finished_shard_is_not_rebuilt(pretokenizer: Pretokenizer, encoded: list[int]) -> None:
    first = pretokenizer.run(of=3)
    files = {path: path.read_bytes() for path in pretokenizer.out.iterdir()}
    encoded.clear()
    done: list[float] = []
    assert pretokenizer.run(of=3, progress=done.append) == first
    assert encoded == []
    assert {path: path.read_bytes() for path in pretokenizer.out.iterdir()} == files


def test_only_changed_shards_are_rebuilt(pretokenizer: Pretokenizer) -> None:
    folder = pretokenizer.manifest.parent
    pretokenizer.run(of=7)

    def stale() -> list[int]:
        before = [read_record(pretokenizer.out / shard_name(number, 7)) for number in range(7)]
        after = pretokenizer.run(of=7)
        return [number for number in range(7) if before[number] != after[number]]

    assert stale() == []
    tone(0.4, hertz=331).write(folder / "b.wav")  # as many bytes as before
    assert stale() == [1, 4]
    write(pretokenizer.manifest, *ROWS[:5], row("hello", "hello"), ROWS[6])
    assert stale() == [5]
    (pretokenizer.out / shard_name(3, 7)).write_bytes(b"PAR1 and no more")
    assert stale() == [3]
    (folder / "c.png").unlink()
    with pytest.raises(DataError, match=r":3: cannot read .*c\.png"):
        stale()
    checkers(20).write(folder / "c.png")
    assert stale() == []  # the same picture is back
    assert len(Shards(pretokenizer.out)) == 7


def test_copied_media_are_read_once_and_not_encoded(
    pretokenizer: Pretokenizer, encoded: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    first = pretokenizer.run(of=2)
    index = (pretokenizer.out / SHARD_INDEX).read_bytes()
    for path in pretokenizer.manifest.parent.iterdir():
        path.replace(path.with_suffix(".old"))
        shutil.copyfile(path.with_suffix(".old"), path)
        touch(path)
    encoded.clear()
    assert pretokenizer.run(of=2) == first
    assert encoded == []
    assert (pretokenizer.out / SHARD_INDEX).read_bytes() == index
    with monkeypatch.context() as patched:
        patched.delattr(fingerprint, "_file_digest")
        patched.delattr(fingerprint, "load_medium")
        assert pretokenizer.run(of=2) == first  # what is noted is not read


@pytest.mark.parametrize("notes", [b"", b"[]", b'{"a": 1}', b'{"a": ["b", 1, 2]}', None])
def test_lost_fingerprints_cost_a_read_but_no_encoding(
    pretokenizer: Pretokenizer, encoded: list[int], notes: bytes | None
) -> None:
    for path in pretokenizer.manifest.parent.iterdir():
        touch(path)
    (first,) = pretokenizer.run(of=1)
    path = pretokenizer.out / fingerprints_of(0, 1)
    whole = path.read_bytes()
    path.unlink() if notes is None else path.write_bytes(notes)
    encoded.clear()
    assert pretokenizer.run(of=1) == [first]
    assert encoded == []
    assert path.read_bytes() == whole


def test_a_file_that_just_changed_is_not_trusted_by_mtime(pretokenizer: Pretokenizer) -> None:
    now = time.time_ns()
    for name in ("a.wav", "b.wav", "c.png"):
        os.utime(pretokenizer.manifest.parent / name, ns=(now, now))
    pretokenizer.run()
    assert json.loads((pretokenizer.out / fingerprints_of(0, 1)).read_text()) == {}
    tone(0.4, hertz=331).write(pretokenizer.manifest.parent / "b.wav")
    os.utime(pretokenizer.manifest.parent / "b.wav", ns=(now, now))  # the same size and time
    (before,) = Shards(pretokenizer.out).index.shards
    (after,) = pretokenizer.run()
    assert before.digest != after.digest


def test_a_path_is_not_content(pretokenizer: Pretokenizer, encoded: list[int]) -> None:
    first = pretokenizer.run(of=2)
    moved = pretokenizer.manifest.parent.rename(pretokenizer.out.parent / "moved")
    (moved / "c.png").rename(moved / "d.png")
    text = (moved / "train.jsonl").read_text().replace("c.png", "d.png")
    (moved / "train.jsonl").write_text(text)
    encoded.clear()
    assert replace(pretokenizer, manifest=moved / "train.jsonl").run(of=2) == first
    assert encoded == []
    assert Shards(pretokenizer.out).manifest == moved / "train.jsonl"


# --------------------------------------------------------------------------------------- together
def test_batch_size_and_threads_change_no_byte(
    pretokenizer: Pretokenizer, encoded: list[int]
) -> None:
    write(pretokenizer.manifest, *ROWS * 3)
    one = replace(pretokenizer, batch_size=1, workers=1)
    (alone,) = one.run()
    assert set(encoded) == {1}
    for batch, workers in ((2, 1), (5, 3), (64, 2)):
        encoded.clear()
        other = replace(
            pretokenizer, out=pretokenizer.out / f"{batch}", batch_size=batch, workers=workers
        )
        assert other.run() == [alone]
        assert batch >= max(encoded) > 1
        shard = shard_name(0, 1)
        assert (other.out / shard).read_bytes() == (one.out / shard).read_bytes()


def test_the_manifest_is_read_once_for_all_shards(
    pretokenizer: Pretokenizer, monkeypatch: pytest.MonkeyPatch
) -> None:
    read = list[int]()
    taken = LineIndex.lines

    def counting(self: LineIndex, numbers: Iterable[int]) -> Iterator[tuple[SourceLine, bytes]]:
        for place, line in taken(self, numbers):
            read.append(place.line)
            yield place, line

    monkeypatch.setattr(LineIndex, "lines", counting)
    monkeypatch.delattr(manifest, "read_lines")
    pretokenizer.run(of=3)
    assert sorted(read) == [1, 2, 3, 4, 5, 6, 7]


def test_another_codec_rebuilds_all_shards(pretokenizer: Pretokenizer) -> None:
    first = pretokenizer.run(of=2)
    other = replace(pretokenizer, codecs=tiny_model(seed=1).codecs)
    assert codecs_digest(other.codecs) != codecs_digest(pretokenizer.codecs)
    assert codecs_digest(tiny_model().codecs) == codecs_digest(pretokenizer.codecs)
    assert all(old.digest != new.digest for old, new in zip(first, other.run(of=2), strict=True))


def test_there_is_no_index_while_a_shard_is_stale(pretokenizer: Pretokenizer) -> None:
    pretokenizer.run(of=2)
    checkers(24).write(
        pretokenizer.manifest.parent / "c.png"
    )  # lines 3 and 5, of the first shard, and 4
    pretokenizer.run(1, 2)
    assert not (pretokenizer.out / SHARD_INDEX).exists()
    pretokenizer.run(0, 2)
    assert (pretokenizer.out / SHARD_INDEX).exists()


def test_an_interrupted_shard_leaves_nothing(
    pretokenizer: Pretokenizer, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupted(*_: Any) -> Tensor:
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(Magvit2, "encode_batch", interrupted)
        with pytest.raises(KeyboardInterrupt):
            pretokenizer.run()
    assert list(pretokenizer.out.iterdir()) == []
    pretokenizer.run()
    assert len(Shards(pretokenizer.out)) == len(ROWS)


# -------------------------------------------------------------------------------------- bad lines
def test_broken_lines_are_skipped_and_reported(pretokenizer: Pretokenizer) -> None:
    folder = pretokenizer.manifest.parent
    whole = (folder / "c.png").read_bytes()
    (folder / "short.png").write_bytes(whole[:90])
    (folder / "short.wav").write_bytes((folder / "a.wav").read_bytes()[:30])
    (folder / "empty.png").write_bytes(b"")
    Picture(checkers(8).pixels[:1].repeat(1, 30, 1)).write(folder / "strip.png")
    soundfile.write(folder / "nan.wav", np.full(8000, np.nan), 16_000, "FLOAT")
    tone(0.0001).write(folder / "click.wav")
    bad = [
        row("<|image|>", "a dog", images=["short.png"]),
        row("<|audio|>", "a dog", audios=["none.wav"]),
        row("<|image|>", "a dog"),
        row("<|image|> <|audio|>", "a dog", images=["c.png"], audios=["short.wav"]),
        row("<|image|>", "a dog", images=["empty.png"]),
        row("<|image|> and <|image|>", "a dog", images=["c.png", "strip.png"]),
        row("<|audio|>", "a dog", audios=["nan.wav"]),
        row("<|image|> <|audio|>", "a dog", images=["c.png"], audios=["click.wav"]),
    ]
    path = write(folder / "train.jsonl", *ROWS[:3], *bad)
    junk = [b"{no json}\n", b"\xff\xfe\n", b"\n", b'{"messages": ' + b"[" * 99_999 + b"\n"]
    rest = "".join(json.dumps(each) + "\n" for each in ROWS[3:]).encode()
    path.write_bytes(path.read_bytes() + b"".join(junk) + rest)
    (record,) = replace(pretokenizer, max_bad_fraction=12 / 19).run()
    assert record.rows == len(ROWS)
    assert [line.partition(": ")[0] for line in record.skipped] == [
        f"{pretokenizer.manifest}:{number}" for number in range(4, 16)
    ]
    assert all("\n" not in line for line in record.skipped)
    assert lines(pretokenizer.out) == [1, 2, 3, 16, 17, 18, 19]
    assert Shards(pretokenizer.out).index.shards[0].skipped == record.skipped
    for batch in (1, 19):
        with pytest.raises(DataError) as caught:
            replace(
                pretokenizer,
                out=pretokenizer.out / "strict",
                max_bad_fraction=11 / 19,
                batch_size=batch,
            ).run()
        (message,) = str(caught.value).splitlines()
        assert message.startswith(
            "shard-00000-of-00001.parquet: 12 of 19 lines are broken, more than the fraction 0."
        )
        assert caught.value.field == "max_bad_fraction"
        assert f"the last is {record.skipped[-1]}" in message
        assert not list((pretokenizer.out / "strict").iterdir())


@pytest.mark.parametrize(
    ("codec", "broken", "told"),
    [
        ("hearing", lambda it: torch.full_like(it, torch.nan), r":1: its speech has"),
        ("hearing", lambda it: it + 1e6, r":1: its speech has \d+ frames"),
        ("image", lambda it: it + 16, r":3: its image has \d+ codes .* within 0\.\.15"),
        ("speech", lambda it: it - 40, r":2: its speech has \d+ codes .* within 0\.\.31"),
        ("speech", lambda it: it[:0], r":2: its speech has 0 codes"),
    ],
)
def test_broken_codec_output_is_reported(
    pretokenizer: Pretokenizer,
    monkeypatch: pytest.MonkeyPatch,
    codec: str,
    broken: Callable[[Tensor], Tensor],
    told: str,
) -> None:
    kind = type(getattr(pretokenizer.codecs, codec))
    name = "encode_batch" if codec == "image" else "encode"
    encode = getattr(kind, name)
    monkeypatch.setattr(kind, name, lambda self, *given: broken(encode(self, *given)))
    with pytest.raises(DataError, match=told):
        pretokenizer.run()
    (record,) = replace(pretokenizer, max_bad_fraction=1).run()
    assert any(re.search(told, line) for line in record.skipped)
    assert record.rows == len(ROWS) - len(record.skipped) > 0


@pytest.mark.parametrize(
    ("shard", "of", "told"),
    [
        (3, 3, "shard 3 of 3 does not exist; give 0 to 2"),
        (-1, 3, "shard -1 of 3 does not exist"),
        (None, 8, "8 shards for 7 lines; give 1 to 7"),
        (None, 0, "0 shards for 7 lines; give 1 to 7"),
    ],
)
def test_invalid_shard_numbers(
    pretokenizer: Pretokenizer, shard: int | None, of: int, told: str
) -> None:
    with pytest.raises(DataError, match=re.escape(told)):
        pretokenizer.run(shard, of)


def test_invalid_options(pretokenizer: Pretokenizer, tmp_path: Path) -> None:
    for changed, told in (
        ({"max_bad_fraction": 2}, "max_bad_fraction is 2; give a fraction"),
        ({"batch_size": 0}, "batch_size is 0; give 1 or more"),
        ({"workers": -1}, "workers is -1; give 1 or more"),
    ):
        with pytest.raises(DataError, match=told):
            replace(pretokenizer, **changed)
    with pytest.raises(DataError, match=r"cannot read .*none"):
        replace(pretokenizer, manifest=tmp_path / "none").run()
    with pytest.raises(DataError, match="is empty; add samples"):
        replace(pretokenizer, manifest=write(tmp_path / "empty.jsonl")).run()
    with pytest.raises(StorageError, match="cannot create"):
        replace(pretokenizer, out=pretokenizer.manifest).run()


# ------------------------------------------------------------------------------------ broken disk
def test_a_truncated_shard_is_one_error_line_and_rebuilt(
    pretokenizer: Pretokenizer,
) -> None:
    first = pretokenizer.run(of=2)
    path = pretokenizer.out / shard_name(1, 2)
    whole = path.read_bytes()
    footer = len(whole) - 8 - int.from_bytes(whole[-8:-4], "little")  # of its first byte
    steps = range(0, len(whole), len(whole) // 16)
    ends = (0, 1, 3, 4, 5, footer - 1, footer, footer + 1, len(whole) - 8)
    for length in sorted({*steps, *ends, *range(len(whole) - 5, len(whole))}):
        path.write_bytes(whole[:length])
        assert_broken(pretokenizer, path)
        assert read_record(path) is None
    assert pretokenizer.run(of=2) == first
    assert path.read_bytes() == whole


def test_a_damaged_shard_is_one_error_line(pretokenizer: Pretokenizer) -> None:
    pretokenizer.run(of=2)
    path = pretokenizer.out / shard_name(1, 2)
    whole = path.read_bytes()
    path.write_bytes(whole[:200] + b"\xff" * 64 + whole[264:])
    assert_broken(pretokenizer, path)
    footer = len(whole) - 8 - int.from_bytes(whole[-8:-4], "little")
    for name in (b"messages", b"role"):  # a column's name in the footer, which has no checksum
        at = whole.index(name, footer)
        for letter in (b"\xff", b"_"):
            path.write_bytes(whole[:at] + letter + whole[at + 1 :])
            assert_broken(pretokenizer, path)
    path.unlink()
    with pytest.raises(DataError, match=f"cannot read {path}"):
        Shards(pretokenizer.out).by_task()


def assert_broken(pretokenizer: Pretokenizer, path: Path) -> None:
    found = Shards(pretokenizer.out)
    assert found[0].line == 1
    with pytest.raises(DataError) as caught:
        found[5]
    (message,) = str(caught.value).splitlines()
    assert message.startswith(f"cannot read {path} (")
    assert message.endswith("delete it and run data pretokenize again")


def test_a_shard_of_another_index_is_an_error(pretokenizer: Pretokenizer) -> None:
    pretokenizer.run(of=2)
    shutil.copy(pretokenizer.out / shard_name(0, 2), pretokenizer.out / shard_name(1, 2))
    with pytest.raises(DataError, match="has 4 rows, the index says 3"):
        Shards(pretokenizer.out)[5]


def test_a_shard_without_samples_is_skipped(pretokenizer: Pretokenizer) -> None:
    rows = [ROWS[5], row("<|image|>", "a dog", images=["none.png"]), ROWS[6]]
    write(pretokenizer.manifest, *rows)
    replace(pretokenizer, max_bad_fraction=1).run(of=3)
    found = Shards(pretokenizer.out)
    assert [record.rows for record in found.index.shards] == [1, 0, 1]
    assert [found[0].line, found[1].line] == [1, 3]
    assert found.by_task()["chat"].tolist() == [0, 1]


def test_a_folder_without_samples_is_refused(pretokenizer: Pretokenizer) -> None:
    write(pretokenizer.manifest, row("<|image|>", "a dog", images=["none.png"]))
    replace(pretokenizer, max_bad_fraction=1).run()
    with pytest.raises(DataError, match="holds no samples, all 1 lines were skipped"):
        Shards(pretokenizer.out)


def test_samples_are_numbered_from_0(pretokenizer: Pretokenizer) -> None:
    pretokenizer.run()
    found = Shards(pretokenizer.out)
    for number in (-1, 7):
        with pytest.raises(IndexError):
            found[number]
