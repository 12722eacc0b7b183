"""One scene of a benchmark: prepare its capture, run the job on it, and score every method's
frames.

Layout of ``OUT/scenes/SCENE``, a run folder of its own::

    capture/             the photos that count, with transforms.json (where the benchmark has a
                         layout of its own)
    split.json           names of the training and of the held-out photos
    run/                 ``artifixer run`` on it, where variants are wanted
    diagnostics/ROW/     frames of the rows of ``--diagnostics``
    scores/METHOD.json   figures of every held-out view, and features for FID and KD
    pictures/METHOD/     its worst and its best view by PSNR, beside the photo
    scene.json           split, caveats, and the consistency of every method

The same call continues where it was killed; a method is scored again when its frames, the photos,
the masks or the measures at hand have changed.
"""

from __future__ import annotations

import functools
import io
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from jaxtyping import UInt8

from artifixer.enhance.distill import DistillConfig
from artifixer.evaluation.consistency import (
    Sequence3d,
    consistency,
    neighbour_warps,
    revisit_warps,
)
from artifixer.evaluation.evaluate import VARIANT_TITLES
from artifixer.evaluation.files import method_file, relative_to_any, scene_folder
from artifixer.evaluation.frames import FrameSource, Naming, SideBySide, find_frames
from artifixer.evaluation.inpainting import METHODS, inpaint
from artifixer.evaluation.profiles import Networks
from artifixer.evaluation.protocols import (
    BenchmarkScene,
    Options,
    Protocol,
    find_scenes,
    protocol,
    read_mask,
)
from artifixer.evaluation.scores import SceneScores, View, score_scene, write_scores
from artifixer.geometry.camera_file import read_cameras
from artifixer.imaging.resize import resize_bilinear
from artifixer.pipeline.capture import CaptureChoice, LoadedCapture, load_capture
from artifixer.pipeline.evaluate_diagnostics import FOLDER as DIAGNOSTICS_FOLDER
from artifixer.pipeline.evaluate_diagnostics import DiagnosticRows, find_models, make_frames
from artifixer.pipeline.run import run
from artifixer.pipeline.run_config import RunConfig, check_config
from artifixer.runtime.errors import InputError
from artifixer.runtime.files import write_bytes
from artifixer.runtime.fingerprint import fingerprint
from artifixer.runtime.image_files import read_image
from artifixer.runtime.json_io import read_json, to_json, write_json
from artifixer.runtime.progress import Progress
from artifixer.runtime.run_folder import RunFolder
from artifixer.runtime.stopping import stop_if_requested, stop_on_sigterm
from artifixer.scenes.identity import capture_fingerprint
from artifixer.scenes.references import REFERENCE_COUNT
from artifixer.splats.reconstruct import ReconstructConfig
from artifixer.splats.render_folder import RenderFolder, read_render_folder
from artifixer.video.model import Mode

Resize = Literal["bicubic", "lanczos", "area"]
#: The row of the photos themselves in tables of consistency.
PHOTOS_ROW = "photos"

#: Raised when scores are computed differently for the same inputs.
VERSION = 1

#: What lies in the folder of a scene.
SCENE_OUTPUTS = (
    *("capture", "split.json", "run", "cache", "scores", "pictures"),
    *("consistency.json", "scene.json", DIAGNOSTICS_FOLDER),
)

#: Longest side of the pictures for the page, pixels, and their quality on WebP's scale to 100.
PICTURE_SIDE, PICTURE_QUALITY = 480, 85


