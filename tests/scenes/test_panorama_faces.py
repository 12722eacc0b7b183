"""Equirectangular photos: how they are recognised, their faces and masks."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from artifixer.runtime.image_files import read_image, write_png
from artifixer.scenes import panoramas
from artifixer.scenes.formats import find_format
from artifixer.scenes.panorama_faces import find_masks, is_panorama, write_faces
from artifixer.scenes.panoramas import PanoramaConfig, find_panoramas
from tests.scenes.made_panoramas import write_capture


@pytest.fixture(scope="module")
def capture(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, torch.Tensor]:
    folder = tmp_path_factory.mktemp("panoramas")
    return folder, write_capture(folder, 2, 640, with_poses=False, samples=2)


def test_panoramas_are_recognised_by_their_borders_and_poles(
    capture: tuple[Path, torch.Tensor], tmp_path: Path
) -> None:
    folder, _ = capture
    assert find_panoramas(folder) == folder / "images"
    assert find_format(folder)[0].name == "panoramas"
    panorama = read_image(folder / "images" / "000.png")
    # 2:1, but a part: an ordinary wide picture
    write_png(tmp_path / "cut.png", panorama[80:240, :320])
    write_png(tmp_path / "shorter.png", panorama[:, :600])
    write_png(tmp_path / "turned.png", np.roll(panorama, 200, axis=1))
    assert not is_panorama(tmp_path / "cut.png")
    assert not is_panorama(tmp_path / "shorter.png")
    assert is_panorama(tmp_path / "turned.png")


def test_a_photo_that_says_it_is_a_panorama_is_one(tmp_path: Path) -> None:
    from PIL import Image

    noise = np.random.default_rng(1).integers(0, 255, (50, 100, 3), dtype=np.uint8)
    note = (
        b'<x:xmpmeta xmlns:x="adobe:ns:meta/">'
        b"<GPano:ProjectionType>equirectangular</GPano:ProjectionType></x:xmpmeta>"
    )
    Image.fromarray(noise).save(tmp_path / "plain.jpg")
    Image.fromarray(noise).save(tmp_path / "noted.jpg", xmp=note)
    assert not is_panorama(tmp_path / "plain.jpg")
    assert is_panorama(tmp_path / "noted.jpg")


def test_masks_of_the_operator(capture: tuple[Path, torch.Tensor], tmp_path: Path) -> None:
    """One mask for all panoramas hides what stands below the camera: that face goes, and its
    neighbours get masks of their own.
    """
    for index in range(2):
        write_png(
            tmp_path / "images" / f"{index:03d}.png",
            read_image(capture[0] / "images" / f"{index:03d}.png"),
        )
    mask = np.full((160, 320), 255, np.uint8)
    mask[105:] = 0  # from 28 degrees below the horizon down: all of the face below
    write_png(tmp_path / "mask.png", mask)
    write_png(tmp_path / "masks" / "001.png", np.full((160, 320), 255, np.uint8))
    masks = find_masks(tmp_path, tmp_path / "images", ["000.png", "001.png"])
    assert masks == {"000.png": tmp_path / "mask.png", "001.png": tmp_path / "masks" / "001.png"}
    stage = tmp_path / "stage"
    names, config = ["000.png", "001.png"], PanoramaConfig(faces=6)
    write_faces(
        tmp_path / "images",
        names,
        masks,
        stage,
        6,
        config.largest_face,
        config.min_unmasked_fraction,
    )
    assert {path.name for path in (stage / "images" / "000.png").iterdir()} == {
        f"face_{face}.png" for face in range(5)
    }
    assert len(list((stage / "images" / "001.png").iterdir())) == 6
    forward = read_image(stage / "masks" / "000.png" / "face_0.png")[..., 0]
    column = forward[:, len(forward) // 2]
    # the first masked row of the middle column: tan(28.1 degrees) below the middle
    row = int(np.argmin(column))
    expected = (np.tan((105 / 160 - 0.5) * np.pi) / np.tan(np.radians(50)) + 1) / 2 * len(forward)
    assert abs(row - expected) <= 2
    links = panoramas._link(stage, ["000.png", "001.png"], 6)
    assert len(links) == 11
    assert (stage / "photo_masks" / "face_0" / "000000.png.png").is_file()
