"""Held-out views of finished runs: a contact sheet, and figures over opaque and empty pixels.

    OMP_WAIT_POLICY=passive python benchmarks/run_views.py RUN=CAPTURE... [--sheet FILE.jpg]
        [--views 2] [--width 256] [--figures]

``RUN`` is a folder of ``artifixer run``, ``CAPTURE`` the capture that it was made from. The sheet
has a row per view: the ``--views`` held-out views of each run with the most empty pixels, spread
over its path; columns: plain render, opacity, render of the second fit, inpainting (Telea),
ArtiFixer, 3D+ and photo, as far as they exist. ``--figures`` prints, for all held-out views of each
run and every variant, PSNR in the mean, pooled, and over opaque and empty pixels of the plain
render, and ST-LPIPS over opaque pixels and 16 pixels around them
(``artifixer/evaluation/invention``). Exit codes: 0 done; 2 bad input.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

import numpy as np
import torch
from exit_codes import exit_code_of
from invention import TOKEN, load_networks, table
from jaxtyping import UInt8
from PIL import Image, ImageDraw, ImageFont

from artifixer.evaluation.inpainting import inpaint
from artifixer.evaluation.invention import InventionMeasure, MeasuredClip
from artifixer.geometry.camera_file import read_cameras
from artifixer.imaging.push_pull import push_pull_fill
from artifixer.imaging.quality import is_empty
from artifixer.imaging.resize import at_size, resize_photo
from artifixer.pipeline.capture import CaptureChoice, load_capture
from artifixer.pipeline.target_path import heldout_frames
from artifixer.runtime.errors import InputError
from artifixer.runtime.image_files import read_image
from artifixer.runtime.json_io import as_object, read_json
from artifixer.splats.render_folder import read_render_folder

#: Columns of the sheet and their titles.
TITLES = {
    "render": "3DGUT render",
    "opacity": "opacity",
    "input": "input render",
    "telea": "inpainting (Telea)",
    "artifixer": "ArtiFixer",
    "artifixer3d_plus": "ArtiFixer 3D+",
    "photo": "photo",
}

#: Folders of frames by candidate.
FRAMES = {
    "artifixer": "frames/artifixer",
    "artifixer3d": "frames/artifixer3d",
    "artifixer3d_plus": "frames/artifixer3d_plus",
}

#: Height of the titles, pixels.
HEAD = 22


@dataclass(frozen=True)
class RunView:
    """One held-out view at the photo's size. pictures: by candidate, with ``photo``."""

    photo: str
    opacity: UInt8[np.ndarray, "height width"]
    pictures: dict[str, UInt8[np.ndarray, "height width 3"]]

    @property
    def empty(self) -> float:
        """Fraction of empty pixels."""
        return float(is_empty(torch.from_numpy(self.opacity)).float().mean())


def run_views(root: Path, capture: str) -> list[RunView]:
    """All held-out views on the run's path. Raises ``InputError``."""
    if not (root / "report.html").is_file():
        raise InputError(f"{root}: not the folder of a finished run; expected a report.html")
    settings = as_object(read_json(root / "config.json")["settings"], root / "config.json")
    loaded = load_capture(CaptureChoice(capture, **settings["choice"]), work_folder=None)
    renders = read_render_folder(root / "renders")
    second_folder = root / "renders_input"
    second = read_render_folder(second_folder) if second_folder.is_dir() else None
    views = []
    for index, photo in heldout_frames(read_cameras(root / "cameras.json"), loaded):
        size = (photo.width, photo.height)
        rgb, opacity = renders.rgb(index), renders.opacity(index)
        pictures = {
            "render": rgb,
            "telea": inpaint(rgb, opacity, "telea"),
            "push_pull": push_pull_fill(rgb, opacity),
        }
        if second is not None:
            pictures["input"] = second.rgb(index)
            pictures["input_push_pull"] = push_pull_fill(second.rgb(index), second.opacity(index))
        for name, folder in FRAMES.items():
            file = root / folder / f"{index:05d}.png"
            if file.is_file():
                pictures[name] = read_image(file)
        shown = {name: at_size(picture, *size) for name, picture in pictures.items()}
        views.append(
            RunView(
                photo.name,
                at_size(opacity, *size),
                shown | {"photo": resize_photo(photo.read(), *size)},
            )
        )
    if not views:
        raise InputError(f"{root}: its path passes no held-out photo of {capture}")
    return views


