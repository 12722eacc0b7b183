"""tools/rooms: what needs no furniture library runs always; whole scenes run where the variable
ROOMS_SOURCES names a set-up and ROOMS_PYTHON the interpreter of its environment.
"""

import base64
import json
import os
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

ROOMS = Path(__file__).parents[2] / "tools" / "rooms"
#: Modules that need neither the library nor the tool's own environment.
MODULES = (
    "capture",
    "catalog",
    "check_capture",
    "credits",
    "layers",
    "openings",
    "panoramas",
    "scene",
    "sources",
    "surfaces",
)
WALL_LENGTH, WALL_HEIGHT = 4.0, 2.6


@pytest.fixture(scope="module")
def rooms():
    """The tool's modules by name; their plain names leave sys.modules again."""
    before = {name: sys.modules.pop(name, None) for name in MODULES}
    sys.path.insert(0, str(ROOMS))
    try:
        yield SimpleNamespace(**{name: __import__(name) for name in MODULES})
    finally:
        sys.path.remove(str(ROOMS))
        for name, module in before.items():
            sys.modules.pop(name, None)
            if module is not None:
                sys.modules[name] = module


@pytest.fixture(scope="module")
def library(tmp_path_factory) -> Path:
    """A furniture library with one model: a cupboard of 1.0 x 0.5 x 0.8 m as two triangles."""
    folder = tmp_path_factory.mktemp("library")
    top = np.array([[-0.5, -0.25, 0.8], [0.5, -0.25, 0.8], [0.5, 0.25, 0.8], [-0.5, 0.25, 0.8]])
    corners = top[[0, 1, 2, 0, 2, 3]].astype(np.float32)
    up = np.tile(np.float32([0, 0, 1]), (6, 1))
    slots = np.zeros(2, np.int32)
    np.savez(folder / "cupboard.npz", p=corners, n=up, t=corners[:, :2], m=slots)
    plain = {"color": [0.5] * 3, "image": "", "rough": 1, "alpha": 1, "emit": 0, "metal": 0}
    record = {
        "id": "cupboard",
        "name": "Cupboard",
        "category": "Test",
        "creator": "nobody",
        "pack": "none",
        "licence": "CC0-1.0",
        "size": [1.0, 0.5, 0.8],
        "materials": [plain],
    }
    (folder / "index.json").write_text(json.dumps([record]))
    return folder


def empty_scene(rooms, library: Path, seed: int):
    sources = rooms.sources.Sources(library)
    surfaces = rooms.surfaces.Surfaces(np.random.default_rng(seed), sources)
    return rooms.scene.Scene(seed, rooms.catalog.Catalog(library), surfaces)


def a_wall(rooms, axis: int, sign: int):
    along = np.eye(2)[axis]
    return rooms.scene.Wall(np.zeros(2), along, sign * np.eye(2)[1 - axis], WALL_LENGTH)


def box_room_views(rooms, count: int = 8):
    """Photos and exact depth of a box of 6 x 5 x 3 m with a checkered pattern, seen from inside."""
    width, height, focal = 64, 48, 50.0
    low, high = np.zeros(3), np.array([6.0, 5.0, 3.0])
    v, u = np.mgrid[0:height, 0:width]
    x, y = (u + 0.5 - width / 2) / focal, (v + 0.5 - height / 2) / focal
    local = np.stack([x, -y, -np.ones(u.shape)], -1)
    photos, depths, poses = [], [], []
    for k in range(count):
        yaw = 2 * np.pi * k / count
        forward = np.array([np.cos(yaw), np.sin(yaw), 0.0])
        right = np.array([np.sin(yaw), -np.cos(yaw), 0.0])
        pose = np.eye(4)
        centre = np.array([2.5 + 0.1 * k, 2.5, 1.5])
        pose[:3] = np.stack([right, [0, 0, 1], -forward, centre], 1)
        d = local @ pose[:3, :3].T
        with np.errstate(divide="ignore"):
            t = np.where(d > 0, (high - centre) / d, (low - centre) / d).min(-1)
        cells = np.floor((centre + d * t[..., None]) * 2 + 1e-6).sum(-1) % 2
        photos.append((np.stack([cells, 1 - cells, cells * 0.5], -1) * 200 + 25).astype(np.uint8))
        depths.append(t.astype(np.float32))
        poses.append(pose)
    return rooms.capture.Views(np.stack(photos), np.stack(depths), np.stack(poses), focal)


def write(rooms, folder: Path, seconds: float) -> None:
    scene = {"seed": 0, "description": "A box.", "assets": {}}
    timing = {"seconds": {"all": seconds}}
    views = box_room_views(rooms)
    rooms.capture.write_capture(folder, views, scene, timing, np.random.default_rng(0))


def files_of(folder: Path) -> dict[str, bytes]:
    return {p.relative_to(folder).as_posix(): p.read_bytes() for p in folder.rglob("*.*")}


def inspect(folder: Path) -> subprocess.CompletedProcess:
    command = [sys.executable, "-m", "artifixer", "inspect", str(folder)]
    return subprocess.run(command, capture_output=True, text=True, check=False)