@dataclass(frozen=True)
class EvaluateConfig:
    """Everything an evaluation depends on.

    data: the benchmark's folder, or a capture. scenes: by name, empty for all. variants: of a run,
    by their names in files; empty for none. frames: folders of other methods by the name to show.
    naming, side_by_side: see ``evaluation/frames``. resize: how frames of another size are brought
    to the photo's; None refuses them. own_truth: score against the photos that lie beside a
    method's frames. size: of the photos, None as they are. path: of the run, None for the
    benchmark's. antialias: of FID's second resizing. diagnostics: make the rows of
    ``evaluation/diagnostics`` as well. diagnostic_models: folders by what they were trained for.
    prompts: text by scene. The rest as for ``run``.
    """

    protocol: str
    data: str
    out: Path
    scenes: tuple[str, ...] = ()
    options: Options = field(default_factory=Options)
    variants: tuple[str, ...] = ()
    frames: Mapping[str, Path] = field(default_factory=dict)
    naming: Naming = "auto"
    side_by_side: SideBySide = "auto"
    resize: Resize | None = None
    own_truth: bool = False
    size: str | None = None
    path: str | None = None
    antialias: bool = True
    model: str = "tiny"
    mode: Mode = "improve"
    steps: int | Literal["adaptive"] | None = None
    references: int = REFERENCE_COUNT
    camera_scale: float | None = None
    depth_model: str | None = None
    reconstruct: ReconstructConfig = field(default_factory=ReconstructConfig)
    distill: DistillConfig = field(default_factory=DistillConfig)
    seed: int = 0
    device: str = "cpu"
    diagnostics: bool = False
    diagnostic_models: Mapping[str, Path] = field(default_factory=dict)
    prompts: Mapping[str, str] = field(default_factory=dict)

    @property
    def entry(self) -> Protocol:
        return protocol(self.protocol)


def run_config(config: EvaluateConfig, scene: BenchmarkScene, folder: Path) -> RunConfig:
    """The run on a scene whose split has been written."""
    return RunConfig(
        choice=_choice(config, scene, folder),
        out=folder / "run",
        path=config.path or config.entry.path,
        model=config.model,
        variants=config.variants,
        prompt=config.prompts.get(scene.name, ""),
        mode=config.mode,
        steps=config.steps,
        references=config.references,
        camera_scale=config.camera_scale,
        depth_model=config.depth_model,
        reconstruct=config.reconstruct,
        distill=config.distill,
        seed=config.seed,
        device=config.device,
    )


def open_benchmark_scene(config: EvaluateConfig, name: str, folder: Path) -> BenchmarkScene:
    """The scene, its capture written where the benchmark has a layout of its own, and its split.

    Raises InputError for whatever is wrong with it, and with the frames to be scored.
    """
    scene = config.entry.open(Path(config.data), name, config.options, folder / "capture")
    write_json(folder / "split.json", {"train": scene.train, "heldout": scene.heldout})
    for source in _sources(config, scene):
        if config.own_truth and not source.has_truth:
            raise InputError(
                f"--own-gt: {config.frames[source.name]} has no photos beside its frames "
                f"({source.producer})"
            )
    return scene


def diagnostic_rows(config: EvaluateConfig) -> DiagnosticRows | None:
    """The rows of the evaluation; None without them. Raises InputError for models that are not
    there or were trained for something else.
    """
    if not config.diagnostics:
        return None
    models = find_models(config.model, config.diagnostic_models)
    steps = config.steps
    return DiagnosticRows(models, config.mode, steps, config.references, bool(config.prompts))


def evaluate_scene(config: EvaluateConfig, name: str, device: str = "") -> dict[str, Any]:
    """Everything about one scene; returns what its ``scene.json`` holds. device: takes the place of
    the config's.

    Raises ``InputError``, and ``Stopped`` after SIGTERM: the same call then continues.
    """
    config = replace(config, device=device or config.device)
    with _opened(config, name) as (files, scene):
        folder = files.root
        diagnostics: dict[str, Path] = {}
        if config.variants:
            scale = run(run_config(config, scene, folder)).camera_scale.value
            rows = diagnostic_rows(config)
            if rows is not None:
                prompt = config.prompts.get(scene.name, "")
                diagnostics = make_frames(rows, files, scale, prompt, config.seed, config.device)
        capture = load_capture(
            _choice(config, scene, folder), work_folder=None, cache_folder=folder / "cache"
        )
        networks = _networks(config.device, config.antialias)
        content = _Scoring(config, scene, capture, networks, files, diagnostics).finish()
        write_json(folder / "scene.json", content)
        # as JSON has it, so that a result that comes from the file is the same
        return dict(to_json(content))


def check_scene(config: EvaluateConfig, name: str) -> None:
    """Write the scene's capture and split, and find what is wrong with it, with the frames to be
    scored and with the run to come, before any heavy work. Raises InputError.
    """
    with _opened(config, name) as (files, scene):
        if config.variants:
            check_config(run_config(config, scene, files.root))


