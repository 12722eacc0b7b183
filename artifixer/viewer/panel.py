"""The panel of a tab: layers, comparison, lens, repair, cameras, points and status."""

from __future__ import annotations

import math
import threading
import time
from collections.abc import Callable
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from artifixer.geometry.camera_file import CameraFrame
from artifixer.geometry.transforms import matrix_to_quaternion
from artifixer.runtime.counts import counted
from artifixer.runtime.errors import InputError
from artifixer.viewer.client_splats import add_client_splats
from artifixer.viewer.frusta import clicked_frustum
from artifixer.viewer.layers import layer_titles
from artifixer.viewer.motion import fitting_fov
from artifixer.viewer.path_panel import PathPanel
from artifixer.viewer.scene import axis_name, plain
from artifixer.viewer.tab import Tab

if TYPE_CHECKING:
    from artifixer.viewer.page import Viewer

NOTHING = "nothing"
SIZES = ("256", "384", "512", "640", "960", "1280", "1920")
STEPS = ("model's own", "adaptive", "1", "2", "4", "8")
BLOCKS = ("model's own", *map(str, range(1, 8)))

#: Maximum number of cameras that are drawn; their size relative to the scene's distance; colours of
#: cameras with and without a photo.
MAX_FRUSTA, FRUSTUM_SIZE = 200, 0.05
KNOWN_COLOR, PLAIN_COLOR = (90, 170, 255), (150, 150, 150)

#: Maximum near plane: viser draws the picture on a plane at distance 1 from the camera.
LARGEST_NEAR = 0.9

#: Minimum time between two updates of the status, seconds.
STATUS_INTERVAL = 0.4


