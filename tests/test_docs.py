"""What the pages name exists: files, tests, Python names, command lines, scripts, figures."""

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
from omni_diffusion.cli.main import app
from omni_diffusion.data import manifest
from omni_diffusion.data.importers.catalog import IMPORTERS
from omni_diffusion.models.omni import OmniModel
from omni_diffusion.tasks import prompts

ROOT = Path(__file__).resolve().parent.parent
PACKAGE = ROOT / "src" / "omni_diffusion"
INPUTS = PACKAGE / "demo" / "inputs"
CARD = "src/omni_diffusion/mini/weights/README.md"
NAMES = ["README.md", "CONTRIBUTING.md", CARD, *(f"docs/{p.name}" for p in ROOT.glob("docs/*.md"))]
PAGES = {name: (ROOT / name).read_text(encoding="utf-8") for name in sorted(NAMES)}
README = PAGES["README.md"]
RESULTS = ROOT / "benchmarks" / "results" / "mini-eval.json"
HEADINGS = (
    "Install, Quick start, Tasks, Serve, Full-size model, Train on your data, Evaluate, Limits,"
    " Citation, License"
)
ROOMS = {
    path.stem
    for path in PACKAGE.iterdir()
    if (path / "__init__.py").is_file() or (path.suffix == ".py" and path.stem[0] != "_")
}
PATH = re.compile(
    r"(?:src|tests|docs|benchmarks|experiments|scripts|assets|\.ci)/[\w./-]+(?:::\w+)?"
    r"|Makefile|NOTICE|LICENSE"
)
NAME = re.compile(r"[a-z_]+(?:\.\w+)+(?:\(.*\))?")
FILE = re.compile(r"\w+\.(?:json|jsonl|tsv|png|wav|jpg|txt|safetensors)")
SCRIPT = re.compile(r"^python (?:-m )?((?:benchmarks|experiments|scripts)[\w./]+)", re.MULTILINE)


@cache
def command_line() -> Any:
    """All commands; made once, since that takes a tenth of a second."""
    return typer.main.get_command(app)


def code(text: str) -> list[str]:
    """The spans between backticks, without fenced blocks."""
    return re.findall(r"`([^`\n]+)`", re.sub(r"```.*?```", "", text, flags=re.DOTALL))


def fenced(text: str, language: str) -> str:
    return "\n".join(re.findall(rf"```{language}\n(.*?)```", text, flags=re.DOTALL))


def paths(text: str) -> Iterator[tuple[str, str]]:
    """Files named in backticks with their test; `::name` is a test of the last file."""
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
    """A module, a name in it, or a field of a dataclass in it."""
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
    for link in re.findall(r"\]\(([^)#\s]+)[^)]*\)", PAGES[page]):
        if link.startswith("https://"):
            continue
        assert ((ROOT / page).parent / link).exists(), link


def test_the_index_leads_to_every_page() -> None:
    linked = set(re.findall(r"\]\(([\w-]+\.md)\)", PAGES["docs/index.md"]))
    assert linked == {path.name for path in ROOT.glob("docs/*.md")} - {"index.md"}


@pytest.mark.parametrize("page", PAGES)
def test_named_python_is_there(page: str) -> None:
    for span in code(PAGES[page]):
        piece = span.removeprefix("omni_diffusion.")
        if not NAME.fullmatch(piece) or FILE.fullmatch(piece):
            continue
        assert piece.partition(".")[0] in ROOMS, piece
        name, _, arguments = piece.partition("(")
        named = resolve(name)
        if not arguments:
            continue
        call = ast.parse(f"f({arguments}", mode="eval").body
        assert isinstance(call, ast.Call)
        values = {str(word.arg): ast.literal_eval(word.value) for word in call.keywords}
        assert callable(named)
        inspect.signature(named).bind_partial(**values)
        if dataclasses.is_dataclass(named):
            named(**values)  # raises for a value out of range, if the class checks it


def test_the_headings_of_the_readme_are_the_usual_ones() -> None:
    prose = re.sub(r"```.*?```", "", README, flags=re.DOTALL)
    assert re.findall(r"^## (.*)$", prose, flags=re.MULTILINE) == HEADINGS.split(", ")


def test_the_table_of_the_architecture_has_every_package() -> None:
    table = PAGES["docs/architecture.md"].split("| package |")[1].split("\n\n")[0]
    rooms = re.findall(r"^\| `(\w+)`", table, flags=re.MULTILINE)
    assert len(rooms) == len(set(rooms))
    assert set(rooms) == ROOMS


def command_lines() -> list[str]:
    lines = [piece for text in PAGES.values() for piece in code(text)]
    lines += [line for text in PAGES.values() for line in fenced(text, "sh").splitlines()]
    lines = [re.sub(r"^torchrun .* -m omni_diffusion ", "omni-diffusion ", line) for line in lines]
    return sorted({line for line in lines if line.startswith("omni-diffusion ")})


@pytest.mark.parametrize("line", command_lines())
def test_command_lines_can_be_typed(line: str) -> None:
    _, *words = shlex.split(line, comments=True)
    command: Any = command_line()
    while hasattr(command, "commands"):  # data and train have subcommands
        name, *words = words
        command = command.commands[name]
    if words == ["--help"]:
        return
    assert command.make_context(name, [*words]).params or not command.params
    for word in words:
        if word.startswith("$IN/"):
            assert (INPUTS / word.removeprefix("$IN/")).is_file(), word


