"""Captures -> a folder of training pairs, by processes that may be killed at any time.

In: sources (captures, or procedural scenes by number), settings, a seed. Out: in the folder::

    pairs-00000.tar ... index.json   see ``pairs/shards.py``; a shard holds the pairs of ``SCENES_PER_SHARD`` scenes in a row
    manifest.json                    per scene: state, error, and figures about its pairs
    timing.json                      per scene: seconds
    .scenes/000012.json, .tar        scenes whose shard is not full yet

A scene's pairs depend on the scene, the settings and the seed alone, and a shard on which scenes it
holds; so neither the number of processes nor an interruption changes a byte. A scene that fails
leaves its place in the shard empty.
"""

from __future__ import annotations

import re
import shutil
import time
import zlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from artifixer.curation.caption import CaptionConfig, caption_clip, captioner
from artifixer.curation.render_pairs import (
    FlawConfig,
    draw_clip,
    render_pair,
    sized_for_clips,
    spread_clips,
    with_flaws,
)
from artifixer.curation.sparse_splats import (
    SparseConfig,
    SparseFit,
    draw_fit,
    sparse_splats,
    training_groups,
)
from artifixer.curation.workers import (
    ATTEMPTS,
    Job,
    ProcessWorkers,
    RayWorkers,
    one_thread,
    work_through,
    worker_devices,
)
from artifixer.pairs.pair import TrainingPair
from artifixer.pairs.shards import (
    INDEX_FILE,
    SampleEntry,
    describe,
    encode_sample,
    read_index,
    sample_from_json,
    write_index,
    write_shard,
)
from artifixer.runtime.errors import InputError, Stopped
from artifixer.runtime.files import read_whole
from artifixer.runtime.json_io import is_number, is_whole
from artifixer.runtime.progress import Progress
from artifixer.runtime.run_folder import (
    RunFolder,
    fingerprint,
    read_json,
    to_json,
    write_bytes,
    write_json,
)
from artifixer.runtime.seeds import numpy_generator
from artifixer.runtime.stopping import stop_on_sigterm, stop_requested
from artifixer.scenes.depth_models import metric_depth_model
from artifixer.scenes.formats import PROCEDURAL_PREFIX, load_scene, readable
from artifixer.scenes.identity import sampled_fingerprint
from artifixer.scenes.scale import (
    METRIC_FACTOR,
    ScaleKind,
    camera_scale,
    point_depths,
    scale_depth_model,
)
from artifixer.scenes.scene import Scene

#: A shard is the unit of what is readable: 16 scenes at the tiny recipe's size are about 40 MB.
SCENES_PER_SHARD = 16

#: Procedural scenes of different SEEDs never coincide.
SCENES_PER_SEED = 1_000_000

#: The error of a scene that took its worker with it in every attempt.
WORKER_DIED = f"its worker died {ATTEMPTS} times (killed, or out of memory?); fewer --workers need less memory"

#: Photos that tell how long a capture's unit of length is, for Algorithm 1 on metres.
UNIT_PHOTOS = 12

#: Seconds of a scene in ``timing.json``, at most.
MOST_SECONDS = 1e12

MANIFEST_FILE = "manifest.json"
TIMING_FILE = "timing.json"
_WAITING = ".scenes"


