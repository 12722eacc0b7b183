"""``Method``: the frames of a method in a scene, by held-out photo.

In: the scene's finished run and the frames of other programs. Out: methods in the order of the
tables: renders, inpaintings, variants of the run, diagnostic rows, other methods.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from jaxtyping import UInt8

from artifixer.evaluation.evaluate import RENDERS, VARIANT_TITLES
from artifixer.evaluation.files import relative_to_any
from artifixer.evaluation.frames import FrameSource
from artifixer.evaluation.inpainting import METHODS, InpaintingMethod, inpaint
from artifixer.geometry.camera_file import read_cameras
from artifixer.runtime.errors import InputError
from artifixer.runtime.image_files import read_image
from artifixer.splats.render_folder import RenderFolder, read_render_folder


@dataclass(frozen=True)
class Method:
    """Frames of one method in one scene."""

    name: str

    read: Callable[[str], UInt8[np.ndarray, "height width 3"]]
    """Held-out photo -> frame."""

    path: Callable[[str], str]
    """Held-out photo -> file, as recorded; "" without a file."""

    key: object
    """Fingerprinted to detect changed frames."""

    sequence: Callable[[int], UInt8[np.ndarray, "height width 3"]] | None = None
    """Index along the run's path -> frame; None if there are no frames of the whole path."""

    source: FrameSource | None = None
    """Files of another program; None for methods of this one."""


@dataclass(frozen=True)
class SceneRun:
    """The finished run of a scene."""

    root: Path
    """The run folder."""

    renders: RenderFolder
    """Renders of the plain fit along the path."""

    model_input: RenderFolder
    """The model's input: the same renders, or those of a second fit."""

    positions: Mapping[str, int]
    """Index along the path by name of the photo taken there."""

    @staticmethod
    def read(root: Path) -> SceneRun:
        """Open the folder of a finished run."""
        renders = read_render_folder(root / "renders")
        other = root / "renders_input"
        positions: dict[str, int] = {}
        for index, frame in enumerate(read_cameras(root / "cameras.json")):
            if frame.photo is not None:
                positions.setdefault(frame.photo, index)
        model_input = read_render_folder(other) if other.is_dir() else renders
        return SceneRun(root, renders, model_input, positions)


def run_methods(
    run: SceneRun,
    photos: Sequence[str],
    variants: Sequence[str],
    diagnostics: Mapping[str, Path],
    relative: Callable[[Path], str],
) -> list[Method]:
    """Renders, inpaintings, variants and diagnostic rows.

    photos: names of the held-out photos, sorted. diagnostics: folder of frames by method. relative:
    absolute path -> recorded path. Raises InputError if a photo is not on the run's path.
    """
    missing = [name for name in photos if name not in run.positions]
    if missing:
        raise InputError(
            f"{run.root}: its path passes {len(run.positions)} of {len(photos)} held-out photos, "
            f"not {missing[0]}; give --path heldout"
        )
    folders = {"3dgut": run.renders.path / "rgb"}
    if run.model_input is not run.renders:
        folders["input"] = run.model_input.path / "rgb"
    for name in VARIANT_TITLES:
        folder = run.root / "frames" / name
        if name in variants and folder.is_dir():
            folders[name] = folder
    renders = {name: folder for name, folder in folders.items() if name in RENDERS}
    repaired = {name: folder for name, folder in folders.items() if name not in RENDERS}
    return [
        *(_stored(run, photos, *row, relative) for row in renders.items()),
        *(_inpainted(run, photos, method) for method in METHODS),
        *(_stored(run, photos, *row, relative) for row in (repaired | {**diagnostics}).items()),
    ]


def other_methods(
    sources: Sequence[FrameSource], photos: Sequence[str], folders: Mapping[str, Path]
) -> list[Method]:
    """Frames of other programs. photos: names of the held-out photos, sorted. folders: by
    method.
    """
    return [_other(source, photos, folders[source.name]) for source in sources]


def _stored(
    run: SceneRun,
    photos: Sequence[str],
    name: str,
    folder: Path,
    relative: Callable[[Path], str],
) -> Method:
    def file(index: int) -> Path:
        return folder / f"{index:05d}.png"

    return Method(
        name,
        lambda photo: read_image(file(run.positions[photo])),
        lambda photo: relative(file(run.positions[photo])),
        [file(run.positions[photo]) for photo in photos],
        lambda index: read_image(file(index)),
    )


def _inpainted(run: SceneRun, photos: Sequence[str], method: InpaintingMethod) -> Method:
    renders = run.model_input

    def picture(index: int) -> UInt8[np.ndarray, "height width 3"]:
        return inpaint(renders.rgb(index), renders.opacity(index), method)

    key = [
        [renders.path / kind / f"{run.positions[photo]:05d}.png" for kind in ("rgb", "opacity")]
        for photo in photos
    ]
    return Method(
        f"inpainting_{method}",
        lambda photo: picture(run.positions[photo]),
        lambda photo: "",
        key,
        picture,
    )


def _other(source: FrameSource, photos: Sequence[str], folder: Path) -> Method:
    return Method(
        source.name,
        source.prediction,
        lambda photo: relative_to_any(source.files[photo], (folder,)),
        [
            [table.get(photo) for photo in photos]
            for table in (source.files, source.truths, source.opacities, source.depths)
        ],
        source=source,
    )