def test_a_written_capture_is_found_clean_by_inspect(rooms, tmp_path) -> None:
    write(rooms, tmp_path / "capture", 1.0)
    done = inspect(tmp_path / "capture")
    assert done.returncode == 0, done.stderr
    assert "none found" in done.stdout


def test_two_runs_differ_in_timing_only(rooms, tmp_path) -> None:
    for name, seconds in (("a", 1.0), ("b", 2.0)):
        write(rooms, tmp_path / name, seconds)
    a, b = files_of(tmp_path / "a"), files_of(tmp_path / "b")
    assert a.keys() == b.keys()
    assert [k for k in a if a[k] != b[k]] == ["timing.json"]


def test_points_lie_on_the_walls_of_the_box(rooms) -> None:
    points, _ = rooms.capture.sparse_points(box_room_views(rooms), np.random.default_rng(1))
    distance = np.minimum(np.abs(points), np.abs(points - [6.0, 5.0, 3.0])).min(1)
    assert distance.max() < 1e-5  # float32 depth


def test_the_check_finds_a_depth_of_another_scale(rooms, tmp_path) -> None:
    write(rooms, tmp_path / "good", 1.0)
    assert rooms.check_capture.agreement_of_points(tmp_path / "good") > 0.99
    write(rooms, tmp_path / "bad", 1.0)
    path = tmp_path / "bad/transforms.json"
    meta = json.loads(path.read_text())
    path.write_text(json.dumps({**meta, "depth_unit_scale_factor": 0.0011}))
    assert rooms.check_capture.agreement_of_points(tmp_path / "bad") < 0.5


def test_an_interrupted_capture_leaves_no_folder(rooms, tmp_path) -> None:
    views = box_room_views(rooms)
    with pytest.raises(TypeError):
        rooms.capture.write_capture(
            tmp_path / "c", views, {"bad": set()}, {}, np.random.default_rng()
        )
    assert not (tmp_path / "c").exists()
    write(rooms, tmp_path / "c", 1.0)  # what was left over does not stop the next run
    assert [p.name for p in tmp_path.iterdir()] == ["c"]


@given(
    st.lists(
        st.tuples(
            *(st.floats(0.05, 0.9) for _ in range(2)), *(st.floats(0, 0.9) for _ in range(2))
        ),
        max_size=3,
    ),
    st.sampled_from([(0, 1), (0, -1), (1, 1), (1, -1)]),
)
def test_masonry_and_openings_cover_a_wall_once(rooms, library, shares, orientation) -> None:
    scene, wall = empty_scene(rooms, library, 0), a_wall(rooms, *orientation)
    slot = WALL_LENGTH / max(len(shares), 1)  # openings side by side
    cuts, area = [], WALL_LENGTH * WALL_HEIGHT
    for k, (start, width, bottom, tall) in enumerate(shares):
        s0 = slot * (k + start * 0.5)
        s1 = s0 + slot * 0.5 * width
        z0 = WALL_HEIGHT * bottom
        z1 = z0 + (WALL_HEIGHT - z0) * tall
        cuts.append((s0, s1, z0, z1))
        area -= (s1 - s0) * (z1 - z0)
    rooms.openings.add_wall(scene, wall, WALL_HEIGHT, cuts, 0, 1.0, 0.1)
    covered = sum(np.linalg.norm(np.cross(r.u, r.v)) for r in scene.rects)
    # pieces of less than 0.1 mm are left out
    assert covered == pytest.approx(area, abs=2e-3)
    assert all(r.normal @ np.append(wall.n, 0) > 0.999 for r in scene.rects)


@given(st.integers(0, 10_000))
def test_placed_pieces_stay_on_the_floor_and_apart(rooms, library, seed) -> None:
    scene = empty_scene(rooms, library, seed)
    scene.floor_rects = [(0.0, 0.0, 4.0, 3.0)]
    scene.keepout = [np.array([1.5, 1.0, 2.5, 2.0])]
    scene.walls = [a_wall(rooms, 0, 1), a_wall(rooms, 1, 1)]
    scene.walls[1].length = 3.0
    for k in range(12):
        if k % 2:
            scene.against_wall("cupboard")
        else:
            x, y = scene.rng.uniform(0, 4), scene.rng.uniform(0, 3)
            scene.place("cupboard", x, y, scene.rng.uniform(0, 6.28))
    boxes = [box for box, _, _ in scene.occupied]
    assert len(boxes) == len(scene.meshes) > 0
    assert all(scene.inside(b) for b in boxes)
    for k, a in enumerate(boxes):
        for b in [*boxes[k + 1 :], *scene.keepout]:
            assert a[0] >= b[2] or b[0] >= a[2] or a[1] >= b[3] or b[1] >= a[3]


def test_things_stand_on_top_of_a_piece(rooms, library) -> None:
    scene = empty_scene(rooms, library, 3)
    mesh = scene.put("cupboard", 1.0, 1.0)
    points = scene.meshes[mesh].p
    assert rooms.scene.top_height(points, 1.2, 1.1) == pytest.approx(0.8, abs=1e-6)
    assert rooms.scene.top_height(points, 1.7, 1.1) is None


