"""Curation: pairs that training can read, the same bytes however it was run, failures that stay
with their scene.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from process_groups import living_members
from short_fits import CONFIG

from artifixer.cli import main
from artifixer.curation import jobs, pair_folder
from artifixer.curation.jobs import curate
from artifixer.curation.make_scene import MadeScene, make_scene
from artifixer.curation.pair_folder import CurationResult
from artifixer.curation.sources import SCENES_PER_SEED, Source, expand_sources
from artifixer.pairs.loader import open_pairs
from artifixer.pairs.pair import TrainingPair
from artifixer.pairs.sample_file import decode_sample
from artifixer.pairs.shards import SampleEntry
from artifixer.recipes.curate import RECIPES
from artifixer.runtime.errors import InputError, Stopped
from artifixer.runtime.image_files import write_png
from artifixer.runtime.json_io import read_json, write_json
from artifixer.scenes.depth_models import default_depth_model
from artifixer.scenes.formats import load_scene
from artifixer.scenes.scale import METRIC_FACTOR


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three scenes in two shards."""
    folder = tmp_path_factory.mktemp("pairs") / "whole"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(pair_folder, "SCENES_PER_SHARD", 2)
        result = curate(expand_sources(["procedural:3:5"]), CONFIG, seed=1, out=folder, workers=1)
    assert result == CurationResult(scenes=3, pairs=3, failed=())
    return folder


def shard_bytes(folder: Path) -> dict[str, bytes]:
    """Everything that inputs, settings and seed decide."""
    lists = [folder / "index.json", folder / "manifest.json"]
    return {path.name: path.read_bytes() for path in [*sorted(folder.glob("pairs-*.tar")), *lists]}


def test_pairs_show_the_scene_and_its_renders(made: Path) -> None:
    pairs = open_pairs(made)
    assert read_json(made / "index.json")["complete"] is True
    assert [stored.entry.name for stored in pairs.pairs] == ["000000_0", "000001_0", "000002_0"]
    for stored in pairs.pairs:
        pair = stored.read()
        assert (pair.cameras.width, pair.cameras.height) in CONFIG.sizes
        assert pair.frames in (5, 9)
        assert 2 <= pair.views <= 12
        assert pair.clean_frames.float().std() > 5, "a picture"
        # Premultiplied on black: no colour where nothing is.
        assert (pair.renders.amax(dim=-1).int() <= pair.opacity.int() + 2).all()
        # The fit is short, but it shows the place: better than the mean colour where it is opaque.
        opaque = pair.opacity > 230
        error = (pair.renders.float() - pair.clean_frames.float())[opaque].square().mean()
        assert (
            error
            < (pair.clean_frames.float()[opaque] - pair.clean_frames.float()[opaque].mean(dim=0))
            .square()
            .mean()
        )


def test_the_camera_scale_makes_the_median_depth_one(made: Path) -> None:
    pair = open_pairs(made)[0].read()
    scene = load_scene(f"procedural:{5 * SCENES_PER_SEED}:frames=8,width=32,height=16")
    assert scene.points is not None
    # Another draw of points and path of the same world: the same size of room, roughly.
    depths = (scene.points.xyz - scene.cameras[0].centers[0]).norm(dim=1)
    assert 0.2 < pair.camera_scale * float(depths.median()) < 5


def test_the_manifest_tells_state_and_what_pairs_are_like_and_times_lie_apart(made: Path) -> None:
    scenes = read_json(made / "manifest.json")["scenes"]
    assert [scene["state"] for scene in scenes] == ["done"] * 3
    assert all("seconds" not in scene and scene["error"] is None for scene in scenes)
    seconds = read_json(made / "timing.json")["seconds"]
    assert list(seconds) == ["000000", "000001", "000002"]
    assert all(value > 0 for value in seconds.values())
    for scene, stored in zip(scenes, open_pairs(made).pairs, strict=True):
        (figures,) = scene["pairs"]
        pair = stored.read()
        error = ((pair.renders.double() - pair.clean_frames.double()) / 255).square().mean()
        assert figures["psnr_pooled"] == pytest.approx(float(-10 * torch.log10(error)), abs=0.01)
        assert figures["opaque"] == pytest.approx(
            float((pair.opacity > 0.9 * 255).double().mean()), abs=1e-3
        )


