"""The commands of docs/serving.md do what they say."""

import re
import shutil
import subprocess
from pathlib import Path

import PIL.Image
import pytest
from tests.serving.conftest import INPUTS, serving

from omni_diffusion.models.omni import OmniModel

pytestmark = pytest.mark.slow
PAGE = (Path(__file__).resolve().parents[2] / "docs" / "serving.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"```bash\n(.*?)```", PAGE, flags=re.DOTALL)


@pytest.mark.skipif(shutil.which("curl") is None, reason="curl is not installed")
def test_every_command_answers(tmp_path: Path) -> None:
    for file in INPUTS.iterdir():
        shutil.copy(file, tmp_path)
    mask = PIL.Image.new("L", (64, 64))
    mask.paste(255, (32, 32, 64, 64))
    mask.save(tmp_path / "mask.png")
    seen = []
    with serving(OmniModel.open(), key=None) as running:
        for block in BLOCKS:
            script = "set -e\n" + block.replace("http://127.0.0.1:8000", running.url)
            ended = subprocess.run(
                ["bash", "-c", script], cwd=tmp_path, capture_output=True, text=True, timeout=600
            )
            assert ended.returncode == 0, (block, ended.stderr)
            seen.append(ended.stdout)
    whole = "\n".join(seen)
    for words in ("a cake is a food", "a cow", "image_generation.partial_image", "a penguin"):
        assert words in whole
    assert (tmp_path / "apples.mp3").stat().st_size > 1000


def test_every_route_has_a_command() -> None:
    source = Path(__file__).resolve().parents[2] / "src" / "omni_diffusion" / "serving" / "routes"
    commands = "\n".join(BLOCKS).replace("$id", "{id}").replace("models/mini", "models/{name:path}")
    for file in source.glob("*.py"):
        for route in re.findall(r'@routes\.\w+\("([^"]+)"', file.read_text(encoding="utf-8")):
            assert f"http://127.0.0.1:8000{route}" in commands, route
