"""Photos without poses: structure from motion against true cameras, partial results, and what is
kept for the next time.
"""

from __future__ import annotations

import functools
import shutil
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pytest
import torch
from capture_files import noise
from PIL import Image

from artifixer.geometry.cameras import Cameras
from artifixer.geometry.transforms import invert_rigid, look_at, rotation_angle
from artifixer.runtime.errors import InputError
from artifixer.scenes import photos, procedural
from artifixer.scenes.formats import load_scene
from artifixer.scenes.procedural.views import display_colours
from artifixer.scenes.procedural.world import World
from artifixer.scenes.scene import Scene
from artifixer.scenes.sfm import SfmConfig
from tests.geometry.similarity import similarity_fit

#: Found poses against true ones after a similarity fit: degrees, and share of the largest distance
#: from the cameras' mean.
LARGEST_ANGLE, LARGEST_OFFSET = 1.0, 0.02

#: Enough for photos of 240 pixels.
QUICK = SfmConfig(features=800)

#: The world, and which camera of its path the six photos are taken around.
PROCEDURAL, MIDDLE = "procedural:5:frames=24,width=240,height=180", 3
SIX_FRAMES = range(6)


@dataclass(frozen=True)
class Capture:
    """Photos of ``truth`` in ``folder/images``, called after their numbers, and where they were
    really taken.
    """

    folder: Path
    truth: Scene


@pytest.fixture(scope="module")
def truth() -> Scene:
    """Two rows of three views of one place, nine degrees apart. The measure below needs that: the
    cameras of a path nearly lie on a line, and a fit of their positions leaves free how far the
    poses are turned about it (one grey level of noise turned them by 1 to 20 degrees).
    """
    capture, world = procedural.load(PROCEDURAL), procedural.world_of(PROCEDURAL)
    pose = capture.cameras[MIDDLE].camera_to_world[0]
    right, down, ahead, eye = pose[:3].unbind(dim=1)
    cameras = tuple(
        replace(
            capture.cameras[MIDDLE],
            viewmats=invert_rigid(
                look_at(eye + 0.4 * across * right + 0.25 * along * down, eye + 2.5 * ahead, -down)
            )[None],
        )
        for along in (-1, 1)
        for across in (-1, 0, 1)
    )
    photos = tuple(
        replace(photo, read=functools.cache(functools.partial(photograph, world, camera)))
        for photo, camera in zip(capture.photos, cameras, strict=False)
    )
    return replace(capture, photos=photos, cameras=cameras)


def photograph(world: World, camera: Cameras) -> np.ndarray:
    return np.rint(display_colours(world, camera, samples=2) * 255).astype(np.uint8)


@pytest.fixture
def capture(truth: Scene, tmp_path: Path) -> Capture:
    return Capture(write_photos(truth, tmp_path / "capture"), truth)


def write_photos(truth: Scene, folder: Path, orientation: int = 1) -> Path:
    """The photos as files; orientation: how a phone held sideways stores them, as EXIF numbers it
    (1 or 6).
    """
    (folder / "images").mkdir(parents=True)
    exif = Image.Exif()
    exif[0x0112] = orientation
    for frame in SIX_FRAMES:
        pixels = np.ascontiguousarray(
            np.rot90(truth.photos[frame].read(), {1: 0, 6: 1}[orientation])
        )
        Image.fromarray(pixels).save(folder / "images" / f"{frame:03d}.png", exif=exif)
    return folder


def load(folder: Path, work_folder: Path | None = None, say=lambda text: None) -> Scene:
    return photos.load(folder, folder / "images", work_folder, QUICK, say)


def errors(scene: Scene, truth: Scene, positions: list[int]) -> tuple[float, float]:
    """Largest error of rotation in degrees and of position relative to the scene's size; positions:
    true views of the scene's photos.
    """
    found = torch.cat([camera.camera_to_world for camera in scene.cameras]).double()
    true = torch.cat([truth.cameras[position].camera_to_world for position in positions]).double()
    centers = true[:, :3, 3]
    moved = similarity_fit(found[:, :3, 3], centers).move_poses(found)
    angles = torch.rad2deg(rotation_angle(moved[:, :3, :3], true[:, :3, :3]))
    size = (centers - centers.mean(dim=0)).norm(dim=1).max()
    return float(angles.max()), float((moved[:, :3, 3] - centers).norm(dim=1).max() / size)


def assert_right(scene: Scene, truth: Scene) -> None:
    angle, offset = errors(scene, truth, [int(Path(photo.name).stem) for photo in scene.photos])
    assert angle <= LARGEST_ANGLE
    assert offset <= LARGEST_OFFSET


# Poses --------------------------------------------------------------------------------------------


