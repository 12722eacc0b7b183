"""``artifixer evaluate``: all scenes of a benchmark -> one set of tables and a page.

``OUT`` holds ``scenes/`` (see ``evaluate_scene``), ``results.json``, ``table.md``, ``table.csv``,
``table.tex`` and ``report.html``. Scenes are evaluated one after the other, by several processes or
by a Ray cluster. An interrupted scene is continued; the tables are always written anew from the
files in ``scenes/``.
"""

from __future__ import annotations

import importlib.metadata
import sys
from collections.abc import Mapping
from contextlib import closing, suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch

from artifixer.curation.process_workers import ProcessWorkers
from artifixer.curation.ray_workers import RayWorkers
from artifixer.curation.workers import Workers, work_through, worker_devices
from artifixer.evaluation.benchmark_page import write_page
from artifixer.evaluation.diagnostics import DIAGNOSTICS, PREFIX
from artifixer.evaluation.files import method_file, scene_folder, without_places
from artifixer.evaluation.profiles import PROFILES, Networks
from artifixer.evaluation.protocols import Protocol, find_scenes
from artifixer.evaluation.score_files import read_scores
from artifixer.evaluation.scores import SceneScores
from artifixer.evaluation.summary import mean, summarise
from artifixer.evaluation.table_files import comma_separated, markdown, tex
from artifixer.evaluation.tables import CONSISTENCY
from artifixer.imaging.resize import fit_size
from artifixer.pipeline.evaluate_config import EvaluateConfig, evaluation_settings
from artifixer.pipeline.evaluate_scene import check_scene, diagnostic_rows, evaluate_scene
from artifixer.pipeline.evaluate_scores import PHOTOS_ROW
from artifixer.runtime.errors import InputError
from artifixer.runtime.files import write_bytes
from artifixer.runtime.json_io import to_json, write_json
from artifixer.runtime.run_folder import RunFolder
from artifixer.runtime.stopping import stop_if_requested, stop_on_sigterm

FORMAT, VERSION = "artifixer evaluation", 1

#: Results beside ``scenes/``.
OUTPUTS = ("results.json", "table.md", "table.csv", "table.tex", "report.html")


@dataclass(frozen=True)
class Evaluation:
    """A finished evaluation."""

    out: Path
    """Its folder."""
    results: Mapping[str, Any]
    """Content of ``results.json``."""


def evaluate(
    config: EvaluateConfig,
    *,
    workers: int = 1,
    ray: str | None = None,
    overwrite: bool = False,
    require_weights: bool = False,
) -> Evaluation:
    """Evaluate all scenes, or the rest of an interrupted evaluation. require_weights: fail without
    the networks of the benchmark's published table, instead of leaving their columns empty.

    Raises ``InputError`` for bad input, before any heavy work where possible, and ``Stopped`` after
    SIGTERM.
    """
    entry = config.entry
    places = find_scenes(entry, Path(config.data), config.scenes)
    _check(config, places)
    if require_weights:
        _check_weights(entry, Networks.load(config.device, antialias=config.antialias))
    identity = {"protocol": config.protocol, "data": Path(config.data).name}
    with (
        RunFolder.open(
            config.out,
            identity,
            evaluation_settings(config),
            overwrite,
            settings_may_change=True,
            device=config.device,
        ) as folder,
        stop_on_sigterm(),
    ):
        for output in ("scenes", *OUTPUTS):
            folder.path(output)
        with folder.discarded_on_bad_input():
            for name in places:
                check_scene(config, name)
                stop_if_requested("while preparing the scenes")
        scenes = _all_scenes(config, list(places), workers, ray)
        results = collect(config, scenes)
        write_json(folder.root / "results.json", results)
        # as plain JSON data, so that the tables equal those made from the file
        shown = to_json(results)
        for name, text in (
            ("table.md", markdown(shown)),
            ("table.csv", comma_separated(shown)),
            ("table.tex", tex(shown)),
        ):
            write_bytes(folder.root / name, text.encode())
        write_page(folder.root / "report.html", shown, config.out)
    return Evaluation(config.out, shown)


