"""Export of photos and generated frames with their cameras as a dataset for other trainers.

In: views (a photo or a generated frame each, with its camera) and points. Out::

    images/photo_00000.png, images/frame_00000.png ...   8-bit RGB
    transforms.json    nerfstudio and instant-ngp; poses camera_to_world in OpenGL axes; "source"
                       names the photo or frame
    sparse_pc.ply      the points for nerfstudio
    sparse/0/*.txt     the same as a COLMAP model (cameras, images, points3D without tracks)

The world is the capture's own, in float64 where it is georeferenced. Numbers are written in full
precision: both forms reproduce the cameras to within float32 rounding.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np
import torch
from jaxtyping import Float, UInt8
from torch import Tensor

from artifixer.geometry.camera_file import CameraFrame
from artifixer.geometry.cameras import Cameras
from artifixer.geometry.local_origin import WORLD, Origin, points_to_world, to_world
from artifixer.geometry.transforms import OPENCV_FROM_OPENGL
from artifixer.runtime.files import atomic_path
from artifixer.runtime.image_files import write_png
from artifixer.runtime.json_io import write_json
from artifixer.scenes.colmap_files import write_model
from artifixer.scenes.colmap_lenses import lens_coefficients, lens_name
from artifixer.splats.splats import SH_BASE, Splats

#: Maximum number of points exported from splats; other trainers densify them.
MAX_POINTS = 100_000

#: Splats of lower opacity are not exported as points: they are haze, not surface.
MIN_OPACITY = 0.5


@dataclass(frozen=True)
class DatasetView:
    """One view of the dataset."""

    kind: Literal["photo", "frame"]
    """A captured photo, or a generated frame."""

    source: str
    """Name of the photo or frame."""

    camera: Cameras
    """One view, at the size of the pixels."""

    read: Callable[[], UInt8[np.ndarray, "height width 3"]]
    """Returns the pixels; called once."""

    def __post_init__(self) -> None:
        assert len(self.camera) == 1, f"{self.source}: {len(self.camera)} cameras"


class _WrittenView(NamedTuple):
    """A view whose picture is written: file in ``images``, name of its source, and the camera in
    the capture's world.
    """

    file: str
    source: str
    camera: Cameras


def write_dataset(
    folder: Path,
    views: Iterable[DatasetView],
    points: tuple[Float[Tensor, "points 3"], UInt8[Tensor, "points 3"]],
    origin: Origin = WORLD,
) -> None:
    """Write the dataset into ``folder``. ``transforms.json`` is written last: a folder that has it
    is complete.

    points: positions in world units and 8-bit colours, such as ``points_of_splats``. origin: of the
    coordinates of cameras and positions.
    """
    written: list[_WrittenView] = []
    counts = {"photo": 0, "frame": 0}
    for view in views:
        file = f"{view.kind}_{counts[view.kind]:05d}.png"
        counts[view.kind] += 1
        pixels = view.read()
        expected = (view.camera.height, view.camera.width, 3)
        assert pixels.shape == expected, (
            f"{view.source}: pixels {pixels.shape}, expected {expected} as its camera says"
        )
        write_png(folder / "images" / file, pixels)
        camera = to_world(view.camera.to("cpu"), origin)
        written.append(_WrittenView(file, view.source, camera))
    assert written, f"{folder}: a dataset without views"
    xyz, rgb = points_to_world(points[0], origin).cpu().numpy(), points[1].cpu().numpy()
    xyz = xyz if origin != WORLD else xyz.astype(np.float32)
    _write_point_cloud(folder / "sparse_pc.ply", xyz, rgb)
    frames = [CameraFrame(view.camera, view.file) for view in written]
    write_model(folder / "sparse" / "0", frames, xyz, rgb)
    _write_transforms(folder / "transforms.json", written)


def points_of_splats(
    splats: Splats, max_points: int = MAX_POINTS
) -> tuple[Float[Tensor, "points 3"], UInt8[Tensor, "points 3"]]:
    """Centres and base colours of the opaque splats, evenly subsampled to ``max_points``."""
    splats = splats.map(lambda tensor: tensor.detach().cpu())
    chosen = torch.nonzero(splats.opacities >= MIN_OPACITY)[:, 0]
    if len(chosen) > max_points:
        chosen = chosen[torch.arange(max_points) * len(chosen) // max_points]
    colours = (SH_BASE * splats.sh[chosen, 0] + 0.5).clamp(0, 1)
    return splats.means[chosen].to(torch.float32), (colours * 255).round().to(torch.uint8)


# nerfstudio ---------------------------------------------------------------------------------------


def _write_transforms(path: Path, views: Sequence[_WrittenView]) -> None:
    """Intrinsics and lens are written once where all views share them, otherwise per frame."""
    intrinsics = [_nerfstudio_intrinsics(view.camera) for view in views]
    shared = intrinsics[0] if all(entry == intrinsics[0] for entry in intrinsics) else {}
    frames = []
    for (file, source, camera), entry in zip(views, intrinsics, strict=True):
        pose = np.linalg.inv(camera.viewmats[0].to(torch.float64).numpy()) @ OPENCV_FROM_OPENGL
        own = {} if shared else entry
        frames.append(
            {
                "file_path": f"images/{file}",
                "source": source,
                "transform_matrix": pose.tolist(),
                **own,
            }
        )
    write_json(path, {"ply_file_path": "sparse_pc.ply", **shared, "frames": frames})


def _nerfstudio_intrinsics(camera: Cameras) -> dict[str, Any]:
    K, lens = camera.Ks[0].tolist(), lens_name(camera)
    content = {"camera_model": lens, "w": camera.width, "h": camera.height}
    content |= {"fl_x": K[0][0], "fl_y": K[1][1], "cx": K[0][2], "cy": K[1][2]}
    return content | lens_coefficients(camera, lens)


# Points -------------------------------------------------------------------------------------------


def _write_point_cloud(path: Path, xyz: np.ndarray, rgb: np.ndarray) -> None:
    from plyfile import PlyData, PlyElement

    fields = [(name, "<f4" if xyz.dtype == np.float32 else "<f8") for name in "xyz"] + [
        (name, "u1") for name in ("red", "green", "blue")
    ]
    vertices = np.zeros(len(xyz), dtype=fields)
    for column, name in enumerate("xyz"):
        vertices[name] = xyz[:, column]
    for column, name in enumerate(("red", "green", "blue")):
        vertices[name] = rgb[:, column]
    with atomic_path(path) as temporary:
        PlyData([PlyElement.describe(vertices, "vertex")], byte_order="<").write(str(temporary))