def test_poses_are_found_and_kept_for_the_next_time(capture: Capture, tmp_path: Path) -> None:
    steps: list[str] = []
    scene = load(capture.folder, tmp_path / "work", steps.append)
    assert [photo.name for photo in scene.photos] == [
        f"images/{frame:03d}.png" for frame in SIX_FRAMES
    ]
    assert scene.format == "photos"
    assert not scene.lost_photos and not scene.notes
    assert_right(scene, capture.truth)
    assert scene.points is not None and scene.points.has_tracks
    assert any("15 pairs" in step for step in steps)

    steps.clear()
    again = load(capture.folder, tmp_path / "work", steps.append)
    assert not steps, "nothing is computed twice"
    elsewhere = load(capture.folder)
    for other in (again, elsewhere):
        assert all(
            torch.equal(a.viewmats, b.viewmats) and torch.equal(a.Ks, b.Ks)
            for a, b in zip(scene.cameras, other.cameras, strict=True)
        )
        assert other.points is not None and torch.equal(scene.points.xyz, other.points.xyz)


@pytest.mark.parametrize("number", [1, 2])
def test_a_grey_level_more_or_less_leaves_the_poses(capture: Capture, number: int) -> None:
    """Other pixels draw other samples of matches: poses do not hang on the luck of one draw."""
    generator = np.random.default_rng(number)
    for path in sorted((capture.folder / "images").iterdir()):
        pixels = np.asarray(Image.open(path)).astype(int)
        noisy = np.clip(pixels + generator.integers(-1, 2, pixels.shape), 0, 255)
        Image.fromarray(noisy.astype(np.uint8)).save(path)
    assert_right(load(capture.folder), capture.truth)


def test_photos_of_a_phone_held_sideways(truth: Scene, tmp_path: Path) -> None:
    folder = write_photos(truth, tmp_path / "capture", orientation=6)
    scene = load(folder)
    assert {(photo.width, photo.height) for photo in scene.photos} == {(240, 180)}
    assert np.array_equal(scene.photos[0].read(), truth.photos[0].read())
    assert_right(scene, truth)


def test_photos_without_a_pose_are_named_and_the_rest_goes_on(capture: Capture) -> None:
    for number in range(2):
        Image.fromarray(noise(240, 180, number)).save(
            capture.folder / "images" / f"noise{number}.png"
        )
    scene = load(capture.folder)
    assert scene.lost_photos == ("images/noise0.png", "images/noise1.png")
    assert len(scene.photos) == 6
    expected = (
        "no pose was found for 2 of 8 photos, they are left out: "
        "images/noise0.png, images/noise1.png"
    )
    assert expected in scene.notes
    assert_right(scene, capture.truth)


def test_poses_for_half_of_the_photos_are_too_few(capture: Capture, tmp_path: Path) -> None:
    images = capture.folder / "images"
    for path in sorted(images.iterdir())[3:]:
        path.unlink()
    for number in range(3):
        Image.fromarray(noise(240, 180, number)).save(images / f"noise{number}.png")
    with pytest.raises(
        InputError,
        match=r"images: structure from motion found poses for [0-3] of 6 photos; "
        "expected more than half",
    ):
        load(capture.folder, tmp_path / "work")
    assert not list((tmp_path / "work").glob("*/model"))


def test_a_damaged_photo_is_named(capture: Capture) -> None:
    images = capture.folder / "images"
    for path in sorted(images.iterdir())[2:]:
        path.unlink()
    (images / "000.png").write_bytes((images / "000.png").read_bytes()[:20000])
    with pytest.raises(InputError, match=r"000\.png: cannot read"):
        load(capture.folder)


def test_fountain_by_its_photos_alone(captures_folder: Path, tmp_path: Path) -> None:
    """The bar: all photos get a pose, within 1 degree and 2 % of the scene's size."""
    shutil.copytree(captures_folder / "fountain" / "images", tmp_path / "images")
    scene = load_scene(tmp_path)
    truth = load_scene(captures_folder / "fountain")
    assert [photo.name for photo in scene.photos] == [photo.name for photo in truth.photos]
    assert not scene.notes
    angle, offset = errors(scene, truth, list(range(len(truth.photos))))
    assert angle <= LARGEST_ANGLE
    assert offset <= LARGEST_OFFSET


# Which photos, which pairs ------------------------------------------------------------------------


def test_photos_lie_in_images_or_in_the_folder_itself(tmp_path: Path) -> None:
    for name in (
        "a.png",
        "inside/b.png",
        "images/c.png",
        "images/deeper/d.JPG",
        "images/.hidden.png",
        "images/notes.txt",
    ):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    assert photos.find_photos(tmp_path) == tmp_path / "images"
    assert photos.photo_names(tmp_path / "images") == ["c.png", "deeper/d.JPG"]
    (tmp_path / "images" / "c.png").unlink()
    assert photos.find_photos(tmp_path) is None
    (tmp_path / "e.tif").touch()
    assert photos.find_photos(tmp_path) == tmp_path
    assert photos.photo_names(tmp_path) == ["a.png", "e.tif"]


