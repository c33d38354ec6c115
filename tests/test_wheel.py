"""The wheel: built, installed in an environment of its own, and at work far from the repository."""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys
import sysconfig
import tarfile
import zipfile
from pathlib import Path

import pytest
from tests.published_folders import write_published

from omni_diffusion.io import config as configs
from omni_diffusion.models.omni import SMALL_MODEL

ROOT = Path(__file__).resolve().parent.parent
MEGABYTE = 1_000_000

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(importlib.util.find_spec("hatchling") is None, reason="needs hatchling"),
]


def call(*words: object, cwd: Path, alone: bool = True) -> str:
    """What a command says; `alone`: without this environment's own search path."""
    hidden = ("PYTHONPATH", "PYTHONHOME") if alone else ()
    known = {name: value for name, value in os.environ.items() if name not in hidden}
    done = subprocess.run(
        [str(word) for word in words],
        cwd=cwd,
        env=known | {"OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the sdist and the wheel."""
    out = tmp_path_factory.mktemp("dist")
    call(sys.executable, "-m", "hatchling", "build", "--directory", out, cwd=ROOT, alone=False)
    return out


@pytest.fixture(scope="module")
def installed(built: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The programs of a new environment: the wheel, and behind it the libraries of this one."""
    place = tmp_path_factory.mktemp("environment")
    call(sys.executable, "-m", "venv", "--without-pip", place, cwd=place)
    [packages] = place.glob("lib/python*/site-packages")
    here = {sysconfig.get_path(name) for name in ("purelib", "platlib")}
    (packages / "here.pth").write_text("".join(f"{path}\n" for path in sorted(here)))
    [wheel] = built.glob("*.whl")
    programs = place / "bin"
    pip = (sys.executable, "-m", "pip", "--python", programs / "python")
    call(*pip, "install", "--no-deps", "--no-index", "--quiet", wheel, cwd=place)
    return programs


def test_the_wheel_holds_the_package_with_its_model_and_nothing_else(built: Path) -> None:
    [wheel] = built.glob("*.whl")
    with zipfile.ZipFile(wheel) as file:
        names = set(file.namelist())
    assert {name.split("/")[0] for name in names} == {
        "omni_diffusion",
        next(name for name in names if name.endswith(".dist-info/METADATA")).split("/")[0],
    }
    package = ROOT / "src"
    wanted = [
        str(path.relative_to(package))
        for path in (package / "omni_diffusion").rglob("*")
        if path.is_file() and "__pycache__" not in path.parts
    ]
    own = {name for name in names if name.startswith("omni_diffusion/")}
    assert own == set(wanted)
    model = f"omni_diffusion/{SMALL_MODEL.relative_to(SMALL_MODEL.parent.parent)}"
    for needed in (
        "omni_diffusion/py.typed",
        f"{model}/model.safetensors",
        f"{model}/am.mvn",
        "omni_diffusion/demo/inputs/dog.ogg",
    ):
        assert needed in names
    assert any(name.endswith("licenses/NOTICE") for name in names)
    assert wheel.stat().st_size < 32 * MEGABYTE


def test_the_source_archive_holds_what_the_wheel_is_made_of(built: Path) -> None:
    [archive] = built.glob("*.tar.gz")
    with tarfile.open(archive) as file:
        names = {name.partition("/")[2] for name in file.getnames()}
    assert {"pyproject.toml", "LICENSE", "src/omni_diffusion/py.typed", "tests/tiny.py"} <= names
    assert not [name for name in names if name.startswith(("speech/", "runs/", ".venv"))]
    assert archive.stat().st_size < 48 * MEGABYTE


def test_published_folders_open_run_and_convert(installed: Path, tmp_path: Path) -> None:
    made = write_published(tmp_path / "published")
    configs.save(made.sources.sizes, made.root / "sizes.json")
    script = Path(__file__).with_name("wheel_script.py")
    said = call(installed / "python", "-I", script, made.root, cwd=tmp_path)
    assert said == "11 tasks\n"


def test_the_command_line_is_installed(installed: Path, tmp_path: Path) -> None:
    command = installed / "omni-diffusion"
    assert "food" in call(command, "run", "chat", "what is a cake?", cwd=tmp_path)
    assert "speech_flow" in call(command, "doctor", cwd=tmp_path)
