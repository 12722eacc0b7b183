"""Captures whose files say another thing than the camera that made them might suggest: points are
projected as the file says, and the photos have their colours there.

The projections here are written from the definitions of the lenses and share nothing with the
loaders.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image, ImageDraw, ImageOps
from scipy.spatial.transform import Rotation

from artifixer.scenes.formats import load_scene
from artifixer.scenes.scene import Scene

WIDTH, HEIGHT = 160, 120
FOCAL = 90.0

#: Pixels between the loader's projection (float32) and the one that the file describes.
PROJECTION_TOLERANCE = 0.01

#: Half the size of a disc in the photos, pixels.
RADIUS = 2.5

#: Values by which JPEG may change the middle of a disc.
COLOUR_TOLERANCE = 12

EXIF_ORIENTATION = 0x0112

#: Points ``[12 3]`` in front of all cameras and apart in the photos, with bright colours.
POINTS = np.array(
    [(x, y, 3 + 0.2 * x - 0.3 * y) for x in (-1.5, -0.5, 0.6, 1.4) for y in (-1, 0, 1)]
)
COLOURS = np.random.default_rng(4).integers(80, 256, (len(POINTS), 3), dtype=np.uint8)

#: Rotations of world_to_camera as rotation vectors, and translations.
POSES = [
    (Rotation.from_rotvec(vector).as_matrix(), np.array(translation))
    for vector, translation in (
        ((0.02, -0.05, 0.03), (0.1, 0.0, 0.2)),
        ((-0.04, 0.06, -0.08), (-0.2, 0.1, 0.1)),
        ((0.05, 0.03, 0.1), (0.0, -0.15, 0.3)),
    )
]

Lens = Callable[[np.ndarray], np.ndarray]


def seen(rotation: np.ndarray, translation: np.ndarray) -> np.ndarray:
    """The points in camera axes."""
    return POINTS @ rotation.T + translation


def pinhole(focal: float, cx: float, cy: float) -> Lens:
    return lambda points: focal * points[:, :2] / points[:, 2:] + (cx, cy)


def equidistant(fx: float, fy: float, cx: float, cy: float) -> Lens:
    """The ideal fisheye lens: a ray at an angle theta from the axis is theta focal lengths from the
    principal point.
    """

    def project(points: np.ndarray) -> np.ndarray:
        across = np.linalg.norm(points[:, :2], axis=1)
        theta = np.arctan2(across, points[:, 2])
        return (theta / across)[:, None] * points[:, :2] * (fx, fy) + (cx, cy)

    return project


def photo_of(pixels: np.ndarray, size: tuple[int, int]) -> Image.Image:
    """Discs of the points' colours on black."""
    picture = Image.new("RGB", size)
    draw = ImageDraw.Draw(picture)
    for (x, y), colour in zip(pixels, COLOURS, strict=True):
        # Pillow's coordinates are those of pixel centres
        draw.ellipse(
            [x - 0.5 - RADIUS, y - 0.5 - RADIUS, x - 0.5 + RADIUS, y - 0.5 + RADIUS],
            fill=tuple(int(value) for value in colour),
        )
    return picture


def check_places(scene: Scene, expected: list[np.ndarray]) -> None:
    """expected: places of the points in each photo as it is read, in pixels."""
    assert len(scene.photos) == len(expected)
    world = torch.from_numpy(POINTS - np.array(scene.origin)).float()
    for photo, camera, places in zip(scene.photos, scene.cameras, expected, strict=True):
        pixels, _, is_imaged = camera.project(world)
        assert is_imaged.all()
        np.testing.assert_allclose(pixels[0].numpy(), places, atol=PROJECTION_TOLERANCE, rtol=0)
        columns, rows = pixels[0].long().T
        found = photo.read()[rows.numpy(), columns.numpy()].astype(int)
        assert np.abs(found - COLOURS).max() <= COLOUR_TOLERANCE


# Fisheye lenses without coefficients --------------------------------------------------------------