@dataclass(frozen=True)
class CurationConfig:
    """What pairs are like.

    sizes: of procedural scenes' clips (width, height), one by lot per scene; captures keep their
        aspect ratio, their longest side is the largest here. Multiples of 16.
    frames: shortest and longest clip; lengths are multiples of the video model's temporal factor,
    plus one. photos_per_frame: photos of a procedural scene per frame of the clip.
    path_share: how much of a procedural scene's camera path is captured, a range: from an arc
    around one thing to a walk with a pan. points_per_photo: sparse points tried per photo of a
    procedural scene that is captured along its whole path, a range. groups: how many of the two
    groups of Algorithm 1 give a pair each, by lot.
    normalised_groups: whether Algorithm 1 compares normalised translations; if not, metres for the
        camera scale ``metric`` and the capture's own units otherwise, as the paper prints the
        formula.
    windows: clips per reconstruction. 1: anywhere in the capture, by lot. More: evenly spread over
    its whole path. camera_scale: which scale is stored, see ``scenes/scale.py``. depth_model: for
    ``metric``, see ``scenes/depth_models.py``. faces, sparse_model, ignore_masks: how captures are
    read, see ``scenes/formats.py``.
    """

    sizes: tuple[tuple[int, int], ...] = ((1024, 576),)
    frames: tuple[int, int] = (81, 81)
    photos_per_frame: int = 2
    path_share: tuple[float, float] = (0.45, 1.0)
    points_per_photo: tuple[int, int] = (15, 50)
    groups: int = 2
    normalised_groups: bool = True
    windows: int = 1
    camera_scale: ScaleKind = "median_depth"
    depth_model: str | None = None
    faces: int | None = None
    sparse_model: int | None = None
    ignore_masks: bool = False
    caption: CaptionConfig = field(default_factory=CaptionConfig)
    sparse: SparseConfig = field(default_factory=SparseConfig)
    flaws: FlawConfig = field(default_factory=FlawConfig)


@dataclass(frozen=True)
class Source:
    """One scene to make pairs from.

    name: a capture's path, or ``procedural:NUMBER``; identity: what its content is known by, which
    decides about all that is drawn; changed: what tells when its photos were changed, for an
    interrupted curation.
    """

    name: str
    identity: str
    changed: str = ""

    @property
    def is_procedural(self) -> bool:
        return self.name.startswith(PROCEDURAL_PREFIX)


@dataclass(frozen=True)
class PairFigures:
    """What one pair is like: its training views and fit, PSNR of the renders against the clip in dB
    (mean per frame, and pooled over all pixels), and the shares of pixels with opacity over 0.9 and
    under 0.1."""

    name: str
    views: int
    iterations: int
    gaussians: int
    psnr: float
    psnr_pooled: float
    opaque: float
    empty: float


@dataclass(frozen=True)
class MadeScene:
    """What a worker returns: encoded pairs with their index lines and figures, or the error; and
    how long it took.
    """

    samples: tuple[tuple[SampleEntry, bytes], ...]
    figures: tuple[PairFigures, ...]
    seconds: float
    error: str | None = None


@dataclass(frozen=True)
class SceneRecord:
    """A finished scene in the manifest; ``error`` is None for one that gave pairs."""

    scene: str
    error: str | None
    pairs: tuple[PairFigures, ...]


@dataclass(frozen=True)
class CurationResult:
    """scenes: asked for. pairs: in the shards. failed: records of scenes that gave none."""

    scenes: int
    pairs: int
    failed: tuple[SceneRecord, ...]


def expand_sources(names: Sequence[str]) -> list[Source]:
    """The scenes that the user names: captures, and ``procedural:COUNT[:SEED]`` for COUNT scenes.

    Raises ``InputError`` for a malformed count, a capture that does not exist, and a scene named
    twice.
    """
    sources: list[Source] = []
    for name in names:
        if name.startswith(PROCEDURAL_PREFIX):
            match = re.fullmatch(r"procedural:(\d{1,7})(?::(\d{1,9}))?", name)
            if match is None or not 1 <= int(match[1]) <= SCENES_PER_SEED:
                raise InputError(
                    f"{name}: expected procedural:COUNT or procedural:COUNT:SEED, with 1 to "
                    f"{SCENES_PER_SEED:,} scenes"
                )
            first = int(match[2] or 0) * SCENES_PER_SEED
            numbered = (
                f"{PROCEDURAL_PREFIX}{number}" for number in range(first, first + int(match[1]))
            )
            sources.extend(Source(scene, scene) for scene in numbered)
        else:
            sources.append(_capture(name))
    if not sources:
        raise InputError("no source: expected captures or procedural:COUNT")
    seen: set[str] = set()
    for source in sources:
        if source.identity in seen:
            raise InputError(f"{source.name}: named twice; expected every scene once")
        seen.add(source.identity)
    return sources


