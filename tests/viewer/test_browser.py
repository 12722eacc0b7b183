"""The page as a person uses it, in a real browser: one server and browser for all tests here."""

from __future__ import annotations

import re
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import urlsplit

import numpy as np
import psutil
import pytest

from artifixer.cli import main
from artifixer.scenes.camera_path_file import read_camera_path
from tests.viewer.browser import Page, browser, chromium, served

pytest.importorskip("viser", reason="needs the extra viewer")

#: Three views of a procedural place: much of it is empty.
CAPTURE = "procedural:7:frames=9,width=96,height=72,points_per_photo=60"
FIT = ("--views", "3", "--size", "96", "--iterations", "300", "--device", "cpu")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    chromium()
    out = tmp_path_factory.mktemp("viewer") / "scene"
    assert main(["reconstruct", CAPTURE, "--out", str(out), *FIT]) == 0
    return out


@pytest.fixture(scope="module")
def page(folder: Path) -> Iterator[Page]:
    arguments = (str(folder), "--capture", CAPTURE, "--port", "0", "--device", "cpu")
    with served(*arguments) as (address, process), browser(folder.parent) as page:
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
    repaired = page.settled()
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
    page.until(lambda: page.has_text("1 keyframes"), "the first keyframe")
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
    shown = page.settled(samples=10)
    driver.switch_to.new_window("window")
    page.open(page.address)  # type: ignore[attr-defined]
    page.drag(40)
    second = page.settled()
    assert second.std() > 10
    driver.close()
    driver.switch_to.window(first)
    assert np.abs(page.settled(samples=10) - shown).mean() < 2, "the other tab's camera is its own"
    page.choose("Layer", "Plain splats: depth")
    assert np.abs(page.settled() - shown).mean() > 3, "the first tab still works"
    page.choose("Layer", "Plain splats")


def test_a_killed_browser_leaves_the_server_and_ctrl_c_leaves_nothing(
    folder: Path, tmp_path: Path
) -> None:
    with served(str(folder), "--port", "0", "--device", "cpu") as (address, process):
        with browser(tmp_path) as page:
            page.open(address)
            page.tab("Repair")
            page.check("Repair what I see")
            page.until(lambda: page.has_text("repaired"), "the model works")
            driver = psutil.Process(page.driver.service.process.pid)
            for child in driver.children(recursive=True):
                child.kill()
        with browser(tmp_path / "again") as page:
            page.open(address)
            assert page.settled().std() > 10
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


def test_a_job_with_view_shows_its_work_and_makes_the_same_bytes(
    folder: Path, tmp_path: Path
) -> None:
    out = tmp_path / "scene"
    command = ["reconstruct", CAPTURE, "--out", str(out), *FIT, "--view"]
    job = subprocess.Popen(
        [sys.executable, "-m", "artifixer.cli", *command],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    assert job.stdout is not None
    working = psutil.Process(job.pid)
    viewers: list[psutil.Process] = []
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
                working.resume()
        assert job.wait(60) == 0
    finally:
        job.kill()
    assert not any(viewer.is_running() for viewer in viewers), "the viewer outlives its job"
    made = {path.relative_to(out) for path in out.rglob("*") if path.is_file()}
    told = {"timing.json", "config.json", "log.txt"}
    compared = [p for p in made if p.name not in told and p.parts[0] not in (".run", "cache")]
    assert len(compared) > 10
    for path in compared:
        assert (out / path).read_bytes() == (folder / path).read_bytes(), path


def test_a_phone_shows_the_scene(page: Page, tmp_path: Path) -> None:
    with browser(tmp_path, (390, 844)) as phone:
        phone.open(page.address)  # type: ignore[attr-defined]
        pixels = phone.settled()
        assert pixels.shape[1] <= 390
        assert pixels.std() > 10
