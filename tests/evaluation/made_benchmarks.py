"""Miniatures of the benchmarks' data in their public layouts, from one small procedural scene."""

from __future__ import annotations

import functools
import io
import json
import zipfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from artifixer.evaluation.benchmarks.lists import data, dl3dv_scenes
from artifixer.scenes.formats import load_scene
from artifixer.scenes.scene import Scene

WIDTH, HEIGHT = 48, 40


@functools.cache
def made_scene(frames: int) -> Scene:
    return load_scene(f"procedural:7:frames={frames},width={WIDTH},height={HEIGHT}")


def encoded(pixels: np.ndarray, kind: str = "png") -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, kind, **({"quality": 95} if kind == "jpeg" else {}))
    return buffer.getvalue()


def transforms(scene: Scene, names: Sequence[str], factor: int = 1, **more: Any) -> dict[str, Any]:
    """A transforms file of the scene's views under other names, for photos ``factor`` times as
    large as those that are there.
    """
    camera = scene.cameras[0]
    K = camera.Ks[0].double() * factor
    frames = [
        {
            "file_path": name,
            "transform_matrix": (
                view.camera_to_world[0].double().numpy() @ np.diag([1.0, -1, -1, 1])
            ).tolist(),
        }
        for name, view in zip(names, scene.cameras, strict=False)
    ]
    return {
        "w": camera.width * factor,
        "h": camera.height * factor,
        "fl_x": float(K[0, 0]),
        "fl_y": float(K[1, 1]),
        "cx": float(K[0, 2]),
        "cy": float(K[1, 2]),
        "frames": frames,
        **more,
    }


def write(path: Path, content: bytes | str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content.encode() if isinstance(content, str) else content)


def write_mipnerf360(root: Path, name: str = "stump") -> list[str]:
    """ReconFusion's package: images_4 and transforms.json; returns the photos' names, sorted."""
    count = data("mipnerf360")["scenes"][name]["images"]
    scene = made_scene(count)
    names = [f"_DSC{9000 + number}.JPG" for number in range(count)]
    for photo, file in zip(scene.photos, names, strict=True):
        write(root / name / "images_4" / file, encoded(photo.read(), "jpeg"))
    content = transforms(scene, [f"./images_4/{file}" for file in names], aabb_scale=8)
    write(root / name / "transforms.json", json.dumps(content))
    return names


def write_nerfbusters(
    root: Path, name: str, masks: Path | None = None
) -> tuple[list[str], list[str]]:
    """nerfstudio's layout, frames not in temporal order; returns training and evaluation names.
    Masks count cameras, at half the size.
    """
    scene = made_scene(10)
    train = [f"frame_{number:05d}.png" for number in range(1, 7)]
    heldout = [f"frame_1_{number:05d}.png" for number in range(1, 5)]
    names = [*heldout[::-1], *train]
    folder = data("nerfbusters")["scenes"][name]["folder"]
    for photo, file in zip(scene.photos, names, strict=True):
        write(root / name / folder / file, encoded(photo.read()))
    factor = 2 if folder == "images_2" else 1
    content = transforms(
        scene,
        [f"images/{file}" for file in names],
        factor,
        camera_model="OPENCV",
        k1=0.0,
        k2=0.0,
        p1=0.0,
        p2=0.0,
    )
    write(root / name / "transforms.json", json.dumps(content))
    if masks is not None:
        for rank in range(len(heldout)):
            counts = np.zeros((HEIGHT // 2, WIDTH // 2, 3), np.uint8)
            counts[:, : 10 + rank] = 1 + rank
            write(masks / name / f"{rank:05d}.png", encoded(counts))
    return train, heldout


def dl3dv_files(name: str, count: int = 14) -> tuple[dict[str, bytes], list[str]]:
    """Members of a scene's zip: photos a quarter as large as the transforms file says; names."""
    scene = made_scene(count)
    names = [f"frame_{number:05d}.png" for number in range(1, count + 1)]
    content = transforms(
        scene,
        [f"images/{file}" for file in names],
        4,
        camera_model="OPENCV",
        applied_transform=[[1, 0, 0, 0], [0, 0, 1, 0], [0, -1, 0, 0]],
    )
    files = {f"{name}/nerfstudio/transforms.json": json.dumps(content).encode()}
    for photo, file in zip(scene.photos, names, strict=True):
        files[f"{name}/images_4/{file}"] = encoded(photo.read())
    return files, names


def write_zip(path: Path, files: dict[str, bytes]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in files.items():
            archive.writestr(name, content)


def write_dl3dv(root: Path, name: str, count: int = 14) -> list[str]:
    """DL3DV-ALL-960P: one zip in its batch; returns the photos' names."""
    files, names = dl3dv_files(name, count)
    write_zip(root / data("dl3dv")["scenes"][name]["zip"], files)
    return names


def plain_dl3dv_scene(benchmark: str = "release") -> str:
    """A scene without photos that the benchmark's own copy lacks."""
    return next(name for name in dl3dv_scenes(benchmark) if name not in data("dl3dv")["dropped"])
