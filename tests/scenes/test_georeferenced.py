"""Captures whose coordinates are far from zero: exact cameras inside, the world's own coordinates
in every file that can hold them.
"""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from plyfile import PlyData

from artifixer.commands.convert import Command as ConvertCommand
from artifixer.commands.convert import run_command as run_convert
from artifixer.enhance.dataset import DatasetView, write_dataset
from artifixer.geometry.camera_file import CameraFrame, read_cameras, read_origin, write_cameras
from artifixer.geometry.local_origin import WORLD, local_origin, to_world
from artifixer.pipeline.capture import CaptureChoice
from artifixer.pipeline.reconstruct import ReconstructionJob, reconstruct_capture
from artifixer.pipeline.render import open_source
from artifixer.scenes.formats import load_scene
from artifixer.scenes.point_cloud import read_points
from artifixer.scenes.scene import Scene
from artifixer.splats.files import read_splat_file, write_splat_file
from artifixer.splats.ply import read_ply_origin, read_splats, write_splats
from artifixer.splats.reconstruct import ReconstructConfig
from artifixer.splats.splats import Splats
from tests.scenes.capture_files import WIDTH, write_colmap, write_photo

#: UTM coordinates with fractions that float32 cannot hold.
FAR = np.array([500_123.456, 5_400_321.123, 312.77])

#: 0.01 pixels in a photo of 4,000, in the pixels of these photos.
EXACT = 0.01 * WIDTH / 4000

_OPENGL = np.diag([1.0, -1.0, -1.0, 1.0])


def _far_colmap(capture, suffix=".bin", offset=FAR, scale=1.0):
    """A COLMAP model moved by ``offset``; returns it. COLMAP's own library moves it and says where
    points project, in float64.
    """
    import pycolmap

    model = write_colmap(capture, suffix=suffix, views=6)
    model.transform(pycolmap.Sim3d(scale, pycolmap.Rotation3d(), offset))
    (model.write_binary if suffix == ".bin" else model.write_text)(capture / "sparse" / "0")
    return model


def _far_transforms(capture, offset=FAR, scale=1.0):
    """The same views as a transforms file; returns the model."""
    model = _far_colmap(capture / "made", offset=offset, scale=scale)
    frames = []
    for image in model.images.values():
        viewmat = np.eye(4)
        viewmat[:3] = image.cam_from_world().matrix()
        write_photo(capture / "images" / image.name)
        frames.append(
            {
                "file_path": f"images/{image.name}",
                "transform_matrix": (np.linalg.inv(viewmat) @ _OPENGL).tolist(),
            }
        )
    fx, fy, cx, cy = model.cameras[1].params
    content = {
        "fl_x": fx,
        "fl_y": fy,
        "cx": cx,
        "cy": cy,
        "w": 64,
        "h": 48,
        "ply_file_path": "points.ply",
        "frames": frames,
    }
    points = np.array([(*point.xyz, *point.color) for point in model.points3D.values()])
    rows = "".join(
        f"{x!r} {y!r} {z!r} {r:.0f} {g:.0f} {b:.0f}\n" for x, y, z, r, g, b in points.tolist()
    )
    header = (
        "ply\nformat ascii 1.0\nelement vertex {}\n"
        + "property double {}\n" * 3
        + "property uchar {}\n" * 3
        + "end_header\n"
    )
    (capture / "points.ply").write_text(
        header.format(len(points), *"xyz", "red", "green", "blue") + rows
    )
    (capture / "transforms.json").write_text(json.dumps(content))
    return model


def _largest_error(scene: Scene, model) -> float:
    """Pixels between our float32 projections of the local points and COLMAP's of the world's
    points.
    """
    xyz = np.array([point.xyz for point in model.points3D.values()])
    local = torch.from_numpy(xyz - np.array(scene.origin)).float()
    images = {image.name: image for image in model.images.values()}
    errors = []
    for photo, camera in zip(scene.photos, scene.cameras, strict=True):
        image = images[photo.name.removeprefix("images/")]
        pixels, _, valid = camera.project(local)
        expected = [image.project_point(point) for point in xyz]
        errors += [
            np.abs(pixels[0, k].numpy() - e).max()
            for k, e in enumerate(expected)
            if e is not None and valid[0, k]
        ]
    return max(errors)


