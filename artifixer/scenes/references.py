"""Which photos the video model looks at: names or camera poses of the training photos -> the
reference views.

References are fixed for a roll-out. By default they are spread evenly over the training photos
(``select_references``). The public release cuts its evaluation into several roll-outs with
references of their own: ``release_roll_outs``.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal, TypeVar

import torch
from jaxtyping import Float
from torch import Tensor

from artifixer.scenes.splits import covisibility_distances

#: As many as in the benchmarks of the public release.
REFERENCE_COUNT = 6

_Item = TypeVar("_Item")


@dataclass(frozen=True)
class RollOut:
    """Frames generated in one go, in this order, and the frames whose photos are the references;
    all are indices into the clip.

    is_reversed: the frames run backwards, because the references lie mostly behind them; the
    references are reversed alike.
    """

    references: tuple[int, ...]
    targets: tuple[int, ...]
    is_reversed: bool = False


def select_references(names: Sequence[str], count: int = REFERENCE_COUNT) -> tuple[str, ...]:
    """At most ``count`` of the photos, sorted by name and evenly spaced in that order."""
    return tuple(_evenly_spaced(sorted(names), count))


def release_roll_outs(
    camera_to_world: Float[Tensor, "frames 4 4"],
    train: Sequence[int],
    count: int = REFERENCE_COUNT,
    mode: Literal["evenly_spaced", "covisibility"] = "evenly_spaced",
    targets: Sequence[int] | Literal["heldout", "all"] = "heldout",
    longest: int | None = None,
) -> tuple[RollOut, ...]:
    """The roll-outs of the public release over a clip whose frames ``train`` were reconstructed
    from.

    mode: ``covisibility`` takes the ``count`` training frames that are nearest to the targets on
    average (``covisibility_distances``). targets: ``heldout`` makes one roll-out of every maximal
    run of frames outside ``train``, played towards growing distance from its
        references; ``all`` takes the whole clip, and a list of frames exactly these, in order.
    longest: cuts roll-outs into pieces of at most this many frames, after references and direction
    were chosen; None leaves them whole.
    """
    distance = covisibility_distances(camera_to_world) if mode == "covisibility" else None
    train = sorted(train)

    def with_references(run: Sequence[int]) -> RollOut:
        if distance is None:
            return RollOut(tuple(_evenly_spaced(train, count)), tuple(run))
        nearest = torch.argsort(distance[list(run)][:, train].mean(dim=0), stable=True)[:count]
        return RollOut(tuple(sorted(train[position] for position in nearest.tolist())), tuple(run))

    if targets == "heldout":
        roll_outs = [
            _directed(with_references(run))
            for run in _runs([i for i in range(len(camera_to_world)) if i not in set(train)])
        ]
    else:
        roll_outs = [with_references(range(len(camera_to_world)) if targets == "all" else targets)]
    return tuple(piece for roll_out in roll_outs for piece in _pieces(roll_out, longest))


def _evenly_spaced(items: Sequence[_Item], count: int) -> list[_Item]:
    """Items 0, n/count, 2 n/count ... rounded down: the release's choice. All of them when there
    are no more than ``count``.
    """
    assert count > 0, f"{count} references"
    kept = min(count, len(items))
    return [items[step * len(items) // kept] for step in range(kept)]


def _runs(frames: Sequence[int]) -> list[list[int]]:
    """Maximal runs of consecutive numbers in a sorted list."""
    runs: list[list[int]] = []
    for frame in frames:
        if runs and frame == runs[-1][-1] + 1:
            runs[-1].append(frame)
        else:
            runs.append([frame])
    return runs


def _directed(roll_out: RollOut) -> RollOut:
    """Reversed when the middle of the outer references lies behind that of the targets."""
    references, targets = roll_out.references, roll_out.targets
    if references[0] + references[-1] <= targets[0] + targets[-1]:
        return roll_out
    return RollOut(references[::-1], targets[::-1], is_reversed=True)


def _pieces(roll_out: RollOut, longest: int | None) -> list[RollOut]:
    size = len(roll_out.targets) if longest is None else longest
    return [
        replace(roll_out, targets=roll_out.targets[start : start + size])
        for start in range(0, len(roll_out.targets), size)
    ]
