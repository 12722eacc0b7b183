"""Errors of structure from motion on captures with known poses. The bar: every photo of fountain
within 1 degree and 2 %.

    python benchmarks/sfm.py CAPTURE...

Each capture's photos are copied without their poses. Errors are residuals after a similarity fit of
the camera centres: degrees, and per cent of the largest distance of a camera from the cameras'
mean.
"""

from __future__ import annotations

import argparse
import os
import shutil
import sys
import tempfile
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))
os.environ.setdefault("OMP_WAIT_POLICY", "passive")

import torch

from artifixer.geometry.transforms import rotation_angle
from artifixer.runtime.errors import InputError
from artifixer.scenes.formats import load_scene
from artifixer.scenes.scene import Scene
from tests.geometry.similarity import similarity_fit


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("captures", nargs="+", type=Path)
    print(
        "capture    photos  with a pose  degrees (median, largest)  offset % (median, largest)  "
        "CPU s  wall s"
    )
    for capture in parser.parse_args().captures:
        truth = load_scene(capture)
        with tempfile.TemporaryDirectory() as folder:
            for photo in truth.photos:
                assert photo.path is not None, f"{capture}: photos are not files"
                (Path(folder) / photo.name).parent.mkdir(exist_ok=True)
                shutil.copy(photo.path, Path(folder) / photo.name)
            cpu, wall = time.process_time(), time.monotonic()
            try:
                found = load_scene(folder)
            except InputError as error:
                print(f"{truth.name:10} {error}", flush=True)
                continue
            cpu, wall = time.process_time() - cpu, time.monotonic() - wall
        angles, offsets = pose_errors(found, truth)
        print(
            f"{truth.name:10} {len(truth.photos):6d}  {len(found.photos):11d}  "
            f"{angles.median():17.2f}, {angles.max():6.2f}"
            f"  {offsets.median():18.2f}, {offsets.max():6.2f}  {cpu:5.1f}  {wall:6.1f}",
            flush=True,
        )
        for note in found.notes:
            print(f"           {note}")


def pose_errors(found: Scene, truth: Scene) -> tuple[torch.Tensor, torch.Tensor]:
    """Per found photo: angle in degrees, and offset in per cent of the scene's size."""
    true = torch.cat(
        [truth.cameras[truth.index(photo.name)].camera_to_world for photo in found.photos]
    ).double()
    poses = torch.cat([camera.camera_to_world for camera in found.cameras]).double()
    centers = true[:, :3, 3]
    moved = similarity_fit(poses[:, :3, 3], centers).move_poses(poses)
    size = (centers - centers.mean(dim=0)).norm(dim=1).max()
    return torch.rad2deg(rotation_angle(moved[:, :3, :3], true[:, :3, :3])), 100 * (
        moved[:, :3, 3] - centers
    ).norm(dim=1) / size


if __name__ == "__main__":
    main()
