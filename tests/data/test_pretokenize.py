"""A manifest becomes shards once, whoever makes them; what is laid from them is the same."""

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
from tests.data.test_examples import row
from tests.tiny import checkers, tiny_model, tone
from torch import Tensor

from omni_diffusion.codecs.magvit2 import Magvit2
from omni_diffusion.data import examples, fingerprint, manifest, shard_store
from omni_diffusion.data.manifest import Place, Table
from omni_diffusion.data.pretokenize import Worker, codecs_digest
from omni_diffusion.data.shard_store import INDEX, Shards, name_of
from omni_diffusion.errors import DataError, StorageError
from omni_diffusion.media import Picture
from omni_diffusion.models.omni import OmniModel

pytest.importorskip("pyarrow")

ROWS = [
    row("Convert the speech to text.\n<|audio|>", "so we began", audios=["a.wav"]) | {"id": "talk"},
    row("Convert the text to speech.\na dog", "<|audio|>", audios=["b.wav"]),
    row("Generate an image based on the provided text description.\na dog", "<|image|>",
        images=["c.png"]),
    row("How many?\n<|image|>", "two", images=["c.png"]),
    row("look: <|image|>", "a dog", "and <|audio|>?", "this:\n<|audio|>\nor that\n<|image|>",
        images=["c.png", "c.png"], audios=["a.wav", "b.wav"]),
    row("hello", "hi"),
    row("bye", "bye"),
]  # fmt: skip


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


def write(path: Path, *rows: dict[str, Any]) -> Path:
    path.write_text("".join(json.dumps(each) + "\n" for each in rows), encoding="utf-8")
    return path


@pytest.fixture
def worker(model: OmniModel, source: Path, tmp_path: Path) -> Worker:
    return Worker(source, tmp_path / "out", model.codecs)


