"""A manifest becomes shards once, whoever makes them; what is laid from them is the same."""

from __future__ import annotations

import json
import os
import re
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from tests.data.test_exercises import row
from tests.tiny import checkers, tiny_model, tone
from torch import Tensor

from omni_diffusion.codecs.magvit2 import Magvit2
from omni_diffusion.data import exercises, manifest, shards
from omni_diffusion.data.sharding import Worker, codecs_digest
from omni_diffusion.data.shards import INDEX, Shards, name_of
from omni_diffusion.errors import DataError, StorageError
from omni_diffusion.model import OmniModel

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
    """How many pictures were encoded, counted as they are."""
    seen: list[int] = []
    encode = Magvit2.encode

    def counting(self: Magvit2, *given: Any) -> Tensor:
        seen.append(1)
        return encode(self, *given)

    monkeypatch.setattr(Magvit2, "encode", counting)
    return seen


def touch(path: Path) -> None:
    """Change a file's time as a write at another moment would."""
    stat = path.stat()
    os.utime(path, ns=(stat.st_atime_ns, stat.st_mtime_ns + 1_000_000))


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
        theirs = exercises.exercises(sample, model)
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
    worker.run(of=7)

    def stale() -> list[int]:
        before = [shards.record_at(worker.out / name_of(number, 7)) for number in range(7)]
        after = worker.run(of=7)
        return [number for number in range(7) if before[number] != after[number]]

    assert stale() == []
    touch(worker.manifest.parent / "b.wav")
    assert stale() == [1, 4]
    write(worker.manifest, *ROWS[:5], row("hello", "hello"), ROWS[6])
    assert stale() == [5]
    (worker.out / name_of(3, 7)).write_bytes(b"PAR1 and no more")
    assert stale() == [3]
    assert len(Shards(worker.out)) == 7


def test_another_codec_makes_all_anew(worker: Worker) -> None:
    first = worker.run(of=2)
    other = replace(worker, codecs=tiny_model(seed=1).codecs)
    assert codecs_digest(other.codecs) != codecs_digest(worker.codecs)
    assert codecs_digest(tiny_model().codecs) == codecs_digest(worker.codecs)
    assert all(old.digest != new.digest for old, new in zip(first, other.run(of=2), strict=True))


def test_there_is_no_index_while_a_shard_is_stale(worker: Worker) -> None:
    worker.run(of=2)
    touch(worker.manifest.parent / "c.png")  # lines 3 and 5, of the first shard, and 4
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
        patched.setattr(Magvit2, "encode", interrupted)
        with pytest.raises(KeyboardInterrupt):
            worker.run()
    assert list(worker.out.iterdir()) == []
    worker.run()
    assert len(Shards(worker.out)) == len(ROWS)


# -------------------------------------------------------------------------------------- bad lines
def test_broken_lines_are_left_out_and_told(worker: Worker) -> None:
    folder = worker.manifest.parent
    (folder / "broken.png").write_bytes((folder / "c.png").read_bytes()[:90])
    bad = [
        row("<|image|>", "a dog", images=["broken.png"]),
        row("<|audio|>", "a dog", audios=["none.wav"]),
        row("<|image|>", "a dog"),
    ]
    write(folder / "train.jsonl", *ROWS[:3], *bad, *ROWS[3:])
    (record,) = replace(worker, most_bad=0.3).run()
    assert record.rows == len(ROWS)
    assert [line.partition(": ")[0] for line in record.skipped] == [
        f"{worker.manifest}:{number}" for number in (4, 5, 6)
    ]
    assert lines(worker.out) == [1, 2, 3, 7, 8, 9, 10]
    assert Shards(worker.out).index.shards[0].skipped == record.skipped
    with pytest.raises(DataError) as caught:
        replace(worker, out=worker.out / "strict", most_bad=0.2).run()
    (told,) = str(caught.value).splitlines()
    assert told.startswith("shard-00000-of-00001.parquet: 3 of 10 lines are broken, at most 0.2")
    assert "raise --most-bad" in told
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
    encode = kind.encode
    monkeypatch.setattr(kind, "encode", lambda self, *given: broken(encode(self, *given)))
    with pytest.raises(DataError, match=told):
        worker.run()


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
    with pytest.raises(DataError, match=r"most_bad is 2; give a share"):
        replace(worker, most_bad=2)
    with pytest.raises(DataError, match=r"cannot read .*none"):
        replace(worker, manifest=tmp_path / "none").run()
    with pytest.raises(DataError, match="is empty; add samples"):
        replace(worker, manifest=write(tmp_path / "empty.jsonl")).run()
    with pytest.raises(StorageError, match="cannot create"):
        replace(worker, out=worker.manifest).run()


# ------------------------------------------------------------------------------------ broken disk
def test_a_broken_shard_is_one_line_with_the_fix(worker: Worker) -> None:
    worker.run(of=2)
    path = worker.out / name_of(1, 2)
    whole = path.read_bytes()
    for data in (whole[: len(whole) // 2], b"", whole[:200] + b"\xff" * 64 + whole[264:]):
        path.write_bytes(data)
        found = Shards(worker.out)
        assert found[0].line == 1
        with pytest.raises(DataError) as caught:
            found[5]
        (told,) = str(caught.value).splitlines()
        assert told.startswith(f"cannot read {path} (")
        assert told.endswith("run data pretokenize again, which makes this shard anew")
    path.unlink()
    with pytest.raises(DataError, match=f"cannot read {path}"):
        Shards(worker.out).by_task()


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
