"""Imports go down the floors: a module imports its own room and rooms below, also inside functions
and for type checking.
"""

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

import artifixer

PACKAGE = Path(artifixer.__file__).parent
MODULES = sorted(PACKAGE.rglob("*.py"))

FLOORS = {
    "geometry": 0,
    "runtime": 0,
    "imaging": 0,
    "scenes": 1,
    "video": 1,
    "splats": 2,
    "pairs": 2,
    "enhance": 3,
    "curation": 3,
    "training": 3,
    "evaluation": 4,
    "viewer": 4,
    "pipeline": 5,
    "recipes": 6,
    "commands": 7,
    "cli": 7,
    "api": 8,
}


def room(module: str) -> str | None:
    """``artifixer.scenes.colmap`` -> ``scenes``; None for the package itself and for other
    packages.
    """
    top, *rest = module.split(".")
    return rest[0] if top == "artifixer" and rest else None


def imported_modules(
    source: str, rooms: frozenset[str] = frozenset(FLOORS)
) -> Iterator[tuple[int, str]]:
    """(line, module) of every import in the source, wherever it stands."""
    for node in ast.walk(ast.parse(source)):
        match node:
            case ast.Import(names=names):
                yield from ((node.lineno, name.name) for name in names)
            case ast.ImportFrom(module="artifixer", level=0, names=names):
                yield from (
                    (node.lineno, f"artifixer.{name.name}") for name in names if name.name in rooms
                )
            case ast.ImportFrom(level=0, module=str(module)):
                yield node.lineno, module
            case ast.ImportFrom():
                yield node.lineno, "." * node.level
            case ast.Call(
                func=ast.Attribute(attr="import_module"), args=[ast.Constant(value=str(module)), *_]
            ):
                yield node.lineno, module


def upward_imports(source: str, own_room: str) -> list[str]:
    """What breaks the rule, one line each."""
    faults = []
    for line, module in imported_modules(source):
        if module.startswith("."):
            faults.append(f"line {line}: relative import")
        elif (other := room(module)) is not None and FLOORS[other] > FLOORS[own_room]:
            faults.append(
                f"line {line}: {own_room} (floor {FLOORS[own_room]}) imports {module} (floor "
                f"{FLOORS[other]})"
            )
    return faults


def test_every_room_has_a_floor() -> None:
    names = {
        path.stem
        for path in PACKAGE.iterdir()
        if path.suffix == ".py" or (path / "__init__.py").exists()
    }
    assert names - {"__init__", "__main__"} <= set(FLOORS)


@pytest.mark.parametrize("path", MODULES, ids=lambda path: path.relative_to(PACKAGE).as_posix())
def test_imports_go_down(path: Path) -> None:
    own_room = path.relative_to(PACKAGE).with_suffix("").parts[0]
    if own_room == "__init__":
        # Names of the public API are imported when they are used; type checkers see them.
        allowed = {"importlib", "typing", "artifixer.api"}
        assert {module for _, module in imported_modules(path.read_text())} <= allowed
        return
    if own_room == "__main__":
        return
    assert upward_imports(path.read_text(), own_room) == []


@pytest.mark.parametrize(
    "source",
    [
        "import artifixer.pipeline.capture",
        "from artifixer import pipeline",
        "from artifixer.pipeline.capture import load",
        "def f():\n    from artifixer.pipeline import capture",
        "if TYPE_CHECKING:\n    from artifixer.pipeline import capture",
        "importlib.import_module('artifixer.pipeline.capture')",
        "from . import capture",
    ],
)
def test_an_import_upwards_is_seen(source: str) -> None:
    assert upward_imports(source, "scenes")
