"""Parsing of manifest lines: samples keep every word, broken lines are located and explained."""

from __future__ import annotations

import json
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.data.manifest_files import CORRECTED, PUBLISHED, S2I
from tests.tiny import checkers, tone

from omni_diffusion.conversation import Image, Message, Speech, Text
from omni_diffusion.data import manifest
from omni_diffusion.data.manifest import LineIndex, MediaFile, SourceLine
from omni_diffusion.errors import DataError
from omni_diffusion.tasks.prompts import TaggedMessage, detect_task

HERE = SourceLine(Path("set/train.jsonl"), 7)


def row(**changes: Any) -> dict[str, Any]:
    """A valid row, with changes."""
    messages = [
        {"role": "user", "content": "<|audio|> and <|image|>"},
        {"role": "assistant", "content": "both"},
    ]
    return {"messages": messages, "audios": ["a.wav"], "images": ["b.png"], **changes}


def problems_of(line: str | bytes | dict[str, Any]) -> list[str]:
    """The problem messages of a line."""
    text = json.dumps(line) if isinstance(line, dict) else line
    sample, problems = manifest.parse_line(text if isinstance(text, bytes) else text.encode(), HERE)
    assert (sample is None) == any(not problem.warning for problem in problems)
    assert all(problem.source == HERE and "\n" not in str(problem) for problem in problems)
    return [problem.message for problem in problems]


# ------------------------------------------------------------------------------ the published form
@pytest.mark.parametrize("name", PUBLISHED)
def test_published_samples_are_read_word_for_word(name: str) -> None:
    sample, problems = manifest.parse_line(CORRECTED[name].encode(), HERE)
    assert problems == []
    assert sample is not None
    given = json.loads(CORRECTED[name])
    assert [{"content": e.content, "role": e.role} for e in sample.messages] == given["messages"]
    paths = [str(medium.path.relative_to("set")) for medium in sample.media]
    assert sorted(paths) == sorted(given.get("audios", []) + given.get("images", []))
    detected = detect_task(sample.messages)
    assert detected is not None
    assert detected.task.name == name


def test_mistakes_in_published_samples_are_located() -> None:
    column = S2I.replace("\n", "").index("} {") + 3
    assert problems_of(PUBLISHED["s2i"]) == [
        f"invalid JSON: a comma is missing before column {column}, at '}} {{'; add it"
    ]
    once = PUBLISHED["svqa"].replace("} {", "}, {")
    column = once.index(",]") + 1
    assert problems_of(once) == [f"invalid JSON: an extra comma at column {column}; remove it"]


def test_media_follow_their_tags_across_messages() -> None:
    sample, _ = manifest.parse_line(CORRECTED["svqa"].encode(), HERE)
    assert sample is not None
    _, user, assistant = sample.messages
    asked = MediaFile("speech", Path("set/8_q.wav"))
    assert user.parts == (asked, Text("\n"), MediaFile("image", Path("set/c6.png")))
    said = MediaFile("speech", Path("set/8_a.wav"))
    assert assistant.parts == (Text("He is angling himself.\n"), said)


# --------------------------------------------------------------------------------------- our form
def test_paths_are_relative_to_the_manifest_or_to_a_root() -> None:
    line = json.dumps(row(images=["/data/b.png"])).encode()
    sample, _ = manifest.parse_line(line, HERE)
    assert sample is not None
    assert [m.path for m in sample.media] == [Path("set/a.wav"), Path("/data/b.png")]
    sample, _ = manifest.parse_line(line, HERE, "/corpus")
    assert sample is not None
    assert sample.media[0].path == Path("/corpus/a.wav")


def test_a_section_of_a_recording_and_a_name() -> None:
    section = {"path": "podcast.opus", "start": 1, "stop": 2.5}
    sample, problems = manifest.parse_line(
        json.dumps(row(audios=[section], id="pod-1")).encode(), HERE
    )
    assert problems == []
    assert sample is not None
    assert sample.name == "pod-1"
    assert sample.media[0] == MediaFile("speech", Path("set/podcast.opus"), (1.0, 2.5))


