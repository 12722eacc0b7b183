"""Small captures on disk for the loaders' tests. COLMAP's own library writes its models."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

WIDTH, HEIGHT = 64, 48

#: Parameters of every lens model that can be mapped, in COLMAP's order: a field of view of some 53
#: degrees and a visible distortion.
LENSES: dict[str, tuple[float, ...]] = {
    "SIMPLE_PINHOLE": (64, 31, 25),
    "PINHOLE": (64, 60, 31, 25),
    "SIMPLE_RADIAL": (64, 31, 25, 0.1),
    "RADIAL": (64, 31, 25, 0.1, -0.05),
    "OPENCV": (64, 60, 31, 25, 0.1, -0.05, 0.01, -0.02),
    "OPENCV_FISHEYE": (64, 60, 31, 25, 0.05, -0.02, 0.01, 0.005),
    "FULL_OPENCV": (64, 60, 31, 25, 0.1, -0.05, 0.01, -0.02, 0.01, 0.02, -0.01, 0.003),
    "SIMPLE_RADIAL_FISHEYE": (64, 31, 25, 0.05),
    "RADIAL_FISHEYE": (64, 31, 25, 0.05, -0.02),
    "SIMPLE_FISHEYE": (64, 31, 25),
    "FISHEYE": (64, 60, 31, 25),
}

#: Lens models that cannot be mapped.
UNKNOWN_LENSES: dict[str, tuple[float, ...]] = {
    "FOV": (64, 60, 31, 25, 0.5),
    "THIN_PRISM_FISHEYE": (64, 60, 31, 25, 0.05, 0, 0, 0, 0, 0, 0, 0),
    "RAD_TAN_THIN_PRISM_FISHEYE": (64, 60, 31, 25, 0.05, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0),
    "SIMPLE_DIVISION": (64, 31, 25, 0.1),
    "DIVISION": (64, 60, 31, 25, 0.1),
    "EUCM": (64, 60, 31, 25, 0.5, 1.0),
}


def noise(width: int, height: int, seed: int = 0) -> np.ndarray:
    """Random pixels, uint8 ``[height width 3]``."""
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)


def write_photo(path: Path, width: int = WIDTH, height: int = HEIGHT, seed: int = 0) -> None:
    from PIL import Image

    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(noise(width, height, seed)).save(path)


def write_colmap(
    capture: Path,
    lens: str = "PINHOLE",
    suffix: str = ".bin",
    *,
    views: int = 4,
    cameras_per_rig: int = 1,
    photo_size: tuple[int, int] = (WIDTH, HEIGHT),
    model_folder: str = "sparse/0",
) -> Any:
    """A COLMAP capture with photos; returns the ``pycolmap.Reconstruction`` that was written. Five
    files: also rigs and frames.
    """
    import pycolmap

    options = pycolmap.SyntheticDatasetOptions()
    options.num_rigs, options.num_cameras_per_rig, options.num_frames_per_rig = (
        1,
        cameras_per_rig,
        views,
    )
    options.num_points3D, options.num_points2D_without_point3D = 30, 3
    options.camera_width, options.camera_height = WIDTH, HEIGHT
    options.camera_model_id = pycolmap.CameraModelId.__members__[lens]
    options.camera_params = list((LENSES | UNKNOWN_LENSES)[lens])
    pycolmap.set_random_seed(0)
    model = pycolmap.synthesize_dataset(options)
    folder = capture / model_folder
    folder.mkdir(parents=True, exist_ok=True)
    (model.write_binary if suffix == ".bin" else model.write_text)(folder)
    for number, image in enumerate(model.images.values()):
        write_photo(capture / "images" / image.name, *photo_size, seed=number)
    return model


def pose_matrix(center: Sequence[float]) -> list[list[float]]:
    """camera_to_world without rotation (OpenGL axes: it looks along -z)."""
    matrix = np.eye(4)
    matrix[:3, 3] = center
    return matrix.tolist()


def transforms_content(views: int = 3) -> dict[str, Any]:
    """A valid file with the intrinsics of all frames at the top, cameras one unit apart along x."""
    frames = [
        {"file_path": f"images/{i:03d}.png", "transform_matrix": pose_matrix((i, 0, 0))}
        for i in range(views)
    ]
    return {
        "w": WIDTH,
        "h": HEIGHT,
        "fl_x": 64.0,
        "fl_y": 60.0,
        "cx": 31.0,
        "cy": 25.0,
        "frames": frames,
    }


def write_transforms(
    capture: Path, content: object, name: str = "transforms.json", views: int = 3
) -> Path:
    """``content`` as a transforms file, with photos ``images/000.png`` ... beside it."""
    for number in range(views):
        write_photo(capture / "images" / f"{number:03d}.png", seed=number)
    path = capture / name
    path.write_text(json.dumps(content))
    return path


def rich_transforms() -> dict[str, Any]:
    """The content of a transforms.json with all that the loader reads, and frames of two lens
    models.
    """
    content = transforms_content() | {
        "applied_transform": np.eye(3, 4).tolist(),
        "applied_scale": 2.0,
        "camera_model": "OPENCV",
    }
    content |= {
        "k1": 0.1,
        "k2": 0.0,
        "p1": 0.0,
        "p2": 0.0,
        "ply_file_path": "points.ply",
        "camera_angle_x": 1.0,
        "is_fisheye": False,
    }
    content |= {
        "train_filenames": ["images/000.png", "images/001.png"],
        "test_filenames": ["images/002.png"],
    }
    content["frames"][0] |= {
        "fl_x": 50.0,
        "w": 64,
        "h": 48,
        "cx": 30.0,
        "k1": -0.1,
        "camera_model": "OPENCV_FISHEYE",
    }
    return content


def write_word(path: Path, line: int, word: int, value: str) -> None:
    """Replace a word of the file's ``line``-th entry."""
    lines = path.read_text().splitlines()
    entries = [number for number, text in enumerate(lines) if not text.startswith("#")]
    words = lines[entries[line]].split(" ")
    words[word] = value
    lines[entries[line]] = " ".join(words)
    path.write_text("\n".join(lines))
