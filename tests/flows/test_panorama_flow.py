"""360 degree photos through the whole job, and paths rendered as 360 degree pictures, as a user
runs them.
"""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from made_runs import results, small_run

from artifixer.cli import main
from artifixer.geometry.cameras import Cameras
from artifixer.geometry.panorama import panorama_directions
from artifixer.geometry.transforms import invert_rigid, look_at
from artifixer.pipeline.capture import CaptureChoice
from artifixer.pipeline.render_panoramas import panorama_of_splats
from artifixer.runtime.errors import EXIT_BAD_INPUT, EXIT_DONE
from artifixer.runtime.image_files import read_image
from artifixer.scenes.formats import load_scene
from artifixer.scenes.panorama_faces import panorama_of
from artifixer.splats.splats import SH_BASE, Splats
from artifixer.video.checkpoints.ours import save_model
from tests.flows.test_reconstruct_flow import killed
from tests.scenes.made_panoramas import write_capture
from tests.video.made_models import SMALL, made_model


def dots() -> tuple[Splats, torch.Tensor]:
    """Small opaque coloured balls all around the origin at different distances."""
    draw = torch.Generator().manual_seed(5)
    means = torch.nn.functional.normalize(torch.randn(60, 3, generator=draw), dim=1) * (
        2 + torch.rand(60, 1, generator=draw)
    )
    colors = torch.rand(60, 3, generator=draw)
    splats = Splats(
        means=means,
        quats=torch.tensor([1.0, 0, 0, 0]).repeat(60, 1),
        log_scales=torch.full((60, 3), 0.06).log(),
        opacity_logits=torch.full((60,), 6.0),
        sh=((colors - 0.5) / SH_BASE)[:, None],
    )
    return splats, colors


def test_every_ball_is_where_its_direction_says() -> None:
    splats, colors = dots()
    eye, target = torch.tensor([[0.3, -0.2, 0.1]]), torch.tensor([[1.0, 0.5, 0.4]])
    viewmats = invert_rigid(look_at(eye, target, torch.tensor([0.1, -1.0, 0.2])))
    camera = Cameras.pinhole(
        viewmats, torch.tensor([[[50.0, 0, 32], [0, 50, 24], [0, 0, 1]]]), 64, 48
    )
    width, height = 720, 360
    rgb, opacity, depth = panorama_of_splats(splats, camera, width, height)
    in_camera = splats.means @ viewmats[0, :3, :3].mT + viewmats[0, :3, 3]
    distances = in_camera.norm(dim=1)
    pixels = panorama_directions(width, height) @ (in_camera / distances[:, None]).numpy().T
    visible = 0
    for ball in range(len(splats)):
        row, column = np.unravel_index(pixels[..., ball].argmax(), (height, width))
        angles = torch.acos((in_camera / distances[:, None]) @ (in_camera[ball] / distances[ball]))
        if ((angles < 0.3) & (distances < distances[ball])).any():
            continue  # another one may stand in front of it
        visible += 1
        assert opacity[row, column] > 0.95
        assert np.abs(rgb[row, column] / opacity[row, column] - colors[ball].numpy()).max() < 0.03
        assert abs(depth[row, column] - float(distances[ball])) < 0.02 * float(distances[ball])
    assert visible > 25
    assert np.isnan(depth[opacity < 0.005]).all()


def test_a_path_all_round_resumes_and_is_a_capture(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The pictures and poses that ``render --equirectangular`` writes are read as a 360 degree
    capture of the same place.
    """
    write_capture(tmp_path / "capture", 4, 128, with_poses=True)
    fit = (
        "--iterations",
        "60",
        "--max-gaussians",
        "2500",
        "--size",
        "40",
        "--all-views",
        "--device",
        "cpu",
    )
    assert (
        main(
            [
                "reconstruct",
                str(tmp_path / "capture"),
                "--faces",
                "6",
                "--out",
                str(tmp_path / "run"),
                *fit,
            ]
        )
        == EXIT_DONE
    )
    words = (
        "render",
        str(tmp_path / "run"),
        "--path",
        "orbit",
        "--frames",
        "3",
        "--equirectangular",
        "--size",
        "96",
        "--device",
        "cpu",
    )
    killed((*words, "--out", str(tmp_path / "died")), "died/rgb/", 2, tmp_path / "said")
    for name in ("died", "whole"):
        assert main([*words, "--out", str(tmp_path / name)]) == EXIT_DONE
    assert results(tmp_path / "died") == results(tmp_path / "whole")
    assert read_image(tmp_path / "whole" / "rgb" / "00002.png").shape == (48, 96, 3)
    scene = load_scene(tmp_path / "whole", faces=6)
    assert len(scene.photos) == 18
    poses = [
        frame["transform_matrix"]
        for frame in json.loads((tmp_path / "whole" / "transforms.json").read_text())["frames"]
    ]
    centers = torch.stack([camera.centers[0] for camera in scene.cameras[::6]])
    torch.testing.assert_close(centers, torch.tensor(poses)[:, :3, 3])
    capsys.readouterr()
    assert main([*words[:-3], "100x60", "--out", str(tmp_path / "other")]) == EXIT_BAD_INPUT
    assert (
        "--size 100x60: expected an even width, or WxH twice as wide as high"
        in capsys.readouterr().err
    )


def test_a_run_over_360_degree_photos(tmp_path: Path) -> None:
    """From panoramas without poses to the report; what is held out is a whole panorama."""
    write_capture(tmp_path / "capture", 6, 640, with_poses=False)
    save_model(tmp_path / "model", made_model(replace(SMALL, steps=1)))
    choice = CaptureChoice(str(tmp_path / "capture"), size="48", faces=6)
    result = small_run(tmp_path / "run", tmp_path / "model", choice=choice, variants=("artifixer",))
    assert {panorama_of(name) for name in result.heldout} == {"images/000.png"} and len(
        result.heldout
    ) == 6
    assert len(result.train) == 30
    assert [frame.photo for frame in result.frames] == list(result.heldout)
    assert result.variants["artifixer"].psnr is not None
    assert (
        "6 equirectangular photos, read as 6 perspective views each"
        in (tmp_path / "run" / "report.html").read_text()
    )
    again = small_run(tmp_path / "run", tmp_path / "model", choice=choice, variants=("artifixer",))
    assert again.executed == ()