@pytest.mark.parametrize(
    "write", [lambda c: _far_colmap(c, ".bin"), lambda c: _far_colmap(c, ".txt"), _far_transforms]
)
def test_georeferenced_cameras_project_exactly(tmp_path, write):
    model = write(tmp_path)
    scene = load_scene(tmp_path)
    assert scene.cameras[0].viewmats.dtype == scene.points.xyz.dtype == torch.float32
    assert np.abs(np.array(scene.origin) - FAR).max() < 100
    assert _largest_error(scene, model) < EXACT
    stored = np.sort(np.array([point.xyz for point in model.points3D.values()]), axis=0)
    np.testing.assert_allclose(
        np.sort(scene.points.xyz.numpy() + np.array(scene.origin), axis=0), stored, atol=1e-5
    )


def test_a_capture_near_zero_keeps_its_own_origin(tmp_path):
    write_colmap(tmp_path)
    assert load_scene(tmp_path).origin == WORLD


@pytest.mark.parametrize("capture", ["buddha", "fountain", "fox", "plush"])
def test_real_captures_near_zero_are_not_shifted(captures_folder, capture):
    assert load_scene(captures_folder / capture).origin == WORLD


def test_origins_are_round_and_near_the_positions():
    positions = FAR + np.random.default_rng(0).uniform(-40, 40, (20, 3))
    origin = np.array(local_origin(positions))
    assert (origin == origin.round(-1)).all()
    assert np.abs(origin - FAR).max() < 50
    assert local_origin(FAR[None]) != WORLD
    assert local_origin(positions - FAR) == local_origin(np.zeros((0, 3))) == WORLD


def test_cameras_json_holds_the_world_and_is_read_around_its_origin(tmp_path):
    _far_colmap(tmp_path)
    scene = load_scene(tmp_path)
    frames = [
        CameraFrame(camera, photo.name)
        for camera, photo in zip(scene.cameras, scene.photos, strict=True)
    ]
    write_cameras(tmp_path / "cameras.json", frames, origin=scene.origin)
    content = json.loads((tmp_path / "cameras.json").read_text())
    viewmat = np.array(content["frames"][0]["world_to_camera"])
    np.testing.assert_allclose(
        np.linalg.inv(viewmat)[:3, 3] - scene.origin, scene.cameras[0].centers[0], atol=1e-5
    )
    np.testing.assert_allclose(viewmat[:3, :3] @ viewmat[:3, :3].T, np.eye(3), atol=1e-14)
    for written, read in zip(frames, read_cameras(tmp_path / "cameras.json"), strict=True):
        torch.testing.assert_close(read.camera.viewmats, written.camera.viewmats, atol=1e-6, rtol=0)
    far = read_cameras(tmp_path / "cameras.json", (scene.origin[0] + 10, *scene.origin[1:]))
    torch.testing.assert_close(
        far[0].camera.centers,
        scene.cameras[0].centers - torch.tensor([10.0, 0, 0]),
        atol=1e-5,
        rtol=0,
    )


def test_splats_are_written_as_doubles_of_the_world_with_their_origin(tmp_path):
    generator = torch.Generator().manual_seed(0)
    splats = Splats(
        *(torch.randn(20, *shape, generator=generator) for shape in ((3,), (4,), (3,), (), (4, 3)))
    )
    origin = (500_120.0, 5_400_320.0, 310.0)
    write_splats(tmp_path / "a.ply", splats, origin)
    vertex = PlyData.read(str(tmp_path / "a.ply"))["vertex"].data
    assert vertex.dtype["x"] == np.float64 and vertex.dtype["opacity"] == np.float32
    np.testing.assert_allclose(vertex["y"] - origin[1], splats.means[:, 1], atol=1e-8)
    assert read_ply_origin(tmp_path / "a.ply") == origin
    torch.testing.assert_close(
        read_splats(tmp_path / "a.ply").means, splats.means, atol=1e-8, rtol=1e-7
    )
    assert torch.equal(read_splats(tmp_path / "a.ply").sh, splats.sh)


