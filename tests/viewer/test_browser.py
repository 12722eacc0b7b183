"""The page as a person uses it, in a real browser: one server and browser for all tests here. The
last test ends both.
"""

from __future__ import annotations

import math
import re
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from urllib.parse import urlsplit

import numpy as np
import psutil
import pytest
import torch
from PIL import Image

from artifixer.cli import main
from artifixer.geometry.camera_file import CameraFrame
from artifixer.geometry.cameras import Cameras
from artifixer.pairs.sample_file import encode_sample
from artifixer.pairs.shards import describe, write_index, write_shard
from artifixer.scenes.camera_path_file import read_camera_path
from artifixer.splats.splats import Splats
from artifixer.viewer.access import check_access
from artifixer.viewer.layers import LayerPainter
from artifixer.viewer.page import PageConfig, Viewer
from artifixer.viewer.scene import ViewedScene
from tests.training.made_pairs import made_pair
from tests.viewer.browser import FULL_SIZE, Page, browser, chromium, no_model, served

pytest.importorskip("viser", reason="needs the extra viewer")

#: Three views of a procedural place: much of it is empty.
CAPTURE = "procedural:7:frames=9,width=96,height=72,points_per_photo=60"
FIT = ("--views", "3", "--size", "96", "--iterations", "300", "--device", "cpu")

WINDOW = (1000, 700)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    chromium()
    out = tmp_path_factory.mktemp("viewer") / "scene"
    assert main(["reconstruct", CAPTURE, "--out", str(out), *FIT]) == 0
    return out


@pytest.fixture(scope="module")
def page(folder: Path) -> Iterator[Page]:
    arguments = (str(folder), "--capture", CAPTURE, "--port", "0", "--device", "cpu")
    with served(*arguments) as (address, process), browser(folder.parent, WINDOW) as page:
        page.address, page.server = address, process  # type: ignore[attr-defined]
        page.open(address)
        yield page


def test_the_page_shows_the_scene_and_follows_the_camera(page: Page) -> None:
    before = page.settled()
    assert before.std() > 10, "black or of one colour"
    shown = len(page.pictures())
    page.drag(120)
    page.until(lambda: len(page.pictures()) > shown + 2, "pictures while the camera moves")
    after = page.settled()
    assert np.abs(after - before).mean() > 3, "the view does not follow the camera"
    widths = [width for _, width, _ in page.pictures()[shown:]]
    assert widths[-1] == max(widths) == 640, "at rest the picture is full"
    assert min(widths) < 640, "in motion it is small"
    still = len(page.pictures())
    time.sleep(1)
    assert len(page.pictures()) == still, "nothing is made while nothing changes"


