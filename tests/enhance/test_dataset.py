"""The dataset for other trainers: there and back through our loaders, and COLMAP's own library
reads it.
"""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from artifixer.enhance.dataset import (
    DatasetView,
    points_of_splats,
    write_dataset,
)
from artifixer.geometry.cameras import Cameras, LensModel
from artifixer.geometry.transforms import quaternion_to_matrix
from artifixer.scenes.formats import load_scene
from artifixer.scenes.scene import Scene
from artifixer.splats.splats import SH_BASE, Splats

#: A few float32 roundings of values near 1; poses go through an inverse and a quaternion in float64
#: on the way.
ROUNDING = 1e-6

LENSES: dict[str, tuple[LensModel, list[float]]] = {
    "PINHOLE": ("pinhole", [0, 0, 0, 0, 0, 0, 0, 0]),
    "OPENCV": ("pinhole", [0.1, -0.05, 0, 0, 0, 0, 0.01, -0.02]),
    "FULL_OPENCV": ("pinhole", [0.1, -0.05, 0.01, 0.02, 0.03, 0.004, 0.01, -0.02]),
    "OPENCV_FISHEYE": ("fisheye", [0.05, -0.02, 0.01, 0.005, 0, 0, 0, 0]),
}
POINTS = (
    torch.tensor([[0.1, 0.2, 3.0], [-1.0, 0.5, 2.0]]),
    torch.tensor([[255, 0, 7], [1, 2, 3]], dtype=torch.uint8),
)
NO_POINTS = (torch.zeros(0, 3), torch.zeros(0, 3, dtype=torch.uint8))


def made_cameras(count: int, lens: str, seed: int = 0) -> list[Cameras]:
    """Any orientation, translations up to a few units, one set of intrinsics."""
    generator = torch.Generator().manual_seed(seed)
    model, distortion = LENSES[lens]
    cameras = []
    for _ in range(count):
        viewmat = torch.eye(4)
        viewmat[:3, :3] = quaternion_to_matrix(torch.randn(4, generator=generator))
        viewmat[:3, 3] = torch.randn(3, generator=generator)
        K = torch.tensor([[40.3, 0, 23.7], [0, 41.1, 16.2], [0, 0, 1]])
        cameras.append(
            Cameras(
                viewmat[None],
                K[None],
                48,
                32,
                model,
                torch.tensor([distortion], dtype=torch.float32),
            )
        )
    return cameras


def made_views(cameras: list[Cameras]) -> list[DatasetView]:
    """The first two are photos, the others frames; every pixel of view ``i`` is ``10 i``."""

    def view(number: int, camera: Cameras) -> DatasetView:
        pixels = np.full((camera.height, camera.width, 3), 10 * number, np.uint8)
        if number < 2:
            return DatasetView("photo", f"images/IMG {number}.jpg", camera, lambda: pixels)
        return DatasetView("frame", f"frame {number - 2}", camera, lambda: pixels)

    return [view(number, camera) for number, camera in enumerate(cameras)]


def in_written_order(scene: Scene) -> list[int]:
    """Loaders sort by name, and frames sort before photos: positions of photo 0, photo 1, frame 0
    ...
    """
    names = [photo.name for photo in scene.photos]
    return sorted(
        range(len(names)),
        key=lambda position: (not names[position].startswith("images/photo"), names[position]),
    )


def assert_close(actual: Tensor, expected: Tensor) -> None:
    torch.testing.assert_close(actual, expected, rtol=ROUNDING, atol=ROUNDING)


@pytest.mark.parametrize("lens", LENSES)
@pytest.mark.parametrize("form", ["transforms_json", "colmap"])
def test_cameras_come_back_through_our_loaders(tmp_path: Path, lens: str, form: str) -> None:
    cameras = made_cameras(5, lens)
    write_dataset(tmp_path, made_views(cameras), POINTS)
    scene = load_scene(tmp_path / "transforms.json" if form == "transforms_json" else tmp_path)
    assert scene.format == form and len(scene.photos) == 5
    for number, position in enumerate(in_written_order(scene)):
        loaded, written = scene.cameras[position], cameras[number]
        assert (loaded.width, loaded.height, loaded.model) == (
            written.width,
            written.height,
            written.model,
        )
        for name in ("viewmats", "Ks", "distortion"):
            assert_close(getattr(loaded, name), getattr(written, name))
        assert (scene.photos[position].read() == 10 * number).all()
    assert scene.points is not None
    assert torch.equal(scene.points.xyz, POINTS[0]) and torch.equal(scene.points.rgb, POINTS[1])