def _check(config: EvaluateConfig, places: Mapping[str, Path]) -> None:
    """Raise InputError for settings that are wrong whatever the scenes contain."""
    if config.diagnostics:
        if not config.variants:
            raise InputError("--diagnostics: needs a run; give --variants, at least artifixer")
        diagnostic_rows(config)
    elif config.diagnostic_models:
        raise InputError("--diagnostic-models: needs --diagnostics")
    lacking = [name for name in places if config.prompts and name not in config.prompts]
    if lacking:
        raise InputError(f"--prompts: has no prompt for {', '.join(lacking)}; expected all scenes")
    if not config.variants and not config.frames:
        raise InputError(
            "nothing to evaluate: give --variants, --frames NAME=FOLDER, or both; --variants none "
            "scores frames alone"
        )
    fit_size(100, 100, config.size)
    names = [method_file(name) for name in config.frames]
    known = {"3dgut", "input", "artifixer", "artifixer3d", "artifixer3d_plus", PHOTOS_ROW}
    for name, file in zip(config.frames, names, strict=True):
        is_ours = file in known or file.startswith(("inpainting_", PREFIX))
        if names.count(file) > 1 or is_ours:
            raise InputError(f"--frames {name}=...: the name is in use, expected another")
    out = config.out.resolve()
    for place in places.values():
        if not str(place).startswith("procedural:") and out.is_relative_to(place.resolve()):
            raise InputError(f"--out {config.out}: lies inside the scene {place}")


def _check_weights(entry: Protocol, networks: Networks) -> None:
    needed = {figure.name for name in entry.profiles for figure in PROFILES[name].figures} | {"fid"}
    for name, why in networks.missing.items():
        if name in needed:
            raise InputError(f"--require-weights: {why}")


def _all_scenes(
    config: EvaluateConfig, names: list[str], workers: int, ray: str | None
) -> dict[str, dict[str, Any]]:
    if workers == 1 and ray is None:
        return {name: evaluate_scene(config, name) for name in names}
    pool: Workers
    if ray is not None:
        pool = RayWorkers(evaluate_scene, max(1, workers), config.device, ray)
    else:
        pool = ProcessWorkers(evaluate_scene, worker_devices(config.device, workers))
    found: dict[str, dict[str, Any]] = {}
    with closing(pool):
        jobs = ((number, (config, name)) for number, name in enumerate(names))
        for number, result in work_through(pool, jobs):
            if result is None:
                raise RuntimeError(f"{names[number]}: its worker died in every attempt")
            found[names[number]] = result
    stop_if_requested()
    return {name: found[name] for name in names}


# Results ------------------------------------------------------------------------------------------