def test_pictures_come_from_the_seed_alone(rooms, library) -> None:
    def pictures(seed):
        surfaces = empty_scene(rooms, library, seed).surfaces
        surfaces.wallpaper("a", np.array([0.8, 0.7, 0.6]))
        surfaces.fabric("b", np.array([0.3, 0.4, 0.5]))
        return np.stack(list(surfaces.pictures.values()))

    assert np.array_equal(pictures(5), pictures(5))
    assert not np.array_equal(pictures(5), pictures(6))


def test_a_models_picture_lies_in_the_furniture_folder(rooms, library) -> None:
    scene = empty_scene(rooms, library, 0)
    folder = scene.surfaces.sources.furniture
    folder.mkdir(exist_ok=True)
    red = np.full((4, 4, 3), [255, 0, 0], np.uint8)
    rooms.layers.Image.fromarray(red).save(folder / "red.png")
    scene.material(image="red.png")
    assert rooms.layers.load_layers(scene).shape == (1, 512, 512, 4)
    assert scene.materials[0].layer == 0
    assert scene.materials[0].mean == pytest.approx([0.88, 0.01, 0.01])
    scene.material(image="furn/red.png")  # a library made for another folder
    with pytest.raises(RuntimeError, match=r"red\.png is missing"):
        rooms.layers.load_layers(scene)


def test_every_texture_has_a_permissive_licence_and_a_creator(rooms) -> None:
    table = rooms.surfaces.ufo_table()
    assert len(table) > 100
    assert {licence for licence, _ in table.values()} <= {"public-domain", "Expat", "CC-BY-3.0"}
    assert all(creator.strip() for _, creator in table.values())


def test_the_sentence_names_the_largest_things_first(rooms) -> None:
    objects = [
        {"name": "Cup", "size": [0.1, 0.1, 0.1]},
        {"name": "Bench", "size": [1.0, 0.4, 0.5]},
        {"name": "Bench", "size": [1.0, 0.4, 0.5]},
        {"name": "Window"},
    ]
    said = rooms.capture.sentence("office", "night", objects)
    assert said == "An office at night with the lamps on with 2 benches and a cup."
    assert rooms.capture.sentence("yard", "in sunshine", []).endswith("with no furniture.")


def test_attribution_counts_captures(rooms, tmp_path) -> None:
    chair = {"name": "Chair", "pack": "p", "licence": "CC-BY-3.0", "creator": "Ann"}
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "scene.json").write_text(json.dumps({"assets": {"chair": chair}}))
    text = rooms.credits.attribution([tmp_path / "a", tmp_path / "b"])
    assert "- Ann (CC-BY-3.0, from p): Chair [2]\n" in text


def test_panoramas_are_unpacked_not_run(rooms, tmp_path) -> None:
    data = base64.b64encode(b"\x76\x2f\x31\x01 exr").decode()
    (tmp_path / "in").mkdir()
    (tmp_path / "in/park.exr.js").write_text(f'export default "data:x;base64,{data}";')
    (written,) = rooms.panoramas.unpack(tmp_path / "in", tmp_path / "out")
    assert (written.name, written.read_bytes()) == ("park.exr", b"\x76\x2f\x31\x01 exr")


def test_a_missing_set_up_is_one_line(rooms, tmp_path, monkeypatch, capsys) -> None:
    monkeypatch.setenv("ROOMS_SOURCES", str(tmp_path / "nowhere"))
    with pytest.raises(SystemExit) as stopped:
        rooms.sources.Sources.from_environment()
    assert stopped.value.code == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert "ROOMS_SOURCES" in line
    assert "nowhere" in line


@pytest.mark.slow
@pytest.mark.skipif("ROOMS_SOURCES" not in os.environ, reason="needs the furniture library")
@pytest.mark.parametrize("seed", [4002, 4001])  # a flat of two rooms, a street
def test_the_same_seed_gives_the_same_bytes(tmp_path, seed) -> None:
    python = os.environ.get("ROOMS_PYTHON", sys.executable)
    options = ["--size", "64x48", "--samples", "8", "--oversample", "1"]
    for name in ("a", "b"):
        command = [python, str(ROOMS / "make_rooms.py"), str(tmp_path / name), str(seed), str(seed)]
        subprocess.run([*command, *options], check=True, capture_output=True)
    a, b = (files_of(tmp_path / n / f"{seed:05d}") for n in ("a", "b"))
    assert a.keys() == b.keys()
    assert [k for k in a if a[k] != b[k]] == ["timing.json"]
    done = inspect(tmp_path / "a" / f"{seed:05d}")
    assert done.returncode == 0
    assert "none found" in done.stdout
    check = [python, str(ROOMS / "check_capture.py"), "--rays", str(tmp_path / "a" / f"{seed:05d}")]
    subprocess.run(check, check=True, capture_output=True)
