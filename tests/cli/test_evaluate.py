"""`omni-diffusion eval` as a person types it, with the tiny model and data in miniature."""

import json
from pathlib import Path

import pytest
from tests.evaluation.suites import miniature
from tests.tiny import checkers, tiny_model

from omni_diffusion.cli import evaluate as commands
from omni_diffusion.cli.main import main
from omni_diffusion.evaluation.suites.catalog import EFFICIENCY, SUITES


class Shell:
    """Types commands in an empty folder."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
        self.monkeypatch, self.capsys = monkeypatch, capsys

    def __call__(self, *words: str) -> tuple[int, str, str]:
        self.monkeypatch.setattr("sys.argv", ["omni-diffusion", "eval", *words])
        code = 0
        try:
            main()
        except SystemExit as ended:
            code = int(ended.code or 0)
        told = self.capsys.readouterr()
        return code, told.out, told.err


@pytest.fixture
def shell(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Shell:
    monkeypatch.chdir(tmp_path)
    return Shell(monkeypatch, capsys)


def test_the_list_has_every_benchmark_with_its_data_and_source(shell: Shell) -> None:
    code, out, _ = shell("list")
    assert code == 0
    for entry in SUITES:
        assert f"\n{entry.name}\n" in f"\n{out}"
        assert entry.layout in out
        assert entry.source in out
    assert EFFICIENCY in out


def test_every_benchmark_is_a_command_of_its_own() -> None:
    import typer.main

    group = typer.main.get_command(commands.eval_app)
    names = set(group.commands)  # type: ignore[attr-defined]
    assert {entry.name for entry in SUITES} < names
    assert {EFFICIENCY, "mini", "paper", "likelihood", "report", "list"} < names


@pytest.mark.slow
def test_a_benchmark_is_run_resumed_and_reported(shell: Shell) -> None:
    tiny_model().save(Path("model"))
    miniature.mme(Path("data"), pictures=2)
    words = ("mme", "--data", "data", "--model", "model", "--steps", "1", "--out", "runs")
    code, out, err = shell(*words, "--limit", "2")
    assert code == 0, err
    assert "perception" in out
    assert "1216.7" in out
    assert "mme: 2 of 2" in err  # no terminal: a line
    assert shell(*words, "--shard", "0/2")[0] == 0
    code, out, err = shell(*words, "--shard", "1/2")
    assert code == 0, err
    assert "cognition" in out
    (folder,) = Path("runs/mme").iterdir()
    lines = [line for path in folder.glob("*.jsonl") for line in path.read_text().splitlines()]
    assert len(lines) == len({json.loads(line)["facts"]["id"] for line in lines}) == 12
    code, _, err = shell("report", "runs", "--out", "report.html")
    assert code == 0, err
    assert "<h2>mme</h2>" in Path("report.html").read_text()
    assert "| mme |" in Path("report.md").read_text()


def test_likelihood_of_a_manifest(shell: Shell) -> None:
    tiny_model().save(Path("model"))
    checkers(8).write("it.png")
    row = {
        "messages": [
            {"role": "user", "content": "Describe the image.\n<|image|>"},
            {"role": "assistant", "content": "a red apple"},
        ],
        "images": ["it.png"],
    }
    Path("manifest.jsonl").write_text(json.dumps(row) + "\n")
    words = ("likelihood", "--data", "manifest.jsonl", "--model", "model", "--samples", "4")
    code, out, err = shell(*words, "--json", "bounds.json")
    assert code == 0, err
    assert "task caption" in out
    (line,) = json.loads(Path("bounds.json").read_text())["lines"]
    assert line["total"]["tokens"] == sum(each["tokens"] for each in line["kinds"].values())


@pytest.mark.parametrize(
    ("words", "named"),
    [
        (("mme", "--data", "nowhere"), "--data"),
        (("mme", "--data", ".", "--shard", "2/2"), "--shard"),
        (("mme", "--data", ".", "--limit", "0"), "--limit"),
        (("mme", "--data", ".", "--batch", "0"), "--batch"),
        (("report", "nowhere"), "no finished evaluation"),
        (("nme",), "did you mean mme"),
        (("likelihood", "--data", "no.jsonl"), "cannot read no.jsonl"),
        ((EFFICIENCY, "--data", ".", "--only", "mme"), "mme is not swept"),
        (("paper", "--only", "t3i"), "--only"),
    ],
)
def test_a_mistake_is_one_line_with_its_option(
    shell: Shell, words: tuple[str, ...], named: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(commands, "open_model", lambda *_, **__: tiny_model())
    code, _, err = shell(*words)
    assert code == 2
    assert named in err
    assert "Traceback" not in err
