"""Render folders: what ``render`` writes, ``enhance`` reads, and other splat software can write
too.

::

    rgb/%05d.png         8-bit colour, premultiplied by opacity, on black
    opacity/%05d.png     8-bit grey, 255 = opaque
    depth/%05d.npy       float32 camera z in world units, NaN where nothing is
                         (optional for readers)
    cameras.json         the frames' cameras, and the reference photos with theirs
    references/%05d.png  photos of the same place
    references/%05d.mask.png  dark where the photo does not count; only for photos with a mask
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float, UInt8
from torch import Tensor

from artifixer.geometry.camera_file import CameraFrame, read_cameras, read_references, write_cameras
from artifixer.geometry.local_origin import WORLD, Origin
from artifixer.runtime.counts import counted
from artifixer.runtime.errors import InputError
from artifixer.runtime.files import is_regular
from artifixer.runtime.image_files import image_size, read_image, write_png
from artifixer.runtime.npy import read_npy, write_npy
from artifixer.scenes.mask_files import read_mask
from artifixer.scenes.scene import Photo
from artifixer.scenes.view import View
from artifixer.splats.render import Renders


@dataclass(frozen=True)
class RenderFolder:
    """A render folder on disk; images are read when asked for."""

    path: Path

    frames: tuple[CameraFrame, ...]
    """Cameras in the order of the path."""

    references: tuple[View, ...]
    """Reference views. A photo without a name has that of its file."""

    def __len__(self) -> int:
        return len(self.frames)

    def rgb(self, index: int) -> UInt8[np.ndarray, "height width 3"]:
        """Colour premultiplied by opacity, on black."""
        return self._image("rgb", index)

    def opacity(self, index: int) -> UInt8[np.ndarray, "height width"]:
        """255 where the render is opaque."""
        return self._image("opacity", index)[..., 0]

    def depth(self, index: int) -> Float[np.ndarray, "height width"] | None:
        """Camera z in world units in float32, NaN where nothing is; None when the folder has no
        depth.
        """
        path, camera = self.depth_path(index), self.frames[index].camera
        if not is_regular(path):
            return None
        depth = read_npy(path)
        if depth.shape != (camera.height, camera.width) or depth.dtype.kind != "f":
            raise InputError(
                f"{path}: {depth.dtype} {depth.shape}; expected floats of "
                f"{(camera.height, camera.width)}, as its camera says"
            )
        with np.errstate(over="ignore"):  # infinite is unknown
            return depth.astype(np.float32)

    def depth_path(self, index: int) -> Path:
        """The file of a frame's depth, which may be missing."""
        return self.path / "depth" / f"{index:05d}.npy"

    def _image(self, kind: str, index: int) -> UInt8[np.ndarray, "height width 3"]:
        path, camera = self.path / kind / f"{index:05d}.png", self.frames[index].camera
        image = read_image(path)
        if image.shape[:2] != (camera.height, camera.width):
            raise InputError(
                f"{path}: {image.shape[1]}x{image.shape[0]} pixels; its camera says "
                f"{camera.width}x{camera.height}"
            )
        return image


def read_render_folder(folder: Path, origin: Origin | None = None) -> RenderFolder:
    """Open a render folder; cameras are relative to ``origin`` (None: what its file says).

    Raises ``InputError`` when the cameras are unusable, or when an image is missing, superfluous,
    or of another size than its camera.
    """
    if not (folder / "cameras.json").is_file():
        raise InputError(
            f"{folder}: has no cameras.json; expected a render folder (rgb/, opacity/, "
            "cameras.json)"
        )
    frames = read_cameras(folder / "cameras.json", origin)
    if not frames:
        raise InputError(f"{folder / 'cameras.json'}: lists no frames; expected at least one")
    for kind in ("rgb", "opacity"):
        files = sorted(path.name for path in (folder / kind).glob("*.png"))
        if files != [f"{index:05d}.png" for index in range(len(frames))]:
            raise InputError(
                f"{folder / kind}: {counted(len(files), 'image')}; expected 00000.png to "
                f"{len(frames) - 1:05d}.png as in cameras.json"
            )
        for index, frame in enumerate(frames):
            path = folder / kind / f"{index:05d}.png"
            width, height = image_size(path)
            if (width, height) != (frame.camera.width, frame.camera.height):
                expected = (
                    f"{frame.camera.width}x{frame.camera.height} as its camera in cameras.json says"
                )
                raise InputError(f"{path}: {width}x{height} pixels; expected {expected}")
    references = []
    for frame, file in read_references(folder / "cameras.json", origin):
        path = folder / file
        if not path.is_file():
            raise InputError(f"{path}: does not exist; cameras.json lists it as a reference photo")
        references.append(stored_view(frame, path))
    return RenderFolder(folder, tuple(frames), tuple(references))


