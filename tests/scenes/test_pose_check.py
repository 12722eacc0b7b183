"""Poses of every convention that tools confuse, with tracks, with points, and with photos alone."""

from __future__ import annotations

import functools
import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from scipy.spatial.transform import Rotation

from artifixer.geometry.local_origin import to_local, to_world
from artifixer.pipeline.capture import CaptureChoice, load_capture
from artifixer.pipeline.inspect_capture import inspect_scene
from artifixer.runtime.errors import InputError
from artifixer.runtime.image_files import write_png
from artifixer.scenes import formats, pose_check
from artifixer.scenes.formats import load_scene
from artifixer.scenes.photo_matches import PairMatches, match_photos
from artifixer.scenes.pose_check import NO_PARALLAX, check_poses
from artifixer.scenes.scene import Scene, SparsePoints
from tests.scenes.capture_files import transforms_content, write_transforms

_FLIP = np.diag([1.0, -1.0, -1.0, 1.0])
_MIRROR = np.diag([1.0, -1.0, 1.0, 1.0])


def _with(viewmat, translation):
    changed = viewmat.copy()
    changed[:3, 3] = translation
    return changed


def _as_transforms(pose):
    """What the loader of transforms.json makes of a pose that stands in the file."""
    return _FLIP @ np.linalg.inv(pose)


#: What a tool writes instead of the right pose, as the loader understands it; from world_to_camera.
WRONG = {
    "transforms_json": {
        "OpenCV axes in a file of OpenGL axes": lambda V: _as_transforms(np.linalg.inv(V)),
        "world_to_camera poses in OpenCV axes in a file of camera_to_world": _as_transforms,
        "world_to_camera poses in OpenGL axes in a file of camera_to_world": lambda V: (
            _as_transforms(_FLIP @ V)
        ),
        "the translations of world_to_camera in a file of camera_to_world": lambda V: (
            _as_transforms(_with(np.linalg.inv(V) @ _FLIP, V[:3, 3]))
        ),
        "the translations of world_to_camera (OpenGL axes) in a file of camera_to_world": (
            lambda V: _as_transforms(_with(np.linalg.inv(V) @ _FLIP, (_FLIP @ V)[:3, 3]))
        ),
        "poses of a left-handed world": lambda V: _MIRROR @ V @ _MIRROR,
    },
    "colmap": {
        "OpenGL axes in a model of OpenCV axes": lambda V: _FLIP @ V,
        "camera_to_world poses in a model of world_to_camera": np.linalg.inv,
        "camera_to_world poses in OpenGL axes in a model of world_to_camera": lambda V: (
            np.linalg.inv(V) @ _FLIP
        ),
        "camera centres in place of the translations": lambda V: _with(V, np.linalg.inv(V)[:3, 3]),
        "camera centres in place of the translations, in OpenGL axes": lambda V: _with(
            _FLIP @ V, np.linalg.inv(V)[:3, 3]
        ),
        "poses of a left-handed world": lambda V: _MIRROR @ V @ _MIRROR,
    },
}
CASES = [(format, name) for format, changes in WRONG.items() for name in changes]


def _changed(scene: Scene, format: str, change) -> Scene:
    cameras = []
    for camera in scene.cameras:
        world = to_world(camera, scene.origin)
        viewmat = torch.from_numpy(change(world.viewmats[0].numpy().copy()).copy())
        cameras.append(to_local(replace(world, viewmats=viewmat[None]), scene.origin))
    return replace(scene, cameras=tuple(cameras), format=format)


