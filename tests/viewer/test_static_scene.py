"""Splats as scenes without a server: in Python, and in a real browser that opens the report."""

from __future__ import annotations

import io
import socket
import sys
import threading
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from artifixer.evaluation.report import Report, write_report
from artifixer.evaluation.report_scenes import ReportScene, ReportScenes
from artifixer.geometry.cameras import Cameras
from artifixer.runtime.errors import InputError
from artifixer.splats.splats import SH_BASE, Splats
from artifixer.viewer.static_scene import (
    PLACE,
    StaticScenes,
    most_visible,
    static_scenes,
)
from tests.viewer.browser import Page, browser

pytest.importorskip("viser", reason="needs the extra viewer")

#: The scene stands far from zero and small, with an up axis that is none of the world's.
MIDDLE, DISTANCE = torch.tensor([3.0, -2.0, 1.0]), 0.05
UP = (0.6, 0.0, 0.8)


def scene() -> Splats:
    """Near red, green and blue Gaussians in three corners, first in memory, then a grey wall far
    behind them that would cover them if it were drawn in the order of memory.
    """
    generator = torch.Generator().manual_seed(1)
    corners = torch.tensor([[-0.25, -0.2, 0.0], [0.25, -0.2, 0.0], [0.25, 0.2, 0.0]])
    near = corners.repeat_interleave(40, dim=0) + 0.03 * torch.randn(120, 3, generator=generator)
    sides = torch.linspace(-0.7, 0.7, 15)
    wall = torch.cartesian_prod(sides, sides, torch.tensor([0.4]))
    means = torch.cat([near, wall])
    colors = torch.cat([torch.eye(3).repeat_interleave(40, dim=0), torch.full((225, 3), 0.5)])
    count = len(means)
    rotation = camera().camera_to_world[0, :3, :3]
    return Splats(
        means=DISTANCE * means @ rotation.mT + MIDDLE,
        quats=torch.tensor([1.0, 0, 0, 0]).repeat(count, 1),
        log_scales=torch.full((count, 3), 0.05 * DISTANCE).log(),
        opacity_logits=torch.full((count,), 3.0),
        sh=((colors - 0.5) / SH_BASE)[:, None, :],
    )


def camera() -> Cameras:
    """Looks at the middle from one distance, its image's up along ``UP``."""
    down, right = -torch.tensor(UP), torch.tensor([0.0, 1.0, 0.0])
    pose = torch.eye(4)
    pose[:3, 0], pose[:3, 1], pose[:3, 2] = right, down, torch.linalg.cross(right, down)
    pose[:3, 3] = MIDDLE - DISTANCE * pose[:3, 2]
    K = torch.tensor([[300.0, 0, 160], [0, 300, 120], [0, 0, 1]])
    return Cameras.pinhole(torch.linalg.inv(pose)[None], K[None], 320, 240)


@pytest.fixture(scope="module")
def made() -> StaticScenes:
    return static_scenes({"Fit": scene(), "Other": scene()}, [camera()], UP, DISTANCE, 320)


def test_the_same_splats_make_the_same_bytes(made: StaticScenes) -> None:
    again = static_scenes({"Fit": scene()}, [camera()], UP, DISTANCE, 320)
    assert again.player == made.player
    assert again.scenes["Fit"].data == made.scenes["Fit"].data
    assert made.player.count(PLACE) == 1
    picture = made.scenes["Fit"].picture
    assert picture.shape == (240, 320, 3)
    assert picture[60, 85].argmax() == 0 and picture[60, 235].argmax() == 1, "red left, green right"


def test_no_port_is_opened_and_no_thread_stays(monkeypatch: pytest.MonkeyPatch) -> None:
    bound: list[object] = []
    plain = socket.socket.bind

    def bind(self: socket.socket, address: object) -> None:
        bound.append(address)
        plain(self, address)  # type: ignore[arg-type]

    monkeypatch.setattr(socket.socket, "bind", bind)
    before = set(threading.enumerate())
    static_scenes({"Fit": scene()}, [camera()], UP, DISTANCE, 64)
    assert not bound
    assert set(threading.enumerate()) <= before