@pytest.fixture
def encoded(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """How many pictures were encoded at once, noted as they are."""
    seen: list[int] = []
    encode = Magvit2.encode_batch

    def counting(self: Magvit2, pictures: Sequence[Picture], *given: Any) -> Tensor:
        seen.append(len(pictures))
        return encode(self, pictures, *given)

    monkeypatch.setattr(Magvit2, "encode_batch", counting)
    return seen


def touch(path: Path, seconds: int = 60) -> None:
    """Change a file's time as a copy or a write so long ago would."""
    then = time.time_ns() - seconds * 10**9
    os.utime(path, ns=(then, then))


def notes_of(number: int, of: int) -> str:
    return Path(name_of(number, of)).stem + ".media.json"


def lines(out: Path) -> list[int]:
    found = Shards(out)
    return [found[number].line for number in range(len(found))]


# ---------------------------------------------------------------------------------------- the same
@pytest.mark.parametrize("of", [1, 3])
def test_what_is_laid_from_shards_is_what_the_manifest_gives(
    worker: Worker, model: OmniModel, of: int
) -> None:
    worker.run(of=of)
    found = Shards(worker.out)
    assert len(found) == len(ROWS)
    rows = sorted((found[i] for i in range(len(found))), key=lambda each: each.line)
    assert [each.name for each in rows] == ["talk"] + [None] * 6
    for each, sample in zip(rows, manifest.read(worker.manifest), strict=True):
        ours = each.exercises(found.manifest, model.answers)
        theirs = examples.exercises(sample, model)
        assert [one.place for one in ours] == [one.place for one in theirs]
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


def test_the_index_counts_tasks_and_rows(worker: Worker) -> None:
    worker.run(of=2)
    index = Shards(worker.out).index
    assert [record.rows for record in index.shards] == [4, 3]
    found = Shards(worker.out)
    assert found.counts() == {"asr": 1, "chat": 2, "infill": 1, "t2i": 1, "tts": 1, "vqa": 1}
    numbers = found.by_task()
    assert {task: len(each) for task, each in numbers.items()} == found.counts()
    assert all(found[int(n)].task == task for task, each in numbers.items() for n in each)
    assert lines(worker.out) == [1, 3, 5, 7, 2, 4, 6]


# ------------------------------------------------------------------------------------------ resume
def test_workers_make_their_shards_in_any_order_and_the_last_writes_the_index(
    worker: Worker,
) -> None:
    for number in (2, 0):
        worker.run(number, 3)
        with pytest.raises(DataError, match=r"has no index\.json; run data pretokenize"):
            Shards(worker.out)
    worker.run(1, 3)
    assert sorted(lines(worker.out)) == [1, 2, 3, 4, 5, 6, 7]
    assert {path.name for path in worker.out.iterdir()} == {
        INDEX,
        *(name_of(number, 3) for number in range(3)),
        *(notes_of(number, 3) for number in range(3)),
    }


def test_a_finished_shard_is_not_made_again(worker: Worker, encoded: list[int]) -> None:
    first = worker.run(of=3)
    files = {path: path.read_bytes() for path in worker.out.iterdir()}
    encoded.clear()
    done: list[float] = []
    assert worker.run(of=3, progress=done.append) == first
    assert encoded == []
    assert {path: path.read_bytes() for path in worker.out.iterdir()} == files


def test_what_has_changed_is_made_anew_and_nothing_else(worker: Worker) -> None:
    folder = worker.manifest.parent
    worker.run(of=7)

    def stale() -> list[int]:
        before = [shard_store.record_at(worker.out / name_of(number, 7)) for number in range(7)]
        after = worker.run(of=7)
        return [number for number in range(7) if before[number] != after[number]]

    assert stale() == []
    tone(0.4, hertz=331).write(folder / "b.wav")  # as many bytes as before
    assert stale() == [1, 4]
    write(worker.manifest, *ROWS[:5], row("hello", "hello"), ROWS[6])
    assert stale() == [5]
    (worker.out / name_of(3, 7)).write_bytes(b"PAR1 and no more")
    assert stale() == [3]
    (folder / "c.png").unlink()
    with pytest.raises(DataError, match=r":3: cannot read .*c\.png"):
        stale()
    checkers(20).write(folder / "c.png")
    assert stale() == []  # the same picture is back
    assert len(Shards(worker.out)) == 7


def test_copied_media_are_read_once_and_not_encoded(
    worker: Worker, encoded: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    first = worker.run(of=2)
    index = (worker.out / INDEX).read_bytes()
    for path in worker.manifest.parent.iterdir():
        path.replace(path.with_suffix(".old"))
        shutil.copyfile(path.with_suffix(".old"), path)
        touch(path)
    encoded.clear()
    assert worker.run(of=2) == first
    assert encoded == []
    assert (worker.out / INDEX).read_bytes() == index
    with monkeypatch.context() as patched:
        patched.delattr(fingerprint, "_of_file")
        patched.delattr(fingerprint, "load")
        assert worker.run(of=2) == first  # what is noted is not read


@pytest.mark.parametrize("notes", [b"", b"[]", b'{"a": 1}', b'{"a": ["b", 1, 2]}', None])
def test_lost_notes_cost_a_reading_and_no_encoding(
    worker: Worker, encoded: list[int], notes: bytes | None
) -> None:
    for path in worker.manifest.parent.iterdir():
        touch(path)
    (first,) = worker.run(of=1)
    path = worker.out / notes_of(0, 1)
    whole = path.read_bytes()
    path.unlink() if notes is None else path.write_bytes(notes)
    encoded.clear()
    assert worker.run(of=1) == [first]
    assert encoded == []
    assert path.read_bytes() == whole


def test_what_changed_just_now_is_not_known_by_its_time(worker: Worker) -> None:
    now = time.time_ns()
    for name in ("a.wav", "b.wav", "c.png"):
        os.utime(worker.manifest.parent / name, ns=(now, now))
    worker.run()
    assert json.loads((worker.out / notes_of(0, 1)).read_text()) == {}
    tone(0.4, hertz=331).write(worker.manifest.parent / "b.wav")
    os.utime(worker.manifest.parent / "b.wav", ns=(now, now))  # the same size and time
    (before,) = Shards(worker.out).index.shards
    (after,) = worker.run()
    assert before.digest != after.digest


def test_a_path_is_no_content(worker: Worker, encoded: list[int]) -> None:
    first = worker.run(of=2)
    moved = worker.manifest.parent.rename(worker.out.parent / "moved")
    (moved / "c.png").rename(moved / "d.png")
    text = (moved / "train.jsonl").read_text().replace("c.png", "d.png")
    (moved / "train.jsonl").write_text(text)
    encoded.clear()
    assert replace(worker, manifest=moved / "train.jsonl").run(of=2) == first
    assert encoded == []
    assert Shards(worker.out).manifest == moved / "train.jsonl"


# --------------------------------------------------------------------------------------- together
def test_batches_and_threads_change_no_byte(worker: Worker, encoded: list[int]) -> None:
    write(worker.manifest, *ROWS * 3)
    one = replace(worker, batch=1, workers=1)
    (alone,) = one.run()
    assert set(encoded) == {1}
    for batch, workers in ((2, 1), (5, 3), (64, 2)):
        encoded.clear()
        other = replace(worker, out=worker.out / f"{batch}", batch=batch, workers=workers)
        assert other.run() == [alone]
        assert batch >= max(encoded) > 1
        shard = name_of(0, 1)
        assert (other.out / shard).read_bytes() == (one.out / shard).read_bytes()


def test_the_manifest_is_read_once_for_all_shards(
    worker: Worker, monkeypatch: pytest.MonkeyPatch
) -> None:
    read = list[int]()
    taken = Table.lines

    def counting(self: Table, numbers: Iterable[int]) -> Iterator[tuple[Place, bytes]]:
        for place, line in taken(self, numbers):
            read.append(place.line)
            yield place, line

    monkeypatch.setattr(Table, "lines", counting)
    monkeypatch.delattr(manifest, "lines")
    worker.run(of=3)
    assert sorted(read) == [1, 2, 3, 4, 5, 6, 7]


def test_another_codec_makes_all_anew(worker: Worker) -> None:
    first = worker.run(of=2)
    other = replace(worker, codecs=tiny_model(seed=1).codecs)
    assert codecs_digest(other.codecs) != codecs_digest(worker.codecs)
    assert codecs_digest(tiny_model().codecs) == codecs_digest(worker.codecs)
    assert all(old.digest != new.digest for old, new in zip(first, other.run(of=2), strict=True))


def test_there_is_no_index_while_a_shard_is_stale(worker: Worker) -> None:
    worker.run(of=2)
    checkers(24).write(worker.manifest.parent / "c.png")  # lines 3 and 5, of the first shard, and 4
    worker.run(1, 2)
    assert not (worker.out / INDEX).exists()
    worker.run(0, 2)
    assert (worker.out / INDEX).exists()


def test_an_interrupted_shard_leaves_nothing(
    worker: Worker, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupted(*_: Any) -> Tensor:
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(Magvit2, "encode_batch", interrupted)
        with pytest.raises(KeyboardInterrupt):
            worker.run()
    assert list(worker.out.iterdir()) == []
    worker.run()
    assert len(Shards(worker.out)) == len(ROWS)


# -------------------------------------------------------------------------------------- bad lines
def test_broken_lines_are_left_out_and_told(worker: Worker) -> None:
    folder = worker.manifest.parent
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
    (record,) = replace(worker, most_bad=12 / 19).run()
    assert record.rows == len(ROWS)
    assert [line.partition(": ")[0] for line in record.skipped] == [
        f"{worker.manifest}:{number}" for number in range(4, 16)
    ]
    assert all("\n" not in line for line in record.skipped)
    assert lines(worker.out) == [1, 2, 3, 16, 17, 18, 19]
    assert Shards(worker.out).index.shards[0].skipped == record.skipped
    for batch in (1, 19):
        with pytest.raises(DataError) as caught:
            replace(worker, out=worker.out / "strict", most_bad=11 / 19, batch=batch).run()
        (told,) = str(caught.value).splitlines()
        assert told.startswith(
            "shard-00000-of-00001.parquet: 12 of 19 lines are broken, at most 0."
        )
        assert "raise --most-bad" in told
        assert f"the last is {record.skipped[-1]}" in told
        assert not list((worker.out / "strict").iterdir())


@pytest.mark.parametrize(
    ("codec", "broken", "told"),
    [
        ("hearing", lambda it: torch.full_like(it, torch.nan), r":1: its speech is heard as"),
        ("hearing", lambda it: it + 1e6, r":1: its speech is heard as \d+ frames"),
        ("image", lambda it: it + 16, r":3: its image became \d+ codes .* within 0\.\.15"),
        ("speech", lambda it: it - 40, r":2: its speech became \d+ codes .* within 0\.\.31"),
        ("speech", lambda it: it[:0], r":2: its speech became 0 codes"),
    ],
)
def test_what_a_codec_spoils_is_told(
    worker: Worker,
    monkeypatch: pytest.MonkeyPatch,
    codec: str,
    broken: Callable[[Tensor], Tensor],
    told: str,
) -> None:
    kind = type(getattr(worker.codecs, codec))
    name = "encode_batch" if codec == "image" else "encode"
    encode = getattr(kind, name)
    monkeypatch.setattr(kind, name, lambda self, *given: broken(encode(self, *given)))
    with pytest.raises(DataError, match=told):
        worker.run()
    (record,) = replace(worker, most_bad=1).run()
    assert any(re.search(told, line) for line in record.skipped)
    assert record.rows == len(ROWS) - len(record.skipped) > 0


@pytest.mark.parametrize(
    ("shard", "of", "told"),
    [
        (3, 3, "there is no shard 3 of 3; give 0 to 2"),
        (-1, 3, "there is no shard -1 of 3"),
        (None, 8, "8 shards for 7 lines; give 1 to 7"),
        (None, 0, "0 shards for 7 lines; give 1 to 7"),
    ],
)
def test_a_shard_that_cannot_be(worker: Worker, shard: int | None, of: int, told: str) -> None:
    with pytest.raises(DataError, match=re.escape(told)):
        worker.run(shard, of)


def test_other_mistakes(worker: Worker, tmp_path: Path) -> None:
    for changed, told in (
        ({"most_bad": 2}, "most_bad is 2; give a share"),
        ({"batch": 0}, "batch is 0; give 1 or more"),
        ({"workers": -1}, "workers is -1; give 1 or more"),
    ):
        with pytest.raises(DataError, match=told):
            replace(worker, **changed)
    with pytest.raises(DataError, match=r"cannot read .*none"):
        replace(worker, manifest=tmp_path / "none").run()
    with pytest.raises(DataError, match="is empty; add samples"):
        replace(worker, manifest=write(tmp_path / "empty.jsonl")).run()
    with pytest.raises(StorageError, match="cannot create"):
        replace(worker, out=worker.manifest).run()


# ------------------------------------------------------------------------------------ broken disk
def test_a_shard_that_is_cut_off_anywhere_is_one_line_and_made_anew(worker: Worker) -> None:
    first = worker.run(of=2)
    path = worker.out / name_of(1, 2)
    whole = path.read_bytes()
    footer = len(whole) - 8 - int.from_bytes(whole[-8:-4], "little")  # of its first byte
    steps = range(0, len(whole), len(whole) // 16)
    ends = (0, 1, 3, 4, 5, footer - 1, footer, footer + 1, len(whole) - 8)
    for length in sorted({*steps, *ends, *range(len(whole) - 5, len(whole))}):
        path.write_bytes(whole[:length])
        told_as_broken(worker, path)
        assert shard_store.record_at(path) is None
    assert worker.run(of=2) == first
    assert path.read_bytes() == whole


def test_a_damaged_shard_is_one_line(worker: Worker) -> None:
    worker.run(of=2)
    path = worker.out / name_of(1, 2)
    whole = path.read_bytes()
    path.write_bytes(whole[:200] + b"\xff" * 64 + whole[264:])
    told_as_broken(worker, path)
    footer = len(whole) - 8 - int.from_bytes(whole[-8:-4], "little")
    for name in (b"messages", b"role"):  # a column's name in the footer, which has no checksum
        at = whole.index(name, footer)
        for letter in (b"\xff", b"_"):
            path.write_bytes(whole[:at] + letter + whole[at + 1 :])
            told_as_broken(worker, path)
    path.unlink()
    with pytest.raises(DataError, match=f"cannot read {path}"):
        Shards(worker.out).by_task()


def told_as_broken(worker: Worker, path: Path) -> None:
    found = Shards(worker.out)
    assert found[0].line == 1
    with pytest.raises(DataError) as caught:
        found[5]
    (told,) = str(caught.value).splitlines()
    assert told.startswith(f"cannot read {path} (")
    assert told.endswith("delete it and run data pretokenize again")


def test_a_shard_of_another_index_is_told(worker: Worker) -> None:
    worker.run(of=2)
    shutil.copy(worker.out / name_of(0, 2), worker.out / name_of(1, 2))
    with pytest.raises(DataError, match="has 4 rows, the index says 3"):
        Shards(worker.out)[5]


def test_a_shard_without_rows_is_passed_over(worker: Worker) -> None:
    rows = [ROWS[5], row("<|image|>", "a dog", images=["none.png"]), ROWS[6]]
    write(worker.manifest, *rows)
    replace(worker, most_bad=1).run(of=3)
    found = Shards(worker.out)
    assert [record.rows for record in found.index.shards] == [1, 0, 1]
    assert [found[0].line, found[1].line] == [1, 3]
    assert found.by_task()["chat"].tolist() == [0, 1]


def test_a_folder_without_rows_is_refused(worker: Worker) -> None:
    write(worker.manifest, row("<|image|>", "a dog", images=["none.png"]))
    replace(worker, most_bad=1).run()
    with pytest.raises(DataError, match="holds no samples; all 1 lines were left out"):
        Shards(worker.out)


def test_rows_are_numbered_from_0(worker: Worker) -> None:
    worker.run()
    found = Shards(worker.out)
    for number in (-1, 7):
        with pytest.raises(IndexError):
            found[number]