def write_transforms(capture: Path, lens: dict[str, object], project: Lens) -> None:
    frames = []
    (capture / "images").mkdir(parents=True)
    for number, (rotation, translation) in enumerate(POSES):
        name = f"images/{number}.png"
        photo_of(project(seen(rotation, translation)), (WIDTH, HEIGHT)).save(capture / name)
        pose = np.eye(4)
        pose[:3, :3], pose[:3, 3] = rotation.T, -rotation.T @ translation
        frames.append({"file_path": name, "transform_matrix": (pose * (1, -1, -1, 1)).tolist()})
    size = {"w": WIDTH, "h": HEIGHT}
    (capture / "transforms.json").write_text(json.dumps({**lens, **size, "frames": frames}))


@pytest.mark.parametrize(
    "named",
    [
        {"camera_model": name}
        for name in (
            *("FISHEYE", "SIMPLE_FISHEYE", "SIMPLE_RADIAL_FISHEYE", "RADIAL_FISHEYE"),
            *("OPENCV_FISHEYE", "radial_fisheye"),
        )
    ]
    + [{"is_fisheye": True}, {"camera_model": "RADIAL_FISHEYE", "k1": 0.0, "k2": 0.0}],
    ids=lambda named: "-".join(map(str, named.values())),
)
@pytest.mark.parametrize("fy", [FOCAL, 1.1 * FOCAL])
def test_fisheye_names_without_coefficients_are_the_ideal_fisheye(
    tmp_path: Path, named: dict[str, object], fy: float
) -> None:
    project = equidistant(FOCAL, fy, 84.0, 57.0)
    lens = {**named, "fl_x": FOCAL, "fl_y": fy, "cx": 84.0, "cy": 57.0}
    write_transforms(tmp_path, lens, project)
    check_places(load_scene(tmp_path), [project(seen(*pose)) for pose in POSES])


# COLMAP's text files ------------------------------------------------------------------------------


def write_colmap_text(
    capture: Path, lens: str, size: tuple[int, int], quaternions: list[str], suffix: str
) -> list[str]:
    """The files without photos and observations; returns the names of the photos. quaternions: wxyz
    as written.
    """
    model = capture / "sparse" / "0"
    model.mkdir(parents=True)
    (capture / "images").mkdir()
    name, *values = lens.split()
    (model / "cameras.txt").write_text(f"1 {name} {size[0]} {size[1]} {' '.join(values)}\n")
    names = [f"{number}{suffix}" for number in range(len(POSES))]
    rows = [
        f"{number + 1} {words} {' '.join(map(repr, translation.tolist()))} 1 {photo}\n\n"
        for number, (words, (_, translation), photo) in enumerate(
            zip(quaternions, POSES, names, strict=True)
        )
    ]
    (model / "images.txt").write_text("".join(rows))
    (model / "points3D.txt").write_text(
        "".join(
            f"{number + 1} {' '.join(map(repr, xyz.tolist()))} {' '.join(map(str, rgb))} 0\n"
            for number, (xyz, rgb) in enumerate(zip(POINTS, COLOURS, strict=True))
        )
    )
    return names


def quaternion(rotation: np.ndarray) -> np.ndarray:
    return Rotation.from_matrix(rotation).as_quat(scalar_first=True)


@pytest.mark.parametrize("lens", ["SIMPLE_RADIAL_FISHEYE", "RADIAL_FISHEYE", "FISHEYE"])
def test_colmaps_fisheye_lenses_with_zeros_are_the_ideal_fisheye(tmp_path: Path, lens: str) -> None:
    project = equidistant(FOCAL, FOCAL, 84.0, 57.0)
    values = {"SIMPLE_RADIAL_FISHEYE": (FOCAL, 84, 57, 0), "RADIAL_FISHEYE": (FOCAL, 84, 57, 0, 0)}
    words = " ".join(map(str, values.get(lens, (FOCAL, FOCAL, 84, 57))))
    turns = [" ".join(map(repr, quaternion(rotation).tolist())) for rotation, _ in POSES]
    names = write_colmap_text(tmp_path, f"{lens} {words}", (WIDTH, HEIGHT), turns, ".png")
    expected = [project(seen(*pose)) for pose in POSES]
    for name, pixels in zip(names, expected, strict=True):
        photo_of(pixels, (WIDTH, HEIGHT)).save(tmp_path / "images" / name)
    check_places(load_scene(tmp_path), expected)