def test_photos_of_one_size_and_focal_length_share_a_camera(tmp_path: Path) -> None:
    for name, size, focal in (
        ("a", (40, 30), 4.2),
        ("b", (40, 30), 4.2),
        ("c", (40, 30), 6.0),
        ("d", (30, 40), 4.2),
        ("e", (40, 30), None),
    ):
        exif = Image.Exif()
        if focal is not None:
            exif.get_ifd(0x8769)[0x920A] = focal
        Image.fromarray(noise(*size)).save(tmp_path / f"{name}.jpg", exif=exif)
    groups = photos._camera_groups(photos.readable_photos(tmp_path, tmp_path)[0])
    assert sorted(groups) == [["a.jpg", "b.jpg"], ["c.jpg"], ["d.jpg"], ["e.jpg"]]


def test_photos_in_mask_folders_are_no_photos(tmp_path: Path) -> None:
    for name in ("images/a.png", "images/b.png", "images/masks/a.png", "images/b.mask.png"):
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(noise(40, 30)).save(path)
    assert photos.photo_names(tmp_path / "images") == ["a.png", "b.png"]


def test_colmap_gets_what_it_can_see_rightly(tmp_path: Path) -> None:
    """Mirrored photos upright, turned ones as they are stored unless a mask goes with them, formats
    that it does not read as PNG.
    """
    (tmp_path / "images").mkdir()
    for orientation in (1, 2, 6, 8):
        exif = Image.Exif()
        exif[0x0112] = orientation
        Image.fromarray(noise(40, 30)).save(tmp_path / f"images/{orientation}.png", exif=exif)
    Image.fromarray(noise(40, 30)).save(tmp_path / "images/a.webp")
    Image.fromarray(noise(40, 30)).save(tmp_path / "images/b.avif")
    mask = np.full((30, 40), 255, np.uint8)
    mask[:, :10] = 0  # of the stored pixels
    (tmp_path / "masks").mkdir()
    Image.fromarray(mask).save(tmp_path / "masks/8.png")
    found, broken = photos.readable_photos(tmp_path, tmp_path / "images")
    assert not broken
    links = photos._link(found, tmp_path / "stage")
    copies = {
        name for name, link in links.items() if not (tmp_path / "stage/photos" / link).is_symlink()
    }
    assert copies == {"2.png", "8.png", "a.webp", "b.avif"}
    mirrored = np.asarray(Image.open(tmp_path / "stage/photos" / links["2.png"]))
    assert np.array_equal(mirrored, noise(40, 30)[:, ::-1])
    turned = np.asarray(Image.open(tmp_path / "stage/masks" / f"{links['8.png']}.png"))
    assert np.array_equal(turned, np.rot90(mask))


def test_nothing_is_matched_where_photos_are_masked(capture: Capture, tmp_path: Path) -> None:
    import pycolmap

    folder = capture.folder
    (folder / "masks").mkdir()
    mask = np.full((180, 240), 255, np.uint8)
    mask[:, :80] = 0
    for frame in SIX_FRAMES:
        Image.fromarray(mask).save(folder / f"masks/{frame:03d}.png")
    scene = load(folder, tmp_path / "work")
    assert len(scene.photos) >= 4
    assert all(photo.mask is not None and photo.mask()[:, :80].max() == 0 for photo in scene.photos)
    (database,) = (tmp_path / "work").glob("sfm-*/database.db")
    with pycolmap.Database.open(database) as opened:
        for image in opened.read_all_images():
            assert opened.read_keypoints(image.image_id)[:, 0].min() >= 79


def test_mirrored_photos_get_true_poses(truth: Scene, tmp_path: Path) -> None:
    """As front cameras store them: the pixels are mirrored, EXIF says so."""
    folder = tmp_path / "capture"
    (folder / "images").mkdir(parents=True)
    exif = Image.Exif()
    exif[0x0112] = 2
    for frame in SIX_FRAMES:
        options = {"exif": exif} if frame % 4 else {}
        pixels = truth.photos[frame].read()
        stored = pixels[:, ::-1] if frame % 4 else pixels
        path = folder / "images" / f"{frame:03d}.png"
        Image.fromarray(np.ascontiguousarray(stored)).save(path, **options)
    scene = load(folder)
    assert len(scene.photos) == 6
    for photo, frame in zip(scene.photos, SIX_FRAMES, strict=True):
        assert np.array_equal(photo.read(), truth.photos[frame].read())
    found = torch.cat([camera.viewmats for camera in scene.cameras]).double()
    true = torch.cat([truth.cameras[frame].viewmats for frame in SIX_FRAMES]).double()
    relative_found, relative_true = found @ found[:1].inverse(), true @ true[:1].inverse()
    angle = rotation_angle(relative_found[:, :3, :3], relative_true[:, :3, :3])
    assert torch.rad2deg(angle).max() < LARGEST_ANGLE


def test_a_damaged_photo_is_left_out_and_named(capture: Capture) -> None:
    (capture.folder / "images" / "099.jpg").write_bytes(b"<html>")
    (capture.folder / "images" / "100.DNG").write_bytes(b"II*")
    scene = load(capture.folder)
    assert len(scene.photos) == 6
    assert "images/099.jpg" in scene.lost_photos
    assert any("1 of 7 photos are left out" in note and "099.jpg" in note for note in scene.notes)
    assert "1 photo of a kind that is not read left out: .dng" in scene.notes
