"""Groups drawn from shards: shares, order, processes, bad samples."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from tests.data.manifest_files import row
from tests.tiny import checkers, tiny_model, tone

from omni_diffusion.canvas import Canvas
from omni_diffusion.data.mixture import TaskShare
from omni_diffusion.data.pretokenize import Pretokenizer
from omni_diffusion.data.shard_mixture import ShardMixture, shares_of
from omni_diffusion.data.shard_store import Shards
from omni_diffusion.errors import DataError
from omni_diffusion.models.omni import OmniModel

pq = pytest.importorskip("pyarrow.parquet")

SHARES = (TaskShare("asr", 4), TaskShare("t2i", 2, 0.5), TaskShare("chat", 6))


@pytest.fixture(scope="module")
def model() -> OmniModel:
    return tiny_model()


@pytest.fixture(scope="module")
def shards(model: OmniModel, tmp_path_factory: pytest.TempPathFactory) -> Shards:
    """7 samples of asr, 3 of t2i, 10 of chat, of which one has two answers."""
    folder = tmp_path_factory.mktemp("shards")
    tone(0.5).write(folder / "a.wav")
    checkers(20).write(folder / "c.png")
    hear = "Convert the speech to text.\n<|audio|>"
    paint = "Generate an image based on the provided text description.\ndog"
    rows = [row(hear, f"dog {n}", audios=["a.wav"]) for n in range(7)]
    rows += [row(f"{paint} {n}", "<|image|>", images=["c.png"]) for n in "abc"]
    rows += [row(f"word {n}", f"word {n} " * (n + 1)) for n in range(9)]
    rows.append(row("one", "two", "three", "four"))
    path = folder / "train.jsonl"
    path.write_text("".join(json.dumps(each) + "\n" for each in rows))
    Pretokenizer(path, folder / "out", model.codecs).run(of=3)
    return Shards(folder / "out")


def mixture(model: OmniModel, shards: Shards, *shares: TaskShare, **options: Any) -> ShardMixture:
    text = model.codecs.text
    return ShardMixture(shares or SHARES, shards, model.vocabulary, text, **options)


def drawn(mix: ShardMixture, step: int) -> dict[str, list[list[int]]]:
    groups = mix.draw(step, torch.Generator().manual_seed(step))
    return {group.name: [canvas.ids.tolist() for canvas in group.canvases] for group in groups}


def answer_text(model: OmniModel, canvas: Canvas) -> str:
    ids = canvas.ids[slice(*canvas.answer)]
    words = ids[ids < model.vocabulary.text.stop]
    return model.codecs.text.decode(words).strip()


def test_groups_follow_the_shares(model: OmniModel, shards: Shards) -> None:
    groups = mixture(model, shards, SHARES[0], SHARES[1]).draw(0, torch.Generator())
    assert [(g.name, g.weight, len(g.canvases)) for g in groups] == [
        ("asr", 1.0, 4),
        ("t2i", 0.5, 2),
    ]
    assert all(canvas.blanks == 0 for group in groups for canvas in group.canvases)
    assert all(len(canvas.slots) == 1 for canvas in groups[0].canvases)


def test_every_sample_comes_once_an_epoch(model: OmniModel, shards: Shards) -> None:
    mix = mixture(model, shards, TaskShare("asr", 7))
    for step in range(3):
        (group,) = mix.draw(step, torch.Generator())
        answers = sorted(answer_text(model, canvas) for canvas in group.canvases)
        assert answers == [f"dog {n}" for n in range(7)]


def test_each_answer_of_a_sample_is_a_canvas(model: OmniModel, shards: Shards) -> None:
    (group,) = mixture(model, shards, TaskShare("chat", 10)).draw(0, torch.Generator())
    answers = [answer_text(model, canvas) for canvas in group.canvases]
    assert len(answers) == 11
    assert {"two", "four"} <= set(answers)


def test_a_step_does_not_depend_on_what_was_drawn_before(model: OmniModel, shards: Shards) -> None:
    mix = mixture(model, shards)
    through = [drawn(mix, step) for step in range(5)]
    again = mixture(model, shards)
    assert [drawn(again, step) for step in (3, 1)] == [through[3], through[1]]
    assert drawn(mixture(model, shards, seed=1), 3) != through[3]


@pytest.mark.parametrize("ranks", [2, 6])
def test_ranks_together_draw_the_samples_of_one_process(
    model: OmniModel, shards: Shards, ranks: int
) -> None:
    shares = (TaskShare("asr", 6), TaskShare("t2i", 6))
    for step in (0, 4):
        alone = drawn(mixture(model, shards, *shares), step)
        parts = [
            drawn(mixture(model, shards, *shares, rank=rank, ranks=ranks), step)
            for rank in range(ranks)
        ]
        for name, canvases in alone.items():
            joined = [ids for part in parts for ids in part[name]]
            assert sorted(joined) == sorted(canvases)
        sizes = [sum(map(len, part.values())) for part in parts]
        assert set(sizes) == {12 // ranks}


def test_tails_and_null_prompts_vary(model: OmniModel, shards: Shards) -> None:
    mix = mixture(model, shards, TaskShare("asr", 7), TaskShare("t2i", 3), tail=5, null=0.5)
    tails, prompts = set[int](), set[int]()
    for step in range(20):
        heard, painted = mix.draw(step, torch.Generator().manual_seed(step))
        tails |= {int((canvas.ids == model.vocabulary.pad).sum()) for canvas in heard.canvases}
        prompts |= {canvas.answer[0] for canvas in painted.canvases}
        assert not any((canvas.ids == model.vocabulary.pad).any() for canvas in painted.canvases)
    assert tails == {1, 2, 3, 4, 5}
    assert len(prompts) > 1


def test_a_tail_never_makes_a_sample_too_long(model: OmniModel, shards: Shards) -> None:
    mix = mixture(model, shards, TaskShare("asr", 7), tail=1)
    most = max(canvas.length for canvas in mix.draw(0, torch.Generator())[0].canvases)
    tight = mixture(model, shards, TaskShare("asr", 7), tail=9, max_length=most - 1)
    for step in range(4):
        (group,) = tight.draw(step, torch.Generator().manual_seed(step))
        assert len(group.canvases) == 7
        assert all(canvas.length < most for canvas in group.canvases)


def test_a_sample_that_is_too_long_names_its_line(model: OmniModel, shards: Shards) -> None:
    mix = mixture(model, shards, TaskShare("chat", 10), tail=1)
    lengths = sorted(canvas.length for canvas in mix.draw(0, torch.Generator())[0].canvases)
    most = lengths[-3]
    skipped: list[str] = []
    short = mixture(
        model, shards, TaskShare("chat", 10), tail=1, max_length=most, on_bad_sample=skipped.append
    )
    (group,) = short.draw(0, torch.Generator())
    assert sorted(canvas.length for canvas in group.canvases) == lengths[:-2]
    assert sorted(line.partition(": ")[0] for line in skipped) == [
        f"{shards.manifest}:{number}" for number in (18, 19)
    ]
    assert f"more than {most}; shorten or split it" in skipped[0]
    with pytest.raises(DataError, match=f"more than {most}"):
        mixture(model, shards, TaskShare("chat", 10), max_length=most).draw(0, torch.Generator())


def test_few_bad_samples_are_skipped_and_many_stop_the_run(
    model: OmniModel, shards: Shards
) -> None:
    skipped: list[str] = []
    most = sorted(
        c.length
        for c in mixture(model, shards, TaskShare("chat", 10), tail=1)
        .draw(0, torch.Generator())[0]
        .canvases
    )[-3]
    mix = mixture(
        model, shards, TaskShare("chat", 10), tail=1, max_length=most, on_bad_sample=skipped.append
    )
    for step in range(5):
        mix.draw(step, torch.Generator())
    assert (mix.drawn, mix.bad, len(skipped)) == (50, 10, 10)
    with pytest.raises(
        DataError,
        match=r"11 of the \d\d samples drawn so far are bad, more than the fraction 0\.01",
    ):
        mix.draw(5, torch.Generator())
    patient = mixture(
        model,
        shards,
        TaskShare("chat", 10),
        max_length=most,
        max_bad_fraction=0.5,
        on_bad_sample=skipped.append,
    )
    for step in range(8):
        patient.draw(step, torch.Generator())
    assert patient.bad > 10


def test_samples_of_a_damaged_shard_are_skipped_and_counted(
    model: OmniModel, shards: Shards, tmp_path: Path
) -> None:
    folder = tmp_path / "out"
    shutil.copytree(shards.folder, folder)
    broken = folder / shards.index.shards[1].file
    group = pq.ParquetFile(broken).metadata.row_group(0)
    (at,) = (
        group.column(i).dictionary_page_offset or group.column(i).data_page_offset
        for i in range(group.num_columns)
        if group.column(i).path_in_schema.endswith("content")
    )
    spoilt = bytearray(broken.read_bytes())
    spoilt[at + 30] ^= 255
    broken.write_bytes(spoilt)
    skipped: list[str] = []
    whole, damaged = (
        mixture(model, each, TaskShare("chat", 10), on_bad_sample=skipped.append)
        for each in (shards, Shards(folder))
    )
    first, second = (
        [canvas.ids.tolist() for canvas in mix.draw(0, torch.Generator())[0].canvases]
        for mix in (whole, damaged)
    )
    assert 0 < len(skipped) == damaged.bad < 10
    assert all(broken.name in line for line in skipped)
    assert [ids for ids in first if ids in second] == second  # the others are as they were
    with pytest.raises(DataError, match=broken.name):
        mixture(model, Shards(folder), TaskShare("chat", 10)).draw(0, torch.Generator())


def test_several_folders_act_as_one(model: OmniModel, shards: Shards, tmp_path: Path) -> None:
    path = tmp_path / "more.jsonl"
    path.write_text("".join(json.dumps(row(f"more {n}", f"again {n}")) + "\n" for n in range(4)))
    Pretokenizer(path, tmp_path / "out", model.codecs).run()
    both = [shards, Shards(tmp_path / "out")]
    (group,) = mixture(model, both, TaskShare("chat", 14)).draw(0, torch.Generator())  # type: ignore[arg-type]
    answers = [answer_text(model, canvas) for canvas in group.canvases]
    assert {f"again {n}" for n in range(4)} | {"two", "four"} <= set(answers)
    assert len(answers) == 15
    assert [(s.task, s.samples) for s in shares_of(both, 24)] == [
        *(("asr", 7), ("chat", 14), ("t2i", 3))
    ]


def test_a_fractional_share_comes_every_few_steps(model: OmniModel, shards: Shards) -> None:
    mix = mixture(model, shards, TaskShare("asr", 2), TaskShare("t2i", 0.25, 0.1))
    sizes = [
        {
            group.name: (len(group.canvases), group.weight)
            for group in mix.draw(n, torch.Generator())
        }
        for n in range(40)
    ]
    assert all(each["asr"] == (2, 1.0) for each in sizes)
    painted = [each["t2i"] for each in sizes if "t2i" in each]
    assert painted == [(1, 0.4)] * 10  # four times its weight in every fourth step


def test_invalid_shares(model: OmniModel, shards: Shards) -> None:
    with pytest.raises(DataError, match="no samples of task 'tts'; give one of asr, chat, t2i"):
        mixture(model, shards, TaskShare("tts", 1))
    with pytest.raises(
        DataError, match="there are samples of asr, chat, t2i, the ratios are of tts"
    ):
        shares_of(shards, 8, {"tts": 1.0})


def test_shares_by_count(shards: Shards) -> None:
    assert [(s.task, s.samples) for s in shares_of(shards, 20)] == [
        *(("asr", 7), ("chat", 10), ("t2i", 3))
    ]
    assert [s.weight for s in shares_of(shards, 20)] == [0.35, 0.5, 0.15]
    mixed = shares_of(shards, 8, {"asr": 3, "t2i": 1, "svqa": 2, "chat": 0})
    assert [(s.task, s.samples, s.weight) for s in mixed] == [("asr", 6, 0.75), ("t2i", 2, 0.25)]