def chosen_views(views: Sequence[RunView], count: int) -> list[RunView]:
    """The emptiest view of each of ``count`` equal parts of the path."""
    count = min(count, len(views))
    bounds = [part * len(views) // count for part in range(count + 1)]
    return [max(views[start:end], key=lambda view: view.empty) for start, end in pairwise(bounds)]


def sheet(rows: Sequence[RunView], width: int) -> Image.Image:
    """Rows of pictures of one width below their titles."""
    columns = [name for name in TITLES if any(name in view.pictures for view in rows)]
    columns.insert(1, "opacity")
    heights = [width * view.opacity.shape[0] // view.opacity.shape[1] for view in rows]
    page = Image.new("RGB", (width * len(columns), HEAD + sum(heights)), "white")
    font = ImageFont.load_default(14)
    for column, name in enumerate(columns):
        ImageDraw.Draw(page).text((column * width + 4, 3), TITLES[name], "black", font)
    top = HEAD
    for view, height in zip(rows, heights, strict=True):
        for column, name in enumerate(columns):
            picture = view.opacity if name == "opacity" else view.pictures.get(name)
            if picture is not None:
                image = Image.fromarray(picture).convert("RGB")
                page.paste(
                    image.resize((width, height), Image.Resampling.LANCZOS), (column * width, top)
                )
        top += height
    return page


def figures(root: Path, views: Sequence[RunView]) -> str:
    """Markdown: all variants of one run."""
    first = read_cameras(root / "cameras.json")[0].camera

    def stacked(name: str) -> torch.Tensor:
        return torch.from_numpy(np.stack([view.pictures[name] for view in views]))

    opacity = torch.from_numpy(np.stack([view.opacity for view in views]))
    clip = MeasuredClip(
        root.name, stacked("photo"), stacked("render"), opacity, [first] * len(views)
    )
    measure = InventionMeasure(TOKEN, load_networks("cpu"))
    measure.begin(clip)
    for name in views[0].pictures:
        if name != "photo":
            measure.add(name, stacked(name))
    return table(measure.rows(), ())


def main(words: Sequence[str] | None = None) -> int:
    """Command line, with the exit codes of ``artifixer``."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("runs", nargs="+", metavar="RUN=CAPTURE")
    parser.add_argument("--sheet", type=Path)
    parser.add_argument("--views", type=int, default=2, help="rows per run")
    parser.add_argument("--width", type=int, default=256, help="of a picture, pixels")
    parser.add_argument("--figures", action="store_true")
    arguments = parser.parse_args(words)
    return exit_code_of(lambda: look(arguments))


def look(arguments: argparse.Namespace) -> None:
    """The sheet and the tables."""
    rows: list[RunView] = []
    for word in arguments.runs:
        folder, separator, capture = word.partition("=")
        if not separator:
            raise InputError(f"{word}: expected RUN=CAPTURE")
        views = run_views(Path(folder), capture)
        rows += chosen_views(views, arguments.views)
        if arguments.figures:
            print(f"\n{Path(folder).name}\n\n{figures(Path(folder), views)}", flush=True)
    if arguments.sheet is not None:
        part = arguments.sheet.with_name(f".part-{arguments.sheet.name}")
        sheet(rows, arguments.width).save(part, quality=88)
        part.replace(arguments.sheet)


if __name__ == "__main__":
    sys.exit(main())