def collect(config: EvaluateConfig, scenes: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
    """The content of ``results.json``, from the scenes' folders."""
    entry = config.entry
    missing = {
        name: without_places(why, _places())
        for name, why in Networks.load(config.device, antialias=config.antialias).missing.items()
    }
    first = next(iter(scenes.values()))
    methods = {}
    for name, facts in first["methods"].items():
        scores = {
            scene: read_scores(
                scene_folder(config.out, scene) / "scores" / f"{method_file(name)}.json"
            )
            for scene in scenes
        }
        methods[name] = {
            **facts,
            "summary": summarise(scores, missing),
            "consistency": _consistency(scenes, name),
            "views": _records(scores),
        }
    caveats = list(_caveats(config, scenes))
    figures = {figure.name for name in entry.profiles for figure in PROFILES[name].figures}
    return {
        "format": FORMAT,
        "version": VERSION,
        "protocol": entry.name,
        "title": entry.title,
        "profiles": list(entry.profiles),
        "comparable": bool(entry.published) and not caveats,
        "stand_in": any(scene["stand_in"] for scene in scenes.values()),
        "caveats": caveats,
        "missing": {
            name: why
            for name, why in missing.items()
            if name in figures | {"fid", "st_lpips", "kd"}
        },
        "measures": {
            "torchmetrics": _version("torchmetrics"),
            "torch-fidelity": _version("torch-fidelity"),
            "FID resizes with antialiasing": config.antialias,
            "resized frames": config.resize,
        },
        "settings": evaluation_settings(config),
        "scenes": {
            name: {key: scene[key] for key in ("train", "heldout", "sizes", "masks", "caveats")}
            for name, scene in scenes.items()
        },
        "photo_consistency": _consistency(scenes, PHOTOS_ROW),
        "diagnostics": _diagnostics(config),
        "methods": methods,
    }


def _diagnostics(config: EvaluateConfig) -> list[dict[str, Any]]:
    """One record per row: the settings of its frames, or the reason why it is absent."""
    rows = diagnostic_rows(config)
    if rows is None:
        return []
    records = []
    for row in DIAGNOSTICS:
        record: dict[str, Any] = {"title": row.title, "group": row.group, "method": row.method}
        record["absent"] = rows.reason(row)
        if record["absent"] is None:
            model, settings = rows.files_of(row).config, rows.settings(row)
            record["trained_for"] = row.role if row.role in rows.models else ""
            record["model"] = model.name
            record["source"] = settings.source or model.in_mode(settings.mode).source
            record["steps"] = settings.steps or model.steps_in(settings.mode)
            record["drop"] = list(settings.drop)
        records.append(record)
    return records


def _places() -> dict[str, str]:
    """Placeholders for the folders of this machine in messages about missing networks, by path."""
    hub = torch.hub.get_dir()
    found = {hub: "$TORCH_HOME/hub", str(Path(hub).resolve()): "$TORCH_HOME/hub"}
    found |= {path: "site-packages" for path in sys.path if Path(path).is_absolute()}
    return found | {sys.prefix: "environment", str(Path.home()): "~"}


def _records(scores: Mapping[str, SceneScores]) -> list[dict[str, Any]]:
    """One record per frame."""
    records = []
    for scene, found in scores.items():
        for view in found.views:
            entry = {key: value for key, value in asdict(view).items() if key != "values"}
            entry["pixels"] = view.values[0] // 3
            records.append({"scene": scene, **entry})
    return records


def _consistency(scenes: Mapping[str, Mapping[str, Any]], method: str) -> dict[str, Any]:
    """Means over the scenes that have pairs of frames."""
    found: dict[str, Any] = {}
    for part, error, _ in CONSISTENCY:
        values = [
            value
            for scene in scenes.values()
            if (value := to_json(scene["consistency"]).get(method, {}).get(part, {}).get(error))
            is not None
        ]
        found.setdefault(part, {})[error] = mean(values)
        found[part][f"{error}_scenes"] = len(values)
    return found


def _caveats(config: EvaluateConfig, scenes: Mapping[str, Mapping[str, Any]]) -> list[str]:
    """Reasons why figures are not comparable with published ones, each once."""
    entry = config.entry
    found: dict[str, None] = {}
    if not entry.published:
        return []
    if entry.scenes is not None and len(scenes) < len(entry.scenes):
        found[f"{len(scenes)} of {len(entry.scenes)} scenes"] = None
    if config.size is not None:
        found[f"photos resized to {config.size}"] = None
    if config.resize is not None and config.frames:
        found[f"frames of another size resized ({config.resize})"] = None
    if config.own_truth:
        found["methods scored against photos of their own"] = None
    for scene in scenes.values():
        for caveat in scene["caveats"]:
            found[caveat] = None
    return list(found)


def _version(package: str) -> str | None:
    with suppress(importlib.metadata.PackageNotFoundError):
        return importlib.metadata.version(package)
    return None
