"""What README.md and docs/ name is there: files, tests, Python names, command lines, figures."""

from __future__ import annotations

import ast
import dataclasses
import inspect
import json
import re
import shlex
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from pkgutil import resolve_name
from typing import Any

import pytest
import torch
import typer.main
from tests.tiny import tiny_model

import omni_diffusion
from omni_diffusion.cli.main import main
from omni_diffusion.data import manifest
from omni_diffusion.data.importers.catalog import CATALOG as CORPORA
from omni_diffusion.models.omni import OmniModel
from omni_diffusion.tasks import prompts

ROOT = Path(__file__).resolve().parent.parent
PACKAGE = ROOT / "src" / "omni_diffusion"
INPUTS = PACKAGE / "demo" / "inputs"
README = (ROOT / "README.md").read_text(encoding="utf-8")
PAGES = {path.name: path.read_text(encoding="utf-8") for path in sorted(ROOT.glob("docs/*.md"))}
PAGES["README.md"] = README
RESULTS = ROOT / "benchmarks" / "results" / "mini-eval.json"
ROOMS = {
    path.stem
    for path in PACKAGE.iterdir()
    if not path.name.startswith("__") and (path.is_dir() or path.suffix == ".py")
}
PATH = re.compile(r"(?:src|tests|docs|benchmarks|\.ci)/[\w./-]+(?:::\w+)?|Makefile|NOTICE|LICENSE")
NAME = re.compile(r"[a-z_]+(?:\.\w+)+(?:\(.*\))?")
FILE = re.compile(r"\w+\.(?:json|tsv|png|wav|jpg|txt)")


def code(text: str) -> list[str]:
    """What stands between backticks, fenced blocks left out."""
    return re.findall(r"`([^`\n]+)`", re.sub(r"```.*?```", "", text, flags=re.DOTALL))


def fenced(text: str, language: str) -> str:
    return "\n".join(re.findall(rf"```{language}\n(.*?)```", text, flags=re.DOTALL))


def paths(text: str) -> Iterator[tuple[str, str]]:
    """Files named in backticks, each with the test named in it; `::name` is of the file before."""
    last = ""
    for piece in code(text):
        if piece.startswith("::"):
            yield last, piece.removeprefix("::")
        elif PATH.fullmatch(piece):
            last, _, test = piece.partition("::")
            yield last, test


@cache
def functions_of(path: Path) -> set[str]:
    tree = ast.parse(path.read_text(encoding="utf-8"))
    return {node.name for node in ast.walk(tree) if isinstance(node, ast.FunctionDef)}


def resolve(name: str) -> object:
    """A module, what is in it, or a field of a dataclass in it."""
    try:
        return resolve_name(f"omni_diffusion.{name}")
    except AttributeError:
        owner, _, field = name.rpartition(".")
        return resolve(owner).__dataclass_fields__[field]  # type: ignore[attr-defined]


@pytest.mark.parametrize("page", PAGES)
def test_named_files_and_tests_are_there(page: str) -> None:
    for name, test in paths(PAGES[page]):
        path = ROOT / name
        assert path.exists(), name
        assert not test or test in functions_of(path), f"{name}::{test}"


@pytest.mark.parametrize("page", PAGES)
def test_links_lead_to_files(page: str) -> None:
    folder = ROOT if page == "README.md" else ROOT / "docs"
    for link in re.findall(r"\]\(([^)#\s]+)[^)]*\)", PAGES[page]):
        if link.startswith("https://"):
            continue
        assert (folder / link).exists(), link


@pytest.mark.parametrize("page", PAGES)
def test_named_python_is_there(page: str) -> None:
    for piece in code(PAGES[page]):
        if not NAME.fullmatch(piece) or FILE.fullmatch(piece):
            continue
        assert piece.partition(".")[0] in ROOMS, piece
        name, _, arguments = piece.partition("(")
        found = resolve(name)
        if not arguments:
            continue
        call = ast.parse(f"f({arguments}", mode="eval").body
        assert isinstance(call, ast.Call)
        given = {str(each.arg): ast.literal_eval(each.value) for each in call.keywords}
        assert callable(found)
        inspect.signature(found).bind_partial(**given)
        if dataclasses.is_dataclass(found):
            found(**given)  # refuses what is no value of a field, where it checks


def test_the_rooms_of_the_readme_are_those_of_the_package() -> None:
    table = README.split("| room |")[1].split("\n\n")[0]
    rooms = re.findall(r"^\| `(\w+)`", table, flags=re.MULTILINE)
    assert len(rooms) == len(set(rooms))
    assert set(rooms) == ROOMS


