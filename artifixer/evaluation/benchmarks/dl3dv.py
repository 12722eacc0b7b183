"""Benchmarks on DL3DV: the Difix split, and the two splits of the novel-content benchmark."""

from __future__ import annotations

import functools
from pathlib import Path, PurePosixPath

import torch
from jaxtyping import Float
from torch import Tensor

from artifixer.evaluation.benchmarks.lists import data
from artifixer.evaluation.benchmarks.masks import find_visibility_masks
from artifixer.evaluation.benchmarks.prepared import PHOTOS, frames_by_photo, write_capture
from artifixer.evaluation.benchmarks.scene import BenchmarkScene, Options, prepared_scene
from artifixer.runtime.errors import InputError
from artifixer.scenes import dl3dv
from artifixer.scenes.formats import load_scene
from artifixer.scenes.scene import Scene
from artifixer.scenes.splits import choose_split

#: Maximum number of iterations of the two-means clustering; it stops when nothing changes.
CLUSTER_ITERATIONS = 100


def find_dl3dv(root: Path, name: str) -> Path | None:
    """The zip or folder of a scene in any of the layouts that DL3DV is distributed in."""
    batch = PurePosixPath(data("dl3dv")["scenes"][name]["zip"]).parent.name
    return dl3dv.find_scene(root, name, batch)


def open_dl3dv_difix(root: Path, name: str, options: Options, work: Path) -> BenchmarkScene:
    """``dl3dv-difix``: the authors' training indices and masks; a stand-in split without them."""
    names, scene, caveats = _dl3dv_capture(root, name, work)
    if options.train_ids is None:
        in_training = training_cluster(torch.cat([camera.centers for camera in scene.cameras]))
        by_name = [photo.name.removeprefix(f"{PHOTOS}/") for photo in scene.photos]
        train = [photo for photo, member in zip(by_name, in_training, strict=True) if member]
        caveats += (
            "the Difix split is not public and --train-ids was not given: the larger of two "
            "clusters of camera positions trains instead",
        )
    else:
        ids = dl3dv.read_ids(options.train_ids / name / "difix_train_ids.json", len(names))
        train = [names[position] for position in ids]
    heldout = sorted(set(names) - set(train))
    masks = find_visibility_masks(
        options.masks, name, heldout, work / PHOTOS / heldout[0], fallback=names
    )
    if not masks:
        caveats += ("no visibility masks (--masks): the published table is masked",)
    return prepared_scene(
        name, work, names, train, heldout, masks, caveats, is_stand_in=options.train_ids is None
    )


def open_novel_content_release(
    root: Path, name: str, options: Options, work: Path
) -> BenchmarkScene:
    """``novel-content-release``: the split of the public release."""
    views = 6 if options.views is None else options.views
    if options.half not in (0, 1):
        raise InputError(f"--half {options.half}: expected 0 or 1")
    caveats: tuple[str, ...] = ()
    if (views, options.half) != (6, 0):
        caveats = (f"{views} views of half {options.half}; the release's default is 6 of half 0",)
    split = f"half_covisibility_{'1_' if options.half else ''}K{views}"
    return _open_novel_content(root, name, work, split, caveats)


def open_novel_content_paper(root: Path, name: str, options: Options, work: Path) -> BenchmarkScene:
    """``novel-content-paper``: Algorithm 1 of the paper (appendix B)."""
    views = 6 if options.views is None else options.views
    note = "the paper does not state its number of views and its group; here the larger group"
    return _open_novel_content(root, name, work, f"algorithm1_raw_units_K{views}", (note,))


def training_cluster(centers: Float[Tensor, "views 3"]) -> list[bool]:
    """Membership of each camera in the larger of two clusters of positions (two-means, started from
    the farthest pair; the first cluster when both are equal): a stand-in for a split that is not
    public.
    """
    points = centers.to(torch.float64)
    distance = torch.cdist(points, points, compute_mode="donot_use_mm_for_euclid_dist")
    first, second = divmod(int(distance.argmax()), len(points))
    means = points[[first, second]]
    near = torch.zeros(len(points), dtype=torch.bool)
    for _ in range(CLUSTER_ITERATIONS):
        gaps = torch.cdist(points, means, compute_mode="donot_use_mm_for_euclid_dist")
        now = gaps[:, 0] <= gaps[:, 1]
        if torch.equal(now, near):
            break
        near = now
        means = torch.stack([points[near].mean(dim=0), points[~near].mean(dim=0)])
    larger = near if 2 * int(near.sum()) >= len(points) else ~near
    return [bool(member) for member in larger]


def _open_novel_content(
    root: Path, name: str, work: Path, split_name: str, caveats: tuple[str, ...]
) -> BenchmarkScene:
    names, scene, found = _dl3dv_capture(root, name, work)
    split = choose_split(scene, name=split_name)
    train, heldout = (
        [photo.removeprefix(f"{PHOTOS}/") for photo in half]
        for half in (split.train, split.heldout)
    )
    return prepared_scene(name, work, names, train, heldout, caveats=(*found, *caveats))


def _dl3dv_capture(
    root: Path, name: str, work: Path
) -> tuple[tuple[str, ...], Scene, tuple[str, ...]]:
    """The scene's photos in file order, the capture that was written, and caveats."""
    path = find_dl3dv(root, name)
    assert path is not None, name
    scene = dl3dv.open_scene(path, name)
    names = dl3dv.without_dropped(scene, data("dl3dv")["dropped"].get(name, ()))
    content = frames_by_photo(scene.content, str(path))
    whole = {key: value for key, value in scene.content.items() if key != "ply_file_path"}
    write_capture(
        work,
        whole | {"frames": [content[photo] for photo in names]},
        {photo: functools.partial(scene.read, photo) for photo in names},
    )
    caveats: tuple[str, ...] = ()
    if scene.image_folder != "images_4":
        caveats = (f"photos come from {scene.image_folder}, the published ones from images_4",)
    return names, load_scene(work), caveats
