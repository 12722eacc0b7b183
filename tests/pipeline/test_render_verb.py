"""Which cameras ``render`` follows."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from artifixer.geometry.camera_file import CameraFrame, write_cameras
from artifixer.geometry.cameras import Cameras
from artifixer.pipeline.render import (
    DEFAULT_SIZE,
    RenderJob,
    SplatSource,
    open_source,
    path_frames,
    render_path,
    seen_distance,
)
from artifixer.runtime.errors import InputError
from artifixer.runtime.json_io import write_json
from artifixer.runtime.run_folder import RunFolder
from artifixer.splats.ply import write_splats
from artifixer.splats.splats import Splats

#: World units between the cameras and the wall of Gaussians.
WALL = 4.0


def wall(z: float = WALL) -> Splats:
    """Opaque Gaussians in a plane of constant z."""
    axis = torch.linspace(-3, 3, 25)
    y, x = torch.meshgrid(axis, axis, indexing="ij")
    means = torch.stack([x.flatten(), y.flatten(), torch.full((625,), z)], dim=1)
    quats = torch.tensor([1.0, 0, 0, 0]).repeat(625, 1)
    return Splats(
        means, quats, torch.full((625, 3), -1.5), torch.full((625,), 6.0), torch.zeros(625, 1, 3)
    )


def frame(x: float, photo: str | None) -> CameraFrame:
    """A view along +z from (x, 0, 0)."""
    viewmat = torch.eye(4)
    viewmat[0, 3] = -x
    K = torch.tensor([[[30.0, 0, 16], [0, 30, 12], [0, 0, 1]]])
    return CameraFrame(Cameras.pinhole(viewmat[None], K, 32, 24), photo)


FRAMES = tuple(frame(x, f"images/{number}.png") for number, x in enumerate((0.0, 0.4, 0.8, 1.2)))
SOURCE = SplatSource(wall(), FRAMES[1:3], FRAMES, ())


def test_heldout_is_exactly_the_targets() -> None:
    assert path_frames(SOURCE, "heldout", 10) == list(FRAMES[1:3])


@pytest.mark.parametrize(("path", "stops"), [("tour", FRAMES[1:3]), ("spline", FRAMES)])
def test_videos_pass_through_known_cameras_and_keep_their_names(
    path: str, stops: tuple[CameraFrame, ...]
) -> None:
    frames = path_frames(SOURCE, path, 10)
    assert [frame.photo for frame in frames if frame.photo] == [stop.photo for stop in stops]
    for stop in stops:
        (same,) = [frame for frame in frames if frame.photo == stop.photo]
        assert torch.equal(same.camera.viewmats, stop.camera.viewmats)
    steps = torch.cat([frame.camera.centers for frame in frames]).diff(dim=0).norm(dim=1)
    assert float(steps.max()) <= 0.04 * WALL * 1.05


def test_an_orbit_has_the_frames_asked_for() -> None:
    for source in (SOURCE, SplatSource(wall(), (), (), ())):
        frames = path_frames(source, "orbit", 7)
        assert len(frames) == 7
        assert {frame.photo for frame in frames} == {None}
    assert (frames[0].camera.width, frames[0].camera.height) == DEFAULT_SIZE


def test_the_distance_is_the_walls() -> None:
    views = Cameras.pinhole(
        torch.cat([f.camera.viewmats for f in FRAMES]),
        torch.cat([f.camera.Ks for f in FRAMES]),
        32,
        24,
    )
    assert seen_distance(wall(), views) == pytest.approx(WALL, rel=0.1)
    with pytest.raises(
        InputError,
        match="the cameras see none of the splats: PLY and cameras are not in the same frame",
    ):
        seen_distance(wall(-WALL), views)


def test_a_ply_goes_with_a_file_of_cameras(tmp_path: Path) -> None:
    write_splats(tmp_path / "a.ply", wall())
    write_cameras(tmp_path / "cameras.json", FRAMES)
    source = open_source(tmp_path / "a.ply", tmp_path / "cameras.json")
    assert [frame.photo for frame in source.targets] == [frame.photo for frame in FRAMES]
    assert len(path_frames(source, "heldout", 1)) == 4
    assert path_frames(source, str(tmp_path / "cameras.json"), 1)[0].photo == "images/0.png"
    alone = open_source(tmp_path / "a.ply")
    for path in ("tour", "spline", "heldout"):
        with pytest.raises(InputError, match="a PLY file alone has no cameras"):
            path_frames(alone, path, 1)


@pytest.mark.parametrize("is_distilled", [True, False])
def test_a_finished_run_was_no_finished_reconstruction(tmp_path: Path, is_distilled: bool) -> None:
    """The final splats of a run are rendered, with its target cameras."""
    with RunFolder.open(tmp_path / "repaired", {}, {}) as run:
        write_splats(run.path("splats", "initial.ply"), wall())
        write_cameras(run.path("cameras.json"), FRAMES)
        views = {"train": ["images/0.png"], "heldout": ["images/1.png", "images/2.png"]}
        write_json(run.path("metrics.json"), {"views": views})
        if is_distilled:
            write_splats(run.path("splats", "artifixer3d.ply"), wall(2 * WALL))
    source = open_source(tmp_path / "repaired")
    assert float(source.splats.means[0, 2]) == pytest.approx(2 * WALL if is_distilled else WALL)
    heldout = [frame.photo for frame in path_frames(source, "heldout", 1)]
    assert heldout == ["images/1.png", "images/2.png"]
    assert len(source.all) == len(FRAMES)
    job = RenderJob(tmp_path / "repaired", "heldout")
    assert render_path(job, tmp_path / "heldout") == 2
    (tmp_path / "repaired" / "metrics.json").unlink()  # the run is not finished
    assert len(path_frames(open_source(tmp_path / "repaired"), "heldout", 1)) == len(FRAMES)