def test_null_and_empty_values_count_as_missing() -> None:
    asked = {"role": "user", "content": "hello"}
    messages = [asked, {"role": "assistant", "content": "hi"}]
    assert problems_of({"messages": messages, "audios": None, "images": [], "id": None}) == []


# ---------------------------------------------------------------------------------------- reading
@pytest.fixture
def corpus(tmp_path: Path) -> Path:
    tone(2.0).write(tmp_path / "a.wav")
    checkers().write(tmp_path / "b.png")
    path = tmp_path / "train.jsonl"
    section = {"path": "a.wav", "start": 0.5, "stop": 1.0}
    rows = [row(), row(audios=[section]), row(images=["none.png"])]
    path.write_text("".join(json.dumps(each) + "\n" for each in rows), encoding="utf-8")
    return path


def test_conversations_have_their_media(corpus: Path) -> None:
    whole, part = (sample.conversation() for sample in islice(manifest.read_samples(corpus), 2))
    (heard, words, seen), (answer,) = whole[0].parts, whole[1].parts
    assert [message.role for message in whole] == ["user", "assistant"]
    assert isinstance(heard, Speech)
    assert isinstance(seen, Image)
    assert (words, answer) == (Text(" and "), Text("both"))
    assert torch.equal(seen.picture.pixels, checkers().pixels)
    cut = part[0].parts[0]
    assert isinstance(cut, Speech)
    assert torch.equal(cut.waveform.samples, heard.waveform.samples[:, 8_000:16_000])


def test_a_missing_file_names_its_line(corpus: Path) -> None:
    with pytest.raises(DataError, match=r"train\.jsonl:3: cannot read .*none\.png"):
        [sample.conversation() for sample in manifest.read_samples(corpus)]


def test_lines_are_read_lazily(monkeypatch: pytest.MonkeyPatch) -> None:
    def endless(_: Path) -> Iterator[tuple[SourceLine, bytes]]:
        yield HERE, json.dumps(row()).encode()
        raise AssertionError("read on")

    monkeypatch.setattr(manifest, "read_lines", endless)
    first = next(manifest.read_samples("endless.jsonl"))
    assert first.messages[1] == TaggedMessage("assistant", "both")


@pytest.mark.parametrize("data", [b"", b"a", b"a\n", b"a\nb", b"\n\n\r\nlong " + b"x" * 99_999])
def test_a_line_index_gives_any_line_unchanged(tmp_path: Path, data: bytes) -> None:
    path = tmp_path / "train.jsonl"
    path.write_bytes(data)
    table = LineIndex(path)
    lines = list(manifest.read_lines(path))
    assert len(table) == len(lines)
    assert list(table.lines(range(len(table)))) == lines
    for number in reversed(range(len(table))):
        assert list(table.lines([number])) == [lines[number]]


def test_a_line_index_of_a_changed_file_is_an_error(tmp_path: Path) -> None:
    path = tmp_path / "train.jsonl"
    path.write_bytes(b"a\nb\n")
    table = LineIndex(path)
    path.write_bytes(b"a\nb\nc\n")
    with pytest.raises(DataError, match=r"train\.jsonl changed while .*; run again"):
        list(table.lines([1]))
    with pytest.raises(DataError, match="cannot read"):
        LineIndex(tmp_path / "none.jsonl")


def test_a_bad_line_ends_the_iteration_and_is_named(tmp_path: Path) -> None:
    path = tmp_path / "train.jsonl"
    path.write_text(json.dumps(row()) + "\n\n" + json.dumps(row()), encoding="utf-8")
    detected = manifest.read_samples(path)
    next(detected)
    with pytest.raises(DataError, match=r"train\.jsonl:2: the line is empty; remove it"):
        next(detected)
    with pytest.raises(DataError, match=r"cannot read .*gone\.jsonl"):
        next(manifest.read_samples(tmp_path / "gone.jsonl"))