@pytest.fixture(scope="module")
def drawn() -> Scene:
    """Photo-like views of a room without points; small, as they are drawn here."""
    from artifixer.scenes.resize_scene import resize_scene

    scene = resize_scene(load_scene("procedural:3"), 256)
    kept = range(0, len(scene.photos), max(1, len(scene.photos) // 24))
    photos = [replace(scene.photos[i], read=_keep(scene.photos[i].read)) for i in kept]
    return replace(
        scene,
        photos=tuple(photos),
        cameras=tuple(scene.cameras[i] for i in kept),
        points=None,
        format="colmap",
        splits={},
    )


def _keep(read):
    pixels = []

    def once():
        if not pixels:
            pixels.append(read())
        return pixels[0]

    return once


@pytest.fixture(scope="module")
def real(captures_folder: Path) -> Callable[[str], Scene]:
    """The real captures by name, each loaded once."""
    return functools.cache(lambda name: load_scene(captures_folder / name))


@pytest.fixture(scope="module")
def _known_matches() -> dict[object, list[PairMatches]]:
    return {}


@pytest.fixture
def matched_once(
    _known_matches: dict[object, list[PairMatches]], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Scenes that differ in their poses alone share their matches, which take half a second: poses
    have no part in them (``test_poses_have_no_part_in_matching``).
    """

    def match(scene: Scene) -> list[PairMatches]:
        lenses = [(c.Ks.numpy().tobytes(), c.distortion.numpy().tobytes()) for c in scene.cameras]
        key = str((scene.name, [photo.name for photo in scene.photos], lenses))
        if key not in _known_matches:
            _known_matches[key] = match_photos(scene)
        return _known_matches[key]

    monkeypatch.setattr(pose_check, "match_photos", match)


def test_poses_have_no_part_in_matching(drawn):
    change = WRONG["colmap"]["camera_to_world poses in a model of world_to_camera"]
    ours, theirs = match_photos(drawn), match_photos(_changed(drawn, "colmap", change))
    assert ours and len(ours) == len(theirs)
    for one, other in zip(ours, theirs, strict=True):
        assert (one.first, one.second, one.focal) == (other.first, other.second, other.focal)
        assert np.array_equal(one.first_plane, other.first_plane)
        assert np.array_equal(one.second_plane, other.second_plane)


@pytest.mark.parametrize("format", ["colmap", "transforms_json"])
def test_right_poses_are_not_questioned_by_photos(drawn, format):
    assert check_poses(replace(drawn, format=format)) == []


@pytest.mark.parametrize(("format", "name"), CASES)
@pytest.mark.usefixtures("matched_once")
def test_photos_alone_tell_the_convention(drawn, format, name):
    problems = check_poses(_changed(drawn, format, WRONG[format][name]))
    assert [problem.is_certain for problem in problems] == [True]
    assert problems[0].text.startswith(f"the poses look like {name}: "), problems[0].text


@pytest.mark.usefixtures("matched_once")
@pytest.mark.parametrize("turns", [1, 2, 3])
def test_photos_turned_against_their_cameras_are_told(drawn, turns):
    def roll(viewmat):
        turn = np.eye(4)
        turn[:2, :2] = np.linalg.matrix_power(np.array([[0.0, 1.0], [-1.0, 0.0]]), turns)
        return turn @ viewmat

    (problem,) = check_poses(_changed(drawn, "colmap", roll))
    assert f"photos turned by {90 * turns} degrees against their cameras" in problem.text


def test_poses_of_another_capture_are_doubted(drawn):
    """No convention explains shuffled poses: a doubt, not a refusal."""
    order = np.random.default_rng(0).permutation(len(drawn.cameras))
    (problem,) = check_poses(replace(drawn, cameras=tuple(drawn.cameras[i] for i in order)))
    assert not problem.is_certain and "of the matches" in problem.text


@pytest.mark.parametrize("capture", ["buddha", "fountain", "fox", "plush"])
@pytest.mark.parametrize("evidence", ["tracks", "points", "photos"])
@pytest.mark.usefixtures("matched_once")
def test_real_captures_are_right(real, capture, evidence):
    assert check_poses(_with_evidence(real(capture), evidence)) == []


@pytest.mark.parametrize("evidence", ["tracks", "points", "photos"])
@pytest.mark.parametrize(("format", "name"), CASES)
@pytest.mark.usefixtures("matched_once")
def test_a_real_capture_in_another_convention_is_refused(real, evidence, format, name):
    scene = _changed(real("fountain"), format, WRONG[format][name])
    if name.endswith("left-handed world") and evidence != "photos":
        pytest.skip("points of a left-handed world are mirrored too")
    problems = check_poses(_with_evidence(scene, evidence))
    assert [problem.is_certain for problem in problems] == [True]
    assert name in problems[0].text


def _with_evidence(scene: Scene, evidence: str) -> Scene:
    assert scene.points is not None
    if evidence == "photos":
        return replace(scene, points=None)
    if evidence == "points":
        return replace(
            scene, points=SparsePoints.without_tracks(scene.points.xyz, scene.points.rgb)
        )
    return scene


@pytest.fixture(scope="module")
def with_points() -> Scene:
    """A room with sparse points and tracks; no photo is drawn."""
    return replace(load_scene("procedural:3"), format="colmap", splits={})


def test_right_poses_are_not_questioned_by_tracks(with_points):
    assert check_poses(with_points) == []


@pytest.mark.parametrize("evidence", ["tracks", "points"])
@pytest.mark.parametrize(("format", "name"), CASES)
def test_points_tell_the_convention(with_points, evidence, format, name):
    if name.endswith("left-handed world"):
        pytest.skip("points of a left-handed world are mirrored too")
    scene = _changed(with_points, format, WRONG[format][name])
    problems = check_poses(_with_evidence(scene, evidence))
    assert [problem.is_certain for problem in problems] == [True]
    assert problems[0].text.startswith(f"the poses look like {name}: ")


def test_far_captures_in_another_convention_are_refused(tmp_path, captures_folder):
    """Inverting a pose needs the world's own coordinates, not those around the local origin."""
    import pycolmap

    model = pycolmap.Reconstruction(captures_folder / "fountain" / "sparse" / "0")
    far = pycolmap.Sim3d(1.0, pycolmap.Rotation3d(), np.array([500_000.0, 5_400_000.0, 300.0]))
    model.transform(far)
    model.write_text(tmp_path)
    lines = (tmp_path / "images.txt").read_text().splitlines()
    for number, line in enumerate(lines):
        words = line.split()
        if len(words) == 10 and not line.startswith("#"):
            pose = model.images[int(words[0])].cam_from_world().inverse()
            x, y, z, w = pose.rotation.quat.tolist()
            words[1:8] = [repr(value) for value in (w, x, y, z, *pose.translation.tolist())]
            lines[number], lines[number + 1] = " ".join(words), ""
    (tmp_path / "images.txt").write_text("\n".join(lines) + "\n")
    points = (tmp_path / "points3D.txt").read_text().splitlines()
    points = [line if line.startswith("#") else " ".join(line.split()[:8]) for line in points]
    (tmp_path / "points3D.txt").write_text("\n".join(points) + "\n")
    (tmp_path / "images").symlink_to(captures_folder / "fountain" / "images")
    (problem,) = check_poses(load_scene(tmp_path))
    assert problem.is_certain
    assert "camera_to_world poses in a model of world_to_camera" in problem.text


FAR = np.array([500_123.456, 5_400_321.123, 312.77])


def _far_poses(captures_folder) -> dict[str, np.ndarray]:
    """world_to_camera of fountain, a few units wide, in coordinates of a national grid."""
    import pycolmap

    model = pycolmap.Reconstruction(captures_folder / "fountain" / "sparse" / "0")
    model.transform(pycolmap.Sim3d(1.0, pycolmap.Rotation3d(), FAR))
    poses = {}
    for image in model.images.values():
        poses[image.name] = np.eye(4)
        poses[image.name][:3] = image.cam_from_world().matrix()
    return poses


@pytest.mark.parametrize("is_wrong", [True, False])
def test_far_transforms_without_points_in_another_convention_are_refused(
    tmp_path, captures_folder, is_wrong
):
    """float32 cameras had lost the digits that say so: it was a doubt only."""
    scene = load_scene(captures_folder / "fountain")
    K, width, height = scene.cameras[0].Ks[0], scene.cameras[0].width, scene.cameras[0].height
    frames = [
        {
            "file_path": f"images/{name}",
            "transform_matrix": (V if is_wrong else np.linalg.inv(V) @ _FLIP).tolist(),
        }
        for name, V in _far_poses(captures_folder).items()
    ]
    content = {"fl_x": float(K[0, 0]), "fl_y": float(K[1, 1]), "w": width, "h": height}
    content |= {"cx": float(K[0, 2]), "cy": float(K[1, 2]), "frames": frames}
    (tmp_path / "transforms.json").write_text(json.dumps(content))
    (tmp_path / "images").symlink_to(captures_folder / "fountain" / "images")
    problems = check_poses(load_scene(tmp_path))
    assert [problem.is_certain for problem in problems] == [True] * is_wrong
    said = "world_to_camera poses in OpenCV axes in a file of camera_to_world"
    assert all(said in problem.text for problem in problems)


@pytest.mark.parametrize("is_wrong", [True, False])
def test_far_models_without_points_in_another_convention_are_refused(
    tmp_path, captures_folder, is_wrong
):
    import pycolmap

    lines = []
    for number, (name, V) in enumerate(_far_poses(captures_folder).items(), start=1):
        pose = pycolmap.Rigid3d(V[:3])
        x, y, z, w = (pose.inverse() if is_wrong else pose).rotation.quat.tolist()
        translation = (np.linalg.inv(V) if is_wrong else V)[:3, 3].tolist()
        words = [repr(value) for value in (w, x, y, z, *translation)]
        lines += [f"{number} {' '.join(words)} 1 {name}", ""]
    (tmp_path / "images.txt").write_text("\n".join(lines))
    camera = load_scene(captures_folder / "fountain").cameras[0]
    (fx, _, cx), (_, fy, cy), _ = camera.Ks[0].tolist()
    text = f"1 PINHOLE {camera.width} {camera.height} {fx} {fy} {cx} {cy}\n"
    (tmp_path / "cameras.txt").write_text(text)
    (tmp_path / "images").symlink_to(captures_folder / "fountain" / "images")
    problems = check_poses(load_scene(tmp_path))
    assert [problem.is_certain for problem in problems] == [True] * is_wrong
    assert all("camera_to_world poses in a model of" in problem.text for problem in problems)


@pytest.mark.parametrize(
    ("format", "is_wrong"),
    [("transforms_json", True), ("transforms_json", False), ("colmap", True)],
)
def test_far_drawn_captures_in_another_convention_are_refused(tmp_path, drawn, is_wrong, format):
    """The same with drawn photos, for machines without the real captures."""
    shift = np.eye(4)
    shift[:3, 3] = -FAR
    names = [f"{number:03d}.png" for number in range(len(drawn.photos))]
    poses = []
    for camera in drawn.cameras:
        V = camera.viewmats[0].double().numpy().copy()
        # float32 rotations would move a camera this far out by half a unit
        V[:3, :3] = Rotation.from_matrix(V[:3, :3]).as_matrix()
        poses.append(V @ shift)
    (fx, _, cx), (_, fy, cy), _ = drawn.cameras[0].Ks[0].tolist()
    width, height = drawn.photos[0].width, drawn.photos[0].height
    for name, photo in zip(names, drawn.photos, strict=True):
        write_png(tmp_path / "images" / name, photo.read())
    if format == "transforms_json":
        stored = poses if is_wrong else [np.linalg.inv(V) @ _FLIP for V in poses]
        frames = [
            {"file_path": f"images/{name}", "transform_matrix": matrix.tolist()}
            for name, matrix in zip(names, stored, strict=True)
        ]
        content = {"fl_x": fx, "fl_y": fy, "cx": cx, "cy": cy, "w": width, "h": height}
        (tmp_path / "transforms.json").write_text(json.dumps({**content, "frames": frames}))
    else:
        lines = []
        for number, (name, V) in enumerate(zip(names, poses, strict=True), start=1):
            V = np.linalg.inv(V) if is_wrong else V
            x, y, z, w = Rotation.from_matrix(V[:3, :3]).as_quat().tolist()
            words = " ".join(repr(value) for value in (w, x, y, z, *V[:3, 3].tolist()))
            lines += [f"{number} {words} 1 {name}", ""]
        (tmp_path / "images.txt").write_text("\n".join(lines))
        (tmp_path / "cameras.txt").write_text(f"1 PINHOLE {width} {height} {fx} {fy} {cx} {cy}\n")
    problems = check_poses(load_scene(tmp_path))
    assert [problem.is_certain for problem in problems] == [True] * is_wrong
    said = {
        "transforms_json": "world_to_camera poses in OpenCV axes in a file of camera_to_world",
        "colmap": "camera_to_world poses in a model of",
    }[format]
    assert all(said in problem.text for problem in problems)


def test_a_doubt_says_what_to_do(drawn):
    order = np.random.default_rng(0).permutation(len(drawn.cameras))
    shuffled = tuple(drawn.cameras[i] for i in order)
    for format, axes in {"colmap": "OpenCV", "transforms_json": "OpenGL"}.items():
        (problem,) = check_poses(replace(drawn, cameras=shuffled, format=format))
        assert f"in {axes} axes" in problem.text
        assert "give a folder with the photos alone" in problem.text


def test_a_new_format_of_opencv_axes_was_told_to_export_opengl_axes(drawn, monkeypatch):
    """A format beside COLMAP counted as camera_to_world in OpenGL axes."""
    made = replace(formats.FORMATS[0], name="made", poses="world_to_camera_opencv")
    monkeypatch.setattr(formats, "FORMATS", (*formats.FORMATS, made))
    shuffled = tuple(reversed(drawn.cameras[::2])) + drawn.cameras[1::2]
    (problem,) = check_poses(replace(drawn, cameras=shuffled, format="made"))
    assert "export them as world_to_camera in OpenCV axes" in problem.text
    name = "OpenGL axes in a model of OpenCV axes"
    (problem,) = check_poses(_changed(drawn, "made", WRONG["colmap"][name]))
    assert problem.text.startswith(f"the poses look like {name}: ")


def test_inspect_tells_and_loading_for_work_refuses(tmp_path):
    """OpenCV axes in transforms.json, with points: it said "problems none found"."""
    content = transforms_content(views=6)
    generator = np.random.default_rng(0)
    points = generator.uniform(-1, 1, (50, 3)) + np.array([2.5, 0, 5])  # in front in OpenCV's
    rows = "".join(f"{x} {y} {z}\n" for x, y, z in points)
    header = "ply\nformat ascii 1.0\nelement vertex 50\n"
    header += "".join(f"property float {axis}\n" for axis in "xyz") + "end_header\n"
    content["ply_file_path"] = "points.ply"
    for number, frame in enumerate(content["frames"]):
        pose = np.eye(4)
        pose[0, 3] = number
        frame["transform_matrix"] = pose.tolist()
    write_transforms(tmp_path, content, views=6)
    (tmp_path / "points.ply").write_text(header + rows)
    said = "the poses look like OpenCV axes in a file of OpenGL axes"
    refused = f"refused by run and reconstruct: {said}"
    problems = inspect_scene(load_scene(tmp_path)).problems
    assert any(problem.startswith(refused) for problem in problems)
    with pytest.raises(InputError, match=said):
        load_capture(CaptureChoice(str(tmp_path)), None)
    for frame in content["frames"]:
        frame["transform_matrix"] = (np.array(frame["transform_matrix"]) @ _FLIP).tolist()
    (tmp_path / "transforms.json").write_text(json.dumps(content))
    assert not any(said in problem for problem in inspect_scene(load_scene(tmp_path)).problems)
    assert load_capture(CaptureChoice(str(tmp_path)), None).scene.photos


# Pure rotation ------------------------------------------------------------------------------------


def _turning(scene: Scene, jitter: float) -> Scene:
    """All cameras at the first one's place, up to a jitter."""
    generator = np.random.default_rng(0)
    center = scene.cameras[0].centers[0].numpy()

    def change(viewmat):
        place = center + generator.normal(size=3) * jitter
        return _with(viewmat, -viewmat[:3, :3] @ place)

    return _changed(scene, "colmap", change)


@pytest.mark.parametrize("jitter", [0.0, 1e-5])
def test_cameras_that_only_turn_are_told_by_points(captures_folder, jitter):
    scene = _with_evidence(load_scene(captures_folder / "fountain"), "points")
    assert [problem.text for problem in check_poses(_turning(scene, jitter))] == [NO_PARALLAX]


@pytest.mark.parametrize("jitter", [1e-5, 0.3])
def test_photos_from_one_place_are_told_whatever_the_poses_say(jitter):
    """Views cut from one picture by turning a camera; poses with invented positions."""
    scene = _turning(_panning(), jitter)
    assert [problem.text for problem in check_poses(scene)] == [NO_PARALLAX]


def _panning() -> Scene:
    import cv2

    from artifixer.geometry.cameras import Cameras
    from artifixer.scenes.scene import Photo

    generator = np.random.default_rng(0)
    wide = np.zeros((720, 960))
    for size in (12, 40, 120, 240):
        wide += cv2.resize(
            generator.random((size, size)), (960, 720), interpolation=cv2.INTER_CUBIC
        )
    wide = np.repeat((wide / wide.max() * 255)[..., None], 3, axis=2).clip(0, 255).astype(np.uint8)
    photos, cameras = [], []
    for number in range(8):
        turn = cv2.Rodrigues(np.array([0.02 * np.sin(number), 0.05 * (number - 4), 0.0]))[0]
        K = np.array([[500.0, 0, 160], [0, 500.0, 120], [0, 0, 1]])
        wide_K = np.array([[800.0, 0, 480], [0, 800.0, 360], [0, 0, 1]])
        pixels = cv2.warpPerspective(wide, K @ turn @ np.linalg.inv(wide_K), (320, 240))
        photos.append(Photo(f"{number}.png", 320, 240, read=lambda pixels=pixels: pixels))
        viewmat = torch.eye(4)
        viewmat[:3, :3] = torch.from_numpy(turn)
        cameras.append(Cameras.pinhole(viewmat[None], torch.from_numpy(K).float()[None], 320, 240))
    return Scene("panning", "colmap", tuple(photos), tuple(cameras))


def test_photos_without_poses_from_one_place_are_refused(tmp_path):
    """Structure from motion invented six poses for ten such photos."""
    from PIL import Image

    (tmp_path / "images").mkdir()
    for photo in _panning().photos:
        Image.fromarray(photo.read()).save(tmp_path / "images" / photo.name)
    with pytest.raises(InputError, match="no parallax: turning the camera explains all matches"):
        load_scene(tmp_path)
