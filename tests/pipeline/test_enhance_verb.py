"""The job behind ``artifixer enhance``: its folder, what it refuses, and that it loads nothing
before it is sure.
"""

from __future__ import annotations

import json
import os
import signal
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from artifixer.enhance.enhance import EnhanceConfig
from artifixer.geometry.camera_file import CameraFrame
from artifixer.geometry.cameras import Cameras
from artifixer.pipeline import enhance as job_module
from artifixer.pipeline.enhance import EnhanceJob, chosen_references, enhance_renders
from artifixer.runtime.errors import InputError, Stopped
from artifixer.runtime.image_files import read_image, write_png
from artifixer.runtime.video_files import read_video
from artifixer.scenes.view import View
from artifixer.splats.render import Renders
from artifixer.splats.render_folder import read_render_folder, write_render_folder
from artifixer.video import memory_estimate
from artifixer.video.checkpoints.ours import save_model
from tests.video.made_models import SMALL, made_model

FRAMES = 14


def write_renders(folder: Path, frames: int = FRAMES, references: int = 3) -> Path:
    """A render folder of noise under a moving camera."""
    random = torch.Generator().manual_seed(0)
    K = torch.tensor([[[18.0, 0, 10], [0, 18, 7], [0, 0, 1]]])
    cameras = []
    for index in range(frames):
        viewmat = torch.eye(4)[None].clone()
        viewmat[:, 0, 3] = 0.05 * index
        cameras.append(CameraFrame(Cameras.pinhole(viewmat, K, 20, 14), f"photo_{9 - index}.png"))
    renders = [
        Renders(
            torch.rand(1, 14, 20, 3, generator=random),
            torch.rand(1, 14, 20, generator=random),
            torch.ones(1, 14, 20),
        )
        for _ in range(frames)
    ]
    photos = [
        View.of_pixels(
            cameras[index].camera, np.full((14, 20, 3), 60 * index, np.uint8), cameras[index].photo
        )
        for index in range(references)
    ]
    write_render_folder(folder, list(zip(cameras, renders, strict=True)), photos)
    return folder


