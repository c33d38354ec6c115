"""Where an answer goes is settled before the work."""

from pathlib import Path

import pytest

from omni_diffusion.cli.outputs import output_path
from omni_diffusion.tasks import catalog


@pytest.mark.parametrize(
    ("task", "out", "path"),
    [
        ("t2i", None, "t2i.png"),
        ("inpaint", None, "inpaint.png"),
        ("svqa", None, "svqa.wav"),
        ("caption", None, None),
        ("infill", None, None),
        ("tts", "a.ogg", "a.ogg"),
    ],
)
def test_where_an_answer_goes(task: str, out: str | None, path: str | None) -> None:
    planned = output_path(catalog.task(task), None if out is None else Path(out))
    assert planned == (None if path is None else Path(path))
