"""``Scene``: a capture as every loader returns it. Photos are read lazily."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Int, UInt8
from torch import Tensor

from artifixer.geometry.cameras import Cameras, concatenate
from artifixer.geometry.local_origin import WORLD, Origin, to_local, to_world

#: World units by which rounding cameras to float32 may move a translation; beyond it a scene keeps
#: the exact ones too.
LARGEST_ROUNDING = 1e-3


@dataclass(frozen=True)
class Photo:
    """One captured photo.

    name: unique in the scene, as splits and reports write it (usually the path inside the capture,
    ``images/0001.jpg``). width, height: size in pixels of what ``read`` returns.
    read: returns the photo as uint8 ``[height width 3]``, upright, without alpha; raises
        ``InputError`` when the file is unreadable. The array may be shared between callers: copy it
        before writing into it.
    path: the file, or None for photos that are computed. orientation: EXIF's of that file, 1 to 8;
        ``read`` turns its pixels upright.
    mask: returns uint8 ``[height width]``, 255 where the photo counts and 0 where it does not, such
        as on what moved; None where all of it counts.
    opacity: returns uint8 ``[height width]``, how much of each pixel is covered by what was
        photographed, for pictures of objects over nothing; ``read`` is then premultiplied. None
        where everything is covered.
    """

    name: str
    width: int
    height: int
    read: Callable[[], UInt8[np.ndarray, "height width 3"]]
    path: Path | None = None
    mask: Callable[[], UInt8[np.ndarray, "height width"]] | None = None
    opacity: Callable[[], UInt8[np.ndarray, "height width"]] | None = None
    orientation: int = 1

    def pixels(self) -> Float[Tensor, "height width 3"]:
        """The photo as float32 in [0,1]."""
        return torch.from_numpy(self.read()).to(torch.float32) / 255

    def weights(self) -> Float[Tensor, "height width"] | None:
        """The mask as weights, 1 where the photo counts and 0 where it does not."""
        return None if self.mask is None else torch.from_numpy(self.mask()).to(torch.float32) / 255

    def with_layers(self, change: Callable[[np.ndarray], np.ndarray], **fields: Any) -> Photo:
        """The photo with its pixels, mask and opacity changed alike when they are read; and other
        fields replaced.
        """
        layers: dict[str, Any] = {
            name: functools.partial(_changed, layer, change)
            for name in ("read", "mask", "opacity")
            if (layer := getattr(self, name)) is not None
        }
        return replace(self, **(layers | fields))

    def in_memory(self) -> Photo:
        """The photo without its file."""
        layers: dict[str, Any] = {
            name: functools.partial(np.asarray, layer())
            for name in ("read", "mask", "opacity")
            if (layer := getattr(self, name)) is not None
        }
        return replace(self, path=None, orientation=1, **layers)


def _changed(
    layer: Callable[[], np.ndarray], change: Callable[[np.ndarray], np.ndarray]
) -> np.ndarray:
    return np.ascontiguousarray(change(layer()))


@dataclass(frozen=True)
class SparsePoints:
    """Points triangulated by structure from motion, and which views observed them.

    xyz ``[points 3]`` float32, world units; rgb ``[points 3]`` uint8.
    Observations are three parallel arrays: point index, view index (into ``Scene.photos``), and the
    pixel ``[observations 2]`` at the photo's size. All three are empty when the file has points but
    no tracks.
    """

    xyz: Float[Tensor, "points 3"]
    rgb: UInt8[Tensor, "points 3"]
    observed_point: Int[Tensor, " observations"]
    observed_view: Int[Tensor, " observations"]
    observed_pixel: Float[Tensor, "observations 2"]

    @staticmethod
    def without_tracks(
        xyz: Float[Tensor, "points 3"], rgb: UInt8[Tensor, "points 3"]
    ) -> SparsePoints:
        """Points whose observing views are unknown."""
        none = torch.zeros(0, dtype=torch.int64)
        return SparsePoints(xyz, rgb, none, none, torch.zeros(0, 2))

    def __len__(self) -> int:
        return self.xyz.shape[0]

    @property
    def has_tracks(self) -> bool:
        return self.observed_point.numel() > 0


@dataclass(frozen=True)
class Split:
    """Names of the photos that train and of those held out; every name occurs in the scene, none in
    both.

    groups: named parts of ``heldout`` that are worth a figure of their own (``far_group``: what no
    training camera was near).
    """

    name: str
    train: tuple[str, ...]
    heldout: tuple[str, ...]
    groups: Mapping[str, tuple[str, ...]] = field(default_factory=dict)


@dataclass(frozen=True)
class Scene:
    """A capture: photos with cameras, sparse points, named splits.

    name: for people and reports.
    format: the loader that made it (``colmap``, ``transforms_json``, ``photos``, ``procedural``
    ...). photos: sorted by name unless the capture defines an order.
    cameras: one single-view ``Cameras`` per photo, of the photo's size; sizes may differ between
    photos. points: sparse points, or None.
    splits: splits that the capture itself defines, by name.
    applied_transform: what the capture says was already applied to its world (recorded, never
    undone), or None.
    notes: one-line remarks of the loader for the user (missing photos, guessed intrinsics).
    lost_photos: names of photos that the capture lists and the scene lacks: the file is missing, or
    no pose was found.
    origin: cameras and points are relative to this place of the capture's world; (0, 0, 0) but for
    georeferenced captures.
    metres_per_unit: where the capture itself knows how long a unit of its world is, as drawn scenes
    do.
    exact_viewmats: world_to_camera of the capture's own world in float64, where float32 cameras
    lose digits of it (``exact_viewmats_of``); for checks of the poses.
    """

    name: str
    format: str
    photos: tuple[Photo, ...]
    cameras: tuple[Cameras, ...]
    points: SparsePoints | None = None
    splits: Mapping[str, Split] = field(default_factory=dict)
    applied_transform: Float[Tensor, "3 4"] | None = None
    notes: tuple[str, ...] = ()
    lost_photos: tuple[str, ...] = ()
    origin: Origin = WORLD
    metres_per_unit: float | None = None
    exact_viewmats: Float[np.ndarray, "views 4 4"] | None = None

    def __post_init__(self) -> None:
        assert len(self.photos) == len(self.cameras), (
            f"{len(self.photos)} photos, {len(self.cameras)} cameras"
        )
        for photo, camera in zip(self.photos, self.cameras, strict=True):
            assert len(camera) == 1 and (photo.width, photo.height) == (
                camera.width,
                camera.height,
            ), photo.name

    def index(self, name: str) -> int:
        """Position of a photo by name; KeyError when unknown."""
        for position, photo in enumerate(self.photos):
            if photo.name == name:
                return position
        raise KeyError(name)

    def batch(self, indices: Sequence[int]) -> Cameras:
        """Cameras of the chosen photos as one batch; they must share size and lens model
        (asserted).
        """
        return concatenate([self.cameras[i] for i in indices])

    def with_photos(self, photos: Sequence[Photo], cameras: Sequence[Cameras]) -> Scene:
        """The same scene with photos and cameras replaced one for one (resizing)."""
        return replace(self, photos=tuple(photos), cameras=tuple(cameras))


def exact_viewmats_of(
    cameras: Sequence[Cameras], origin: Origin
) -> Float[np.ndarray, "views 4 4"] | None:
    """world_to_camera of float64 cameras, where the scene's (float32 around ``origin``) differ from
    it by more than ``LARGEST_ROUNDING``; else None.

    Right poses of a georeferenced capture are near its origin. Poses of another convention are not:
    inverting them takes digits that float32 has no room for.
    """
    if not cameras:
        return None
    exact = torch.cat([camera.viewmats for camera in cameras])
    rounded = torch.cat([to_world(to_local(camera, origin), origin).viewmats for camera in cameras])
    return exact.numpy() if (rounded - exact).abs().max() > LARGEST_ROUNDING else None