@pytest.fixture(scope="module")
def inputs(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A render folder and a model folder."""
    folder = tmp_path_factory.mktemp("inputs")
    save_model(folder / "model", made_model())
    return write_renders(folder / "renders"), folder / "model"


def made_job(inputs: tuple[Path, Path], **config: object) -> EnhanceJob:
    return EnhanceJob(inputs[0], str(inputs[1]), EnhanceConfig(**config))


def frames_in(folder: Path) -> list[bytes]:
    return [path.read_bytes() for path in sorted((folder / "frames").glob("*.png"))]


@pytest.fixture(scope="module")
def finished(inputs: tuple[Path, Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("finished") / "out"
    enhance_renders(made_job(inputs), out)
    return out


def test_the_folder_of_a_finished_run(finished: Path) -> None:
    assert [path.name for path in sorted((finished / "frames").iterdir())] == [
        f"{index:05d}.png" for index in range(FRAMES)
    ]
    frames = [read_image(finished / "frames" / f"{index:05d}.png") for index in range(FRAMES)]
    assert {frame.shape for frame in frames} == {(14, 20, 3)}
    assert len(list(read_video(finished / "video.mp4"))) == FRAMES
    timing = json.loads((finished / "timing.json").read_text())
    assert timing["frames"] == FRAMES and timing["network_calls"] == 3 * SMALL.steps
    assert 0 < timing["first_frame_seconds"] < timing["seconds"]
    assert timing["frames_per_second"] == pytest.approx(FRAMES / timing["seconds"])
    assert timing["warnings"] == []


def test_a_finished_run_loads_no_model(
    inputs: tuple[Path, Path], finished: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(job_module, "load_model", lambda *_: pytest.fail("loaded"))
    enhance_renders(made_job(inputs), finished)
    with pytest.raises(
        InputError, match=r"made from other settings: config\.seed is 0 there, 3 now"
    ):
        enhance_renders(made_job(inputs, seed=3), finished)


def test_a_stopped_run_continues_to_the_same_frames(
    inputs: tuple[Path, Path], finished: Path, tmp_path: Path
) -> None:
    def stop_once(path: Path, frame: np.ndarray) -> None:
        write_png(path, frame)
        if path.name == "00002.png":
            os.kill(os.getpid(), signal.SIGTERM)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(job_module, "write_png", stop_once)
        with pytest.raises(
            Stopped, match="stopped after frame 5 of 14; run the same command to continue"
        ):
            enhance_renders(made_job(inputs), tmp_path)
    assert frames_in(tmp_path) == frames_in(finished)[:5]
    assert not (tmp_path / "video.mp4").exists()
    assert [path.name for path in (tmp_path / "state").iterdir()] == ["00000.safetensors"]
    untouched = (tmp_path / "frames" / "00004.png").stat().st_mtime_ns
    enhance_renders(made_job(inputs), tmp_path)
    assert frames_in(tmp_path) == frames_in(finished)
    assert (
        json.loads((tmp_path / "timing.json").read_text())["network_calls"] == 1 + 2 * SMALL.steps
    )
    assert not (tmp_path / "state").exists()
    assert (tmp_path / "video.mp4").read_bytes() == (finished / "video.mp4").read_bytes()
    assert (tmp_path / "frames" / "00004.png").stat().st_mtime_ns == untouched


def test_other_renders_references_or_weights_are_another_run(
    inputs: tuple[Path, Path], tmp_path: Path
) -> None:
    renders = write_renders(tmp_path / "renders", frames=3)
    save_model(tmp_path / "model", made_model())
    job = EnhanceJob(renders, str(tmp_path / "model"), EnhanceConfig())
    enhance_renders(job, tmp_path / "out")
    write_png(renders / "opacity" / "00001.png", np.zeros((14, 20), np.uint8))
    with pytest.raises(InputError, match="another input: renders is"):
        enhance_renders(job, tmp_path / "out")
    enhance_renders(job, tmp_path / "out", overwrite=True)
    save_model(tmp_path / "model", made_model(seed=1))
    with pytest.raises(InputError, match="another input: model is"):
        enhance_renders(job, tmp_path / "out")


def test_frames_whose_renders_have_other_depth_by_now_are_made_again(tmp_path: Path) -> None:
    renders = write_renders(tmp_path / "renders", frames=3)
    config = replace(SMALL, smooth_cells=4)
    save_model(tmp_path / "model", made_model(config))
    job = EnhanceJob(renders, str(tmp_path / "model"), EnhanceConfig())
    enhance_renders(job, tmp_path / "out")
    slope = np.linspace(1, 9, 20, dtype=np.float32)
    np.save(renders / "depth" / "00001.npy", np.tile(slope, (14, 1)))
    enhance_renders(job, tmp_path / "out")
    enhance_renders(job, tmp_path / "fresh")
    assert frames_in(tmp_path / "out") == frames_in(tmp_path / "fresh")
    (renders / "depth" / "00001.npy").unlink()
    before = frames_in(tmp_path / "out")
    enhance_renders(job, tmp_path / "out")
    assert frames_in(tmp_path / "out") != before


@pytest.mark.parametrize("dtype", [">f8", ">f4", "<f2", "longdouble"])
def test_depth_of_any_float_type_is_read(tmp_path: Path, dtype: str) -> None:
    renders = write_renders(tmp_path / "renders", frames=3)
    save_model(tmp_path / "model", made_model(replace(SMALL, smooth_cells=4)))
    job = EnhanceJob(renders, str(tmp_path / "model"), EnhanceConfig())
    enhance_renders(job, tmp_path / "before")
    for path in (renders / "depth").glob("*.npy"):
        np.save(path, np.load(path).astype(dtype))
    enhance_renders(job, tmp_path / "after")
    assert frames_in(tmp_path / "after") == frames_in(tmp_path / "before")


def test_references_are_spread_over_the_names(inputs: tuple[Path, Path]) -> None:
    folder = read_render_folder(inputs[0])
    assert [view.photo.name for view in chosen_references(folder, 9)] == [
        "photo_7.png",
        "photo_8.png",
        "photo_9.png",
    ]
    assert [view.photo.name for view in chosen_references(folder, 2)] == [
        "photo_7.png",
        "photo_8.png",
    ]
    assert chosen_references(folder, 0) == []


def test_a_model_that_does_not_fit_is_not_loaded(
    inputs: tuple[Path, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(job_module, "load_model", lambda *_: pytest.fail("loaded"))
    monkeypatch.setattr(memory_estimate, "free_memory", lambda device: 100_000)
    with pytest.raises(InputError, match=r"small at 16x16 with 3 references needs .* too much"):
        enhance_renders(made_job(inputs), tmp_path / "out")
    monkeypatch.undo()
    with pytest.raises(InputError, match="takes no text"):
        enhance_renders(made_job(inputs, prompt="a house"), tmp_path / "out")
    with pytest.raises(InputError, match="weights are not here"):
        enhance_renders(replace(made_job(inputs), model="14b"), tmp_path / "out")
    assert not (tmp_path / "out").exists()
