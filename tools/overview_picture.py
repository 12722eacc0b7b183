"""The README's picture, from the folder of ``make demo``: photo | plain render | opacity |
ArtiFixer, one row per held-out photo.

    python tools/overview_picture.py demo docs/images/overview.png [--rows 3] [--frames 12,20,31]

Rows are held-out views spread evenly over those whose render is less than fully opaque, from the
fullest to the emptiest, or the frames that are named. A run with a second fit has one more
column: the model's input render. Pictures are twice the frames' size.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
from PIL import Image

from artifixer.geometry.camera_file import read_cameras
from artifixer.imaging.resize import at_size
from artifixer.runtime.image_files import read_image
from artifixer.scenes.formats import load_scene
from artifixer.splats.render_folder import read_render_folder

SCALE = 2


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("run", type=Path)
    parser.add_argument("picture", type=Path)
    parser.add_argument("--capture", default="procedural:7")
    parser.add_argument("--rows", type=int, default=3)
    parser.add_argument("--frames", help="numbers of frames with commas")
    arguments = parser.parse_args()
    root = arguments.run
    folders = [root / name for name in ("renders", "renders_input") if (root / name).is_dir()]
    given = read_render_folder(folders[-1])
    photos = {photo.name: photo for photo in load_scene(arguments.capture).photos}
    frames = read_cameras(root / "cameras.json")
    heldout = [index for index, frame in enumerate(frames) if frame.photo is not None]
    chosen = (
        [int(word) for word in arguments.frames.split(",")]
        if arguments.frames
        else spread(given.opacity, heldout, arguments.rows)
    )
    rows = []
    for index in chosen:
        frame = read_image(root / "frames" / "artifixer" / f"{index:05d}.png")
        size = frame.shape[1], frame.shape[0]
        name = frames[index].photo
        assert name is not None, f"frame {index} is at no photo's camera"
        grey = np.repeat(at_size(given.opacity(index), *size)[..., None], 3, axis=2)
        renders = [
            at_size(read_image(folder / "rgb" / f"{index:05d}.png"), *size) for folder in folders
        ]
        rows.append(
            np.concatenate([resized(photos[name].read(), size), *renders, grey, frame], axis=1)
        )
        print(f"frame {index}, {name}: {(given.opacity(index) < 26).mean():.0%} empty")
    sheet = Image.fromarray(np.concatenate(rows))
    sheet.resize((SCALE * sheet.width, SCALE * sheet.height), Image.Resampling.BICUBIC).save(
        arguments.picture, optimize=True
    )


def spread(opacity, heldout: list[int], rows: int) -> list[int]:  # type: ignore[no-untyped-def]
    """Frames whose mean opacity is spread evenly between the fullest and the emptiest one."""
    means = {index: float(opacity(index).mean()) for index in heldout}
    ordered = (
        sorted(
            (index for index in heldout if means[index] < 0.98 * 255),
            key=lambda index: -means[index],
        )
        or heldout
    )
    return [ordered[round(row * (len(ordered) - 1) / max(1, rows - 1))] for row in range(rows)]


def resized(pixels: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    return np.asarray(Image.fromarray(pixels).resize(size, Image.Resampling.BOX))


if __name__ == "__main__":
    main()
