"""The path tab of the panel: keyframes, preview, files, suggested paths, runs along the path."""

from __future__ import annotations

import threading
import time
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from artifixer.geometry.cameras import Cameras
from artifixer.runtime.counts import counted
from artifixer.runtime.errors import InputError
from artifixer.runtime.files import write_bytes
from artifixer.viewer.scene import plain
from artifixer.viewer.trajectory import (
    Keyframe,
    PathFormat,
    Trajectory,
    loaded,
    path_bytes,
    suggest,
)

if TYPE_CHECKING:
    from artifixer.viewer.panel import TabPanel

FORMATS: dict[str, PathFormat] = {
    "artifixer": "artifixer",
    "nerfstudio": "nerfstudio",
    "3DGS": "3dgs",
}
FILE_NAMES = {"artifixer": "path.json", "nerfstudio": "camera_path.json", "3dgs": "cameras.json"}

#: Titles of the results of a run, with the last variant that they need.
VARIANTS = {"3D+ frames": "3d+", "3D splats": "3d", "repaired frames": "artifixer"}

#: Maximum number of keyframes in the list.
MAX_ROWS = 8

#: Longest side in pixels of a path's cameras if there are no captured cameras.
DEFAULT_SIZE = 640


class PathPanel:
    """Edits the trajectory of one tab."""

    def __init__(self, panel: TabPanel) -> None:
        self._panel = panel
        self._trajectory = Trajectory()
        self._nodes: list[Any] = []
        self._is_playing = False
        self._lock = threading.RLock()

    @property
    def takes_clicks(self) -> bool:
        """Whether a click on a camera adds it to the path."""
        return bool(self._by_click.value)

    def build(self, gui: Any) -> None:
        """Create the elements."""
        self._list = gui.add_markdown("no keyframes")
        self._add = gui.add_button("Add this view")
        self._by_click = gui.add_checkbox("Add cameras by click", False)
        self._index = gui.add_number("Keyframe", 1, min=1, step=1)
        self._seconds = gui.add_slider("Seconds to next", 0.2, 10.0, 0.1, 2.0)
        self._edit = gui.add_button_group("Edit", ("earlier", "later", "replace", "remove"))
        self._play = gui.add_button_group("Path", ("play", "stop", "suggest", "clear"))
        self._format = gui.add_dropdown("File", tuple(FORMATS))
        self._save = gui.add_button("Save path")
        self._load = gui.add_upload_button("Load path", mime_type="application/json")
        config = self._panel.viewer.config
        is_possible = config.run_arguments is not None
        self._last = gui.add_dropdown("Run up to", tuple(VARIANTS), disabled=not is_possible)
        self._run = gui.add_button("Run along the path", disabled=not is_possible)
        self._cancel = gui.add_button("Cancel the run", visible=False)
        self._bar = gui.add_progress_bar(0.0, visible=False)
        self._progress = gui.add_markdown(plain(config.run_note))
        self._add.on_click(lambda _: self._add_view())
        self._index.on_update(lambda _: self._selected())
        self._seconds.on_update(lambda _: self._set_seconds())
        self._edit.on_click(lambda _: self._panel.guarded(self._edit_clicked))
        self._play.on_click(lambda _: self._panel.guarded(self._play_clicked))
        self._save.on_click(lambda _: self._panel.guarded(self._save_clicked))
        self._load.on_upload(lambda _: self._panel.guarded(self._loaded))
        self._run.on_click(lambda _: self._panel.guarded(self._run_clicked))
        self._cancel.on_click(lambda _: self._panel.viewer.job.cancel())
        self.show_job()

    def add(self, camera: Cameras, photo: str | None = None) -> None:
        """Append a keyframe."""
        with self._lock:
            seconds = float(self._seconds.value)
            self._set(self._trajectory.added(Keyframe(camera, seconds, photo)))
            self._index.value = len(self._trajectory.keyframes)

    def show_job(self) -> None:
        """Show the progress of the run along the path."""
        job = self._panel.viewer.job
        self._cancel.visible = job.is_running
        self._bar.visible = job.is_running
        self._bar.value = 100 * job.fraction
        if job.line:
            self._progress.content = plain(job.line)

    def _camera(self) -> Cameras:
        """The tab's view at the size of the captured photos."""
        pose, scene = self._panel.tab.pose, self._panel.viewer.scene()
        assert pose is not None
        longest = DEFAULT_SIZE
        if scene.frames:
            longest = max(scene.frames[0].camera.width, scene.frames[0].camera.height)
        return replace(pose, width=pose.width * 64, height=pose.height * 64).camera(longest)

    def _add_view(self) -> None:
        self.add(self._camera())

    def _selection(self) -> int:
        count = len(self._trajectory.keyframes)
        if not count:
            raise InputError("the path has no keyframes; expected one to edit")
        return min(max(1, int(self._index.value)), count) - 1

    def _selected(self) -> None:
        keyframes = self._trajectory.keyframes
        if 1 <= self._index.value <= len(keyframes):
            self._seconds.value = round(keyframes[int(self._index.value) - 1].seconds, 1)

    def _set_seconds(self) -> None:
        with self._lock:
            keyframes = self._trajectory.keyframes
            index = int(self._index.value) - 1
            if 0 <= index < len(keyframes):
                changed = replace(keyframes[index], seconds=float(self._seconds.value))
                self._set(self._trajectory.replaced(index, changed))

    def _edit_clicked(self) -> None:
        with self._lock:
            index = self._selection()
            match self._edit.value:
                case "earlier" | "later" as where:
                    by = -1 if where == "earlier" else 1
                    self._set(self._trajectory.moved(index, by))
                    self._index.value = min(max(1, index + 1 + by), len(self._trajectory.keyframes))
                case "replace":
                    old = self._trajectory.keyframes[index]
                    new = Keyframe(self._camera(), old.seconds)
                    self._set(self._trajectory.replaced(index, new))
                case _:
                    self._set(self._trajectory.removed(index))

    def _play_clicked(self) -> None:
        match self._play.value:
            case "play":
                self._fly()
            case "stop":
                self._is_playing = False
            case "suggest":
                self._suggest()
            case _:
                self._set(Trajectory())

    def _suggest(self) -> None:
        scene = self._panel.viewer.scene()
        if scene.best is None:
            raise InputError("there are no splats yet; a suggestion needs them")
        found = suggest(scene.best, scene.frames, scene.distance, float(self._seconds.value))
        if not found.keyframes:
            raise InputError(f"no path to suggest: {'; '.join(found.notes)}")
        self._set(Trajectory(found.keyframes))

    def _fly(self) -> None:
        """Move the view along the path."""
        frames, client = self._trajectory.frames(), self._panel.client
        if not frames:
            raise InputError("the path has no keyframes; expected some to fly along")
        self._is_playing = True
        for frame in frames:
            if not self._is_playing or not self._panel.tab.is_open:
                break
            pose = frame.camera.camera_to_world[0].double().numpy()
            with client.atomic():
                client.camera.up_direction = -pose[:3, 1]
                client.camera.position = pose[:3, 3]
                client.camera.look_at = (
                    pose[:3, 3] + self._panel.viewer.scene().distance * pose[:3, 2]
                )
            client.flush()
            time.sleep(1 / self._trajectory.fps)
        self._is_playing = False

    def _save_clicked(self) -> None:
        if not self._trajectory.keyframes:
            raise InputError("the path has no keyframes; expected some to save")
        kind = FORMATS[self._format.value]
        content = path_bytes(self._trajectory, kind, self._panel.viewer.scene().origin)
        self._panel.client.send_file_download(FILE_NAMES[kind], content, save_immediately=True)

    def _loaded(self) -> None:
        uploaded = self._load.value
        origin = self._panel.viewer.scene().origin
        self._set(loaded(uploaded.content, uploaded.name, self._trajectory.fps, origin))

    def _run_clicked(self) -> None:
        config, job = self._panel.viewer.config, self._panel.viewer.job
        if not self._trajectory.keyframes:
            raise InputError("the path has no keyframes; expected some to run along")
        assert config.run_arguments is not None
        assert config.path_file is not None
        if job.is_running:
            raise InputError("a run is in progress; wait for its end or cancel it first")
        write_bytes(
            config.path_file,
            path_bytes(self._trajectory, origin=self._panel.viewer.scene().origin),
        )
        job.start(config.run_arguments(config.path_file, VARIANTS[self._last.value]))

    def _set(self, trajectory: Trajectory) -> None:
        with self._lock:
            self._trajectory = trajectory
            self._show()

    def _show(self) -> None:
        """Update the list of keyframes and draw the path in the scene."""
        trajectory, client = self._trajectory, self._panel.client
        rows = [
            f"{number}. {plain(key.photo or 'view')}, {key.seconds:.1f} s"
            for number, key in enumerate(trajectory.keyframes[:MAX_ROWS], start=1)
        ]
        frames = trajectory.frames()
        total = (
            f"{counted(len(trajectory.keyframes), 'keyframe')}, {counted(len(frames), 'frame')}, "
            f"{len(frames) / trajectory.fps:.1f} s"
        )
        self._list.content = "\n".join([*rows, "", total]) if rows else "no keyframes"
        for node in self._nodes:
            node.remove()
        self._nodes = []
        if len(frames) < 2:
            return
        centers = torch.cat([frame.camera.centers for frame in frames]).numpy()
        lines = np.stack([centers[:-1], centers[1:]], axis=1)
        keys = torch.cat([key.camera.centers for key in trajectory.keyframes]).numpy()
        distance = self._panel.viewer.scene().distance
        self._nodes.append(
            client.scene.add_line_segments("/path", lines, colors=(255, 180, 60), line_width=3)
        )
        self._nodes.append(
            client.scene.add_point_cloud(
                "/keyframes", keys, (255, 90, 60), point_size=0.015 * distance
            )
        )