def test_datasets_hold_the_world(tmp_path):
    model = _far_colmap(tmp_path / "far")
    scene = load_scene(tmp_path / "far")
    pairs = zip(scene.photos, scene.cameras, strict=True)
    views = [DatasetView("photo", photo.name, camera, photo.read) for photo, camera in pairs]
    write_dataset(tmp_path / "dataset", views, (scene.points.xyz, scene.points.rgb), scene.origin)
    for form in ("transforms.json", "sparse/0"):
        again = load_scene(tmp_path / "dataset" / form)
        for before, after in zip(scene.cameras, again.cameras, strict=True):
            poses = [
                to_world(camera, origin).camera_to_world
                for camera, origin in ((before, scene.origin), (after, again.origin))
            ]
            torch.testing.assert_close(poses[0], poses[1], atol=1e-5, rtol=0)
        assert len(again.points) == len(model.points3D)
        assert np.abs(again.points.xyz.numpy() + np.array(again.origin) - FAR).max() < 20


def test_reconstructing_a_far_capture_is_as_good_as_a_near_one(tmp_path):
    psnr = {}
    for name, offset in (("near", np.zeros(3)), ("far", FAR)):
        _far_colmap(tmp_path / name, offset=offset)
        config = ReconstructConfig(iterations=40, sh_degree=1)
        result = reconstruct_capture(
            ReconstructionJob(CaptureChoice(str(tmp_path / name)), config), tmp_path / f"{name}_run"
        )
        psnr[name] = np.mean([view.psnr for view in result.train])
    assert abs(psnr["far"] - psnr["near"]) < 0.3, psnr
    stored = PlyData.read(str(tmp_path / "far_run" / "splats.ply"))["vertex"].data
    assert np.abs(np.median(stored["y"]) - FAR[1]) < 20
    source = open_source(tmp_path / "far_run" / "splats.ply", tmp_path / "far_run" / "cameras.json")
    run = open_source(tmp_path / "far_run")
    assert source.origin == run.origin != WORLD
    torch.testing.assert_close(source.all[0].camera.viewmats, run.all[0].camera.viewmats)
    torch.testing.assert_close(source.splats.means, run.splats.means)


def test_one_pose_left_at_zero_does_not_keep_the_others_far(tmp_path):
    positions = FAR + np.random.default_rng(0).uniform(-40, 40, (20, 3))
    positions[3] = 0
    assert np.abs(np.array(local_origin(positions)) - FAR).max() < 50


@pytest.mark.parametrize("scale", [1e-3, 1.0, 1e3])
@pytest.mark.parametrize("write", [_far_colmap, _far_transforms])
def test_georeferenced_cameras_of_any_unit_project_exactly(tmp_path, write, scale):
    """Millimetres around 5,400,000 are at the limit of float64 itself: steps of 1e-9."""
    model = write(tmp_path, scale=scale)
    assert _largest_error(load_scene(tmp_path), model) < EXACT


def test_camera_files_without_an_origin_are_read_around_their_cameras(tmp_path):
    _far_colmap(tmp_path)
    scene = load_scene(tmp_path)
    frames = [CameraFrame(camera, None) for camera in scene.cameras]
    path = tmp_path / "cameras.json"
    write_cameras(path, frames, origin=scene.origin)
    content = json.loads(path.read_text())
    del content["origin"]  # as other programs and older versions write it
    path.write_text(json.dumps(content))
    assert read_origin(path) == scene.origin
    for before, after in zip(frames, read_cameras(path), strict=True):
        torch.testing.assert_close(
            after.camera.viewmats, before.camera.viewmats, atol=1e-5, rtol=1e-5
        )


@pytest.mark.parametrize("suffix", [".ply", ".spz", ".sog"])
def test_exports_of_far_splats_are_read_back_at_their_place(tmp_path, suffix):
    generator = torch.Generator().manual_seed(0)
    shapes = ((3,), (4,), (3,), (), (4, 3))
    splats = Splats(*(torch.randn(50, *shape, generator=generator) for shape in shapes))
    origin = (500_120.0, 5_400_320.0, 310.0)
    path = tmp_path / f"a{suffix}"
    write_splat_file(path, splats, origin)
    found = read_splat_file(path, origin)
    assert found.origin == origin
    by_x = [means[means[:, 0].argsort()] for means in (found.splats.means, splats.means)]
    torch.testing.assert_close(*by_x, atol=2e-3, rtol=0)  # the step of SPZ is 1/4096
    assert bool(found.notes) == (suffix != ".ply")
    moved = read_splat_file(path, (origin[0] + 5, *origin[1:]))
    expected = 0.0 if suffix == ".ply" else 5.0
    assert abs(float((splats.means - moved.splats.means).mean(dim=0)[0]) - 5 + expected) < 1e-2


