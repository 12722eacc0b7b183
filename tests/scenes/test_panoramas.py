"""360 degree photos as rigs of perspective views: the same picture and the same rays as an ordinary
photo, and poses by structure from motion."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from artifixer.geometry.panorama import FACE_RIGS
from artifixer.geometry.transforms import rotation_angle
from artifixer.imaging.metrics import psnr
from artifixer.runtime.errors import InputError
from artifixer.runtime.image_files import read_image, write_png
from artifixer.runtime.video_files import VideoWriter
from artifixer.scenes import video_file
from artifixer.scenes.formats import find_format, load_scene
from artifixer.scenes.panorama_faces import panorama_of
from artifixer.scenes.panoramas import find_panoramas
from artifixer.scenes.scene import Scene
from artifixer.scenes.splits import choose_split
from artifixer.scenes.wide_lenses import field_of_view
from tests.geometry.similarity import similarity_fit
from tests.scenes.made_panoramas import photograph, room, write_capture

#: Panoramas of the capture without poses; small, and enough for structure from motion.
COUNT, WIDTH = 6, 640


@pytest.fixture(scope="module")
def capture(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, torch.Tensor]:
    folder = tmp_path_factory.mktemp("panoramas")
    return folder, write_capture(folder, COUNT, WIDTH, with_poses=False, samples=2)


@pytest.fixture(scope="module")
def posed(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, torch.Tensor]:
    folder = tmp_path_factory.mktemp("posed")
    return folder, write_capture(folder, 2, 400, with_poses=True, samples=2)


@pytest.fixture(scope="module")
def found(
    capture: tuple[Path, torch.Tensor], tmp_path_factory: pytest.TempPathFactory
) -> tuple[Scene, Path]:
    work = tmp_path_factory.mktemp("work")
    return load_scene(capture[0], work_folder=work, faces=6), work


def true_poses(scene: Scene, poses: torch.Tensor, faces: int) -> torch.Tensor:
    """camera_to_world of the scene's photos as the panoramas were made."""
    result = []
    for photo in scene.photos:
        panorama, face = photo.name.removesuffix(".png").split("/face_")
        pose = poses[int(Path(panorama).stem)].clone()
        pose[:3, :3] = pose[:3, :3] @ FACE_RIGS[faces].rotations[int(face)].mT
        result.append(pose)
    return torch.stack(result)


# With poses ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("faces", FACE_RIGS)
def test_a_face_is_the_photo_that_its_camera_would_take(
    posed: tuple[Path, torch.Tensor], faces: int
) -> None:
    folder, poses = posed
    scene = load_scene(folder, faces=faces)
    assert scene.format == "transforms_json" and len(scene.photos) == 2 * faces
    world, _ = room(2)
    gains = []
    for photo, camera in zip(scene.photos[:faces], scene.cameras, strict=False):
        truth = torch.from_numpy(photograph(world, camera)).float() / 255
        quality, mirrored = psnr(photo.pixels(), truth), psnr(photo.pixels().flip(1), truth)
        assert quality > 26, photo.name
        gains.append(float(quality - mirrored))
    assert min(gains) > 0 and np.mean(gains) > 6, "a mirrored picture would do as well"
    found = torch.cat([camera.camera_to_world for camera in scene.cameras]).double()
    torch.testing.assert_close(found, true_poses(scene, poses, faces), atol=2e-6, rtol=0)


def test_held_out_panoramas_are_held_out_whole(tmp_path: Path) -> None:
    write_capture(tmp_path, 3, 64, with_poses=True)
    scene = load_scene(tmp_path)
    assert len(scene.photos) == 24
    for name in ("every_8", "every_4"):
        split = choose_split(scene, name=name)
        assert {panorama_of(photo) for photo in split.heldout} == {"images/000.png"}
        assert {panorama_of(photo) for photo in split.train} == {"images/001.png", "images/002.png"}


@pytest.mark.parametrize(
    ("change", "faces", "message"),
    [
        (
            lambda folder: write_png(
                folder / "images" / "001.png", np.zeros((20, 50, 3), np.uint8)
            ),
            None,
            "50x20 pixels, expected 2:1",
        ),
        (lambda folder: None, 7, "--faces 7: expected 6, 8, 14 views per panorama"),
    ],
)
def test_what_is_wrong_is_said_in_one_line(
    tmp_path: Path, change: Callable[[Path], object], faces: int | None, message: str
) -> None:
    write_capture(tmp_path, 2, 64, with_poses=True)
    change(tmp_path)
    with pytest.raises(InputError, match=message) as caught:
        load_scene(tmp_path, faces=faces)
    assert "\n" not in str(caught.value)


# Recognised ---------------------------------------------------------------------------------------


def test_photos_among_panoramas_leave_it_a_folder_of_photos(
    capture: tuple[Path, torch.Tensor], tmp_path: Path
) -> None:
    panorama = read_image(capture[0] / "images" / "000.png")
    for index in range(2):
        write_png(tmp_path / f"{index}.png", panorama)
    assert find_panoramas(tmp_path) == tmp_path
    write_png(tmp_path / "mask.png", np.full((32, 64), 255, np.uint8))
    assert find_panoramas(tmp_path) == tmp_path, "a mask is no photo"
    write_png(tmp_path / "2.png", panorama[:, :300])
    assert find_format(tmp_path)[0].name == "photos"


# Without poses ------------------------------------------------------------------------------------


