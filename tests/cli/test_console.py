"""A console that fails costs nothing but its words."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = """
import sys, typer
from pathlib import Path
from rich.console import Console
from omni_diffusion.cli.console import patient_console
from omni_diffusion.errors import OmniError
try:
    with patient_console():
        typer.echo("h\\u00e4llo \\u2588\\u4e16")
        print("again", flush=True)
        Console().print("table")
        Path(sys.argv[1]).write_text("done")
        sys.stderr.write("note\\n")
except OmniError as error:
    sys.stderr.write(f"error: {error}\\n")
    sys.exit(2)
"""
needs_full = pytest.mark.skipif(not Path("/dev/full").exists(), reason="no /dev/full here")


def ran(tmp_path: Path, shell: str, **environment: str) -> tuple[int, bytes, bytes]:
    """Exit code, output and errors of the script with a redirection; it must have done its work."""
    script = tmp_path / "script.py"
    script.write_text(SCRIPT)
    done = tmp_path / "done"
    command = f'"{sys.executable}" "{script}" "{done}" {shell}'
    run = subprocess.run(
        ["bash", "-c", command], env=os.environ | environment, capture_output=True, check=False
    )
    assert done.read_text() == "done"
    return run.returncode, run.stdout, run.stderr


@pytest.mark.parametrize("unbuffered", ["", "1"])
def test_a_closed_pipe_ends_quietly(tmp_path: Path, unbuffered: str) -> None:
    shell = "| true; exit ${PIPESTATUS[0]}"
    code, _, told = ran(tmp_path, shell, PYTHONUNBUFFERED=unbuffered)
    assert (code, told) == (141, b"note\n")  # as a program that SIGPIPE ends


@needs_full
@pytest.mark.parametrize("unbuffered", ["", "1"])
def test_a_full_disk_is_one_line(tmp_path: Path, unbuffered: str) -> None:
    code, _, told = ran(tmp_path, "> /dev/full", PYTHONUNBUFFERED=unbuffered)
    assert code == 2
    assert told == (
        b"note\nerror: cannot write to standard output: No space left on device;"
        b" free some space or choose another disk\n"
    )


@needs_full
def test_a_full_disk_behind_the_notes_is_no_trouble(tmp_path: Path) -> None:
    code, out, _ = ran(tmp_path, "2> /dev/full")
    assert code == 0
    assert out.endswith(b"again\ntable\n")


def test_closed_output(tmp_path: Path) -> None:
    assert ran(tmp_path, ">&-")[::2] == (0, b"note\n")


@pytest.mark.parametrize(
    ("encoding", "words"),
    [("latin-1", b"h\xe4llo ??"), ("cp1252", b"h\xe4llo ??"), ("cp437", b"h\x84llo \xdb?"),
     ("utf-8", "hällo █世".encode())],
)  # fmt: skip
def test_characters_that_a_console_lacks(tmp_path: Path, encoding: str, words: bytes) -> None:
    code, out, told = ran(tmp_path, "", PYTHONIOENCODING=encoding)
    assert code == 0, told
    assert out.splitlines()[0] == words
