"""Which written samples are spoken, and why others are rejected."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from tests.data.sdvi.written_manifests import caption, vqa, written
from tests.tiny import checkers

from omni_diffusion.data.sdvi.sources import Rejected, Sources, WrittenSample
from omni_diffusion.errors import DataError


def texts(folder: Path, rows: list[dict[str, Any]], **more: Any) -> list[str]:
    """Question and answer of each sample, or the reason of its rejection."""
    found = Sources(written(folder, "vqa.jsonl", rows), **more).samples()
    return [f"{x.question} {x.answer}" if isinstance(x, WrittenSample) else x.reason for x in found]


def test_a_question_and_a_caption(tmp_path: Path) -> None:
    asked = written(tmp_path, "vqa.jsonl", [vqa("What is it?\nA. a dog\nB. a boat", "B", name="q")])
    drawn = written(tmp_path, "t2i.jsonl", [caption("a red boat", name="c")])
    question, drawing = Sources(asked, drawn).samples()
    assert isinstance(question, WrittenSample)
    assert isinstance(drawing, WrittenSample)
    assert (question.name, question.question, question.answer) == (
        "svqa-q-1",
        "What is it?",
        "a boat",
    )
    assert (drawing.name, drawing.question, drawing.answer) == ("s2i-c", "a red boat", None)
    assert question.picture == drawing.picture == tmp_path / "boat.png"


def test_a_picture_may_come_before_its_question(tmp_path: Path) -> None:
    row = vqa("What is it?", "A boat.")
    row["messages"][0]["content"] = "<|image|>\nWhat is it?"
    assert texts(tmp_path, [row]) == ["What is it? A boat."]


def test_rejected_questions(tmp_path: Path) -> None:
    checkers(8).write(tmp_path / "small.png")
    (tmp_path / "broken.png").write_bytes(b"nothing")
    blind, two, system, drawing = (vqa("What?", "A boat.") for _ in range(4))
    blind["messages"][0]["content"], blind["images"] = "What?", []
    two["messages"][0]["content"], two["images"] = "<|image|><|image|>What?", ["boat.png"] * 2
    system["messages"].insert(0, {"role": "system", "content": "Be brief."})
    drawing["messages"] = [
        {"role": "user", "content": "A boat?"},
        {"role": "assistant", "content": "<|image|>"},
    ]
    assert texts(
        tmp_path,
        [
            vqa("Solve for y in the picture.", "2"),
            vqa("What?", "word " * 101),
            vqa("?!", "A boat."),
            vqa("What?", "A boat.", "missing.png"),
            vqa("What?", "A boat.", "broken.png"),
            vqa("What?", "A boat.", "small.png"),
            blind,
            two,
            system,
            drawing,
        ],
    ) == [
        "mathematics",
        "the answer has more than 100 words",
        "there are no words to say",
        "the picture cannot be read",
        "the picture cannot be read",
        "the picture is too small",
        "not one picture, in the first question",
        "not one picture, in the first question",
        "it has a system message",
        "not one picture, in the first question",
    ]


def test_rejected_captions(tmp_path: Path) -> None:
    rows = [caption("word " * 101), caption("..."), vqa("What?", "A boat.")]
    rows.append(caption("a boat", "missing.png"))
    found = list(Sources(None, written(tmp_path, "t2i.jsonl", rows)).samples())
    assert [each.reason for each in found if isinstance(each, Rejected)] == [
        "the caption has more than 100 words",
        "there are no words to say",
        "no caption with its picture",
        "the picture cannot be read",
    ]


def test_later_turns_are_used_on_request(tmp_path: Path) -> None:
    row = vqa("What is it?", "A boat.", name="q")
    row["messages"] += [
        {"role": "user", "content": "What color?"},
        {"role": "assistant", "content": "Red."},
    ]
    assert texts(tmp_path, [row]) == ["What is it? A boat.", "a later turn"]
    assert texts(tmp_path, [row], later_turns=True) == ["What is it? A boat.", "What color? Red."]


def test_names_do_not_depend_on_the_order_and_are_unique(tmp_path: Path) -> None:
    rows = [vqa("What?", "A boat."), vqa("Who?", "A dog."), vqa("Why?", "So.", name="q")]

    def names(rows: list[dict[str, Any]]) -> list[str]:
        return [each.name for each in Sources(written(tmp_path, "v.jsonl", rows)).samples()]

    assert sorted(names(rows)) == sorted(names(rows[::-1]))
    twice = names([*rows, rows[0], rows[2]])
    assert len(set(twice)) == 5
    assert twice[:3] == names(rows)


def test_a_broken_line_is_an_error_that_names_it(tmp_path: Path) -> None:
    path = written(tmp_path, "vqa.jsonl", [vqa("What?", "A boat."), {"messages": []}])
    with pytest.raises(DataError, match=r"vqa\.jsonl:2: 'messages' is empty"):
        list(Sources(path).samples())