@contextmanager
def _opened(config: EvaluateConfig, name: str) -> Iterator[tuple[RunFolder, BenchmarkScene]]:
    """The scene and its folder, which stays locked inside."""
    place = find_scenes(config.entry, Path(config.data), (name,))[name]
    identity = {"protocol": config.protocol, "scene": name, "files": _identity(place)}
    settings = {"options": _named(config.options), "size": config.size}
    with (
        RunFolder.open(
            scene_folder(config.out, name),
            identity,
            settings,
            settings_may_change=True,
            device=config.device,
        ) as files,
        stop_on_sigterm(),
    ):
        for output in SCENE_OUTPUTS:
            files.path(output)
        with files.discarded_on_bad_input():
            scene = open_benchmark_scene(config, name, files.root)
        yield files, scene


def _named(options: Options) -> dict[str, Any]:
    """The options without where files lie."""
    return asdict(options) | {
        name: getattr(options, name) is not None for name in ("masks", "train_ids")
    }


def _identity(place: Path) -> str:
    if str(place).startswith("procedural:"):
        return str(place)
    return capture_fingerprint(place) if place.is_dir() else fingerprint(place)


def _choice(config: EvaluateConfig, scene: BenchmarkScene, folder: Path) -> CaptureChoice:
    return CaptureChoice(scene.capture, train_list=folder / "split.json", size=config.size)


def _sources(config: EvaluateConfig, scene: BenchmarkScene) -> list[FrameSource]:
    return [
        find_frames(
            method,
            folder,
            scene.name,
            scene.photos,
            scene.heldout,
            config.naming,
            config.side_by_side,
        )
        for method, folder in config.frames.items()
    ]


@functools.lru_cache(maxsize=1)
def _networks(device: str, antialias: bool) -> Networks:
    return Networks.load(device, antialias=antialias)


# Scoring ------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Method:
    """Frames by held-out photo. path: for the record. key: changes with the frames. sequence: of
    the run's whole path, where there is one. source: of another program."""

    name: str
    read: Callable[[str], UInt8[np.ndarray, "height width 3"]]
    path: Callable[[str], str]
    key: object
    sequence: Callable[[int], UInt8[np.ndarray, "height width 3"]] | None = None
    source: FrameSource | None = None


