"""Splats -> equirectangular panoramas and a video along a camera path, frame by frame, resumable.

::

    rgb/%05d.png         equirectangular, 2:1; premultiplied by opacity, on black
    opacity/%05d.png     255 = opaque
    depth/%05d.npy       distance from the camera's centre (not camera z), world units, NaN where
                         the panorama is empty
    video.mp4
    transforms.json      the poses (camera_model EQUIRECTANGULAR), so that the folder can be read as
                         a capture of 360 degree photos

Each panorama is resampled from the six faces of a cube, which are rendered with a small overlap.
"""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float

from artifixer.geometry.camera_file import CameraFrame
from artifixer.geometry.cameras import Cameras
from artifixer.geometry.local_origin import Origin, to_world
from artifixer.geometry.panorama import CUBE, panorama_of_faces
from artifixer.geometry.transforms import OPENCV_FROM_OPENGL
from artifixer.imaging.resize import fit_size
from artifixer.pipeline.render import RenderJob, open_source, path_frames, stop_between_frames
from artifixer.runtime.errors import InputError
from artifixer.runtime.fingerprint import fingerprint
from artifixer.runtime.image_files import read_image, write_png
from artifixer.runtime.json_io import write_json
from artifixer.runtime.npy import write_npy
from artifixer.runtime.progress import Progress, ProgressBar
from artifixer.runtime.run_folder import RunFolder
from artifixer.runtime.stages import StageFiles, Stages
from artifixer.runtime.stopping import stop_on_sigterm
from artifixer.runtime.video_files import VideoWriter
from artifixer.scenes.transforms_frames import EQUIRECTANGULAR
from artifixer.scenes.transforms_json import FILE_NAME
from artifixer.splats.rasterizers.constants import MIN_DEPTH_OPACITY
from artifixer.splats.render import default_near, render
from artifixer.splats.splats import Splats

#: The only stage. A folder has one set of settings, so the stage's key is empty.
RENDER = StageFiles("render", ("rgb", "opacity", "depth", FILE_NAME, "video.mp4"))

#: Resolution of the faces relative to that of the panorama's equator.
OVERSAMPLING = 1.25


def render_panoramas(job: RenderJob, out: Path, overwrite: bool = False) -> int:
    """Render the path into the folder ``out`` and return the number of frames; the same call
    continues an interrupted one.

    ``job.size``: width of the panoramas, or ``WxH`` of 2:1; None keeps the resolution of the first
    camera. Errors as in ``render_path``.
    """
    source = open_source(job.source, job.cameras)
    frames = path_frames(source, job.path, job.frames)
    width, height = panorama_size(frames[0].camera, job.size)
    identity = {"splats": fingerprint(*vars(source.splats).values())}
    settings = {
        "path": job.path,
        "size": f"{width}x{height}",
        "fps": job.fps,
        "cameras": fingerprint(frames),
        "equirectangular": True,
    }
    with (
        RunFolder.open(out, identity, settings, overwrite, device=job.device) as run,
        stop_on_sigterm(),
        Progress(("render",)) as progress,
    ):
        splats = source.splats.map(lambda tensor: tensor.to(job.device))

        def work(bar: ProgressBar) -> None:
            for index, frame in enumerate(frames):
                if not (out / "depth" / f"{index:05d}.npy").is_file():  # a frame's last file
                    rgb, opacity, depth = panorama_of_splats(splats, frame.camera, width, height)
                    write_png(out / "rgb" / f"{index:05d}.png", _to_uint8(rgb))
                    write_png(out / "opacity" / f"{index:05d}.png", _to_uint8(opacity))
                    write_npy(out / "depth" / f"{index:05d}.npy", depth)
                bar.update(index + 1)
                stop_between_frames(out, index + 1, len(frames))
            write_json(out / FILE_NAME, _transforms(frames, source.origin, width, height))
            with VideoWriter(out / "video.mp4", width, height, job.fps) as video:
                for index in range(len(frames)):
                    video.add(read_image(out / "rgb" / f"{index:05d}.png"))

        Stages(run, progress, write_timing=False).complete(RENDER, {}, len(frames), work)
    return len(frames)


@torch.no_grad()
def panorama_of_splats(
    splats: Splats, camera: Cameras, width: int, height: int
) -> tuple[
    Float[np.ndarray, "height width 3"],
    Float[np.ndarray, "height width"],
    Float[np.ndarray, "height width"],
]:
    """Panorama at the camera's position, centred on its forward direction, float32: rgb
    premultiplied on black and opacity, both in [0,1], and distance from the camera's centre in
    world units, NaN where the opacity is below 0.01.
    """
    size = CUBE.size(round(OVERSAMPLING * width))
    faces = CUBE.cameras(camera.viewmats[0], size).to(splats.means.device)
    # one near plane for all faces, so that a Gaussian across two faces is rendered in both or none
    near = min(
        (near for near in (default_near(splats, faces[k]) for k in range(len(faces))) if near > 0),
        default=0.0,
    )
    renders = render(splats, faces, near=near)
    # distance per camera z
    along = np.linalg.norm(CUBE.directions(0, size), axis=-1).astype(np.float32)
    opacity = renders.opacity.cpu().numpy()
    weighted = np.nan_to_num(renders.depth.cpu().numpy()) * opacity * along
    stacked = np.concatenate(
        [renders.rgb.cpu().numpy(), opacity[..., None], weighted[..., None]], axis=-1
    )
    found = panorama_of_faces(stacked, CUBE, width, height).astype(np.float32)
    rgb, covered = found[..., :3], found[..., 3]
    depth = np.where(
        covered >= MIN_DEPTH_OPACITY, found[..., 4] / np.maximum(covered, MIN_DEPTH_OPACITY), np.nan
    )
    return rgb, covered, depth.astype(np.float32)


def panorama_size(camera: Cameras, size: str | None) -> tuple[int, int]:
    """(width, height) of the panoramas. Raises ``InputError`` for a size that is not twice as wide
    as high.
    """
    if size is None:
        width = 4 * round(2 * math.pi * float(camera.Ks[0, 0, 0]) / 4)
        return max(width, 4), max(width, 4) // 2
    width, height = fit_size(2 * camera.width, camera.width, size, enlarge=True)
    if width != 2 * height:
        raise InputError(
            f"--size {size}: expected an even width, or WxH twice as wide as high, for "
            "equirectangular pictures"
        )
    return width, height


def _to_uint8(values: np.ndarray) -> np.ndarray:
    return np.round(values.clip(0, 1) * 255).astype(np.uint8)


def _transforms(
    frames: list[CameraFrame], origin: Origin, width: int, height: int
) -> dict[str, Any]:
    poses = [
        to_world(frame.camera, origin).camera_to_world[0].numpy() @ OPENCV_FROM_OPENGL
        for frame in frames
    ]
    listed = [
        {"file_path": f"rgb/{index:05d}.png", "transform_matrix": pose.tolist()}
        for index, pose in enumerate(poses)
    ]
    return {"camera_model": EQUIRECTANGULAR, "w": width, "h": height, "frames": listed}
