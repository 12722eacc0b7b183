"""COLMAP captures: COLMAP's own library writes the models and says where points project."""

from __future__ import annotations

import re

import numpy as np
import pytest
import torch
from capture_files import (
    HEIGHT,
    LENSES,
    UNKNOWN_LENSES,
    WIDTH,
    write_colmap,
    write_photo,
    write_word,
)

from artifixer.runtime.errors import InputError
from artifixer.scenes import colmap
from artifixer.scenes.colmap_folders import find_model
from artifixer.scenes.colmap_lenses import LENS_NAMES
from artifixer.scenes.formats import load_scene
from artifixer.scenes.photo_files import left_out_note
from artifixer.scenes.scene import Scene

#: float32 cameras against float64 ones, at 64 pixels.
PROJECTION_TOLERANCE = 1e-3

#: Millipixels by which our mean reprojection error on a capture may differ from COLMAP's: float32
#: poses against float64 ones.
ERROR_TOLERANCE = 2e-3


def _load(capture) -> Scene:
    return colmap.load(capture, find_model(capture))


@pytest.mark.parametrize("suffix", [".bin", ".txt"])
@pytest.mark.parametrize("lens", LENSES)
def test_every_lens_projects_as_in_colmap(tmp_path, lens, suffix):
    model = write_colmap(tmp_path, lens, suffix)
    scene = _load(tmp_path)
    assert [photo.name for photo in scene.photos] == sorted(
        f"images/{image.name}" for image in model.images.values()
    )
    for image in model.images.values():
        camera = scene.cameras[scene.index(f"images/{image.name}")]
        ids = [point.point3D_id for point in image.points2D if point.has_point3D()]
        xyz = np.array([model.points3D[point_id].xyz for point_id in ids])
        pixels, depth, is_imaged = camera.project(torch.from_numpy(xyz).float())
        expected = np.array([image.project_point(point) for point in xyz])
        assert is_imaged.all()
        assert (depth > 0).all()
        np.testing.assert_allclose(pixels[0], expected, atol=PROJECTION_TOLERANCE)


def test_numbers_of_lens_models_are_colmaps():
    import pycolmap

    known = {
        name: int(value)
        for name, value in pycolmap.CameraModelId.__members__.items()
        if int(value) >= 0
    }
    assert {name: number for number, name in enumerate(LENS_NAMES)} == known


def test_tracks_say_which_view_saw_which_point_where(tmp_path):
    model = write_colmap(tmp_path)
    scene = _load(tmp_path)
    points = scene.points
    assert len(points) == len(model.points3D)
    observed = {
        (
            scene.photos[view].name,
            tuple(np.round(points.xyz[point].tolist(), 4)),
            tuple(np.round(pixel.tolist(), 3)),
        )
        for point, view, pixel in zip(
            points.observed_point, points.observed_view, points.observed_pixel, strict=True
        )
    }
    expected = {
        (
            f"images/{image.name}",
            tuple(np.round(np.float32(model.points3D[point.point3D_id].xyz).tolist(), 4)),
            tuple(np.round(np.float32(point.xy).tolist(), 3)),
        )
        for image in model.images.values()
        for point in image.points2D
        if point.has_point3D()
    }
    assert observed == expected


@pytest.mark.parametrize("lens", UNKNOWN_LENSES)
def test_lens_models_that_cannot_be_mapped_are_refused(tmp_path, lens):
    write_colmap(tmp_path, lens)
    with pytest.raises(
        InputError,
        match=rf"images\.bin: camera 1 has the lens model {lens}, which cannot be mapped; "
        r"expected one of .*OPENCV",
    ):
        _load(tmp_path)


@pytest.mark.parametrize("capture", ["buddha", "fountain", "fox", "plush"])
def test_real_points_project_into_their_tracks(captures_folder, capture):
    """The mean distance of all observations is the one that the model itself claims."""
    import pycolmap

    scene = _load(captures_folder / capture)
    distances = []
    for view, camera in enumerate(scene.cameras):
        of_view = scene.points.observed_view == view
        pixels, _, is_imaged = camera.project(
            scene.points.xyz[scene.points.observed_point[of_view]]
        )
        assert is_imaged.all()
        distances.append((pixels[0] - scene.points.observed_pixel[of_view]).norm(dim=-1))
    model = pycolmap.Reconstruction(captures_folder / capture / "sparse" / "0")
    model.update_point_3d_errors()
    assert float(torch.cat(distances).mean()) == pytest.approx(
        sum(point.error * len(point.track.elements) for point in model.points3D.values())
        / len(torch.cat(distances)),
        abs=ERROR_TOLERANCE,
    )


