"""Count what makes a package hard to read: names with several meanings, long functions, circles.

    python scripts/census.py

prints the share of public module-level names that have more than one home, the functions over 60
lines, the groups of modules that import each other, and the lines of the package.
tests/test_census.py holds the limits.
"""

from __future__ import annotations

import ast
from collections.abc import Iterator
from functools import cache
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
PACKAGE = ROOT / "src" / "omni_diffusion"
LONGEST = 60  # lines of a function


@cache
def modules() -> dict[str, ast.Module]:
    """Every module of the package by its dotted name, parsed."""
    found = {}
    for path in sorted(PACKAGE.rglob("*.py")):
        parts = ["omni_diffusion", *path.relative_to(PACKAGE).with_suffix("").parts]
        name = ".".join(parts[:-1] if parts[-1] == "__init__" else parts)
        found[name] = ast.parse(path.read_text(encoding="utf-8"))
    return found


def homes() -> dict[str, list[str]]:
    """The modules that define each public module-level name (class, function, constant, alias)."""
    found: dict[str, list[str]] = {}
    for module, tree in modules().items():
        for name in sorted(set(_defined(tree))):
            if not name.startswith("_"):
                found.setdefault(name, []).append(module)
    return found


def long_functions() -> list[tuple[str, str, int]]:
    """Module, name and lines of each function longer than LONGEST."""
    return [
        (module, node.name, lines)
        for module, tree in modules().items()
        for node in ast.walk(tree)
        if isinstance(node, ast.FunctionDef)
        and (lines := (node.end_lineno or 0) - node.lineno + 1) > LONGEST
    ]


def circles() -> list[tuple[str, str]]:
    """Pairs of modules that import each other, directly or through others."""
    arrows = {module: set(_imported(tree)) for module, tree in modules().items()}
    reach = {module: _reachable(module, arrows) for module in arrows}
    return [(a, b) for a in arrows for b in arrows if a < b and b in reach[a] and a in reach[b]]


def _defined(tree: ast.Module) -> Iterator[str]:
    for node in tree.body:
        if isinstance(node, ast.ClassDef | ast.FunctionDef):
            yield node.name
        elif isinstance(node, ast.Assign):
            yield from (target.id for target in node.targets if isinstance(target, ast.Name))
        elif isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name):
            yield node.target.id


def _imported(tree: ast.Module) -> Iterator[str]:
    """Modules of the package that a module imports when it is loaded."""
    for node in _at_load(tree):
        if isinstance(node, ast.ImportFrom) and node.module:
            for alias in node.names:
                inner = f"{node.module}.{alias.name}"
                path = PACKAGE.parent / inner.replace(".", "/")
                is_module = path.is_dir() or path.with_suffix(".py").exists()
                yield inner if is_module else node.module
        elif isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)


def _at_load(tree: ast.Module) -> Iterator[ast.stmt]:
    """The statements that run on import: not those of functions or of TYPE_CHECKING."""
    for node in tree.body:
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test):
            continue
        yield node


def _reachable(start: str, arrows: dict[str, set[str]]) -> set[str]:
    seen: set[str] = set()
    waiting = [start]
    while waiting:
        for module in arrows.get(waiting.pop(), ()):
            if module not in seen:
                seen.add(module)
                waiting.append(module)
    return seen


def main() -> None:
    """Print the census."""
    names = homes()
    several = {name: where for name, where in names.items() if len(where) > 1}
    print(f"{len(names)} public names, {len(several)} with several homes", end=" ")
    print(f"({len(several) / len(names):.1%})")
    for name, where in sorted(several.items()):
        print(f"  {name}: {', '.join(each.removeprefix('omni_diffusion.') for each in where)}")
    for module, name, lines in long_functions():
        print(f"function of {lines} lines: {module}.{name}")
    for one, other in circles():
        print(f"circle: {one} <-> {other}")
    lines = sum(len(path.read_text().splitlines()) for path in PACKAGE.rglob("*.py"))
    print(f"{lines} lines in {len(modules())} modules")


if __name__ == "__main__":
    main()
