"""The processes that a command started."""

from pathlib import Path


def living_members(group: int) -> list[int]:
    """Ids of the living processes of a process group, zombies excluded."""
    found = []
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            state, _, member_of = stat.read_text().rpartition(")")[2].split()[:3]
        except OSError:
            continue
        if int(member_of) == group and state != "Z":
            found.append(int(stat.parent.name))
    return found