def test_converting_far_splats_of_another_program_keeps_their_doubles(tmp_path):
    generator = torch.Generator().manual_seed(0)
    shapes = ((3,), (4,), (3,), (), (1, 3))
    splats = Splats(*(torch.randn(50, *shape, generator=generator) for shape in shapes))
    write_splats(tmp_path / "a.ply", splats, (500_120.0, 5_400_320.0, 310.0))
    lines = (tmp_path / "a.ply").read_bytes()
    (tmp_path / "b.ply").write_bytes(lines.replace(b"comment origin", b"comment other "))
    run_convert(ConvertCommand(tmp_path / "b.ply", tmp_path / "c.ply"))
    before, after = (
        PlyData.read(str(tmp_path / name))["vertex"].data for name in ("a.ply", "c.ply")
    )
    for axis in "xyz":
        np.testing.assert_allclose(after[axis], before[axis], rtol=0, atol=1e-6)


def test_usdz_places_far_splats_by_a_translation_of_doubles(tmp_path):
    pytest.importorskip("pxr")
    from pxr import Gf, Usd, UsdGeom

    generator = torch.Generator().manual_seed(0)
    shapes = ((3,), (4,), (3,), (), (4, 3))
    splats = Splats(*(torch.randn(20, *shape, generator=generator) for shape in shapes))
    origin = (500_120.0, 5_400_320.0, 310.0)
    write_splat_file(tmp_path / "a.usdz", splats, origin)
    stage = Usd.Stage.Open(str(tmp_path / "a.usdz"))
    prim = UsdGeom.Xformable(stage.GetPrimAtPath("/World/Splats"))
    placed = prim.ComputeLocalToWorldTransform(Usd.TimeCode.Default())
    first = placed.Transform(Gf.Vec3d(*splats.means[0].tolist()))
    x, y, z = splats.means[0].double() + torch.tensor(origin, dtype=torch.float64)
    np.testing.assert_allclose(first, (x, -y, -z), atol=1e-6)  # USD's axes: y up, z backwards


def test_text_point_clouds_keep_the_digits_that_float32_lacks(tmp_path):
    (tmp_path / "far.ply").write_text(
        "ply\nformat ascii 1.0\nelement vertex 1\nproperty float x\nproperty float32 y\n"
        "property float z\nend_header\n500123.456 5400321.123 312.77\n"
    )
    cloud = read_points(tmp_path / "far.ply", (500_120.0, 5_400_320.0, 310.0))
    torch.testing.assert_close(cloud.xyz, torch.tensor([[3.456, 1.123, 2.77]]), atol=1e-6, rtol=0)


@pytest.mark.parametrize("form", ["cameras.json", "transforms.json"])
def test_local_exports_are_rendered_from_cameras_of_the_world(tmp_path, form):
    """An SPZ of a far run holds local positions; the user's cameras are of the world."""
    _far_transforms(tmp_path)
    scene = load_scene(tmp_path)
    frames = [CameraFrame(camera, None) for camera in scene.cameras]
    write_cameras(tmp_path / "cameras.json", frames, origin=scene.origin)
    generator = torch.Generator().manual_seed(0)
    shapes = ((3,), (4,), (3,), (), (1, 3))
    splats = Splats(*(torch.randn(50, *shape, generator=generator) for shape in shapes))
    write_splat_file(tmp_path / "a.spz", splats, scene.origin)
    source = open_source(tmp_path / "a.spz", tmp_path / form)
    assert np.abs(np.array(source.origin) - scene.origin).max() < 1e-6
    read = torch.cat([frame.camera.centers for frame in source.all])  # in the file's order
    distances = torch.cdist(read, torch.cat([camera.centers for camera in scene.cameras]))
    assert distances.min(dim=1).values.max() < 1e-5
    assert source.splats.means.abs().max() < 10
