import errno
import os
import subprocess
import sys
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path

import pytest

from omni_diffusion.errors import OmniError, StorageError
from omni_diffusion.io import files


def test_a_file_arrives_whole_and_alone(tmp_path: Path) -> None:
    files.write_bytes(tmp_path / "a", b"\0one")
    files.write_text(tmp_path / "a", "zwölf\n")
    assert (tmp_path / "a").read_text(encoding="utf-8") == "zwölf\n"
    assert [p.name for p in tmp_path.iterdir()] == ["a"]


def test_rights_follow_the_umask_even_when_a_writer_replaces_the_file(tmp_path: Path) -> None:
    plain = tmp_path / "plain"
    plain.touch()
    with files.atomic_path(tmp_path / "a") as temporary:
        temporary.unlink()
        temporary.touch(mode=0o600)
    assert (tmp_path / "a").stat().st_mode == plain.stat().st_mode


@pytest.mark.parametrize("trouble", [ValueError("no"), KeyboardInterrupt()])
def test_a_failing_body_leaves_the_old_file_and_nothing_else(
    tmp_path: Path, trouble: BaseException
) -> None:
    path = tmp_path / "a"
    path.write_text("old")

    def fail(temporary: Path) -> None:
        temporary.write_text("half")
        raise trouble

    with pytest.raises(type(trouble)), files.atomic_path(path) as temporary:
        fail(temporary)
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize(
    ("code", "fix"),
    [
        (errno.ENOSPC, "free some space"),
        (errno.EACCES, "may write to"),
        (errno.EROFS, "not read-only"),
        (errno.EIO, "another path"),
    ],
)
def test_what_the_system_refuses_is_one_line_with_path_reason_and_fix(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, code: int, fix: str
) -> None:
    def refuse(_: int) -> None:
        raise OSError(code, os.strerror(code))

    path = tmp_path / "a"
    path.write_text("old")
    monkeypatch.setattr(os, "fsync", refuse)
    with pytest.raises(StorageError) as caught:
        files.write_text(path, "new")
    message = str(caught.value)
    assert str(path) in message
    assert os.strerror(code) in message
    assert fix in message
    assert "\n" not in message
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


def test_a_link_stays_and_its_target_is_replaced(tmp_path: Path) -> None:
    (tmp_path / "there").mkdir()
    target, link, chain = tmp_path / "there" / "a", tmp_path / "link", tmp_path / "chain"
    target.write_text("old")
    link.symlink_to(target)
    chain.symlink_to("link")
    for text, path in (("new", link), ("newer", chain)):
        files.write_text(path, text)
        assert (link.is_symlink(), chain.is_symlink(), target.is_symlink()) == (True, True, False)
        assert target.read_text() == text
    target.unlink()
    files.write_text(link, "made")  # a link to nothing yet
    assert target.read_text() == "made"
    assert [path.name for path in (tmp_path / "there").iterdir()] == ["a"]


def test_a_pipe_is_written_to(tmp_path: Path) -> None:
    reading, writing = os.pipe()
    files.check_writable(Path(f"/dev/fd/{writing}"))
    files.write_text(Path(f"/dev/fd/{writing}"), "words")
    os.close(writing)
    with os.fdopen(reading) as pipe:
        assert pipe.read() == "words"
    files.write_text(Path("/dev/null"), "words")
    assert not Path("/dev/null").is_file()


def test_names_that_the_system_refuses_are_not_there() -> None:
    for name in ("x" * 300, "x" * 300 + "/y", "a\0b"):
        assert not files.exists(name)
        assert not files.is_file(Path(name))
        assert not files.is_dir(name)