def curate(
    sources: Sequence[Source],
    config: CurationConfig,
    seed: int,
    out: Path,
    workers: int,
    overwrite: bool = False,
    device: str = "cpu",
    ray: str | None = None,
) -> CurationResult:
    """Make the pairs of all sources; calling it again with the same arguments continues or returns
    at once.

    workers: processes with one thread each; 1 works in this process, unless Ray does. A worker that
    dies costs its scene's work: the scene is made once more, and counts as failed when its worker
    dies again.
    device: ``cpu`` or ``cuda``, where each worker has a GPU of its own. ray: None, or the cluster,
    see ``workers.RayWorkers``; which of these is used changes nothing in the folder.
    Raises ``InputError`` when the folder belongs to other sources or settings, ``Stopped`` after
    SIGTERM.
    """
    known_by = [(source.identity, source.changed) for source in sources]
    identity = {"sources": fingerprint(known_by), "scenes": len(sources)}
    settings = {"config": asdict(config), "seed": seed}
    with RunFolder.open(out, identity, settings, overwrite) as run, stop_on_sigterm():
        folder = _PairFolder(run, sources)
        with (
            Progress(("curate",), log_file=run.path("log.txt")) as progress,
            progress.stage("curate", len(sources)) as stage,
        ):
            stage.update(len(folder.records))
            waiting = [number for number in range(len(sources)) if number not in folder.records]
            jobs = ((number, (number, sources[number], config, seed)) for number in waiting)
            with _worked(jobs, workers, device, ray) as results:
                for number, made in results:
                    folder.add(number, made)
                    if made.error is not None:
                        progress.note(f"{sources[number].name} failed: {made.error}")
                    failed = sum(record.error is not None for record in folder.records.values())
                    stage.update(len(folder.records), pairs=folder.pairs, failed=failed)
            if stop_requested() and len(folder.records) < len(sources):
                raise Stopped(
                    f"curation stopped after {len(folder.records)} of {len(sources)} scenes; run "
                    "the same command to continue"
                )
        return folder.finish()


def make_scene(
    number: int, source: Source, config: CurationConfig, seed: int, device: str = "cpu"
) -> MadeScene:
    """All pairs of one scene, encoded; a scene that cannot be used comes back with its error."""
    started = time.monotonic()
    try:
        pairs = list(scene_pairs(number, source, config, seed, device))
    except (
        InputError,
        RuntimeError,
        AssertionError,
        ValueError,
        ArithmeticError,
        LookupError,
        OSError,
    ) as error:
        # A worker goes on with the next scene whatever is wrong with this one; the error stands in
        # the manifest.
        text = (
            " ".join(str(error).split())
            if isinstance(error, InputError)
            else f"{type(error).__name__}: {error}"
        )
        return MadeScene((), (), time.monotonic() - started, text)
    samples = []
    for pair, _ in pairs:
        data = encode_sample(pair)
        samples.append((describe(pair, data), data))
    return MadeScene(
        tuple(samples), tuple(figures for _, figures in pairs), time.monotonic() - started
    )


def scene_pairs(
    number: int, source: Source, config: CurationConfig, seed: int, device: str = "cpu"
) -> Iterator[tuple[TrainingPair, PairFigures]]:
    """The pairs of one scene: clips of its path, seen by the splats of each group."""
    rng = numpy_generator(seed, f"scene {source.identity}")
    frames = _clip_length(config.frames, rng)
    scene, captured = _load(source, frames, config, rng)
    if config.windows == 1:
        clips: tuple[tuple[int, ...], ...] = (draw_clip(captured, frames, rng),)
    else:
        clips = spread_clips(captured, frames, config.windows, rng)
    name = scale_depth_model(config.camera_scale, None, scene.metres_per_unit, config.depth_model)
    depth_model = None if name is None else metric_depth_model(name, device)
    metres, unit = scene.metres_per_unit, 1.0
    if not config.normalised_groups and config.camera_scale == "metric":
        some = sorted(
            {
                captured[round(position)]
                for position in np.linspace(0, len(captured) - 1, UNIT_PHOTOS)
            }
        )
        views = point_depths(scene, some)
        found = camera_scale("metric", views, depth_model=depth_model, metres_per_unit=metres)
        unit = found.value / METRIC_FACTOR
    groups = training_groups(scene, captured, normalise=config.normalised_groups, unit=unit)
    if not groups:
        raise InputError(f"{source.name}: {len(captured)} photos; no group of Algorithm 1 has two")
    groups = tuple(groups[index] for index in rng.permutation(len(groups))[: config.groups])
    describe_clip = captioner(config.caption, device)
    for position, group in enumerate(groups):
        fit = draw_fit(config.sparse, rng)
        training = tuple(sorted(group[: fit.views]))
        photographed, photos_used = scene, tuple(scene.photos[index] for index in training)
        if source.is_procedural:
            photographed, photos_used = with_flaws(scene, training, config.flaws, rng)
        splats = sparse_splats(
            photographed, training, photos_used, fit.config, int(rng.integers(2**31)), device
        )
        scale = camera_scale(
            config.camera_scale,
            point_depths(scene, training),
            depth_model=depth_model,
            metres_per_unit=metres,
        )
        if scale.is_guess:
            raise InputError(
                f"{source.name}: nothing tells how long a metre is; expected a metric depth model, "
                "or camera scale median_depth"
            )
        for window, clip in enumerate(clips):
            name = (
                f"{number:06d}_{position}"
                if len(clips) == 1
                else f"{number:06d}_{position}_{window}"
            )
            pair = render_pair(name, scene, clip, training, photos_used, splats, scale)
            # The other group's pair of this clip is described from other frames (paper section 4.1,
            # appendix B).
            pair = replace(
                pair, caption=caption_clip(pair.clean_frames, describe_clip, subset=position)
            )
            yield pair, _figures(pair, fit, len(splats))