def command_lines() -> list[str]:
    lines = [piece for text in PAGES.values() for piece in code(text)]
    lines += [line for text in PAGES.values() for line in fenced(text, "sh").splitlines()]
    return sorted({line for line in lines if line.startswith("omni-diffusion ")})


@pytest.mark.parametrize("line", command_lines())
def test_command_lines_can_be_typed(line: str) -> None:
    _, *words = shlex.split(line, comments=True)
    command: Any = typer.main.get_command(main.app)
    while hasattr(command, "commands"):  # data has commands of its own
        name, *words = words
        command = command.commands[name]
    assert command.make_context(name, [*words]).params
    for word in words:
        if word.startswith("$IN/"):
            assert (INPUTS / word.removeprefix("$IN/")).is_file(), word


def test_every_task_has_its_line() -> None:
    from omni_diffusion.tasks.catalog import CATALOG

    assert set(re.findall(r"^\| `(\w+)` .*`omni-diffusion run \1 ", README, re.MULTILINE)) == set(
        CATALOG
    )


def test_every_target_of_make_is_there() -> None:
    rules = (ROOT / "Makefile").read_text(encoding="utf-8")
    named = set(re.findall(r"^make ([\w-]+)", fenced(README, "sh"), flags=re.MULTILINE))
    assert {"demo", "test"} <= named
    assert all(re.search(rf"^{name}:", rules, flags=re.MULTILINE) for name in named)


def test_the_readmes_python_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made = tiny_model()
    monkeypatch.setattr("omni_diffusion.models.omni.OmniModel.open", lambda: made)
    script = fenced(README, "python").replace('"src/', f'"{ROOT.as_posix()}/src/')
    monkeypatch.chdir(tmp_path)
    exec(compile(script, "README.md", "exec"), {})
    assert {path.name for path in tmp_path.iterdir()} == set(
        re.findall(r'\.write\("([\w.]+)"\)', script)
    )
    used = re.findall(r"from omni_diffusion import (.*)", script)
    assert {name for line in used for name in line.split(", ")} <= set(omni_diffusion.__all__)


def test_the_examples_for_hugging_face_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    made: dict[str, Any] = {}
    for number, block in enumerate(PAGES["hugging-face.md"].split("```python\n")[1:]):
        exec(compile(block.partition("```")[0], f"hugging-face.md, block {number}", "exec"), made)
    assert {path.name for path in tmp_path.iterdir()} == {
        *("mine", "adapter", "dog.png", "mended.png")
    }
    ids = torch.arange(9)[None]
    with torch.no_grad():
        assert torch.equal(made["same"].backbone(ids), OmniModel.open().backbone(ids))
        tuned = made["tuned"].eval()(input_ids=ids).logits
        torch.testing.assert_close(made["merged"].backbone(ids), tuned, atol=1e-4, rtol=1e-4)
    assert made["small"].quantization == "int8"
    assert made["pipe"].interrupt is False


def test_the_example_manifest_has_a_sample_of_every_kind() -> None:
    lines = fenced(PAGES["training-data.md"], "jsonl").strip().splitlines()
    named = []
    for number, line in enumerate(lines, start=1):
        place = manifest.Place(Path("train.jsonl"), number)
        sample, problems = manifest.parse(line.encode(), place)
        assert sample is not None
        assert problems == []
        named.append(prompts.task_of(sample.entries).name)
    assert named == ["asr", "tts", "t2i", "s2i", "vqa", "svqa", "asr", "chat", "infill"]


def test_mistakes_are_told_as_the_page_shows() -> None:
    page = PAGES["training-data.md"]
    told = []
    for number, line in enumerate(fenced(page, "json lines").strip().splitlines(), start=1):
        place = manifest.Place(Path("train.jsonl"), number)
        told += [str(problem) for problem in manifest.parse(line.encode(), place)[1]]
    assert told == fenced(page, "text").strip().splitlines()


def test_the_table_of_corpora_is_whole() -> None:
    table = PAGES["training-data.md"].split("| name | layout")[1]
    assert re.findall(r"^\| `([\w-]+)` ", table, flags=re.MULTILINE) == list(CORPORA)


@pytest.mark.skipif(not RESULTS.is_file(), reason="no evaluation is committed")
def test_the_readmes_figures_are_those_of_the_committed_file() -> None:
    rows = [line for line in README.splitlines() if line.startswith("|")]
    for task, score in json.loads(RESULTS.read_text(encoding="utf-8")).items():
        value = f"{100 * score['value']:.1f}"
        told = [row for row in rows if f"`{task}`" in row or f"| {task} " in row]
        assert any(value in row for row in told), f"{task}: the file says {value} %, not so {told}"