@pytest.mark.parametrize("lens", LENSES)
def test_colmap_library_reads_the_model(tmp_path: Path, lens: str) -> None:
    import pycolmap

    cameras = made_cameras(4, lens)
    write_dataset(tmp_path, made_views(cameras), POINTS)
    model = pycolmap.Reconstruction(tmp_path / "sparse" / "0")
    assert (len(model.cameras), len(model.images), len(model.points3D)) == (1, 4, 2)
    for number, name in enumerate(
        ["photo_00000.png", "photo_00001.png", "frame_00000.png", "frame_00001.png"]
    ):
        image = next(image for image in model.images.values() if image.name == name)
        assert image.camera.model.name == lens
        pose = torch.from_numpy(image.cam_from_world().matrix()).to(torch.float32)
        assert_close(pose, cameras[number].viewmats[0, :3])
        if lens != "FULL_OPENCV":
            continue
        point = torch.tensor([[0.2, -0.1, 1.0]])
        ours = Cameras(
            torch.eye(4)[None],
            cameras[number].Ks,
            48,
            32,
            cameras[number].model,
            cameras[number].distortion,
        )
        theirs = torch.from_numpy(
            np.asarray(image.camera.img_from_cam(point[0].double().numpy()))
        ).to(torch.float32)
        # pixels of float32 arithmetic
        torch.testing.assert_close(ours.project(point)[0][0, 0], theirs, rtol=0, atol=1e-4)


@pytest.mark.parametrize("form", ["transforms_json", "colmap"])
def test_views_of_different_sizes_keep_their_own_intrinsics(tmp_path: Path, form: str) -> None:
    cameras = made_cameras(4, "OPENCV")
    cameras[1] = cameras[1].resized(96, 64)
    write_dataset(tmp_path, made_views(cameras), POINTS)
    scene = load_scene(tmp_path / "transforms.json" if form == "transforms_json" else tmp_path)
    loaded = [scene.cameras[position] for position in in_written_order(scene)]
    assert [camera.width for camera in loaded] == [48, 96, 48, 48]
    assert_close(loaded[1].Ks, cameras[1].Ks)


def test_transforms_name_their_sources(tmp_path: Path) -> None:
    write_dataset(tmp_path, made_views(made_cameras(3, "PINHOLE")), POINTS)
    content = json.loads((tmp_path / "transforms.json").read_text())
    assert [frame["source"] for frame in content["frames"]] == [
        "images/IMG 0.jpg",
        "images/IMG 1.jpg",
        "frame 0",
    ]
    assert content["camera_model"] == "PINHOLE" and "fl_x" not in content["frames"][0]


def test_the_same_views_give_the_same_bytes(tmp_path: Path) -> None:
    for name in ("a", "b"):
        write_dataset(tmp_path / name, made_views(made_cameras(3, "OPENCV")), POINTS)
    files = sorted(
        path.relative_to(tmp_path / "a") for path in (tmp_path / "a").rglob("*") if path.is_file()
    )
    assert len(files) == 3 + 5
    for file in files:
        assert (tmp_path / "a" / file).read_bytes() == (tmp_path / "b" / file).read_bytes(), file


def test_a_dataset_without_points_loads(tmp_path: Path) -> None:
    write_dataset(tmp_path, made_views(made_cameras(3, "PINHOLE")), NO_POINTS)
    points = load_scene(tmp_path).points
    assert points is not None and len(points) == 0


def test_points_of_splats_are_the_opaque_ones_in_their_colour() -> None:
    count = 1000
    opacity_logits = torch.where(torch.arange(count) % 2 == 0, 4.0, -4.0)
    colours = torch.rand(count, 3, generator=torch.Generator().manual_seed(0))
    sh = ((colours - 0.5) / SH_BASE)[:, None]
    means = torch.arange(count, dtype=torch.float32)[:, None].repeat(1, 3)
    splats = Splats(means, torch.ones(count, 4), torch.zeros(count, 3), opacity_logits, sh)
    xyz, rgb = points_of_splats(splats)
    assert torch.equal(xyz, means[::2])
    assert torch.equal(rgb, (colours[::2] * 255).round().to(torch.uint8))
    few, _ = points_of_splats(splats, max_points=100)
    assert len(few) == 100 and len(few.unique(dim=0)) == 100 and few.max() > 0.9 * count