class _Scoring:
    def __init__(
        self,
        config: EvaluateConfig,
        scene: BenchmarkScene,
        capture: LoadedCapture,
        networks: Networks,
        files: RunFolder,
        diagnostics: Mapping[str, Path],
    ) -> None:
        self.diagnostics = diagnostics
        self.config, self.scene, self.networks, self.files = config, scene, networks, files
        self.photos = {
            capture.scene.photos[index].name: capture.scene.photos[index]
            for index in capture.heldout
        }
        self.run_root = files.root / "run" if config.variants else None
        self.renders: RenderFolder | None = None
        self.positions: dict[str, int] = {}
        if self.run_root is not None:
            self.renders = read_render_folder(self.run_root / "renders")
            frames = read_cameras(self.run_root / "cameras.json")
            for index, frame in enumerate(frames):
                if frame.photo is not None:
                    self.positions.setdefault(frame.photo, index)

    def finish(self) -> dict[str, Any]:
        methods = [*self._variants(), *self._others()]
        self._discard_stale({method_file(method.name) for method in methods})
        with Progress([method.name for method in methods]) as progress:
            for method in methods:
                self._scored(method, progress)
            errors = self._consistency(methods, progress)
        sizes = {f"{photo.width}x{photo.height}" for photo in self.photos.values()}
        return {
            "scene": self.scene.name,
            "train": self.scene.train,
            "heldout": self.scene.heldout,
            "sizes": sorted(sizes),
            "masks": len(self.scene.masks),
            "caveats": list(self.scene.caveats),
            "stand_in": self.scene.is_stand_in,
            "methods": {
                method.name: {
                    "producer": method.source.producer if method.source else "artifixer",
                    "naming": method.source.naming if method.source else "",
                    "own_gt": bool(method.source and self.config.own_truth),
                }
                for method in methods
            },
            "consistency": errors,
        }

    def _discard_stale(self, kept: set[str]) -> None:
        """Scores and pictures of methods that are not evaluated any more."""
        for path in sorted((self.files.root / "scores").glob("*")):
            if path.stem not in kept and path.is_file():
                path.unlink()
        for path in sorted((self.files.root / "pictures").glob("*")):
            if path.name not in kept and path.is_dir():
                shutil.rmtree(path)

    # Who is scored

    def _variants(self) -> list[_Method]:
        if self.run_root is None or self.renders is None:
            return []
        root, renders = self.run_root, self.renders
        missing = [name for name in self.photos if name not in self.positions]
        if missing:
            raise InputError(
                f"{root}: its path passes {len(self.positions)} of {len(self.photos)} held-out "
                f"photos, not {missing[0]}; give --path heldout"
            )
        generator_input = root / "renders_input"
        shown = read_render_folder(generator_input) if generator_input.is_dir() else renders
        folders = {"3dgut": root / "renders" / "rgb"}
        if generator_input.is_dir():
            folders["input"] = generator_input / "rgb"
        folders |= {
            name: root / "frames" / name
            for name in VARIANT_TITLES
            if name in self.config.variants and (root / "frames" / name).is_dir()
        }
        methods = [
            self._stored(name, folder)
            for name, folder in folders.items()
            if name in ("3dgut", "input")
        ]
        methods += [self._inpainted(shown, method) for method in METHODS]
        methods += [
            self._stored(name, folder)
            for name, folder in folders.items()
            if name not in ("3dgut", "input")
        ]
        return [*methods, *(self._stored(*row) for row in self.diagnostics.items())]

    def _stored(self, name: str, folder: Path) -> _Method:
        def file(index: int) -> Path:
            return folder / f"{index:05d}.png"

        return _Method(
            name,
            lambda photo: read_image(file(self.positions[photo])),
            lambda photo: self._relative(file(self.positions[photo])),
            [file(self.positions[photo]) for photo in sorted(self.photos)],
            lambda index: read_image(file(index)),
        )

    def _inpainted(self, renders: RenderFolder, method: str) -> _Method:
        chosen = next(known for known in METHODS if known == method)

        def picture(index: int) -> UInt8[np.ndarray, "height width 3"]:
            return inpaint(renders.rgb(index), renders.opacity(index), chosen)

        indices = [self.positions[photo] for photo in sorted(self.photos)]
        key = [
            [renders.path / kind / f"{index:05d}.png" for kind in ("rgb", "opacity")]
            for index in indices
        ]
        return _Method(
            f"inpainting_{method}",
            lambda photo: picture(self.positions[photo]),
            lambda photo: "",
            key,
            picture,
        )

    def _others(self) -> list[_Method]:
        return [
            _Method(
                source.name,
                source.prediction,
                functools.partial(
                    lambda files, root, photo: relative_to_any(files[photo], root),
                    source.files,
                    (self.config.frames[source.name],),
                ),
                [
                    [table.get(photo) for photo in sorted(self.photos)]
                    for table in (source.files, source.truths, source.opacities, source.depths)
                ],
                source=source,
            )
            for source in _sources(self.config, self.scene)
        ]

    # What is computed

    def _scored(self, method: _Method, progress: Progress) -> None:
        key = {
            "version": VERSION,
            "frames": fingerprint(method.key),
            "photos": self._photos_key,
            "masks": fingerprint([path for _, path in sorted(self.scene.masks.items())]),
            "opacity": self._opacity_key,
            "profiles": list(self.config.entry.profiles),
            "measures": self.networks.available,
            "antialias": self.config.antialias,
            "resize": self.config.resize,
            "own photos": self.config.own_truth,
            "split": [self.scene.train, self.scene.heldout],
        }
        name = f"scores/{method_file(method.name)}.json"
        stage = f"score-{method_file(method.name).replace('+', '.plus')}"
        if self.files.is_done(stage, key):
            return
        with progress.stage(method.name, len(self.photos)) as shown:
            scores = score_scene(
                self._views(method), self.config.entry.profiles, self.networks, shown.update
            )
        write_scores(self.files.root / name, scores)
        pictures = f"pictures/{method_file(method.name)}"
        self._write_pictures(method, scores, self.files.root / pictures)
        self.files.mark_done(stage, key, [name, pictures])

    def _write_pictures(self, method: _Method, scores: SceneScores, folder: Path) -> None:
        errors = {view.photo: view.squared[0] / view.values[0] for view in scores.views}
        for label, choose in (("worst", max), ("best", min)):
            chosen = choose(errors, key=lambda photo: errors[photo])
            (view,) = self._views(method, [chosen])
            pair = np.concatenate([view.truth, view.prediction], axis=1)
            write_bytes(folder / f"{label}.webp", _picture(pair))

    def _views(self, method: _Method, names: Sequence[str] = ()) -> Iterator[View]:
        """All held-out views, or the named ones."""
        for name in names or sorted(self.photos):
            photo = self.photos[name]
            truth, prediction = photo.read(), method.read(name)
            truth_path = self._relative(photo.path) if photo.path is not None else name
            source = method.source
            if source is not None and self.config.own_truth:
                truth, truth_path = source.truth(name), f"{source.producer}: its own"
            height, width = truth.shape[:2]
            if source is None:
                prediction = _at_size(prediction, width, height)
            elif prediction.shape != truth.shape:
                prediction = self._resized(prediction, width, height, method, name)
            mask_path = self.scene.masks.get(name)
            mask = read_mask(mask_path, width, height) if mask_path is not None else None
            yield View(
                name,
                truth,
                prediction,
                method.path(name),
                truth_path,
                mask,
                "" if mask_path is None else self._relative(mask_path),
                self._opacity(name, width, height),
                source.opacity(name) if source else None,
                self._depth(source, name, width, height) if source else None,
            )

    def _resized(
        self,
        prediction: UInt8[np.ndarray, "rows columns 3"],
        width: int,
        height: int,
        method: _Method,
        photo: str,
    ) -> UInt8[np.ndarray, "height width 3"]:
        if self.config.resize is None:
            raise InputError(
                f"{method.path(photo)}: {prediction.shape[1]}x{prediction.shape[0]} pixels, the "
                f"photo {photo} has {width}x{height}; --resize bicubic, lanczos or area brings "
                "frames to the photo's size and records it"
            )
        return resize_frame(prediction, width, height, self.config.resize)

    def _opacity(
        self, photo: str, width: int, height: int
    ) -> UInt8[np.ndarray, "height width"] | None:
        """Of the render that the generator gets."""
        if self.renders is None or photo not in self.positions:
            return None
        return _at_size(self._shown.opacity(self.positions[photo]), width, height)

    @staticmethod
    def _depth(source: FrameSource, photo: str, width: int, height: int) -> np.ndarray | None:
        depth = source.depth(photo)
        if depth is None or depth.shape == (height, width):
            return depth
        rows = np.arange(height) * depth.shape[0] // height
        columns = np.arange(width) * depth.shape[1] // width
        chosen: np.ndarray = depth[rows][:, columns]
        return chosen

    def _consistency(self, methods: list[_Method], progress: Progress) -> dict[str, Any]:
        """Warp errors of the held-out views in the order of the path and of the whole path."""
        if self.renders is None:
            return {}
        renders = self.renders
        key = {
            "version": VERSION,
            "methods": {method.name: fingerprint(method.key) for method in methods},
            "photos": self._photos_key,
            "depths": fingerprint(
                [renders.path / "depth" / f"{index:05d}.npy" for index in range(len(renders))]
            ),
            "own photos": self.config.own_truth,
        }
        name = "consistency.json"
        if not self.files.is_done("consistency", key):
            with progress.stage("consistency", 0):
                write_json(self.files.root / name, self._errors(methods, renders))
            self.files.mark_done("consistency", key, [name])
        content: dict[str, Any] = read_json(self.files.root / name)
        return content

    def _errors(self, methods: list[_Method], renders: RenderFolder) -> dict[str, Any]:
        order = sorted(self.photos, key=lambda photo: self.positions[photo])
        at_photos = [self.positions[photo] for photo in order]
        found: dict[str, Any] = {}
        for label, indices in (("views", at_photos), ("path", list(range(len(renders))))):
            if label == "path" and len(indices) == len(at_photos):
                continue  # the path is the held-out views
            views = _sequence(renders, indices)
            near, far = neighbour_warps(views), revisit_warps(views)
            pictures: dict[str, Callable[[int], np.ndarray]] = {}
            for method in methods:
                if label == "views" and not (method.source and self.config.own_truth):
                    pictures[method.name] = functools.partial(_nth, method.read, order)
                elif label == "path" and method.sequence is not None:
                    pictures[method.name] = method.sequence
            if label == "views":
                pictures[PHOTOS_ROW] = lambda index: self.photos[order[index]].read()
            width, height = renders.frames[0].camera.width, renders.frames[0].camera.height
            for name, picture in pictures.items():
                at_camera = functools.lru_cache(maxsize=16)(
                    functools.partial(_resized_frame, picture, width, height)
                )
                found.setdefault(name, {})[label] = consistency(at_camera, near, far)
        return found

    # What keys are made of

    @functools.cached_property
    def _photos_key(self) -> str:
        return fingerprint([(name, self.photos[name].read()) for name in sorted(self.photos)])

    @functools.cached_property
    def _shown(self) -> RenderFolder:
        assert self.run_root is not None and self.renders is not None
        folder = self.run_root / "renders_input"
        return read_render_folder(folder) if folder.is_dir() else self.renders

    @functools.cached_property
    def _opacity_key(self) -> str:
        if self.renders is None:
            return ""
        return fingerprint(
            [
                self._shown.path / "opacity" / f"{self.positions[photo]:05d}.png"
                for photo in sorted(self.photos)
                if photo in self.positions
            ]
        )

    def _relative(self, path: Path) -> str:
        """Paths do not depend on where the folders of the evaluation lie."""
        config = self.config
        roots = (config.out, Path(config.data), config.options.masks)
        return relative_to_any(path, [root for root in roots if root is not None])