# ---------------------------------------------------------------------------------------- mistakes
def question_row(content: Any, role: Any = "user") -> dict[str, Any]:
    return row(
        messages=[{"role": role, "content": content}, {"role": "assistant", "content": "yes"}]
    )


def roles(*names: str) -> dict[str, Any]:
    return {"messages": [{"role": name, "content": "words"} for name in names]}


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("", "the line is empty; remove it"),
        ("{", "the line ends before its sample does"),
        ("[1, 2]", "the line is a list; give an object with 'messages'"),
        ('{"messages": 1, "messages": 2}', "duplicate key 'messages'"),
        (b'{"id": "\xff"}', "byte 9 is not UTF-8"),
        ("[" * 100_000, "nested too deeply"),
        ({}, "'messages' is missing"),
        (row(messages=[]), "'messages' is empty"),
        (row(audio=["a.wav"]), "unknown key 'audio'; did you mean 'audios'?"),
        (row(videos=[]), "unknown key 'videos'"),
        (row(id=7), "'id' is a number; give text"),
        (row(audios="a.wav"), "'audios' is text; give a list of paths"),
        (row(audios=[None]), "audios[0] is None; give the path"),
        (row(images=[{"path": "b.png"}]), "images[0] is {'path': 'b.png'}; give the path"),
        (row(audios=[]), "hold <|audio|> 1 times, 'audios' has 0 paths"),
        (row(images=["b.png", "c.png"]), "hold <|image|> 1 times, 'images' has 2 paths"),
        (row(audios=[{"path": "a", "start": 2, "stop": 2}]), "audios[0] goes from 2 to 2"),
        (row(audios=[{"path": "a", "start": "0"}]), "audios[0] goes from '0' to None"),
        (row(audios=[{"start": 0, "stop": 1}]), "audios[0] is None; give the path"),
        (row(messages=["hello"]), "message 1 is text; give an object"),
        (question_row(["hello"]), "content of message 1 is a list; give text"),
        (question_row("<|audio|><|image|>", "human"), "role 'human'; give 'user'"),
        (
            question_row("<|audio|><|image|>", "tool"),
            "role 'tool'; give one of system, user, assistant",
        ),
        (roles("user", "user", "assistant"), "roles are user, user, assistant; alternate user and"),
        (roles("user"), "end with the assistant"),
        (roles("assistant", "user"), "roles are assistant, user"),
        (roles("user", "system", "assistant"), "roles are user, system, assistant"),
        (roles("system"), "roles are system"),
        (question_row(" \n"), "message 1 (user) is empty"),
        (question_row("\ud800 <|audio|><|image|>"), "a lone surrogate"),
    ],
)
def test_each_mistake_says_what_was_expected(line: str | dict[str, Any], message: str) -> None:
    assert any(message in problem for problem in problems_of(line)), problems_of(line)


def test_an_empty_answer_and_a_tag_for_the_system() -> None:
    messages = [
        {"role": "system", "content": "Look: <|image|>"},
        {"role": "user", "content": "<|audio|>"},
        {"role": "assistant", "content": " "},
    ]
    assert problems_of(row(messages=messages)) == [
        "message 1 (system) holds a tag; move it to the user's message",
        "message 3 (assistant) is empty; give text or a tag, or remove the line",
    ]


def test_all_problems_of_a_line_are_reported_at_once() -> None:
    bad = question_row("", "human") | {"extra": 1}
    assert len(problems_of(bad)) == 5  # the key, the role, the words, and no tag for either medium


@pytest.mark.parametrize("tag", ["<image>", "<|video|>", "<audio>"])
def test_text_that_looks_like_a_tag_is_a_warning(tag: str) -> None:
    sample, (problem,) = manifest.parse_line(
        json.dumps(question_row(f"{tag} <|audio|><|image|>")).encode(), HERE
    )
    assert sample is not None
    assert str(problem).startswith(f"set/train.jsonl:7: warning: message 1 (user) holds {tag}")


VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(st.sampled_from(["role", "content", "path", "start", "stop"]), inner)
    ),
    max_leaves=8,
)
MESSAGE = st.fixed_dictionaries(
    {
        "role": st.sampled_from(["user", "assistant", "system"]) | VALUES,
        "content": st.sampled_from(["<|audio|>", "hello", ""]) | VALUES,
    }
)
ROW = st.dictionaries(
    st.sampled_from(["messages", "audios", "images", "id"]),
    st.lists(MESSAGE, max_size=3) | st.lists(st.just("a.wav"), max_size=2) | VALUES,
)


@settings(max_examples=150, deadline=None)
@given(VALUES | ROW)
def test_any_value_is_a_sample_or_a_problem(value: Any) -> None:
    sample, problems = manifest.parse_line(json.dumps(value).encode(), HERE)
    assert (sample is None) == any(not problem.warning for problem in problems)
    if sample is not None:
        joined = [each.content for each in sample.messages]
        assert sum(content.count("<|audio|>") for content in joined) == len(sample.media)


@settings(max_examples=150, deadline=None)
@given(st.binary(max_size=40))
def test_any_bytes_are_a_problem(line: bytes) -> None:
    sample, problems = manifest.parse_line(line, HERE)
    assert sample is None
    assert len(problems) == 1 or "missing" in problems[0].message


def test_conversations_are_messages() -> None:
    sample, _ = manifest.parse_line(json.dumps(roles("user", "assistant")).encode(), HERE)
    assert sample is not None
    assert sample.conversation() == (
        Message("user", (Text("words"),)),
        Message("assistant", (Text("words"),)),
    )


@pytest.mark.parametrize(
    "number", ["9" * 400, "-" + "9" * 400, "1e999", "1e300", "NaN", "9" * 5000]
)
def test_a_huge_number_is_an_error_of_its_line(tmp_path: Path, number: str) -> None:
    section = '{"path": "a.wav", "start": 0, "stop": ' + number + "}"
    messages = json.dumps(row()["messages"]).replace(" and <|image|>", "")
    bad = '{"messages": ' + messages + ', "audios": [' + section + "]}"
    good = bad.replace(number, "1.5")
    path = tmp_path / "m.jsonl"
    path.write_text("\ufeff" + "\r\n".join([good, bad, "\ufeff" + good]) + "\n", encoding="utf-8")
    parsed = [manifest.parse_line(line, source) for source, line in manifest.read_lines(path)]
    assert [bool(problems) for _, problems in parsed] == [False, True, False]
    assert [sample and sample.media[0].section for sample, _ in parsed] == [
        (0, 1.5),
        None,
        (0, 1.5),
    ]
    (problem,) = parsed[1][1]
    assert problem.source.line == 2
    assert "goes from 0 to" in problem.message or "more than 4,300 digits" in problem.message


def test_separators_of_other_kinds_stay_in_a_line(tmp_path: Path) -> None:
    words = "a\u2028b\u2029c\x85d"
    rows = [
        {"messages": [{"role": "user", "content": words}, {"role": "assistant", "content": "x"}]}
    ]
    path = tmp_path / "m.jsonl"
    path.write_text(
        "\n".join(json.dumps(r, ensure_ascii=False) for r in rows * 2), encoding="utf-8"
    )
    assert len(manifest.LineIndex(path)) == 2
    contents = [s.messages[0].content for s in manifest.read_samples(path)]
    assert contents == [words] * 2


@pytest.mark.parametrize("blank", ["", " \t", "\u3000", "\u200b\ufeff", "\x00"])
def test_a_content_of_blanks_is_empty(blank: str) -> None:
    assert manifest.is_blank(blank)
    assert not manifest.is_blank(blank + "!")
