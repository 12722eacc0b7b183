"""Picking: the camera frustum under a click.

viser reports the first frustum on a click's ray, even if it is invisible because it is in front of
the near plane, like the frustum of the camera at the current view.
"""

from __future__ import annotations

from collections.abc import Sequence

from jaxtyping import Float
from torch import Tensor

from artifixer.geometry.cameras import Cameras


def frustum_depth(camera: Cameras, size: float) -> float:
    """Distance from the camera at which viser draws its photo, world units. viser scales a frustum
    of ``size`` so that its volume is the same for all fields of view.
    """
    K = camera.Ks[0]
    width, height = 0.5 * camera.width / float(K[0, 0]), 0.5 * camera.height / float(K[1, 1])
    return float(size * (3 / (width * height)) ** (1 / 3))


def clicked_frustum(
    cameras: Sequence[Cameras],
    size: float,
    origin: Float[Tensor, " 3"],
    direction: Float[Tensor, " 3"],
    forward: Float[Tensor, " 3"],
    near: float,
) -> int | None:
    """Index of the camera whose photo is the first on the ray behind the near plane; None if there
    is none.

    size: viser's size of the frusta, world units. origin, direction: the ray, from the view's
    centre. forward: unit vector along which ``near`` (world units) is measured.
    """
    met: dict[int, float] = {}
    for index, camera in enumerate(cameras):
        viewmat = camera.viewmats[0].to(origin)
        start = viewmat[:3, :3] @ origin + viewmat[:3, 3]
        way = viewmat[:3, :3] @ direction
        depth = frustum_depth(camera, size)
        if abs(float(way[2])) < 1e-9:
            continue
        along = (depth - float(start[2])) / float(way[2])
        x, y, _ = (start + along * way).tolist()
        K = camera.Ks[0]
        is_inside = abs(x) <= depth * 0.5 * camera.width / float(K[0, 0]) and abs(
            y
        ) <= depth * 0.5 * camera.height / float(K[1, 1])
        if is_inside and along * float(direction @ forward) > near:
            met[index] = along
    return min(met, key=met.__getitem__) if met else None