def test_only_the_most_visible_are_kept_in_their_order() -> None:
    everything = scene()
    # behind the camera: no view shows them
    hidden = replace(everything, means=everything.means - 4 * (MIDDLE - camera().centers[0]))
    both = Splats(
        *(
            torch.stack([getattr(hidden, name), getattr(everything, name)], dim=1).flatten(0, 1)
            for name in ("means", "quats", "log_scales", "opacity_logits", "sh")
        )
    )
    kept = most_visible(both, [camera()], len(everything))
    near = everything.means[:120]
    assert len(kept) == len(everything)
    assert torch.equal(kept.means[:120], near), "those in front, in their order"
    assert most_visible(both, [camera()], len(both)) is both


def test_without_viser_the_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "viser", None)
    with pytest.raises(InputError, match=r"artifixer\[viewer\]"):
        static_scenes({"Fit": scene()}, [camera()], UP, DISTANCE, 64)


# In a browser -----


@pytest.fixture(scope="module")
def report(made: StaticScenes, tmp_path_factory: pytest.TempPathFactory) -> Path:
    shown = [
        ReportScene(name, "", found.data, found.picture) for name, found in made.scenes.items()
    ]
    path = tmp_path_factory.mktemp("report") / "report.html"
    write_report(
        path,
        Report(
            title="A capture",
            subtitle="",
            facts=(),
            variants={},
            views=(),
            videos=(),
            frames=(),
            splats=("splats/initial.ply",),
            settings={},
            scenes=ReportScenes(made.player, PLACE, tuple(shown)),
        ),
    )
    return path


def seen(page: Page) -> np.ndarray:
    """The first scene without the buttons in its corners."""
    left, top, width, height = page.driver.execute_script(
        "const scene = document.querySelector('.scene'); scene.scrollIntoView({block: 'center'});"
        "const box = scene.getBoundingClientRect();"
        "return [box.left, box.top, box.width, box.height].map(Math.round)"
    )
    pixels = np.asarray(Image.open(io.BytesIO(page.driver.get_screenshot_as_png())).convert("RGB"))
    inner = pixels[top + height // 6 : top + height * 4 // 5, left : left + width * 5 // 6]
    return inner.astype(np.float32)


def test_the_report_turns_its_picture_into_a_scene(report: Path, tmp_path: Path) -> None:
    """Opened from the disk. The same view as the picture: place, up axis, lens and the order in
    which Gaussians cover each other; and nothing is asked of the network.
    """
    # in a process of its own the frame's requests would stay unseen
    flags = ("--disable-features=IsolateSandboxedIframes",)
    with browser(tmp_path, (480, 720), flags) as page:
        page.driver.get(f"file://{report}")
        picture = seen(page)
        assert picture.std() > 10
        page.button("Look around")
        frame = page.driver.find_element("css selector", ".scene iframe")
        # the player fades in from black
        page.until(lambda: seen(page).mean() < 0.7 * picture.mean(), "the player begins")
        page.until(lambda: np.abs(seen(page) - picture).mean() < 5, "the scene is drawn")
        page.drag_element(frame, 60, 10)
        page.until(lambda: np.abs(seen(page) - picture).mean() > 10, "the view turns")
        assert seen(page).std() > 10
        page.button("Back to the picture")
        page.until(lambda: np.abs(seen(page) - picture).mean() < 1, "the picture is back")
        asked = page.requests(f"file://{report}", "about:srcdoc")
    assert any(url.startswith("data:application/wasm") for url in asked), "the player's are seen"
    own = (f"file://{report}", f"file://{report.parent}/timing.json", "data:", "blob:")
    assert not [url for url in asked if not url.startswith(own)], "the page loads from elsewhere"


def test_without_webgl_the_report_shows_the_picture(report: Path, tmp_path: Path) -> None:
    with browser(tmp_path, (390, 844), ("--disable-3d-apis",)) as page:
        page.driver.get(f"file://{report}")
        assert page.has_text("no WebGL")
        assert not page.has_text("Look around")
        assert seen(page).std() > 10