def _load(
    source: Source, frames: int, config: CurationConfig, rng: np.random.Generator
) -> tuple[Scene, range]:
    """The scene at the size of its clips, and which of its photos count as captured."""
    if not source.is_procedural:
        scene = load_scene(
            source.name,
            faces=config.faces,
            sparse_model=config.sparse_model,
            ignore_masks=config.ignore_masks,
        )
        scene = sized_for_clips(scene, max(max(size) for size in config.sizes))
        return scene, range(len(scene.photos))
    width, height = config.sizes[rng.integers(len(config.sizes))]
    share = rng.uniform(*config.path_share)
    photos = config.photos_per_frame * frames
    path = int(photos / share)
    points = max(1, round(share * rng.uniform(*config.points_per_photo)))
    scene = load_scene(
        f"{source.name}:frames={path},width={width},height={height},points_per_photo={points}"
    )
    first = int(rng.integers(path - photos + 1))
    return scene, range(first, first + photos)


class _PairFolder:
    """The growing folder: scenes that are done, and shards that are full."""

    def __init__(self, run: RunFolder, sources: Sequence[Source]) -> None:
        self._run, self._sources = run, sources
        for name in (INDEX_FILE, MANIFEST_FILE, TIMING_FILE, _WAITING):
            run.path(name)
        self._shards = (
            {shard.file: shard for shard in read_index(run.root)}
            if (run.root / INDEX_FILE).is_file()
            else {}
        )
        self.records: dict[int, SceneRecord] = {}
        timing = run.root / TIMING_FILE
        self._seconds = _read_timing(timing, len(sources)) if timing.is_file() else {}
        if (run.root / MANIFEST_FILE).is_file():
            for number, record in _read_manifest(run.root / MANIFEST_FILE, len(sources)).items():
                if self._shard_file(number) in self._shards:
                    self.records[number] = record
        for path in sorted((run.root / _WAITING).glob("*.json")):
            number = int(path.stem) if re.fullmatch(r"\d{6,7}", path.stem) else len(sources)
            if number >= len(sources):
                raise InputError(
                    f"{path}: is no scene of this folder, which has {len(sources)}; use "
                    "--overwrite to start anew"
                )
            content = read_json(path)
            self.records[number] = _record_from_json(path, content)
            if is_number(content.get("seconds"), MOST_SECONDS):
                self._seconds[number] = content["seconds"]

    @property
    def pairs(self) -> int:
        return sum(len(record.pairs) for record in self.records.values())

    def add(self, number: int, made: MadeScene) -> None:
        """Keep a scene's pairs, and close its shard when it was the last."""
        record = SceneRecord(self._sources[number].name, made.error, made.figures)
        seconds = round(made.seconds, 2)
        # The json comes last: it says that the scene is done.
        write_bytes(self._waiting(number, "tar"), b"".join(data for _, data in made.samples))
        write_json(
            self._waiting(number, "json"),
            {
                **to_json(record),
                "seconds": seconds,
                "samples": [to_json(entry) for entry, _ in made.samples],
            },
        )
        self.records[number], self._seconds[number] = record, seconds
        self._close_shard(number // SCENES_PER_SHARD)

    def finish(self) -> CurationResult:
        """Everything that is due is closed; the index says that it is complete."""
        for shard in range(-(-len(self._sources) // SCENES_PER_SHARD)):
            self._close_shard(shard)
        self._write_lists()
        shutil.rmtree(self._run.root / _WAITING, ignore_errors=True)
        failed = tuple(
            record for _, record in sorted(self.records.items()) if record.error is not None
        )
        return CurationResult(len(self._sources), self.pairs, failed)

    def _close_shard(self, shard: int) -> None:
        file = f"pairs-{shard:05d}.tar"
        numbers = range(
            shard * SCENES_PER_SHARD, min(len(self._sources), (shard + 1) * SCENES_PER_SHARD)
        )
        if file in self._shards or not all(number in self.records for number in numbers):
            return
        samples: list[tuple[SampleEntry, bytes]] = []
        for number in numbers:
            path = self._waiting(number, "json")
            entries = [sample_from_json(path, content) for content in _samples(path)]
            data, offset = (
                read_whole(
                    self._waiting(number, "tar"),
                    "a scene's pairs",
                    sum(entry.bytes for entry in entries),
                ),
                0,
            )
            for entry in entries:
                piece = data[offset : offset + entry.bytes]
                if len(piece) != entry.bytes or zlib.crc32(piece) != entry.crc32:
                    raise InputError(
                        f"{path.with_suffix('.tar')}: does not hold what {path.name} says; delete "
                        "both to make the scene again"
                    )
                samples.append((entry, piece))
                offset += entry.bytes
        self._shards[file] = write_shard(self._run.path(file), samples)
        self._write_lists()
        for number in numbers:
            self._waiting(number, "json").unlink(missing_ok=True)
            self._waiting(number, "tar").unlink(missing_ok=True)

    def _write_lists(self) -> None:
        scenes = [
            {"number": number, **_record_to_json(self.records[number])}
            if number in self.records
            else {"number": number, "scene": source.name, "state": "waiting"}
            for number, source in enumerate(self._sources)
        ]
        # The manifest first: a shard counts as done when the index has it.
        write_json(self._run.root / MANIFEST_FILE, {"version": 2, "scenes": scenes})
        seconds = {f"{number:06d}": self._seconds.get(number) for number in sorted(self.records)}
        write_json(self._run.root / TIMING_FILE, {"seconds": seconds})
        is_complete = len(self.records) == len(self._sources)
        write_index(
            self._run.root, [shard for _, shard in sorted(self._shards.items())], is_complete
        )

    def _waiting(self, number: int, suffix: str) -> Path:
        return self._run.root / _WAITING / f"{number:06d}.{suffix}"

    @staticmethod
    def _shard_file(number: int) -> str:
        return f"pairs-{number // SCENES_PER_SHARD:05d}.tar"


# Settings of one scene ----------------------------------------------------------------------------


def _clip_length(limits: tuple[int, int], rng: np.random.Generator) -> int:
    """A length from shortest to longest in steps of the video model's temporal factor."""
    shortest, longest = limits
    steps = (longest - shortest) // 4
    return shortest + 4 * int(rng.integers(steps + 1))


def _figures(pair: TrainingPair, fit: SparseFit, gaussians: int) -> PairFigures:
    error = (
        (pair.renders.to(torch.float32) - pair.clean_frames.to(torch.float32))
        .div(255)
        .square()
        .mean(dim=(1, 2, 3))
        .clamp(min=1e-6)
    )
    opacity = pair.opacity.to(torch.float32) / 255
    return PairFigures(
        name=pair.name,
        views=pair.views,
        iterations=fit.config.iterations,
        gaussians=gaussians,
        psnr=round(float(-10 * error.log10().mean()), 3),
        psnr_pooled=round(float(-10 * error.mean().log10()), 3),
        opaque=round(float((opacity > 0.9).float().mean()), 4),
        empty=round(float((opacity < 0.1).float().mean()), 4),
    )


def _capture(name: str) -> Source:
    """Known by its folder's name and by names and content of its files."""
    path = Path(name)
    if not path.exists():
        raise InputError(
            f"{path}: does not exist, expected a capture folder, a video or procedural:COUNT"
        )
    with readable(path):
        content, changed = sampled_fingerprint(path)
    return Source(name, f"{path.resolve().name} {content}", changed)


def _record_to_json(record: SceneRecord) -> dict[str, Any]:
    return {**to_json(record), "state": "done" if record.error is None else "failed"}


def _read_manifest(path: Path, scenes: int) -> dict[int, SceneRecord]:
    """Records of the scenes that are done, by number; ``scenes``: how many there are."""
    content = read_json(path)
    entries = content.get("scenes") if isinstance(content, dict) else None
    if not isinstance(entries, list) or not all(
        isinstance(entry, dict) and is_whole(entry.get("number"), 0, scenes - 1)
        for entry in entries
    ):
        raise InputError(
            f"{path}: not a manifest of {scenes} scenes; use --overwrite to start anew"
        )
    return {
        entry["number"]: _record_from_json(path, entry)
        for entry in entries
        if entry.get("state") != "waiting"
    }


def _read_timing(path: Path, scenes: int) -> dict[int, float]:
    """Seconds by scene, as far as they are known."""
    content = read_json(path)
    seconds = content.get("seconds") if isinstance(content, dict) else None
    if not isinstance(seconds, dict) or not all(
        re.fullmatch(r"[0-9]{6,7}", number)
        and int(number) < scenes
        and (value is None or is_number(value, MOST_SECONDS))
        for number, value in seconds.items()
    ):
        raise InputError(
            f"{path}: not the times of {scenes} scenes; delete it, no result depends on it"
        )
    return {int(number): value for number, value in seconds.items() if value is not None}


def _record_from_json(path: Path, content: Any) -> SceneRecord:
    try:
        record = SceneRecord(
            content["scene"],
            content["error"],
            tuple(PairFigures(**pair) for pair in content["pairs"]),
        )
    except (KeyError, TypeError) as error:
        raise InputError(
            f"{path}: damaged record of a scene ({type(error).__name__}: {error}); use --overwrite "
            "to start anew"
        ) from error
    numbers = [
        value for figures in record.pairs for name, value in vars(figures).items() if name != "name"
    ]
    words = [record.scene, record.error or "", *(figures.name for figures in record.pairs)]
    if not all(is_number(value, 1e12) for value in numbers) or not all(
        isinstance(word, str) for word in words
    ):
        raise InputError(
            f"{path}: damaged record of a scene (text where numbers belong); use --overwrite to "
            "start anew"
        )
    return record


def _samples(path: Path) -> list[dict[str, Any]]:
    """The index lines of a scene whose shard is not full yet."""
    content = read_json(path)
    samples = content.get("samples") if isinstance(content, dict) else None
    if not isinstance(samples, list) or not all(isinstance(sample, dict) for sample in samples):
        raise InputError(f"{path}: damaged list of samples; delete it to make the scene again")
    return samples


# Processes ----------------------------------------------------------------------------------------


@contextmanager
def _worked(
    jobs: Iterator[Job], workers: int, device: str, ray: str | None
) -> Iterator[Iterator[tuple[int, MadeScene]]]:
    """Results of ``make_scene`` for the jobs, as they are done. After a request to stop no new job
    begins, and those running finish.
    """
    devices = worker_devices(device, workers) if ray is None else ()
    if len(devices) == 1:
        with one_thread():
            yield (
                (number, make_scene(*(*job, devices[0])))
                for number, job in jobs
                if not stop_requested()
            )
        return
    started = time.monotonic()
    pool = (
        ProcessWorkers(make_scene, devices)
        if ray is None
        else RayWorkers(make_scene, workers, device, ray)
    )
    try:
        yield (
            (
                number,
                MadeScene((), (), time.monotonic() - started, WORKER_DIED)
                if made is None
                else made,
            )
            for number, made in work_through(pool, jobs)
        )
    finally:
        pool.close()