def test_the_rotation_of_rounded_quaternions_is_that_of_unit_ones(tmp_path: Path) -> None:
    """Three digits: the written quaternion is divided by its length."""
    project = pinhole(FOCAL, 84.0, 57.0)
    turns = [" ".join(f"{value:.3f}" for value in quaternion(rotation)) for rotation, _ in POSES]
    lens = f"SIMPLE_PINHOLE {FOCAL} 84 57"
    names = write_colmap_text(tmp_path, lens, (WIDTH, HEIGHT), turns, ".png")
    expected = []
    for words, name, (_, translation) in zip(turns, names, POSES, strict=True):
        written = np.array([float(word) for word in words.split()])
        assert abs(np.linalg.norm(written) - 1) > 1e-5, "not a unit quaternion"
        w, x, y, z = written / np.linalg.norm(written)
        rotation = np.array(
            [
                [1 - 2 * (y * y + z * z), 2 * (x * y - w * z), 2 * (x * z + w * y)],
                [2 * (x * y + w * z), 1 - 2 * (x * x + z * z), 2 * (y * z - w * x)],
                [2 * (x * z - w * y), 2 * (y * z + w * x), 1 - 2 * (x * x + y * y)],
            ]
        )
        expected.append(project(seen(rotation, translation)))
        photo_of(expected[-1], (WIDTH, HEIGHT)).save(tmp_path / "images" / name)
    check_places(load_scene(tmp_path), expected)


# Photos that EXIF turns ---------------------------------------------------------------------------

#: Place in the turned photo of a place (x, y) in stored pixels of w x h.
TURNED: dict[int, Callable[[float, float, float, float], tuple[float, float]]] = {
    3: lambda x, y, w, h: (w - x, h - y),
    6: lambda x, y, w, h: (h - y, x),
    8: lambda x, y, w, h: (y, w - x),
}


@pytest.mark.parametrize("suffix", [".jpg", ".png"])
@pytest.mark.parametrize("orientation", TURNED)
@pytest.mark.parametrize("size", [(WIDTH, HEIGHT), (150, 150)], ids=["oblong", "square"])
def test_cameras_of_stored_pixels_turn_with_their_photos(
    tmp_path: Path, size: tuple[int, int], orientation: int, suffix: str
) -> None:
    """The model is of the pixels as stored; the photo is shown as its EXIF orientation says."""
    project = pinhole(FOCAL, 72.0, 66.0)
    turns = [" ".join(map(repr, quaternion(rotation).tolist())) for rotation, _ in POSES]
    names = write_colmap_text(tmp_path, f"SIMPLE_PINHOLE {FOCAL} 72 66", size, turns, suffix)
    exif, expected = Image.Exif(), []
    exif[EXIF_ORIENTATION] = orientation
    options = {"quality": 98, "subsampling": 0} if suffix == ".jpg" else {}
    for name, pose in zip(names, POSES, strict=True):
        stored = project(seen(*pose))
        photo_of(stored, size).save(tmp_path / "images" / name, exif=exif, **options)
        expected.append(np.array([TURNED[orientation](x, y, *size) for x, y in stored]))
    scene = load_scene(tmp_path)
    check_places(scene, expected)
    for photo, name in zip(scene.photos, names, strict=True):
        with Image.open(tmp_path / "images" / name) as image:
            assert np.array_equal(photo.read(), np.asarray(ImageOps.exif_transpose(image)))


@pytest.mark.parametrize("size", [(WIDTH, HEIGHT), (150, 150)], ids=["oblong", "square"])
def test_cameras_of_upright_photos_are_told_without_observations(
    tmp_path: Path, size: tuple[int, int]
) -> None:
    """Without tracks, the cameras of photos that EXIF turns by 180 degrees were turned too, and a
    fit ended 9 dB lower.
    """
    project = pinhole(FOCAL, 72.0, 66.0)
    turns = [" ".join(map(repr, quaternion(rotation).tolist())) for rotation, _ in POSES]
    names = write_colmap_text(tmp_path, f"SIMPLE_PINHOLE {FOCAL} 72 66", size, turns, ".png")
    exif, expected = Image.Exif(), []
    exif[EXIF_ORIENTATION] = 3
    for name, pose in zip(names, POSES, strict=True):
        expected.append(project(seen(*pose)))
        stored = photo_of(expected[-1], size).transpose(Image.Transpose.ROTATE_180)
        stored.save(tmp_path / "images" / name, exif=exif)
    scene = load_scene(tmp_path)
    check_places(scene, expected)
    assert any("their cameras describe the upright photos" in note for note in scene.notes)