def test_a_layer_switch_changes_pixels(page: Page) -> None:
    plain = page.settled()
    page.choose("Layer", "Plain splats: opacity")
    opacity = page.settled()
    assert np.abs(opacity - plain).mean() > 5
    spread = opacity.max(axis=2) - opacity.min(axis=2)
    assert np.median(spread) < 8, "opacity is grey"
    page.choose("Compare", "Plain splats")
    both = page.settled()
    assert np.abs(both - opacity).mean() > 2
    left = slice(0, both.shape[1] // 3)
    assert np.abs(both[:, left] - opacity[:, left]).mean() < 6, "left of the divider"
    page.choose("Compare", "nothing")
    page.choose("Layer", "Plain splats")
    assert np.abs(page.settled() - plain).mean() < 4


def test_cameras_that_are_switched_off_at_once_are_gone(page: Page) -> None:
    before = page.settled()
    page.check("Cameras")
    page.check("Cameras")
    time.sleep(1)
    assert np.abs(page.settled() - before).mean() < 0.5


def test_repair_changes_the_empty_part_and_not_the_opaque_part(page: Page) -> None:
    page.choose("Layer", "Plain splats: opacity")
    opacity = page.settled().mean(axis=2) / 255
    page.choose("Layer", "Plain splats")
    plain = page.settled()
    page.tab("Repair")
    page.check("Repair what I see")
    page.until(lambda: page.has_text("repaired"), "the model works")
    page.until(lambda: page.has_text("repaired 384"), "the view at rest is repaired at full size")
    repaired = page.settled(384)
    change = np.abs(repaired - plain).mean(axis=2)
    empty, opaque = change[opacity < 0.1], change[opacity > 0.97]
    assert len(empty) > 2000
    assert len(opaque) > 2000
    assert empty.mean() > 15, "the empty part stays empty"
    assert opaque.mean() < empty.mean() / 4, "the opaque part is changed"
    shown = len(page.pictures())
    page.drag(60)
    page.until(lambda: len(page.pictures()) > shown + 3, "repaired frames while the camera moves")
    page.check("Repair what I see")
    page.until(lambda: not page.has_text("repaired"), "the repair ends")
    page.tab("View")


def test_a_path_is_made_saved_loaded_and_run(page: Page, folder: Path) -> None:
    page.tab("Path")
    page.button("Add this view")
    page.until(lambda: page.has_text("1 keyframe,"), "the first keyframe")
    page.drag(80)
    page.settled()
    page.button("Add this view")
    page.until(lambda: page.has_text("2 keyframes"), "the second keyframe")
    page.button("Save path")
    file = folder.parent / "downloads" / "path.json"
    page.until(file.is_file, "the path is downloaded")
    frames = read_camera_path(file)
    assert len(frames) == 25
    assert (frames[0].camera.viewmats - frames[-1].camera.viewmats).abs().max() > 0.01
    page.button("clear")
    page.until(lambda: page.has_text("no keyframes"), "an empty path")
    page.upload(file)
    page.until(lambda: page.has_text("25 keyframes"), "the path is loaded")
    page.until(lambda: page.has_text("runs with these splats and the model"), "what a run uses")
    page.choose("Run up to", "repaired frames")
    page.button("Run along the path")
    page.until(lambda: page.has_text("done; new layers"), "the run along the path", 120)
    assert len(list((folder / "run" / "frames" / "artifixer").glob("*.png"))) == 25
    page.tab("View")


def test_a_broken_path_file_is_told_and_changes_nothing(page: Page, tmp_path: Path) -> None:
    (tmp_path / "broken.json").write_text('{"camera_path": 3}')
    page.tab("Path")
    page.upload(tmp_path / "broken.json")
    page.until(lambda: page.has_text("broken.json"), "what is wrong with the file")
    page.tab("View")


def test_a_second_tab_works_and_the_server_survives_its_end(page: Page) -> None:
    driver = page.driver
    first = driver.current_window_handle
    shown = page.settled()
    driver.switch_to.new_window("window")
    page.open(page.address)  # type: ignore[attr-defined]
    before = page.settled()
    page.drag(40)
    page.until(lambda: np.abs(page.view() - before).mean() > 3, "the second tab's view turns")
    assert page.settled().std() > 10
    driver.close()
    driver.switch_to.window(first)
    same = "the other tab's camera is its own"
    page.until(lambda: np.abs(page.settled() - shown).mean() < 2, same)
    page.choose("Layer", "Plain splats: depth")
    assert np.abs(page.settled() - shown).mean() > 3, "the first tab still works"
    page.choose("Layer", "Plain splats")


def job_command(verb: str, scratch: Path) -> list[str]:
    """A short job of a verb; its result folder is still to be named."""
    small = ("--views", "3", "--size", "48", "--iterations", "40", "--device", "cpu")
    match verb:
        case "reconstruct":
            return [verb, CAPTURE, *small]
        case "run":
            return [verb, CAPTURE, *small, "--path", "heldout"]
        case _:
            pairs = scratch / "pairs"
            made = [made_pair(seed, frames=13) for seed in range(2)]
            samples = [(describe(pair, encode_sample(pair)), encode_sample(pair)) for pair in made]
            shard = write_shard(pairs / "pairs-00000.tar", samples)
            write_index(pairs, [shard], complete=True)
            steps = ("--steps", "3", "--save-every", "1", "--device", "cpu")
            return [verb, "autoencoder", "--pairs", str(pairs), *steps]


@pytest.mark.parametrize(
    "verb",
    [
        "reconstruct",
        pytest.param("run", marks=pytest.mark.slow),
        pytest.param("train", marks=pytest.mark.slow),
    ],
)
def test_a_job_with_view_shows_its_work_and_makes_the_same_bytes(verb: str, tmp_path: Path) -> None:
    chromium()
    plain, out = tmp_path / "plain", tmp_path / "viewed"
    command = job_command(verb, tmp_path)
    assert main([*command, "--out", str(plain)]) == 0
    job = subprocess.Popen(
        [sys.executable, "-m", "artifixer", *command, "--out", str(out), "--view"],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    assert job.stdout is not None
    working = psutil.Process(job.pid)
    viewers: list[psutil.Process] = []
    is_served = False
    try:
        while not viewers:
            assert job.poll() is None, "the job ended without a viewer"
            viewers = working.children(recursive=True)
            time.sleep(0.01)
        working.suspend()  # so short a job would be over before the page is there
        for line in job.stdout:
            if found := re.search(r"open (http://\S+)", line):
                with urllib.request.urlopen(found[1], timeout=30) as answer:
                    assert b"<html" in answer.read().lower()
                is_served = True
                working.resume()
        assert job.wait(60) == 0
    finally:
        job.kill()
    assert is_served
    assert not any(viewer.is_running() for viewer in viewers), "the viewer outlives its job"
    made = [path.relative_to(plain) for path in plain.rglob("*") if path.is_file()]
    # a checkpoint's complete.json holds the seconds spent
    told = {"timing.json", "config.json", "log.txt", "complete.json"}
    compared = [p for p in made if p.name not in told and p.parts[0] not in (".run", "cache")]
    assert len(compared) > 3
    for path in compared:
        assert (out / path).read_bytes() == (plain / path).read_bytes(), path


def wide_camera(x: float, y: float, z: float, turn: float) -> Cameras:
    """At a place, turned to the right by an angle in radians; its lens bends straight lines."""
    pose = torch.eye(4)
    pose[:3, :3] = torch.tensor(
        [
            [math.cos(turn), 0, math.sin(turn)],
            [0, 1, 0],
            [-math.sin(turn), 0, math.cos(turn)],
        ]
    )
    pose[:3, 3] = torch.tensor([x, y, z])
    K = torch.tensor([[300.0, 0, 160], [0, 300, 120], [0, 0, 1]])
    distortion = torch.zeros(1, 8)
    distortion[0, 0] = -0.25
    plain = Cameras.pinhole(torch.linalg.inv(pose)[None], K[None], 320, 240)
    return replace(plain, distortion=distortion)


def checkered_wall() -> Splats:
    """Two units before the first camera, far beyond what it sees."""
    sides = torch.linspace(-2.0, 2.0, 21)
    means = torch.cartesian_prod(sides, sides, torch.tensor([2.0]))
    is_dark = (torch.arange(21)[:, None] + torch.arange(21)).flatten() % 2 == 0
    sh = torch.where(is_dark, -1.2, 1.2)[:, None, None].repeat(1, 1, 3)
    sh[..., 1] += torch.linspace(-0.5, 0.5, 441)[:, None]
    return Splats(
        means,
        torch.tensor([1.0, 0, 0, 0]).repeat(441, 1),
        torch.full((441, 3), 0.09).log(),
        torch.full((441,), 4.0),
        sh,
    )


@contextmanager
def known_scene(page: Page) -> Iterator[Viewer]:
    """A server in this process, whose cameras and lens are known, in a tab of its own."""
    blue = np.zeros((30, 40, 3), np.uint8) + np.array([30, 60, 250], np.uint8)
    scene = ViewedScene(
        "known",
        {"Plain splats": checkered_wall()},
        (
            CameraFrame(wide_camera(0, 0, 0, 0), "start.png"),
            CameraFrame(wide_camera(-0.25, -0.1, 0.5, 0.15), "other.png"),
        ),
        {name: lambda: blue for name in ("start.png", "other.png")},
        distance=2.0,
    )
    access = check_access("127.0.0.1", 0, None)
    viewer = Viewer(scene, access, PageConfig(reload=lambda: scene, load=no_model))
    first = page.driver.current_window_handle
    viewer.start()
    try:
        page.driver.switch_to.new_window("window")
        page.open(access.address)
        yield viewer
        page.driver.close()
    finally:
        page.driver.switch_to.window(first)
        viewer.stop()


def test_a_click_on_a_camera_flies_there_and_the_lens_of_the_capture_bends_the_picture(
    page: Page,
) -> None:
    with known_scene(page) as viewer:
        (tab,) = viewer.tabs()
        scene = viewer.scene()
        target = scene.frames[1].camera
        before = page.settled()
        page.check("Cameras")
        page.until(lambda: np.abs(page.view() - before).mean() > 0.5, "cameras are drawn")
        assert tab.pose is not None
        canvas = tab.pose.camera(max(tab.pose.width, tab.pose.height))
        pose = target.camera_to_world[0]
        inside = pose[:3, 3] + 0.15 * pose[:3, 2]  # of what is drawn for it
        across, down = canvas.project(inside[None])[0][0, 0].round().int().tolist()
        page.click_at(across, down)
        page.until(
            lambda: np.allclose(tab.pose and tab.pose.camera_to_world, pose, atol=1e-3),
            "the view is the camera's",
        )
        page.check("Cameras")
        painter = LayerPainter(scene)

        def errors() -> list[float]:
            """Of the view, from the scene through the ideal and through the capture's lens."""
            view, pose = page.settled(), tab.pose
            assert pose is not None
            found = []
            for lens in (None, scene.lens):
                (picture,) = painter.paint(["Plain splats"], pose.camera(FULL_SIZE, lens))
                whole = Image.fromarray(picture).resize((pose.width, pose.height))
                expected = np.asarray(whole, np.float32)[:, : view.shape[1]]
                found.append(float(np.abs(view - expected).mean()))
            return found

        def is_seen_through(lens: int) -> bool:
            found = errors()
            return found[lens] < 5 < found[1 - lens]

        page.until(lambda: is_seen_through(0), "the view from there, through the ideal lens")
        page.choose("Lens", "the capture's")
        page.until(lambda: is_seen_through(1), "through the capture's lens")


def test_a_killed_browser_leaves_the_server_and_ctrl_c_leaves_nothing(
    page: Page, tmp_path: Path
) -> None:
    """The last one: the browser is killed while the model works, another one, of a phone, is
    served, and Ctrl-C ends the server.
    """
    address, process = page.address, page.server  # type: ignore[attr-defined]
    page.tab("Repair")
    page.check("Repair what I see")
    page.until(lambda: page.has_text("repaired"), "the model works")
    driver = psutil.Process(page.driver.service.process.pid)
    for child in driver.children(recursive=True):
        child.kill()
    with browser(tmp_path, (390, 844)) as phone:
        phone.open(address)
        pixels = phone.settled()
        assert pixels.shape[1] <= 390
        assert pixels.std() > 10
    children = psutil.Process(process.pid).children(recursive=True)
    assert not children
    process.send_signal(2)
    said, _ = process.communicate(timeout=30)
    assert process.returncode == 130, said
    assert "Traceback" not in said
    port = urlsplit(address).port
    assert port is not None
    with socket.socket() as probe:
        assert probe.connect_ex(("127.0.0.1", port)) != 0, "the port is still open"