def test_what_cannot_be_written_is_known_before(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    (tmp_path / "dead").symlink_to(tmp_path / "none" / "a")
    for path, told in (
        (tmp_path, "Is a directory; it is a folder; name a file"),
        (tmp_path / "none" / "a", "no folder .*none; create it first"),
        (tmp_path / "file" / "a", "no folder .*file"),
        (tmp_path / "dead", "no folder .*none"),
        (tmp_path / ("x" * 300), "File name too long; choose a shorter name"),
    ):
        with pytest.raises(StorageError, match=told):
            files.check_writable(path)
    for path in (tmp_path / "file", tmp_path / "new"):
        files.check_writable(path)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["dead", "file"]


def test_a_really_full_disk(tmp_path: Path) -> None:
    if not Path("/dev/full").exists():
        pytest.skip("this system has no /dev/full")
    with (
        pytest.raises(StorageError, match="free some space"),
        files.atomic_path(tmp_path / "a"),
        Path("/dev/full").open("wb", buffering=0) as full,
    ):
        full.write(b"x")
    assert list(tmp_path.iterdir()) == []


def test_missing_folder_file_as_folder_and_folder_as_file(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    (tmp_path / "folder").mkdir()
    with pytest.raises(StorageError, match="create its folder first"):
        files.write_text(tmp_path / "none" / "a", "")
    with pytest.raises(StorageError, match="is a file"):
        files.write_text(tmp_path / "file" / "a", "")
    with pytest.raises(StorageError, match="name a file"):
        files.write_text(tmp_path / "folder", "")
    with pytest.raises(StorageError, match="cannot remove"):
        files.remove(tmp_path / "folder")
    assert sorted(p.name for p in tmp_path.rglob("*")) == ["file", "folder"]


def test_another_files_trouble_in_the_body_is_not_blamed_on_the_path(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError), files.atomic_path(tmp_path / "a"):
        (tmp_path / "elsewhere").read_text()


def test_remove_is_content_with_nothing(tmp_path: Path) -> None:
    (tmp_path / "a").touch()
    files.remove(tmp_path / "a")
    files.remove(tmp_path / "a")
    assert issubclass(StorageError, OmniError)
    assert list(tmp_path.iterdir()) == []


def test_a_folder_appears_at_once_or_not_at_all(tmp_path: Path) -> None:
    path = tmp_path / "new" / "folder"
    with files.atomic_folder(path) as staged:
        (staged / "in").mkdir()
        (staged / "in" / "a").write_text("a")
        assert not path.exists()
    assert (path / "in" / "a").read_text() == "a"
    assert list(path.parent.iterdir()) == [path]
    empty = tmp_path / "empty"
    empty.mkdir()

    def fail(staged: Path) -> None:
        (staged / "half").write_text("half")
        raise ValueError

    with pytest.raises(ValueError), files.atomic_folder(empty) as staged:  # noqa: PT011
        fail(staged)
    assert list(empty.iterdir()) == []
    with files.atomic_folder(empty) as staged:
        (staged / "b").touch()
    assert [p.name for p in empty.iterdir()] == ["b"]
    assert sorted(p.name for p in tmp_path.iterdir()) == ["empty", "new"]


def test_a_folder_with_content_and_a_file_are_never_replaced(tmp_path: Path) -> None:
    (tmp_path / "a").touch()
    for path in (tmp_path, tmp_path / "a"):
        with pytest.raises(StorageError, match="not empty"), files.atomic_folder(path):
            pytest.fail("entered")
    folder = files.atomic_folder(tmp_path / "a" / "b")
    with pytest.raises(StorageError, match="one of its folders is a file"), folder:
        pytest.fail("entered")


def test_room_on_the_disk_of_a_path_that_is_not_there_yet(tmp_path: Path) -> None:
    files.check_space(tmp_path / "not" / "yet", 1)
    with pytest.raises(StorageError, match=r"yet takes 1\.15e\+09 GB, its disk has .* GB free"):
        files.check_space(tmp_path / "not" / "yet", 2**60)


LOCKS: list[Callable[[Path], AbstractContextManager[object]]] = [
    files.exclusive,
    files.atomic_folder,
    lambda path: files.exclusive(path, path.with_name(f".{path.name}-1.lock")),
]
HOLDER = """
import sys
from pathlib import Path
from omni_diffusion.io import files
with getattr(files, sys.argv[2])(Path(sys.argv[1])):
    print("held", flush=True)
    sys.stdin.read()
"""


@pytest.mark.parametrize("lock", LOCKS)
def test_the_second_in_a_folder_is_told_at_once(
    tmp_path: Path, lock: Callable[[Path], AbstractContextManager[object]]
) -> None:
    out = tmp_path / "out"
    with lock(out):
        with pytest.raises(StorageError, match=r"out is in use by another process; wait"):
            lock(out).__enter__()
        with lock(tmp_path / "other"):
            pass
    with lock(out):  # free again, and nothing is left behind
        pass
    assert not list(tmp_path.rglob("*.lock"))


@pytest.mark.parametrize("name", ["exclusive", "atomic_folder"])
def test_a_lock_ends_with_its_process_however_that_dies(tmp_path: Path, name: str) -> None:
    out, lock = tmp_path / "out", getattr(files, name)
    holder = subprocess.Popen(
        [sys.executable, "-c", HOLDER, str(out), name],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    try:
        assert holder.stdout is not None
        assert holder.stdout.readline() == "held\n"
        with pytest.raises(StorageError, match="is in use"):
            lock(out).__enter__()
    finally:
        holder.kill()
        holder.communicate()
    with lock(out):
        pass


def test_a_folder_that_stayed_empty_is_removed_with_its_lock(tmp_path: Path) -> None:
    with files.exclusive(tmp_path / "empty"):
        pass
    with files.exclusive(tmp_path / "full"):
        (tmp_path / "full" / "a").touch()
    (tmp_path / "kept").mkdir()
    with files.exclusive(tmp_path / "kept"):
        pass
    assert sorted(path.name for path in tmp_path.iterdir()) == ["full", "kept"]
    assert [path.name for path in (tmp_path / "full").iterdir()] == ["a"]


@pytest.mark.parametrize("separator", "\u2028\u2029\x85\x0b\x0c\x1c\x1d\x1e\r")
def test_only_line_feeds_end_a_line(tmp_path: Path, separator: str) -> None:
    path, text = tmp_path / "a", f"\ufeffone{separator}more\r\n\ntwo{separator}"
    path.write_bytes(text.encode())
    assert list(files.text_lines(path)) == [f"one{separator}more", "", f"two{separator}"]
    assert files.read_text(path) == text[1:]