# Photos -------------------------------------------------------------------------------------------


def test_resized_photos_scale_cameras_and_tracks(tmp_path):
    write_colmap(tmp_path / "full", "OPENCV")
    write_colmap(tmp_path / "half", "OPENCV", photo_size=(WIDTH // 2, HEIGHT // 2))
    full, half = _load(tmp_path / "full"), _load(tmp_path / "half")
    assert (half.cameras[0].width, half.cameras[0].height) == (WIDTH // 2, HEIGHT // 2)
    torch.testing.assert_close(half.cameras[0].Ks[:, :2] * 2, full.cameras[0].Ks[:, :2])
    torch.testing.assert_close(half.points.observed_pixel * 2, full.points.observed_pixel)


def test_a_photo_of_another_aspect_is_left_out_and_named_with_both_sizes(tmp_path):
    write_colmap(tmp_path)
    photos = sorted((tmp_path / "images").iterdir())
    write_photo(photos[0], 64, 64)
    message = (
        rf"{photos[0].name}: the photo has 64x64 pixels, its camera in .*images\.bin 64x48; "
        "expected the same size"
    )
    scene = _load(tmp_path)
    assert len(scene.photos) == 3
    assert any(re.search(message, note) for note in scene.notes)
    for photo in photos[1:]:
        write_photo(photo, 64, 64)
    with pytest.raises(InputError, match=message):
        _load(tmp_path)


def test_missing_photos_are_counted_once_and_named(tmp_path):
    write_colmap(tmp_path)
    names = sorted((tmp_path / "images").iterdir())
    names[1].unlink()
    scene = _load(tmp_path)
    assert scene.lost_photos == (f"images/{names[1].name}",)
    assert len(scene.notes) == 1
    assert "lists 4 photos; 1 does not exist and is left out" in scene.notes[0]
    assert set(scene.points.observed_view.tolist()) == {0, 1, 2}
    names[2].unlink()
    names[3].unlink()
    with pytest.raises(
        InputError, match=r"lists 4 photos of which 3 do not exist.*expected at least 2 to remain"
    ):
        _load(tmp_path)


def test_an_empty_list_of_photos_was_counted(tmp_path):
    """It said "none of the 0 listed photos is in", and "0 photos of which 0 do not exist"."""
    write_colmap(tmp_path, suffix=".txt")
    listed = tmp_path / "sparse" / "0" / "images.txt"
    listed.write_text("# none\n")
    with pytest.raises(InputError) as error:
        load_scene(tmp_path)
    assert str(error.value) == f"{listed}: lists no photos; expected at least 2"
    with pytest.raises(InputError, match=r"transforms\.json: lists no photos; expected at least 2"):
        left_out_note([], 0, tmp_path / "transforms.json")


def test_no_photo_at_all_says_where_it_looked(tmp_path):
    write_colmap(tmp_path)
    for photo in (tmp_path / "images").iterdir():
        photo.unlink()
    with pytest.raises(InputError, match=r"none of the 4 listed photos .* is in .*images or"):
        _load(tmp_path)


def test_a_model_without_points_is_a_note(tmp_path):
    write_colmap(tmp_path)
    (tmp_path / "sparse" / "0" / "points3D.bin").unlink()
    scene = _load(tmp_path)
    assert scene.points is None
    assert "no points3D file" in scene.notes[0]


# Damage -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("word", "value", "message"),
    [
        (1, "inf", "expected a unit quaternion"),
        (6, "nan", "has the translation .*nan"),
        (6, "-nan(ind)", "has the translation .*nan"),
        (6, "1.#QNAN", "has the translation .*nan"),
        (6, "1e300", "expected numbers of at most 1e[+]12"),
        (8, "9", "uses camera 9, which does not exist"),
    ],
)
def test_one_broken_image_is_left_out_and_named(tmp_path, word, value, message):
    model = write_colmap(tmp_path, suffix=".txt")
    whole = _load(tmp_path)
    write_word(tmp_path / "sparse" / "0" / "images.txt", 2, word, value)
    scene = _load(tmp_path)
    assert len(scene.photos) == len(model.images) - 1
    (note,) = [note for note in scene.notes if "photos are left out: " in note]
    assert re.search(rf"images\.txt: 1 of 4 photos are left out: image \d .*{message}", note)
    assert len(scene.lost_photos) == 1
    for photo, camera in zip(scene.photos, scene.cameras, strict=True):
        torch.testing.assert_close(camera.viewmats, whole.cameras[whole.index(photo.name)].viewmats)
    assert scene.points is not None and scene.points.has_tracks
    assert int(scene.points.observed_view.max()) == 2


@pytest.mark.parametrize("same_pose", [True, False])
def test_a_photo_listed_twice_counts_once_or_with_other_poses_not_at_all(tmp_path, same_pose):
    write_colmap(tmp_path, suffix=".txt")
    whole = _load(tmp_path)
    path = tmp_path / "sparse" / "0" / "images.txt"
    entry = next(text for text in path.read_text().splitlines() if not text.startswith("#"))
    words = ["99", *entry.split(" ")[1:]]
    if not same_pose:
        words[5] = "7"
    path.write_text(path.read_text().rstrip("\n") + f"\n{' '.join(words)}\n\n")
    scene = _load(tmp_path)
    assert len(scene.photos) == (4 if same_pose else 3)
    assert scene.lost_photos == (() if same_pose else (f"images/{words[9]}",))
    assert same_pose or any("occurs twice, with other poses" in note for note in scene.notes)
    for photo, camera in zip(scene.photos, scene.cameras, strict=True):
        torch.testing.assert_close(camera.viewmats, whole.cameras[whole.index(photo.name)].viewmats)


def test_more_broken_images_than_good_ones_are_refused(tmp_path):
    write_colmap(tmp_path, suffix=".txt", views=5)
    for image in range(2):
        write_word(tmp_path / "sparse" / "0" / "images.txt", 2 * image, 6, "nan")
    assert len(_load(tmp_path).photos) == 3
    write_word(tmp_path / "sparse" / "0" / "images.txt", 4, 6, "nan")
    with pytest.raises(InputError, match=r"image 1 .*has the translation .*\(3 of 5 such\)"):
        _load(tmp_path)


def test_a_broken_camera_that_no_photo_uses_is_left_out_and_named(tmp_path):
    write_colmap(tmp_path, suffix=".txt")
    path = tmp_path / "sparse" / "0" / "cameras.txt"
    bad = "7 PINHOLE 64 48 -nan(ind) -nan(ind) -nan(ind) -nan(ind)\n"
    path.write_text(path.read_text().rstrip("\n") + "\n" + bad)
    scene = _load(tmp_path)
    assert len(scene.photos) == 4
    assert any("1 broken camera that no photo uses left out (camera 7" in n for n in scene.notes)


def test_photos_of_a_broken_camera_are_left_out_and_named(tmp_path):
    write_colmap(tmp_path, suffix=".txt", views=2, cameras_per_rig=2)
    path = tmp_path / "sparse" / "0" / "cameras.txt"
    path.write_text(path.read_text().replace("2 PINHOLE 64 48 64 ", "2 PINHOLE 64 48 nan "))
    scene = _load(tmp_path)
    assert len(scene.photos) == len(scene.lost_photos) == 2
    assert any("2 of 4 photos are left out" in note and "fx = nan" in note for note in scene.notes)


@pytest.mark.parametrize("content", [b"", b"<html>", b"\xff\xd8\xff\xe0"])
def test_one_photo_that_is_no_image_is_left_out_and_named(tmp_path, content):
    write_colmap(tmp_path)
    photo = tmp_path / "images" / "camera000001_frame000001.png"
    photo.write_bytes(content)
    scene = _load(tmp_path)
    assert len(scene.photos) == 3
    assert scene.lost_photos == ("images/camera000001_frame000001.png",)
    assert any("camera000001_frame000001.png: cannot read" in note for note in scene.notes)


@pytest.mark.parametrize("value", ["nan", "999"])
def test_one_observation_without_sense_is_left_out(tmp_path, value):
    write_colmap(tmp_path, suffix=".txt")
    before = _load(tmp_path).points
    word = 0 if value == "nan" else 2
    write_word(tmp_path / "sparse" / "0" / "images.txt", 1, word, value)
    scene = _load(tmp_path)
    assert scene.points is not None and before is not None
    lost = before.observed_point.numel() - scene.points.observed_point.numel()
    assert lost <= 1  # the first keypoint may observe nothing
    assert lost == 0 or any("observations are left out" in note for note in scene.notes)


def test_a_point_at_no_place_is_left_out(tmp_path):
    write_colmap(tmp_path, suffix=".txt")
    before = _load(tmp_path).points
    write_word(tmp_path / "sparse" / "0" / "points3D.txt", 3, 1, "-inf")
    scene = _load(tmp_path)
    assert before is not None and scene.points is not None
    assert len(scene.points) == len(before) - 1
    assert any("1 of 30 points are left out" in note for note in scene.notes)
    torch.testing.assert_close(_observations(scene), _observations_of_points(before, scene.points))


def _observations(scene) -> torch.Tensor:
    """Position, view and pixel of every observation, sorted."""
    points = scene.points
    rows = [points.xyz[points.observed_point], points.observed_view[:, None], points.observed_pixel]
    return torch.tensor(sorted(torch.cat(rows, dim=1).tolist()))


def _observations_of_points(before, after) -> torch.Tensor:
    """The observations of those points of ``before`` that ``after`` has too."""
    kept = (before.xyz[:, None] == after.xyz[None]).all(dim=-1).any(dim=1)
    own = kept[before.observed_point]
    rows = [
        before.xyz[before.observed_point[own]],
        before.observed_view[own][:, None],
        before.observed_pixel[own],
    ]
    return torch.tensor(sorted(torch.cat(rows, dim=1).tolist()))


def test_a_shortened_list_of_points_keeps_the_observations_of_the_others(tmp_path):
    write_colmap(tmp_path, suffix=".txt")
    before = _load(tmp_path).points
    path = tmp_path / "sparse" / "0" / "points3D.txt"
    path.write_text("\n".join(path.read_text().splitlines()[:-12]) + "\n")
    scene = _load(tmp_path)
    assert before is not None and scene.points is not None and len(scene.points) == 18
    torch.testing.assert_close(_observations(scene), _observations_of_points(before, scene.points))
    assert any("observations are left out: images.txt and points3D" in n for n in scene.notes)


@pytest.mark.parametrize("first_id", [1, 100_000])
def test_lidar_points_in_place_of_the_sparse_ones_are_used_without_tracks(tmp_path, first_id):
    write_colmap(tmp_path, suffix=".txt")
    xyz = np.random.default_rng(0).normal(size=(500, 3))
    rows = [f"{i} {x} {y} {z} 200 100 50 0\n" for i, (x, y, z) in enumerate(xyz, first_id)]
    (tmp_path / "sparse" / "0" / "points3D.txt").write_text("".join(rows))
    scene = _load(tmp_path)
    assert scene.points is not None and not scene.points.has_tracks
    torch.testing.assert_close(scene.points.xyz, torch.from_numpy(xyz).float())
    assert scene.points.rgb.unique(dim=0).tolist() == [[200, 100, 50]]
    assert any("the points are used, their observations are not" in note for note in scene.notes)


@pytest.mark.parametrize("keep_empty_list", [False, True])
def test_points_in_a_ply_beside_the_model_are_used(tmp_path, keep_empty_list):
    write_colmap(tmp_path, suffix=".txt")
    folder = tmp_path / "sparse" / "0"
    (folder / "points3D.txt").unlink()
    if keep_empty_list:
        (folder / "points3D.txt").write_text("# no points\n")
    header = "ply\nformat ascii 1.0\nelement vertex 2\n"
    header += "".join(f"property float {axis}\n" for axis in "xyz")
    header += "".join(f"property uchar {c}\n" for c in ("red", "green", "blue")) + "end_header\n"
    rows = "1 2 3 10 20 30\n4 5 6 40 50 60\n"
    (folder / "points3D.ply").write_text(header + rows)
    scene = _load(tmp_path)
    assert scene.points is not None and not scene.points.has_tracks
    assert scene.points.xyz.tolist() == [[1, 2, 3], [4, 5, 6]]
    assert scene.points.rgb.tolist() == [[10, 20, 30], [40, 50, 60]]
    assert any("2 points of points3D.ply" in note for note in scene.notes)
    header = header.replace("vertex 2", "vertex 3")
    (folder / "points3D.ply").write_text(header + "1 nan 3 1 2 3\n" + rows)
    again = _load(tmp_path)
    assert again.points is not None and torch.equal(again.points.xyz, scene.points.xyz)
    assert any("points3D.ply: 1 of 3 points are left out" in note for note in again.notes)


def test_points_of_another_model_are_used_without_tracks(tmp_path):
    write_colmap(tmp_path, suffix=".txt")
    path = tmp_path / "sparse" / "0" / "points3D.txt"
    lines = path.read_text().splitlines()
    heads = [text.split(" ", 1) for text in lines if not text.startswith("#")]
    others = [head[0] for head in heads[1:]] + [heads[0][0]]
    rows = [f"{number} {rest}" for number, (_, rest) in zip(others, heads, strict=True)]
    path.write_text("\n".join(rows) + "\n")
    scene = _load(tmp_path)
    assert scene.points is not None and len(scene.points) == 30
    assert not scene.points.has_tracks
    assert any("do not belong together" in note for note in scene.notes)


@pytest.mark.parametrize("orientation", [2, 3, 4])
@pytest.mark.parametrize("upright", [False, True])
def test_colours_tell_which_way_up_the_cameras_of_turned_photos_are(tmp_path, orientation, upright):
    """EXIF turns the photos; the cameras are of the stored or of the turned pixels, whose shape is
    the same. Every point's colour is found where it projects.
    """
    from PIL import Image, ImageDraw

    from artifixer.runtime.image_files import upright as turned

    model = write_colmap(tmp_path, suffix=".txt")
    generator = np.random.default_rng(0)
    for point in model.points3D.values():
        point.color = generator.integers(60, 256, 3, dtype=np.uint8)
    model.write_text(tmp_path / "sparse" / "0")
    exif = Image.Exif()
    exif[0x0112] = orientation
    for image in model.images.values():
        picture = Image.new("RGB", (WIDTH, HEIGHT))
        draw = ImageDraw.Draw(picture)
        for point in image.points2D:
            if point.has_point3D():
                x, y = point.xy
                colour = tuple(int(c) for c in model.points3D[point.point3D_id].color)
                draw.ellipse([x - 1.5, y - 1.5, x + 0.5, y + 0.5], fill=colour)
        pixels = np.asarray(picture)
        if upright:  # each of these orientations is its own inverse
            pixels = turned(pixels, orientation)
        Image.fromarray(np.ascontiguousarray(pixels)).save(
            tmp_path / "images" / image.name, exif=exif
        )
    scene = _load(tmp_path)
    assert (
        any("their cameras describe the upright photos" in note for note in scene.notes) == upright
    )
    points = scene.points
    hits = []
    for view, (photo, camera) in enumerate(zip(scene.photos, scene.cameras, strict=True)):
        own = points.observed_view == view
        pixels, _, _ = camera.project(points.xyz[points.observed_point[own]])
        assert (pixels[0] - points.observed_pixel[own]).norm(dim=1).max() < 0.01
        found = photo.read()[pixels[0, :, 1].long().numpy(), pixels[0, :, 0].long().numpy()]
        rgb = points.rgb[points.observed_point[own]].numpy()
        hits += (np.abs(found.astype(int) - rgb).max(axis=1) < 8).tolist()
    assert np.mean(hits) > 0.5  # others lie under nearer discs; the wrong way up hardly any is hit
