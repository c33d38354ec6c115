"""The allowed arrows: a module imports only from lines below its own, and from its own folder."""

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

SOURCE = Path(__file__).resolve().parent.parent / "src" / "omni_diffusion"
LINES = (  # top to bottom; those on one line never import one another
    "omni_diffusion __main__",  # the face, and the command line as a module
    "cli",
    "demo serving integrations mini",
    "evaluation training",
    "html",
    "engine data",
    "models",
    "tasks",
    "codecs backbone diffusion",
    "conversation canvas",
    "media vocab",
    "io",
    "errors",
)
HEIGHT = {room: -line for line, rooms in enumerate(LINES) for room in rooms.split()}
BLIND = {"diffusion": {"vocab"}, "backbone": {"vocab"}}  # tokens have no names there
MODULES = sorted(SOURCE.rglob("*.py"))


def room_of(path: Path) -> str:
    room = path.relative_to(SOURCE).parts[0].removesuffix(".py")
    return "omni_diffusion" if room == "__init__" else room


def imported_rooms(path: Path) -> Iterator[str]:
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            parts = ("omni_diffusion", *path.relative_to(SOURCE).parts)
            start = [*(parts[: -node.level] if node.level else ()), *filter(None, [node.module])]
            names = [".".join([*start, alias.name]) for alias in node.names]
        else:
            continue
        for name in names:
            head, *rest = name.split(".")
            if head == "omni_diffusion":
                yield rest[0] if rest and rest[0] in HEIGHT else "omni_diffusion"


@pytest.mark.parametrize("path", MODULES, ids=lambda p: str(p.relative_to(SOURCE)))
def test_arrows_point_down(path: Path) -> None:
    room = room_of(path)
    assert room in HEIGHT, f"{room} stands on no line"
    for other in imported_rooms(path):
        assert other == room or HEIGHT[other] < HEIGHT[room], f"{room} imports {other}"
        assert other not in BLIND.get(room, ()), f"{room} must not know {other}"


def test_no_attics() -> None:
    assert not {path.stem for path in SOURCE.rglob("*")} & {"utils", "common", "core", "helpers"}