class TabPanel:
    """The panel of a tab, created by ``build``."""

    def __init__(self, viewer: Viewer, client: Any, tab: Tab) -> None:
        self.viewer, self.client, self.tab = viewer, client, tab
        self.paths = PathPanel(self)
        self._frusta: list[Any] = []
        self._frusta_lock = threading.Lock()
        self._points: Any = None
        self._splats: Any = None
        self._status_at = 0.0
        self._had_frames = bool(viewer.scene().frames)

    def build(self) -> None:
        """Create all elements and show the first layer."""
        gui, scene, config = self.client.gui, self.viewer.scene(), self.viewer.config
        titles = layer_titles(scene) or [NOTHING]
        first = list(scene.splats)[-1] if scene.splats else titles[0]
        self._status = gui.add_markdown("...")
        tabs = gui.add_tab_group()
        with tabs.add_tab("View"):
            self._layer = gui.add_dropdown("Layer", titles, initial_value=first)
            self._other = gui.add_dropdown("Compare", [NOTHING, *titles])
            self._divider = gui.add_slider("Divider", 0.0, 1.0, 0.01, 0.5)
            size = str(min(config.size, max(map(int, SIZES))))
            sizes = sorted({*SIZES, size}, key=int)
            self._size = gui.add_dropdown("Size", sizes, initial_value=size)
            degrees = round(math.degrees(self.client.camera.fov))
            self._fov = gui.add_slider("Field of view", 10, 120, 1, min(120, max(10, degrees)))
            lenses = ["ideal", "the capture's"] if scene.lens is not None else ["ideal"]
            self._lens = gui.add_dropdown("Lens", lenses)
            self._cameras = gui.add_checkbox("Cameras", False)
            self._has_points = gui.add_checkbox("Points", False)
            self._in_browser = gui.add_checkbox("Splats in browser", False)
            gui.add_markdown(self._about())
        with tabs.add_tab("Repair"):
            self._build_repair(gui)
        with tabs.add_tab("Path"):
            self.paths.build(gui)
        self._curves_tab: Any = None
        self._tabs = tabs
        self._curves: dict[str, Any] = {}
        for handle in (self._layer, self._other, self._divider, self._size, self._lens):
            handle.on_update(lambda _: self._choose())
        self._fov.on_update(lambda _: self._set_fov())
        self._cameras.on_update(lambda _: self._show_cameras())
        self._has_points.on_update(lambda _: self._show_points())
        self._in_browser.on_update(lambda _: self._show_client_splats())
        self.client.camera.near = self._near()
        self.client.camera.far = max(10.0, 1000 * scene.distance)
        if scene.frames:
            self.client.camera.fov = fitting_fov(scene.frames[0].camera, self.client.camera.aspect)
            self._fov.value = min(120, max(10, round(math.degrees(self.client.camera.fov))))
        self._choose()
        self._show_curves()

    def _near(self) -> float:
        """The near plane, chosen so that the frustum of a camera at the current view is clipped.
        viser keeps the volume of frusta constant, so that narrow ones are deeper.
        """
        scene = self.viewer.scene()
        width, height = 1.0, 1.0
        for frame in scene.frames[:1]:
            camera, K = frame.camera, frame.camera.Ks[0]
            width = 0.5 * camera.width / float(K[0, 0])
            height = 0.5 * camera.height / float(K[1, 1])
        depth: float = max(1.0, (width * height) ** (-1 / 3))
        return min(LARGEST_NEAR, 2 * FRUSTUM_SIZE * scene.distance * depth)

    def _build_repair(self, gui: Any) -> None:
        self._repair = gui.add_checkbox("Repair what I see", False)
        self._steps = gui.add_dropdown("Steps", STEPS)
        self._still_steps = gui.add_slider("Steps at rest", 1, 8, 1, 2)
        self._block = gui.add_dropdown("Block", BLOCKS, hint="latent frames generated together")
        self._mode = gui.add_dropdown("Mode", ("improve", "generate"))
        self._references = gui.add_slider("References", 0, 6, 1, 3)
        self._prompt = gui.add_text("Prompt", "")
        still = str(self.viewer.config.still_size)
        self._still_size = gui.add_dropdown(
            "Size at rest", sorted({*SIZES, still}, key=int), initial_value=still
        )
        self._seed = gui.add_number("Seed", 0, min=0, max=2**31 - 1, step=1)
        handles = (self._repair, self._steps, self._still_steps, self._block, self._mode)
        for handle in (*handles, self._still_size, self._references, self._prompt, self._seed):
            handle.on_update(lambda _: self._choose())

    def _about(self) -> str:
        scene = self.viewer.scene()
        best = scene.best
        count = "no splats yet" if best is None else counted(len(best), "Gaussian")
        lines = [
            f"**{plain(scene.name)}**: {count}, {counted(len(scene.frames), 'camera')}",
            f"up {axis_name(scene.up)} · typical distance {scene.distance:.3g} units",
        ]
        if scene.camera_scale_source:
            source = plain(scene.camera_scale_source)
            lines.append(f"1 unit = {scene.camera_scale:.3g} of the model's · {source}")
        return "\n\n".join([*lines, *map(plain, scene.notes)])

    def scene_changed(self) -> None:
        """Update the panel after the viewer's scene was replaced."""
        frames = self.viewer.scene().frames
        if frames and not self._had_frames:
            self._had_frames = True
            self.fly_to(frames[0])
        titles = layer_titles(self.viewer.scene()) or [NOTHING]
        if tuple(titles) != tuple(self._layer.options):
            was_known = self._layer.value in titles and self._layer.value != NOTHING
            self._other.options = (NOTHING, *titles)
            self._layer.options = tuple(titles)
            best = list(self.viewer.scene().splats)
            if not was_known and best:
                self._layer.value = best[-1]
        self._choose()
        self._show_curves()

    def show_status(self, text: str) -> None:
        """Replace the status line; frequent updates are skipped."""
        now = time.monotonic()
        if now - self._status_at >= STATUS_INTERVAL or "·" not in text:
            self._status_at = now
            self._status.content = plain(text)

    def _choose(self) -> None:
        """Apply the panel's values to the tab."""
        steps = self._steps.value
        repair = replace(
            self.tab.choice.repair,
            mode=self._mode.value,
            steps=None if steps == STEPS[0] else steps if steps == "adaptive" else int(steps),
            still_steps=int(self._still_steps.value),
            block_frames=None if self._block.value == BLOCKS[0] else int(self._block.value),
            references=int(self._references.value),
            prompt=self._prompt.value,
            seed=int(self._seed.value),
            size=self.viewer.config.repair_size,
            still_size=int(self._still_size.value),
        )
        other = self._other.value
        self.tab.changed(
            replace(
                self.tab.choice,
                layer=self._layer.value,
                other=None if other == NOTHING else other,
                divider=float(self._divider.value),
                size=int(self._size.value),
                has_lens=self._lens.value != "ideal",
                is_repairing=bool(self._repair.value),
                repair=repair,
            )
        )

    def _set_fov(self) -> None:
        self.client.camera.fov = math.radians(self._fov.value)

    def fly_to(self, frame: CameraFrame) -> None:
        """Move the view to a captured camera, with its field of view."""
        camera, scene = frame.camera, self.viewer.scene()
        pose = camera.camera_to_world[0].double().numpy()
        with self.client.atomic():
            self.client.camera.up_direction = -pose[:3, 1]
            self.client.camera.position = pose[:3, 3]
            self.client.camera.look_at = pose[:3, 3] + scene.distance * pose[:3, 2]
            self.client.camera.fov = fitting_fov(camera, self.client.camera.aspect)
        self._fov.value = min(120, max(10, round(math.degrees(self.client.camera.fov))))

    def _show_cameras(self) -> None:
        """Draw the cameras if the box is checked. Reading photos takes time, so the loop ends as
        soon as the box is unchecked.
        """
        scene = self.viewer.scene()
        step = max(1, -(-len(scene.frames) // MAX_FRUSTA))
        with self._frusta_lock:
            for node in self._frusta:
                node.remove()
            self._frusta = []
            for index in range(0, len(scene.frames), step):
                if not self._cameras.value or not self.tab.is_open:
                    break
                self._frusta.append(self._frustum(index, scene.frames[index]))

    def _frustum(self, index: int, frame: CameraFrame) -> Any:
        camera, scene = frame.camera, self.viewer.scene()
        photo = scene.photos.get(frame.photo or "")
        node = self.client.scene.add_camera_frustum(
            f"/cameras/{index}",
            fov=2 * math.atan(0.5 * camera.height / float(camera.Ks[0, 1, 1])),
            aspect=camera.width / camera.height,
            scale=FRUSTUM_SIZE * scene.distance,
            thickness=1.5,
            thickness_units="screen",
            color=PLAIN_COLOR if photo is None else KNOWN_COLOR,
            image=None if photo is None else self.viewer.thumbnail(frame.photo or "", photo),
            wxyz=matrix_to_quaternion(camera.camera_to_world[0, :3, :3]).double().numpy(),
            position=camera.centers[0].double().numpy(),
        )
        node.on_click(lambda event: self._clicked(frame, event))
        return node

    def _clicked(self, frame: CameraFrame, event: Any) -> None:
        scene, pose = self.viewer.scene(), self.tab.pose
        assert pose is not None
        seen = clicked_frustum(
            [known.camera for known in scene.frames],
            FRUSTUM_SIZE * scene.distance,
            torch.tensor(event.ray_origin, dtype=torch.float64),
            torch.tensor(event.ray_direction, dtype=torch.float64),
            pose.camera_to_world[:3, 2],
            self.client.camera.near,
        )
        frame = frame if seen is None else scene.frames[seen]
        if self.paths.takes_clicks:
            self.paths.add(frame.camera, frame.photo)
        else:
            self.fly_to(frame)

    def _show_points(self) -> None:
        if self._points is not None:
            self._points.remove()
            self._points = None
        scene = self.viewer.scene()
        if not self._has_points.value or scene.points is None:
            return
        colors = (
            np.full((len(scene.points), 3), 220, np.uint8)
            if scene.point_colors is None
            else scene.point_colors.numpy()
        )
        self._points = self.client.scene.add_point_cloud(
            "/points", scene.points.numpy(), colors, point_size=0.004 * scene.distance
        )

    def _show_client_splats(self) -> None:
        if self._splats is not None:
            self._splats.remove()
            self._splats = None
        best = self.viewer.scene().splats.get(self._layer.value) or self.viewer.scene().best
        if self._in_browser.value and best is not None:
            self._splats = add_client_splats(self.client.scene, best, self.viewer.scene().distance)

    def _show_curves(self) -> None:
        curves = self.viewer.scene().curves
        if not curves:
            return
        if self._curves_tab is None:
            self._curves_tab = self._tabs.add_tab("Progress")
        import viser.uplot as uplot

        for name, points in curves.items():
            if len(points) < 2:
                continue
            data = tuple(np.array(column, np.float64) for column in zip(*points, strict=True))
            if name in self._curves:
                self._curves[name].data = data
                continue
            series = (uplot.Series(label="step"), uplot.Series(label=name, stroke="#4aa3ff"))
            with self._curves_tab:
                self._curves[name] = self.client.gui.add_uplot(
                    data, series, title=name, aspect=1.8, scales={"x": uplot.Scale(time=False)}
                )

    def guarded(self, action: Callable[[], None]) -> None:
        """Call ``action``; an ``InputError`` is shown in the page."""
        try:
            action()
        except InputError as error:
            self.client.add_notification("Error", str(error), color="red")