def options(command: Any) -> set[str]:
    """All options of a command and its subcommands."""
    subcommands = getattr(command, "commands", {}).values()
    names = {name for option in command.params for name in (*option.opts, *option.secondary_opts)}
    return names.union(*map(options, subcommands))


@pytest.mark.parametrize("page", PAGES)
def test_named_options_are_there(page: str) -> None:
    known = options(command_line())
    for span in code(PAGES[page]):
        if span.startswith("--"):
            assert span.split()[0] in known, span


@pytest.mark.parametrize("page", PAGES)
def test_named_scripts_are_there(page: str) -> None:
    for text in (*code(PAGES[page]), fenced(PAGES[page], "sh")):
        for name in SCRIPT.findall(text):
            path = name if name.endswith(".py") else f"{name.replace('.', '/')}.py"
            assert (ROOT / path).is_file(), name


def test_every_task_has_its_line() -> None:
    from omni_diffusion.tasks.catalog import CATALOG

    assert set(re.findall(r"^\| `(\w+)` .*`omni-diffusion run \1 ", README, re.MULTILINE)) == set(
        CATALOG
    )


def test_every_target_of_make_is_there() -> None:
    rules = (ROOT / "Makefile").read_text(encoding="utf-8")
    named = {
        page: re.findall(r"^make ([\w-]+)", fenced(text, "sh"), flags=re.MULTILINE)
        + [name for span in code(text) for name in re.findall(r"^make ([\w-]+)$", span)]
        for page, text in PAGES.items()
    }
    assert {"demo", "test"} <= set(named["README.md"])
    for page, names in named.items():
        for name in names:
            assert re.search(rf"^{name}:", rules, flags=re.MULTILINE), f"{page}: make {name}"


def test_the_readmes_python_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model = tiny_model()
    monkeypatch.setattr("omni_diffusion.models.omni.OmniModel.open", lambda: model)
    script = fenced(README, "python").replace('"src/', f'"{ROOT.as_posix()}/src/')
    monkeypatch.chdir(tmp_path)
    exec(compile(script, "README.md", "exec"), {})
    assert {path.name for path in tmp_path.iterdir()} == set(
        re.findall(r'\.write\("([\w.]+)"\)', script)
    )
    used = re.findall(r"from omni_diffusion import (.*)", script)
    assert {name for line in used for name in line.split(", ")} <= set(omni_diffusion.__all__)


@pytest.mark.slow
def test_the_examples_for_hugging_face_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    names: dict[str, Any] = {}
    for number, block in enumerate(PAGES["docs/hugging-face.md"].split("```python\n")[1:]):
        exec(compile(block.partition("```")[0], f"hugging-face.md, block {number}", "exec"), names)
    assert {path.name for path in tmp_path.iterdir()} == {
        *("mine", "adapter", "dog.png", "mended.png")
    }
    ids = torch.arange(9)[None]
    with torch.no_grad():
        assert torch.equal(names["same"].backbone(ids), OmniModel.open().backbone(ids))
        tuned = names["tuned"].eval()(input_ids=ids).logits
        torch.testing.assert_close(names["merged"].backbone(ids), tuned, atol=1e-4, rtol=1e-4)
    assert names["small"].quantization == "int8"
    assert names["pipe"].interrupt is False


def test_the_example_manifest_has_a_sample_of_every_kind() -> None:
    lines = fenced(PAGES["docs/training-data.md"], "jsonl").strip().splitlines()
    named = []
    for number, line in enumerate(lines, start=1):
        place = manifest.SourceLine(Path("train.jsonl"), number)
        sample, problems = manifest.parse_line(line.encode(), place)
        assert sample is not None
        assert problems == []
        named.append(prompts.task_of(sample.messages).name)
    assert named == ["asr", "tts", "t2i", "s2i", "vqa", "svqa", "asr", "chat", "infill"]


def test_problems_are_reported_as_the_page_shows() -> None:
    page = PAGES["docs/training-data.md"]
    problems = []
    for number, line in enumerate(fenced(page, "json lines").strip().splitlines(), start=1):
        place = manifest.SourceLine(Path("train.jsonl"), number)
        problems += [str(problem) for problem in manifest.parse_line(line.encode(), place)[1]]
    assert problems == fenced(page, "text").strip().splitlines()


def test_the_table_of_corpora_is_whole() -> None:
    table = PAGES["docs/training-data.md"].split("| name | layout")[1]
    assert re.findall(r"^\| `([\w-]+)` ", table, flags=re.MULTILINE) == list(IMPORTERS)


@pytest.mark.parametrize("page", ["README.md", CARD])
def test_the_figures_of_the_small_model_are_those_of_the_committed_file(page: str) -> None:
    rows = [line for line in PAGES[page].splitlines() if line.startswith("|")]
    for task, score in json.loads(RESULTS.read_text(encoding="utf-8")).items():
        score = score.get("details", {}).get("capped", score)  # the rare tail is told below
        value = f"{100 * score['value']:.1f}"
        shown = [row for row in rows if row.startswith(f"| `{task}` ")]
        assert any(value in row for row in shown), f"{task}: the file says {value} %, not {shown}"