def _picture(pair: UInt8[np.ndarray, "height width 3"]) -> bytes:
    """Photo and frame side by side as WebP."""
    from PIL import Image

    height, width = pair.shape[0], pair.shape[1]
    factor = min(1.0, PICTURE_SIDE / max(height, width // 2))
    image = Image.fromarray(pair).resize(
        (max(1, round(width * factor)), max(1, round(height * factor))), Image.Resampling.LANCZOS
    )
    buffer = io.BytesIO()
    image.save(buffer, "webp", quality=PICTURE_QUALITY, method=4)
    return buffer.getvalue()


def resize_frame(
    pixels: UInt8[np.ndarray, "rows columns 3"], width: int, height: int, method: Resize
) -> UInt8[np.ndarray, "height width 3"]:
    """Frames of other programs at the photo's size. ``bicubic`` is without antialiasing, as the
    public release resizes; ``lanczos`` and ``area`` (a box filter) are with it."""
    from PIL import Image

    if method == "bicubic":
        planes = torch.from_numpy(np.ascontiguousarray(pixels)).permute(2, 0, 1)[None].float()
        resized = torch.nn.functional.interpolate(
            planes, size=(height, width), mode="bicubic", align_corners=False
        )
        return resized[0].permute(1, 2, 0).round().clamp(0, 255).to(torch.uint8).numpy()
    chosen = Image.Resampling.LANCZOS if method == "lanczos" else Image.Resampling.BOX
    return np.array(Image.fromarray(pixels).resize((width, height), chosen))


def _sequence(renders: RenderFolder, indices: list[int]) -> Sequence3d:
    @functools.lru_cache(maxsize=16)
    def depth(position: int) -> np.ndarray:
        found = renders.depth(indices[position])
        if found is None:
            raise InputError(f"{renders.path}: has no depth of frame {indices[position]}")
        return found

    return Sequence3d([renders.frames[index].camera for index in indices], depth)


def _nth(read: Callable[[str], np.ndarray], order: list[str], index: int) -> np.ndarray:
    return read(order[index])


def _resized_frame(
    picture: Callable[[int], np.ndarray], width: int, height: int, index: int
) -> np.ndarray:
    stop_if_requested("while comparing frames")
    return _at_size(picture(index), width, height)


def _at_size(
    pixels: UInt8[np.ndarray, "rows columns *channels"], width: int, height: int
) -> UInt8[np.ndarray, "height width *channels"]:
    """Bilinear, as ``run`` brings frames of the model's size to the user's."""
    if pixels.shape[:2] == (height, width):
        return pixels
    planes = torch.from_numpy(np.ascontiguousarray(pixels)).float().reshape(*pixels.shape[:2], -1)
    resized = resize_bilinear(planes, width, height).round().to(torch.uint8).numpy()
    return resized.reshape(height, width, *pixels.shape[2:])
