"""Attribution of the works that a set of captures shows.

python credits.py OUT.md CAPTURE...
"""

import json
import sys
from pathlib import Path

INTRODUCTION = """# Attribution

These rendered captures show the following works (changed: scaled, reduced, lit anew).
The number in brackets says in how many captures a work appears; the scene.json of each capture
lists its own.

"""


def attribution(folders: list[Path]) -> str:
    """One line for each creator, licence and pack."""
    works: dict[tuple[str, str, str], dict[str, set[Path]]] = {}
    for folder in folders:
        assets = json.loads((folder / "scene.json").read_text())["assets"]
        for a in assets.values():
            by = works.setdefault((a["creator"], a["licence"], a["pack"]), {})
            by.setdefault(a["name"], set()).add(folder)
    lines = []
    for (creator, licence, pack), names in sorted(works.items()):
        listed = ", ".join(f"{name} [{len(where)}]" for name, where in sorted(names.items()))
        lines.append(f"- {creator} ({licence}, from {pack}): {listed}\n")
    return INTRODUCTION + "".join(lines)


if __name__ == "__main__":
    Path(sys.argv[1]).write_text(attribution([Path(a) for a in sys.argv[2:]]))