@pytest.mark.parametrize("damage", ["[]", '{"seconds": {"000009": 1}}', '{"seconds": {"0": "x"}}'])
def test_damaged_times_are_named_and_may_be_deleted(
    made: Path, tmp_path: Path, damage: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pair_folder, "SCENES_PER_SHARD", 2)
    out = Path(shutil.copytree(made, tmp_path / "pairs"))
    (out / "timing.json").write_text(damage)
    sources = expand_sources(["procedural:3:5"])
    with pytest.raises(InputError, match=r"timing.json: not the times of 3 scenes; delete it"):
        curate(sources, CONFIG, 1, out, workers=1)
    (out / "timing.json").unlink()
    assert curate(sources, CONFIG, 1, out, workers=1).pairs == 3
    assert shard_bytes(out) == shard_bytes(made)


def test_drawn_scenes_know_their_metres(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The recipe paper once refused them without a depth model."""
    assert RECIPES["paper"].camera_scale == "metric"
    metric = replace(CONFIG, camera_scale="metric", normalised_groups=False)
    monkeypatch.setitem(RECIPES, "paper", metric)
    words = ["curate", "procedural:2:5", "--recipe", "paper", "--out", str(tmp_path / "pairs")]
    assert main(words) == 0
    for stored in open_pairs(tmp_path / "pairs").pairs:
        pair = stored.read()
        assert (pair.camera_scale, pair.camera_scale_kind) == (METRIC_FACTOR, "metric")
        assert stored.entry.camera_scale_kind == "metric"


def test_captures_in_metres_need_a_depth_model_before_any_work(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    if default_depth_model() is not None:
        pytest.skip("MoGe-2 is installed and is asked")
    capture = tmp_path / "capture"
    capture.mkdir()
    words = ["curate", "procedural:1", str(capture), "--recipe", "paper"]
    assert main([*words, "--out", str(tmp_path / "pairs")]) == 2
    error = capsys.readouterr().err
    assert f"{capture} has no known metric scale; give --depth-model" in error
    assert error.count("\n") == 1
    assert not (tmp_path / "pairs").exists()


@pytest.fixture(scope="module")
def drawn_capture(tmp_path_factory: pytest.TempPathFactory) -> Source:
    """A capture on disk of drawn photos, 4:3 as those of plush."""
    folder = tmp_path_factory.mktemp("drawn")
    scene = load_scene("procedural:3:frames=12,width=64,height=48")
    (fx, _, cx), (_, fy, cy), _ = scene.cameras[0].Ks[0].tolist()
    content: dict[str, object] = {"fl_x": fx, "fl_y": fy, "cx": cx, "cy": cy, "w": 64, "h": 48}
    axes = np.diag([1.0, -1.0, -1.0, 1.0])
    frames = []
    for photo, camera in zip(scene.photos, scene.cameras, strict=True):
        write_png(folder / "images" / photo.name, photo.read())
        matrix = camera.camera_to_world[0].numpy() @ axes
        frames.append({"file_path": f"images/{photo.name}", "transform_matrix": matrix.tolist()})
    assert scene.points is not None
    colored = zip(scene.points.xyz.tolist(), scene.points.rgb.tolist(), strict=True)
    rows = [" ".join(map(str, (*xyz, *rgb))) for xyz, rgb in colored]
    header = ["ply", "format ascii 1.0", f"element vertex {len(rows)}"]
    header += [f"property float {axis}" for axis in "xyz"]
    header += [f"property uchar {color}" for color in ("red", "green", "blue")]
    (folder / "points.ply").write_text("\n".join([*header, "end_header", *rows, ""]))
    content |= {"ply_file_path": "points.ply", "frames": frames}
    (folder / "transforms.json").write_text(json.dumps(content))
    return Source(str(folder), "drawn")


def test_pairs_in_metres_of_a_drawn_capture_are_never_a_guess(drawn_capture: Source) -> None:
    if default_depth_model() is not None:
        pytest.skip("MoGe-2 is installed and is asked")
    scene = make_scene(3, drawn_capture, replace(CONFIG, camera_scale="metric"), seed=0)
    assert "the length of a metre in world units is unknown" in str(scene.error)


def test_a_drawn_capture_gives_a_pair_at_a_size_of_the_model(drawn_capture: Source) -> None:
    scene = make_scene(3, drawn_capture, CONFIG, seed=0)
    assert scene.error is None, scene.error
    pair = _decoded(scene.samples[0])
    assert (pair.cameras.width, pair.cameras.height) == (32, 32), (
        "64x48 at 32: 24 is half-way and goes to the even multiple of 16"
    )
    (fx, _, _), (_, fy, _), _ = load_scene(drawn_capture.name).cameras[0].Ks[0].tolist()
    assert pair.cameras.Ks[0, 0, 0] == pytest.approx(fx * 32 / 64, rel=1e-3)
    assert pair.cameras.Ks[0, 1, 1] == pytest.approx(fy * 32 / 48, rel=1e-3)


def test_pairs_in_metres_are_never_a_guess(captures_folder: Path) -> None:
    if default_depth_model() is not None:
        pytest.skip("MoGe-2 is installed and is asked")
    source = Source(str(captures_folder / "plush"), "plush")
    scene = make_scene(3, source, replace(CONFIG, camera_scale="metric"), seed=0)
    assert "the length of a metre in world units is unknown" in str(scene.error)


def test_both_groups_of_a_scene_share_the_clip() -> None:
    (source,) = expand_sources(["procedural:1:5"])
    scene = make_scene(0, source, replace(CONFIG, groups=2), seed=1)
    assert scene.error is None
    assert [entry.name for entry, _ in scene.samples] == ["000000_0", "000000_1"]
    first, second = map(_decoded, scene.samples)
    assert torch.equal(first.clean_frames, second.clean_frames)
    assert not torch.equal(first.renders, second.renders)
    both = torch.cat([first.reference_cameras.viewmats, second.reference_cameras.viewmats])
    assert len(torch.unique(both, dim=0)) == first.views + second.views, (
        "the groups have no photo in common"
    )


def test_several_windows_are_seen_by_the_splats_of_both_groups() -> None:
    (source,) = expand_sources(["procedural:1:5"])
    scene = make_scene(
        0, source, replace(CONFIG, groups=2, windows=2, normalised_groups=False), seed=1
    )
    assert scene.error is None, scene.error
    assert [entry.name for entry, _ in scene.samples] == [
        "000000_0_0",
        "000000_0_1",
        "000000_1_0",
        "000000_1_1",
    ]
    pairs = [*map(_decoded, scene.samples)]
    assert torch.equal(pairs[0].clean_frames, pairs[2].clean_frames)
    assert not torch.equal(pairs[0].clean_frames, pairs[1].clean_frames)
    assert torch.equal(pairs[0].reference_photos, pairs[1].reference_photos), (
        "one reconstruction gives both"
    )


def _decoded(sample: tuple[SampleEntry, bytes]) -> TrainingPair:
    return decode_sample(sample[1])


def test_an_interrupted_run_continues_to_the_same_bytes(
    made: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pair_folder, "SCENES_PER_SHARD", 2)
    sources, out = expand_sources(["procedural:3:5"]), tmp_path / "pairs"
    whole, calls = jobs.make_scene, []

    def interrupted(number: int, *rest: object) -> MadeScene:
        calls.append(number)
        if len(calls) in (2, 4):
            raise KeyboardInterrupt
        return whole(number, *rest)  # type: ignore[arg-type]

    monkeypatch.setattr(jobs, "make_scene", interrupted)
    for _ in range(2):
        with pytest.raises(KeyboardInterrupt):
            curate(sources, CONFIG, 1, out, workers=1)
    assert curate(sources, CONFIG, 1, out, workers=1).pairs == 3
    assert calls == [0, 1, 1, 2, 2], "no scene was made twice"
    assert shard_bytes(out) == shard_bytes(made)
    curate(sources, CONFIG, 1, out, workers=1)
    assert len(calls) == 5


@pytest.mark.parametrize("lost", ["index.json", "manifest.json"])
def test_a_kill_between_the_last_writes_loses_nothing(
    made: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, lost: str
) -> None:
    """The shard is there, but one of the lists is not."""
    monkeypatch.setattr(pair_folder, "SCENES_PER_SHARD", 2)
    sources, out = expand_sources(["procedural:3:5"]), tmp_path / "pairs"
    writer = "write_index" if lost == "index.json" else "write_json"
    real: Callable[..., None] = getattr(pair_folder, writer)

    class Killed(BaseException):
        pass

    def killed(path: Path, *rest: object, **more: object) -> None:
        if writer == "write_index" or path.name == lost:
            raise Killed
        real(path, *rest, **more)

    with monkeypatch.context() as patch:
        patch.setattr(pair_folder, writer, killed)
        with pytest.raises(Killed):
            curate(sources, CONFIG, 1, out, workers=1)
    assert (out / "pairs-00000.tar").is_file()
    assert not (out / lost).exists()
    curate(sources, CONFIG, 1, out, workers=1)
    assert shard_bytes(out) == shard_bytes(made)


def test_a_failing_scene_leaves_the_others_as_they_are(
    made: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pair_folder, "SCENES_PER_SHARD", 2)
    empty = tmp_path / "no_capture"
    empty.mkdir()
    procedural = expand_sources(["procedural:3:5"])
    sources = [procedural[0], *expand_sources([str(empty)]), procedural[1]]
    result = curate(sources, CONFIG, 1, tmp_path / "pairs", workers=1)
    assert (result.scenes, result.pairs) == (3, 2)
    (failed,) = result.failed
    assert failed.scene == str(empty)
    assert "no known capture format" in str(failed.error)
    scenes = read_json(tmp_path / "pairs" / "manifest.json")["scenes"]
    assert [scene["state"] for scene in scenes] == ["done", "failed", "done"]
    kept, reference = open_pairs(tmp_path / "pairs"), open_pairs(made)
    assert torch.equal(kept[0].read().renders, reference[0].read().renders)
    assert torch.equal(kept[1].read().renders, reference[1].read().renders)


def test_sigterm_keeps_what_is_done(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = jobs.make_scene

    def terminated(*arguments: object) -> MadeScene:
        made = whole(*arguments)  # type: ignore[arg-type]
        os.kill(os.getpid(), signal.SIGTERM)
        return made

    sources, out = expand_sources(["procedural:2:5"]), tmp_path / "pairs"
    with monkeypatch.context() as patch:
        patch.setattr(jobs, "make_scene", terminated)
        with pytest.raises(Stopped, match="1 of 2 scenes"):
            curate(sources, CONFIG, 1, out, workers=1)
    assert curate(sources, CONFIG, 1, out, workers=1).pairs == 2


def test_a_folder_from_before_a_setting_is_kept_at_the_value_as_before(
    made: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "pairs"
    shutil.copytree(made, out)
    config = read_json(out / "config.json")
    del config["settings"]["config"]["sparse"]["reconstruct"]["dropout"]
    write_json(out / "config.json", config)
    sources = expand_sources(["procedural:3:5"])
    fit = CONFIG.sparse.reconstruct.with_dropout(0.3)
    other = replace(CONFIG, sparse=replace(CONFIG.sparse, reconstruct=fit))
    with pytest.raises(InputError, match=r"sparse\.reconstruct\.dropout is 0\.0 there, 0\.3 now"):
        curate(sources, other, seed=1, out=out, workers=1)
    monkeypatch.setattr(pair_folder, "SCENES_PER_SHARD", 2)
    monkeypatch.setattr(jobs, "make_scene", None)  # nothing is left to make
    curate(sources, CONFIG, seed=1, out=out, workers=1)
    assert shard_bytes(out) == shard_bytes(made)


@pytest.mark.parametrize(("seed", "sources"), [(2, "procedural:3:5"), (1, "procedural:2:5")])
def test_a_folder_of_other_pairs_is_refused(made: Path, seed: int, sources: str) -> None:
    with pytest.raises(InputError, match="was made from"):
        curate(expand_sources([sources]), CONFIG, seed, made, workers=1)


KILLED_RUN = """
import sys
from pathlib import Path
sys.path.insert(0, sys.argv[1])
from process_groups import living_members
from short_fits import CONFIG
from artifixer.curation import jobs, pair_folder
from artifixer.curation.sources import expand_sources
pair_folder.SCENES_PER_SHARD = 2
jobs.curate(expand_sources(["procedural:3:5"]), CONFIG, 1, Path(sys.argv[2]), workers=2)
"""


@pytest.mark.posix
def test_processes_that_are_killed_leave_nothing_running_and_change_nothing(
    made: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "pairs"
    process = subprocess.Popen(
        [sys.executable, "-c", KILLED_RUN, str(Path(__file__).parent), str(out)],
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
    try:
        _wait_for(lambda: any(out.glob(".scenes/*.json")) or process.poll() is not None)
    finally:
        process.kill()
        process.wait()
    _wait_for(lambda: not living_members(process.pid))
    monkeypatch.setattr(pair_folder, "SCENES_PER_SHARD", 2)
    assert curate(expand_sources(["procedural:3:5"]), CONFIG, 1, out, workers=1).pairs == 3
    assert shard_bytes(out) == shard_bytes(made)


def test_the_command_makes_readable_pairs(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "pairs"
    words = ["curate", "procedural:1:9", "--size", "32", "--frames", "5", "--out", str(out)]
    assert main(words) == 0
    assert "1 pair of 1 scene in" in capsys.readouterr().out
    pair = open_pairs(out)[0].read()
    assert pair.frames == 5
    assert max(pair.cameras.width, pair.cameras.height) <= 32
    assert pair.cameras.width % 16 == 0
    assert pair.cameras.height % 16 == 0


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (
            ["procedural:1", "--frames", "6"],
            "--frames 6: expected N or N..M with lengths of 4 n + 1",
        ),
        (["procedural:1", "--frames", "29..9"], "--frames 29..9"),
        (["procedural:1", "--size", "8"], "--size 8: expected at least 32"),
        (["procedural:1", "--workers", "0"], "--workers 0"),
        (
            ["procedural:1", "--depth-model", "some"],
            "--depth-model some: camera scale median_depth",
        ),
        (
            ["procedural:1", "--recipe", "paper", "--depth-model", "nowhere/at/all"],
            "depth model nowhere/at/all: ",
        ),
        (["nowhere"], "nowhere: does not exist"),
    ],
)
def test_wrong_options_are_one_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], words: list[str], message: str
) -> None:
    assert main(["curate", *words, "--out", str(tmp_path / "pairs")]) == 2
    error = capsys.readouterr().err
    assert message in error
    assert error.count("\n") == 1
    assert not (tmp_path / "pairs").exists()


def test_sources_that_give_no_pair_are_bad_input(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "empty").mkdir()
    assert main(["curate", str(tmp_path / "empty"), "--out", str(tmp_path / "pairs")]) == 2
    assert "no scene gave a pair; the first error:" in capsys.readouterr().err


def _wait_for(condition: Callable[[], bool], seconds: float = 400) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "waited in vain"
        time.sleep(0.05)


def test_sources_are_counted_from_their_seed() -> None:
    names = [source.name for source in expand_sources(["procedural:2", "procedural:3:4"])]
    assert names == [
        "procedural:0",
        "procedural:1",
        "procedural:4000000",
        "procedural:4000001",
        "procedural:4000002",
    ]


@pytest.mark.parametrize(
    ("sources", "message"),
    [
        ([], "no source"),
        (["procedural:"], "expected procedural:COUNT"),
        (["procedural:0"], "expected procedural:COUNT"),
        (["procedural:-3"], "expected procedural:COUNT"),
        (["procedural:3:x"], "expected procedural:COUNT"),
        (["procedural:2000000"], "expected procedural:COUNT"),
        (["nowhere/at/all"], "does not exist"),
        (["procedural:2:1", "procedural:1:1"], "named twice"),
    ],
)
def test_wrong_sources_are_refused(sources: list[str], message: str) -> None:
    with pytest.raises(InputError, match=message):
        expand_sources(sources)


def test_a_capture_gives_a_pair_at_a_size_of_the_model(captures_folder: Path) -> None:
    source = Source(str(captures_folder / "plush"), "plush")
    scene = make_scene(3, source, CONFIG, seed=0)
    assert scene.error is None, scene.error
    pair = _decoded(scene.samples[0])
    assert (pair.cameras.width, pair.cameras.height) == (32, 32), (
        "640x480 at 32: 24 is half-way and goes to the even multiple of 16"
    )
    assert pair.cameras.Ks[0, 0, 0] == pytest.approx(520.18516 * 32 / 640, rel=1e-3)
    assert pair.cameras.Ks[0, 1, 1] == pytest.approx(520.18516 * 32 / 480, rel=1e-3)
    assert np.isfinite(pair.camera_scale)