def test_poses_of_panoramas_are_found_and_their_rig_stays_exact(
    found: tuple[Scene, Path], capture: tuple[Path, torch.Tensor]
) -> None:
    scene, _ = found
    assert scene.format == "panoramas"
    assert len(scene.photos) == 6 * COUNT and scene.lost_photos == ()
    assert f"{COUNT} equirectangular photos, read as 6 perspective views each" in scene.notes
    assert not any("doubtful" in note for note in scene.notes)
    poses = torch.cat([camera.camera_to_world for camera in scene.cameras]).double()
    truth = true_poses(scene, capture[1], 6)
    moved = similarity_fit(poses[:, :3, 3], truth[:, :3, 3]).move_poses(poses)
    assert torch.rad2deg(rotation_angle(moved[:, :3, :3], truth[:, :3, :3])).max() < 0.5
    size = (truth[:, :3, 3] - truth[:, :3, 3].mean(dim=0)).norm(dim=1).max()
    assert (moved[:, :3, 3] - truth[:, :3, 3]).norm(dim=1).max() < 0.02 * size
    # Inside a panorama: one centre, exact rotations, exact intrinsics.
    for index in range(COUNT):
        own = slice(6 * index, 6 * index + 6)
        torch.testing.assert_close(
            poses[own, :3, 3], poses[own.start, :3, 3].expand(6, 3), atol=2e-6, rtol=0
        )
        relative = poses[own, :3, :3].mT @ poses[own.start, :3, :3]
        expected = FACE_RIGS[6].rotations @ FACE_RIGS[6].rotations[0].mT
        torch.testing.assert_close(relative, expected, atol=2e-6, rtol=0)
    K = FACE_RIGS[6].K(scene.photos[0].width).float()
    assert all(torch.equal(camera.Ks[0], K) for camera in scene.cameras)
    assert scene.points is not None and scene.points.has_tracks


def test_poses_are_found_once(
    found: tuple[Scene, Path], capture: tuple[Path, torch.Tensor]
) -> None:
    said: list[str] = []
    again = load_scene(capture[0], work_folder=found[1], faces=6, log=said.append)
    assert said == []
    assert all(
        torch.equal(a.viewmats, b.viewmats)
        for a, b in zip(again.cameras, found[0].cameras, strict=True)
    )


def test_the_same_photos_give_the_same_poses_without_a_trace(
    found: tuple[Scene, Path], capture: tuple[Path, torch.Tensor]
) -> None:
    fresh = load_scene(capture[0], faces=6)
    for ours, theirs, camera, other in zip(
        fresh.photos, found[0].photos, fresh.cameras, found[0].cameras, strict=True
    ):
        assert ours.path is None and np.array_equal(ours.read(), theirs.read())
        assert torch.equal(camera.viewmats, other.viewmats)
    assert {path.name for path in capture[0].iterdir()} == {"images"}


def test_a_video_of_panoramas_is_read_like_photos(
    capture: tuple[Path, torch.Tensor], tmp_path: Path
) -> None:
    with VideoWriter(tmp_path / "walk.mp4", WIDTH, WIDTH // 2, 5) as video:
        for index in range(COUNT):
            video.add(read_image(capture[0] / "images" / f"{index:03d}.png"))
    scene = video_file.load(tmp_path / "walk.mp4", tmp_path / "work", faces=6)
    assert scene.format == "video"
    assert len({panorama_of(photo.name) for photo in scene.photos}) > COUNT / 2
    assert {photo.name.rpartition("/")[2] for photo in scene.photos} == {
        f"face_{face}.png" for face in range(6)
    }


# Fisheye ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("degrees", "refused"), [(150, False), (180, False), (200, True), (220, True)]
)
def test_fisheye_photos_of_more_than_180_degrees_are_refused_with_the_reason(
    tmp_path: Path, degrees: int, refused: bool
) -> None:
    focal = 80 / np.radians(degrees / 2)
    frames = []
    for index in range(3):
        write_png(tmp_path / f"{index}.png", np.full((160, 160, 3), 90, np.uint8))
        pose = np.eye(4)
        pose[0, 3] = index
        frames.append({"file_path": f"{index}.png", "transform_matrix": pose.tolist()})
    content = {
        "camera_model": "OPENCV_FISHEYE",
        "fl_x": focal,
        "w": 160,
        "h": 160,
        "frames": frames,
    }
    (tmp_path / "transforms.json").write_text(json.dumps(content))
    if not refused:
        scene = load_scene(tmp_path)
        assert field_of_view(scene.cameras[0]) == pytest.approx(np.radians(degrees), rel=1e-4)
        return
    with pytest.raises(
        InputError,
        match=rf"0\.png shows {degrees} degrees, expected at most 180 of a fisheye lens: "
        r".* cannot be rendered",
    ):
        load_scene(tmp_path)


def test_a_round_image_in_a_wide_frame_counts_by_its_circle() -> None:
    """A circular fisheye image that touches the upper and lower border: beside it the frame is
    black.
    """
    from artifixer.geometry.cameras import Cameras

    K = torch.tensor(
        [[[50 / (np.pi / 2), 0, 100], [0, 50 / (np.pi / 2), 50], [0, 0, 1]]], dtype=torch.float32
    )
    camera = Cameras(torch.eye(4)[None], K, 200, 100, "fisheye", torch.zeros(1, 8))
    assert field_of_view(camera) == pytest.approx(np.pi, rel=1e-4)