def stored_view(frame: CameraFrame, path: Path) -> View:
    """A reference view whose photo is in a file, of the size that its camera says, with its mask if
    that is beside it.
    """
    width, height, mask = frame.camera.width, frame.camera.height, mask_path(path)
    read_own = functools.partial(read_mask, mask, width, height) if is_regular(mask) else None
    photo = Photo(
        frame.photo or path.name,
        width,
        height,
        functools.partial(read_image, path),
        path,
        read_own,
    )
    return View(frame.camera, photo)


def mask_path(photo: Path) -> Path:
    """Where the mask of a reference photo is, which need not have one."""
    return photo.with_name(f"{photo.stem}.mask.png")


def reference_files(views: Sequence[View]) -> list[Path]:
    """The files of stored references, masks included, in order."""
    files = [view.photo.path for view in views if view.photo.path is not None]
    return [file for photo in files for file in (photo, mask_path(photo)) if is_regular(file)]


def write_render_folder(
    folder: Path,
    frames: Sequence[tuple[CameraFrame, Renders]],
    references: Sequence[View] = (),
    origin: Origin = WORLD,
) -> None:
    """Write cameras with their single-view renders; ``cameras.json`` comes last, so a folder that
    has it is complete.

    origin: what the cameras are relative to.
    """
    for index, (_, renders) in enumerate(frames):
        write_frame(folder, index, renders)
    finish_render_folder(folder, [frame for frame, _ in frames], references, origin)


def write_frame(folder: Path, index: int, renders: Renders) -> None:
    """One frame of a render folder from single-view renders; existing files are replaced."""
    assert len(renders) == 1, f"{len(renders)} views"
    for kind in ("rgb", "opacity", "depth"):
        (folder / kind).mkdir(parents=True, exist_ok=True)
    write_png(folder / "rgb" / f"{index:05d}.png", to_uint8(renders.rgb[0]).numpy())
    write_png(folder / "opacity" / f"{index:05d}.png", to_uint8(renders.opacity[0]).numpy())
    write_npy(
        folder / "depth" / f"{index:05d}.npy",
        renders.depth[0].detach().cpu().to(torch.float32).numpy(),
    )


def finish_render_folder(
    folder: Path,
    frames: Sequence[CameraFrame],
    references: Sequence[View] = (),
    origin: Origin = WORLD,
) -> None:
    """Write the references and ``cameras.json`` after all frames. ``origin``: what the cameras are
    relative to.
    """
    listed = []
    if references:
        (folder / "references").mkdir(parents=True, exist_ok=True)
    for index, view in enumerate(references):
        file = f"references/{index:05d}.png"
        write_png(folder / file, view.photo.read())
        mask = mask_path(folder / file)
        if view.photo.mask is not None:
            write_png(mask, view.photo.mask())
        else:
            mask.unlink(missing_ok=True)
        listed.append((view.frame, file))
    write_cameras(folder / "cameras.json", frames, listed, origin)


def to_uint8(values: Float[Tensor, "*shape"]) -> UInt8[Tensor, "*shape"]:
    """[0,1] -> 0..255, rounded, on the CPU."""
    return (values.detach().clamp(0, 1) * 255).round().to(torch.uint8).cpu()
