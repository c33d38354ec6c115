"""A minute of many clients: every answer is the one given alone, and nothing is left behind."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]


@pytest.mark.slow
def test_a_minute_of_clients(tmp_path: Path) -> None:
    out = tmp_path / "soak.json"
    command = [sys.executable, "-m", "scripts.soak", "--seconds", "60", "--clients", "8"]
    ended = subprocess.run(
        [*command, "--out", str(out)], cwd=ROOT, capture_output=True, text=True, timeout=1200
    )
    assert ended.returncode == 0, ended.stdout + ended.stderr
    report = json.loads(out.read_text(encoding="utf-8"))
    assert report["outcomes"]["right"] > 0
    assert report["waiting_at_the_end"] == 0
    assert report["exit"]["code"] == 0
    for part in report["first_alone"].values():
        assert part["first"] <= part["whole"]
