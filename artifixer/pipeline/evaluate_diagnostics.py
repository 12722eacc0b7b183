"""Diagnostic rows of one scene: the renders of its run are enhanced once more for each row.

``SCENE/diagnostics/ROW/%05d.png`` are frames along the run's path at its size. Each row is a stage
that resumes inside the clip; nothing is reconstructed or rendered again.
"""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import closing
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Literal

from artifixer.enhance.enhance import EnhanceConfig, enhance
from artifixer.enhance.sources import alike_cameras
from artifixer.evaluation.diagnostics import (
    DIAGNOSTICS,
    ROLES,
    Diagnostic,
    absent,
    settings_of_row,
)
from artifixer.geometry.camera_file import read_cameras
from artifixer.imaging.resize import at_size
from artifixer.pipeline.enhance import StoreOnDisk, depth_key
from artifixer.runtime.errors import InputError
from artifixer.runtime.fingerprint import fingerprint
from artifixer.runtime.image_files import write_png
from artifixer.runtime.json_io import as_object, read_json
from artifixer.runtime.progress import Progress, ProgressBar
from artifixer.runtime.run_folder import RunFolder
from artifixer.runtime.stages import StageFiles, Stages
from artifixer.runtime.stopping import stop_if_requested
from artifixer.splats.render_folder import read_render_folder, reference_files
from artifixer.video.checkpoints.files import ModelFiles
from artifixer.video.model import Mode, Model, ModelConfig
from artifixer.video.model_files import load_model, locate_model

FOLDER = "diagnostics"

#: Maximum length of a scene's prompt, characters.
LONGEST_PROMPT = 10_000


@dataclass(frozen=True)
class DiagnosticRows:
    """The diagnostic rows of an evaluation."""

    models: Mapping[str, ModelFiles]
    """Model files by role; the key "" is the evaluated model."""

    mode: Mode
    """Mode of the evaluated run."""

    steps: int | Literal["adaptive"] | None
    """Steps of the evaluated run; None for the model's own number."""

    references: int
    """Maximum number of reference views."""

    has_prompts: bool
    """Whether the scenes have prompts."""

    @cached_property
    def configs(self) -> dict[str, ModelConfig]:
        """Model configs by role."""
        return {role: files.config for role, files in self.models.items()}

    def reason(self, row: Diagnostic) -> str | None:
        """The reason why the row is absent; None if it is present."""
        return absent(row, self.configs, self.has_prompts, self.references)

    @property
    def present(self) -> list[Diagnostic]:
        """The rows that can be computed."""
        return [row for row in DIAGNOSTICS if self.reason(row) is None]

    def files_of(self, row: Diagnostic) -> ModelFiles:
        """Files of the row's model."""
        return self.models.get(row.role, self.models[""])

    def settings(self, row: Diagnostic) -> EnhanceConfig:
        """Settings of the row's frames."""
        return settings_of_row(row, self.files_of(row).config, self.mode, self.steps)


def find_models(model: str, given: Mapping[str, Path]) -> dict[str, ModelFiles]:
    """Model files by role. Raises ``InputError`` for unknown roles and missing models."""
    found = {"": locate_model(model)}
    for role, folder in given.items():
        if role not in ROLES:
            raise InputError(
                f"--diagnostic-models {role}=...: unknown, expected some of {', '.join(ROLES)}"
            )
        place = folder / "model" if (folder / "model" / "config.json").is_file() else folder
        found[role] = locate_model(str(place))
        found[role].check_weights()
        starts_at_noise = found[role].config.source == "noise"
        if (role == "concatenation") != starts_at_noise:
            raise InputError(
                f"--diagnostic-models {role}={folder}: model {found[role].config.name} starts at "
                f"{found[role].config.source}; expected "
                f"{'noise' if role == 'concatenation' else 'mixing or direct'}"
            )
    return found


def read_prompts(path: Path) -> dict[str, str]:
    """Read ``--prompts``, a JSON object {scene: prompt}. Raises ``InputError`` otherwise."""
    content = as_object(read_json(path), path)
    for name, text in content.items():
        if not isinstance(text, str) or len(text) > LONGEST_PROMPT:
            raise InputError(
                f"{path}: {name[:60]!r} is not a text; expected at most {LONGEST_PROMPT:,} "
                "characters"
            )
    return content


def make_frames(
    rows: DiagnosticRows,
    files: RunFolder,
    camera_scale: float,
    prompt: str,
    seed: int,
    device: str,
) -> dict[str, Path]:
    """Compute the frames of all rows from the renders of the scene's finished run; returns their
    folders by method.
    """
    run = files.root / "run"
    shown = run / "renders_input"
    renders = read_render_folder(shown if shown.is_dir() else run / "renders")
    cameras = alike_cameras(renders.frames, str(renders.path))
    target = read_cameras(run / "cameras.json")[0].camera
    references = [view.in_memory() for view in renders.references]
    pictures = [
        renders.path / kind / f"{index:05d}.png"
        for kind in ("rgb", "opacity")
        for index in range(len(renders))
    ]
    shared = {
        "renders": fingerprint(renders.path / "cameras.json", *pictures),
        "references": fingerprint(reference_files(renders.references)),
        "size": [target.width, target.height],
    }
    loaded: list[tuple[str, Model]] = []

    def model_at(place: ModelFiles) -> Model:
        if not loaded or loaded[0][0] != place.identity:
            loaded.clear()
            loaded.append((place.identity, load_model(place, device)))
        return loaded[0][1]

    found = {}
    with Progress([row.name for row in rows.present]) as progress:
        stages = Stages(files, progress, write_timing=False)
        for row in rows.present:
            place = rows.files_of(row)
            settings = replace(
                rows.settings(row),
                seed=seed,
                camera_scale=camera_scale,
                prompt=prompt if place.config.takes_text else "",
            )
            folder, state = f"{FOLDER}/{row.name}", f"{FOLDER}/{row.name}.state"

            def work(
                bar: ProgressBar,
                place: ModelFiles = place,
                settings: EnhanceConfig = settings,
                folder: str = folder,
                state: str = state,
            ) -> None:
                store = StoreOnDisk(files.root / state)
                blocks = enhance(
                    renders, cameras, references, model_at(place), settings, store=store
                )
                with closing(blocks):  # type: ignore[type-var]
                    for block in blocks:
                        for index, frame in enumerate(block.frames, start=block.first_index):
                            path = files.root / folder / f"{index:05d}.png"
                            if not path.is_file():
                                write_png(path, at_size(frame, target.width, target.height))
                        bar.update(block.first_index + len(block.frames))
                        stop_if_requested("between frames; run the same command to continue")

            finish = place.config.finish(settings.mode)
            key = {
                **shared,
                "model": place.identity,
                "settings": settings,
                **finish.key,
                **({"depth": depth_key(renders)} if finish.reads_depth else {}),
            }
            stage = StageFiles(f"diagnostic_{row.name}", (folder,), (state,))
            stages.complete(stage, key, len(cameras), work)
            found[row.method] = files.root / folder
        for row in DIAGNOSTICS:
            if row.method not in found:
                folder = f"{FOLDER}/{row.name}"
                stages.discard(
                    StageFiles(f"diagnostic_{row.name}", (folder,), (f"{folder}.state",))
                )
    return found
