"""Which photos train and which are held out: ``Scene`` -> ``Split``.

Few views are chosen as the paper's training data is (Algorithm 1 in appendix B): the two cameras
farthest apart seed two groups, every camera joins the nearer seed, and inside a group
farthest-point sampling starts from the seed. The distance of two cameras adds rotation and
translation, so it depends on the unit of length; there are three variants:

``algorithm1_K6``            translations centred and divided by their mean distance to the centroid
                             (``--views K``)
``algorithm1_raw_units_K6``  the formula as printed, in the capture's units
``half_covisibility_K6``     the public release's: rotation angle / pi + translation / mean distance
                             to the origin, two groups of equal size; ``half_covisibility_1_K6``
                             takes the second group

The first two train on the larger group. ``every_8`` holds out every 8th photo, beginning with the
first. A capture's own splits go first where a name occurs twice. Photos that do not train are held
out.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Callable, Sequence
from pathlib import Path

import torch
from jaxtyping import Float
from torch import Tensor

from artifixer.runtime.counts import counted
from artifixer.runtime.errors import InputError
from artifixer.runtime.files import read_whole
from artifixer.runtime.json_io import LARGEST_JSON, read_json
from artifixer.scenes.file_names import KnownNames
from artifixer.scenes.scene import Scene, Split

#: A reconstruction from one photo has no depth.
MIN_TRAINING_VIEWS = 2

#: One of the two groups of cameras, in the order of selection.
Order = tuple[int, ...]


def choose_split(
    scene: Scene,
    *,
    name: str | None = None,
    views: int | None = None,
    train_list: Path | None = None,
    all_views: bool = False,
) -> Split:
    """The split that the user asks for; exactly one of the four must be given (asserted).

    name: a split of the capture itself, or one of this module's. views: this many photos by
    Algorithm 1 in normalised units. train_list: a file, see ``read_train_list``. all_views: nothing
    is held out.
    Raises InputError for an unknown name, unknown photos, fewer than 2 training views, and for more
    views than there are to choose from.
    """
    given = [name is not None, views is not None, train_list is not None, all_views]
    assert sum(given) == 1, (
        f"expected exactly one of name, views, train_list and all_views, got {sum(given)}"
    )
    if train_list is not None:
        return _checked(read_train_list(train_list, scene), str(train_list))
    if all_views:
        return _checked(Split("all", tuple(photo.name for photo in scene.photos), ()), "all views")
    wanted = f"algorithm1_K{views}" if name is None else name
    label = f"--views {views}" if name is None else f"split {name}"
    if name is not None and name in scene.splits:
        return _checked(scene.splits[name], label)
    for pattern, make in _NAMED:
        match = re.fullmatch(pattern, wanted)
        if match:
            return _checked(
                make(scene, wanted, label, *(int(number) for number in match.groups())), label
            )
    raise InputError(
        f"{label}: {scene.name} has no such split{_similar(wanted, scene)}; expected "
        f"{_known(scene)}"
    )


def algorithm1_orders(
    camera_to_world: Float[Tensor, "views 4 4"], *, normalise: bool = True
) -> tuple[Order, Order]:
    """Both groups of Algorithm 1 in the order of selection, the one of the first seed first (paper,
    appendix B).

    The distance is ||R_i - R_j||_F + ||t_i - t_j||. normalise: centre the translations and divide
    them by their mean distance to the centroid first, so that the result does not depend on the
    capture's unit of length.
    """
    poses = camera_to_world.to(torch.float64)
    translations = poses[:, :3, 3]
    if normalise:
        translations = translations - translations.mean(dim=0)
        spread = translations.norm(dim=1).mean()
        translations = translations / spread if spread > 0 else translations
    rotations = poses[:, :3, :3].flatten(1)
    distance = _distances(rotations) + _distances(translations)
    first, second = _farthest_pair(distance)
    near_first = distance[first] <= distance[second]
    groups = [torch.nonzero(member).flatten().tolist() for member in (near_first, ~near_first)]
    return _farthest_points(distance, first, groups[0]), _farthest_points(
        distance, second, groups[1]
    )


def half_covisibility_orders(camera_to_world: Float[Tensor, "views 4 4"]) -> tuple[Order, Order]:
    """Both halves of the public release's variant in the order of selection: the half of the first
    seed, and that of the second.

    The distance is angle(R_i, R_j) / pi + ||t_i - t_j|| / mean ||t||, with translations from the
    world's origin, not centred. The half of the cameras nearest to the first seed (rounded down) is
    the first.
    """
    distance = covisibility_distances(camera_to_world)
    first, second = _farthest_pair(distance)
    ranked = torch.argsort(distance[first], stable=True).tolist()
    half = len(ranked) // 2
    return _farthest_points(distance, first, sorted(ranked[:half])), _farthest_points(
        distance, second, sorted(ranked[half:])
    )


def covisibility_distances(
    camera_to_world: Float[Tensor, "views 4 4"],
) -> Float[Tensor, "views views"]:
    """The release's distance between all pairs of cameras, float64; small where two cameras look at
    the same things.
    """
    poses = camera_to_world.to(torch.float64)
    rotations, translations = poses[:, :3, :3], poses[:, :3, 3]
    trace = torch.einsum("iab,jab->ij", rotations, rotations)
    angles = torch.arccos(((trace - 1) / 2).clamp(-1, 1))
    reach = translations.norm(dim=1).mean()
    return angles / torch.pi + _distances(translations) / (reach if reach > 0 else 1)


def read_train_list(path: Path, scene: Scene) -> Split:
    """The split of a file: text with one training photo per line (# starts a comment), a JSON list
    of names, or a JSON object with "train" and, if not everything else is held out, "test" or
    "heldout".

    Photos may be named by the last parts of their path where that is unique, and in other case or
    encoding of accents. Photos that the capture lists and lacks are left out. Raises InputError for
    unreadable files, unknown photos, and photos that both train and are held out.
    """
    lists = _json_lists(path) if path.suffix.lower() == ".json" else {"train": _text_list(path)}
    train = _photo_names(path, lists["train"], scene)
    if "heldout" in lists:
        heldout = _photo_names(path, lists["heldout"], scene)
        both = sorted(set(train) & set(heldout))
        if both:
            raise InputError(
                f"{path}: {both[0]} is in the training and in the held-out list; expected no photo "
                "in both"
            )
    else:
        heldout = _others(scene, train)
    return Split(path.stem, train, heldout)


# Named splits -------------------------------------------------------------------------------------


def _every_nth(scene: Scene, name: str, label: str, n: int) -> Split:
    if n < 1:
        raise InputError(f"{label}: expected every_2 (half of the photos are held out) or more")
    names = [photo.name for photo in scene.photos]
    heldout = tuple(names[::n])
    return Split(
        name, tuple(other for position, other in enumerate(names) if position % n), heldout
    )


def _algorithm1(scene: Scene, name: str, label: str, count: int, *, normalise: bool) -> Split:
    """The first ``count`` cameras of the larger group; of equal ones, the first seed's."""
    first, second = algorithm1_orders(_poses(scene), normalise=normalise)
    chosen, other = (first, second) if len(first) >= len(second) else (second, first)
    return _first_of_group(scene, name, label, count, chosen, other)


def _half_covisibility(scene: Scene, name: str, label: str, count: int, *, half: int) -> Split:
    orders = half_covisibility_orders(_poses(scene))
    return _first_of_group(scene, name, label, count, orders[half], orders[1 - half])


def _first_of_group(
    scene: Scene, name: str, label: str, count: int, chosen: Order, other: Order
) -> Split:
    if not MIN_TRAINING_VIEWS <= count <= len(chosen):
        raise InputError(
            f"{label}: {scene.name} has {counted(len(scene.photos), 'photo')}, {len(chosen)} of "
            "them in the group to choose from; "
            f"expected {MIN_TRAINING_VIEWS} to {counted(len(chosen), 'training view')}"
        )
    names = [photo.name for photo in scene.photos]
    train = tuple(names[position] for position in chosen[:count])
    groups = {
        "far_group": tuple(names[position] for position in sorted(other)),
        "same_group": tuple(names[position] for position in sorted(chosen[count:])),
    }
    return Split(name, train, _others(scene, train), groups)


#: Patterns of names, and what makes their splits from (scene, name, label for messages, the numbers
#: in the name).
_NAMED: tuple[tuple[str, Callable[..., Split]], ...] = (
    (r"every_(\d{1,9})", _every_nth),
    (r"algorithm1_K(-?\d{1,9})", lambda *arguments: _algorithm1(*arguments, normalise=True)),
    (
        r"algorithm1_raw_units_K(\d{1,9})",
        lambda *arguments: _algorithm1(*arguments, normalise=False),
    ),
    (r"half_covisibility_K(\d{1,9})", lambda *arguments: _half_covisibility(*arguments, half=0)),
    (r"half_covisibility_1_K(\d{1,9})", lambda *arguments: _half_covisibility(*arguments, half=1)),
)
_NAMED_EXAMPLES = (
    "every_8",
    "algorithm1_K6",
    "algorithm1_raw_units_K6",
    "half_covisibility_K6",
    "half_covisibility_1_K6",
)


def _known(scene: Scene) -> str:
    names = ", ".join((*scene.splits, *_NAMED_EXAMPLES))
    return f"one of {names} (with any number in place of the last)"


def _similar(name: str, scene: Scene) -> str:
    close = difflib.get_close_matches(name, scene.splits, n=1)
    return f" (did you mean {close[0]}?)" if close else ""


def _checked(split: Split, label: str) -> Split:
    if len(split.train) < MIN_TRAINING_VIEWS:
        raise InputError(
            f"{label}: leaves {counted(len(split.train), 'photo')} to train on; expected at least "
            f"{MIN_TRAINING_VIEWS}"
        )
    return split


def _others(scene: Scene, train: Sequence[str]) -> tuple[str, ...]:
    chosen = set(train)
    return tuple(photo.name for photo in scene.photos if photo.name not in chosen)


# Distances between cameras ------------------------------------------------------------------------


def _poses(scene: Scene) -> Float[Tensor, "views 4 4"]:
    return torch.cat([camera.to(dtype=torch.float64).camera_to_world for camera in scene.cameras])


def _distances(rows: Float[Tensor, "views values"]) -> Float[Tensor, "views views"]:
    """Euclidean distances between all rows, from differences: no cancellation for near ones."""
    return torch.cdist(rows, rows, compute_mode="donot_use_mm_for_euclid_dist")


def _farthest_pair(distance: Float[Tensor, "views views"]) -> tuple[int, int]:
    """The first pair in row-major order whose distance is the largest."""
    first, second = divmod(int(torch.argmax(distance)), len(distance))
    return first, second


def _farthest_points(
    distance: Float[Tensor, "views views"], seed: int, group: Sequence[int]
) -> Order:
    """The group's members, beginning with the seed; each next one is the farthest from those chosen
    (the first of equals).
    """
    members = [seed, *(member for member in group if member != seed)]
    among = distance[members][:, members]
    chosen = torch.zeros(len(members), dtype=torch.bool)
    nearest = torch.full((len(members),), torch.inf, dtype=distance.dtype)
    order, latest = [seed], 0
    for _ in members[1:]:
        chosen[latest] = True
        nearest = torch.minimum(nearest, among[latest]).masked_fill(chosen, -1)
        latest = int(torch.argmax(nearest))
        order.append(members[latest])
    return tuple(order)


# Files --------------------------------------------------------------------------------------------


def _text_list(path: Path) -> list[str]:
    if not path.exists():
        raise InputError(
            f"{path}: cannot be read (No such file or directory); expected a file with the names "
            "of the training photos"
        )
    try:
        lines = (
            read_whole(path, "a file with the names of the training photos", LARGEST_JSON)
            .decode()
            .splitlines()
        )
    except UnicodeDecodeError as error:
        raise InputError(
            f"{path}: is not UTF-8 text; expected the names of the training photos, one per line"
        ) from error
    names = (line.split("#")[0].strip() for line in lines)
    return [name for name in names if name]


def _json_lists(path: Path) -> dict[str, list[str]]:
    """The lists called ``train`` and, if the file has one, ``heldout`` (also written ``test``)."""
    expected = 'expected a list of photos, or an object with the lists "train" and "test"'
    content = read_json(path)
    if isinstance(content, list):
        content = {"train": content}
    if not isinstance(content, dict) or "train" not in content:
        raise InputError(f"{path}: {str(content)[:60]!r}; {expected}")
    lists = {"train": content["train"]}
    heldout = next((key for key in ("heldout", "test") if key in content), None)
    if heldout is not None:
        lists["heldout"] = content[heldout]
    for key, names in lists.items():
        if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
            raise InputError(f"{path}: {key} is {str(names)[:60]!r}; {expected}")
    return lists


def _photo_names(path: Path, listed: Sequence[str], scene: Scene) -> tuple[str, ...]:
    """The scene's names of the listed photos in their order, each once."""
    names = [photo.name for photo in scene.photos]
    lost = set(scene.lost_photos)
    known = KnownNames((*names, *scene.lost_photos))
    found: dict[str, None] = {}
    for text in listed:
        matches = known.find_by_last_parts(text.removeprefix("./"))
        if len(matches) != 1:
            reason = (
                "is no photo of this capture"
                if not matches
                else f"may be {' or '.join(sorted(matches)[:3])}"
            )
            raise InputError(
                f"{path}: names {text[:80]!r}, which {reason}; expected names like {names[0]}"
            )
        if matches[0] not in lost:
            found[matches[0]] = None
    return tuple(found)
