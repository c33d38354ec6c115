"""Journals that are truncated, written by several processes, or contradict each other."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from tests.tiny import tone

from omni_diffusion.data.sdvi.utterances import Take, TakeStore, take_key
from omni_diffusion.errors import StorageError


def test_each_part_of_a_key_counts() -> None:
    keys = {take_key(*parts) for parts in ("abc", ("ab", "c", ""), ("a", "bc", ""), "acb", "bac")}
    assert len(keys) == 5


def test_a_truncated_line_costs_only_its_own_take(tmp_path: Path) -> None:
    takes = TakeStore(tmp_path, "all")
    takes.add(Take("one", 1.0, heard='a "quoted"\nword'), None)
    takes.add(Take("two", 2.0), None)
    path = tmp_path / "takes" / "all.jsonl"
    path.write_bytes(path.read_bytes()[:-20])
    again = TakeStore(tmp_path, "all")
    assert again.get("one") == Take("one", 1.0, heard='a "quoted"\nword')
    assert again.get("two") is None
    again.add(Take("three"), None)
    assert TakeStore(tmp_path, "other").get("three") == Take("three")


def test_takes_of_other_processes_are_read_and_a_failure_hides_no_success(tmp_path: Path) -> None:
    one, two = TakeStore(tmp_path, "1"), TakeStore(tmp_path, "2")
    one.add(Take("a", 1.0), None)
    two.add(Take("a", failed="out of breath"), None)
    two.add(Take("b", failed="out of breath"), None)
    one.refresh()
    assert one.get("a") == Take("a", 1.0)
    assert one.failures() == {"b"}


def test_sweeping_keeps_used_takes_and_foreign_files(tmp_path: Path) -> None:
    takes = TakeStore(tmp_path, "all")
    for key in ("aa1", "ab2"):
        takes.add(Take(key), tone())
    (tmp_path / "sounds" / "mine.flac").write_bytes(b"mine")
    young, old = (tmp_path / "sounds" / "aa" / f".{name}.partial" for name in ("young", "old"))
    young.write_bytes(b"another worker is at it")
    old.write_bytes(b"left behind")
    os.utime(old, (0, 0))
    assert takes.sweep(["aa1"]) == 2
    assert young.exists()
    assert not old.exists()
    assert [path.name for path in sorted(tmp_path.rglob("*.flac"))] == ["aa1.flac", "mine.flac"]


def test_a_journal_that_cannot_be_written_is_an_error(tmp_path: Path) -> None:
    takes = TakeStore(tmp_path, "all")
    (tmp_path / "takes" / "all.jsonl").mkdir()
    with pytest.raises(StorageError, match=r"cannot write .*all\.jsonl: Is a directory"):
        takes.add(Take("a"), None)
