"""Imports go down the floors that the package's docstring lists: a module imports its own room and
rooms below, also inside functions and for type checking. No circle, and no more arrows than stated.
"""

import ast
import graphlib
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

import artifixer

PACKAGE = Path(artifixer.__file__).parent
MODULES = sorted(PACKAGE.rglob("*.py"))


def stated_floors(docstring: str) -> dict[str, int]:
    """The floor of every room, from the table in the package's docstring."""
    return {name: int(floor) for name, floor in re.findall(r"(?m)^(\w+) +F(\d) ", docstring)}


def stated_arrows(docstring: str) -> int:
    """The largest number of arrows between rooms, from the package's docstring."""
    (number,) = re.findall(r"at most (\d+) arrows", docstring)
    return int(number)


FLOORS = stated_floors(str(artifixer.__doc__))


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


def rooms_imported(package: Path) -> dict[str, set[str]]:
    """For every room, the other rooms that its modules import."""
    arrows: dict[str, set[str]] = {}
    for path in sorted(package.rglob("*.py")):
        own_room = path.relative_to(package).with_suffix("").parts[0]
        if own_room in ("__init__", "__main__"):
            continue
        others = (room(module) for _, module in imported_modules(path.read_text()))
        found = {other for other in others if other is not None and other != own_room}
        arrows.setdefault(own_room, set()).update(found)
    return arrows


def test_every_room_has_a_floor() -> None:
    names = {
        path.stem
        for path in PACKAGE.iterdir()
        if path.suffix == ".py" or (path / "__init__.py").exists()
    }
    assert names - {"__init__", "__main__"} == set(FLOORS)
    assert min(FLOORS.values()) == 0, "the table was read"


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


def in_order(arrows: dict[str, set[str]]) -> list[str]:
    """The rooms such that each comes after those that it imports; ``CycleError`` names a circle."""
    return list(graphlib.TopologicalSorter(arrows).static_order())


def test_rooms_import_in_no_circle_and_no_more_arrows_than_stated() -> None:
    arrows = rooms_imported(PACKAGE)
    assert in_order(arrows)[0] == "runtime", "every room stands on it"
    count = sum(len(others) for others in arrows.values())
    assert 0 < count <= stated_arrows(str(artifixer.__doc__)), (
        f"{count} arrows between rooms: one that is meant is stated in artifixer/__init__.py"
    )


def test_a_circle_is_seen(tmp_path: Path) -> None:
    for own_room, other in (("scenes", "video"), ("video", "scenes")):
        (tmp_path / own_room).mkdir()
        (tmp_path / own_room / "a.py").write_text(f"import artifixer.{other}.b")
    with pytest.raises(graphlib.CycleError):
        in_order(rooms_imported(tmp_path))
