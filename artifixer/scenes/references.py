"""Which training photos the video model attends to: their names -> the reference views.

References are fixed for a rollout and evenly spaced among the training photos, sorted by name.
"""

from __future__ import annotations

from collections.abc import Sequence

#: As many as in the benchmarks of the public release.
REFERENCE_COUNT = 6


def select_references(names: Sequence[str], count: int = REFERENCE_COUNT) -> tuple[str, ...]:
    """At most ``count`` of the photos, sorted by name: positions 0, n/count, 2 n/count ... of n,
    rounded down, which is the public release's choice. All of them when there are no more.
    """
    assert count > 0, f"{count} references"
    ordered = sorted(names)
    kept = min(count, len(ordered))
    return tuple(ordered[step * len(ordered) // kept] for step in range(kept))
