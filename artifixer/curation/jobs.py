"""Captures -> a folder of training pairs, by processes that may be killed at any time.

In: sources (captures, or procedural scenes by number), settings, a seed. Out: in the folder::

    pairs-00000.tar ... index.json   see ``pairs/shards.py``; a shard holds the pairs of ``SCENES_PER_SHARD`` scenes in a row
    manifest.json                    per scene: state, seconds, error, and figures about its pairs
    .scenes/000012.json, .tar        scenes whose shard is not full yet

A scene's pairs depend on the scene, the settings and the seed alone, and a shard on which scenes it holds; so neither the number of
processes nor an interruption changes a byte. A scene that fails leaves its place in the shard empty.
"""

from __future__ import annotations

import os
import re
import shutil
import threading
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, replace
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np
import torch

from artifixer.curation.caption import CaptionConfig, caption_clip, captioner
from artifixer.curation.render_pairs import FlawConfig, draw_clip, render_pair, sized_for_clips, with_flaws
from artifixer.curation.sparse_splats import SparseConfig, SparseFit, draw_fit, sparse_splats, training_groups
from artifixer.pairs.pair import TrainingPair
from artifixer.pairs.shards import INDEX_FILE, VERSION, SampleEntry, describe, encode_sample, read_index, write_index, write_shard
from artifixer.runtime.errors import InputError, Stopped
from artifixer.runtime.progress import Progress
from artifixer.runtime.run_folder import RunFolder, fingerprint, read_json, to_json, write_bytes, write_json
from artifixer.runtime.seeds import numpy_generator
from artifixer.runtime.stopping import stop_on_sigterm, stop_requested
from artifixer.scenes.formats import PROCEDURAL_PREFIX, load_scene
from artifixer.scenes.scale import ScaleKind, camera_scale, sparse_observations
from artifixer.scenes.scene import Scene

#: A shard is the unit of what is readable: 16 scenes at the tiny recipe's size are about 40 MB.
SCENES_PER_SHARD = 16

#: Procedural scenes of different SEEDs never coincide.
SCENES_PER_SEED = 1_000_000

#: Seconds between a worker's looks at whether its parent is still alive.
ORPHAN_CHECK_SECONDS = 1.0

MANIFEST_FILE = "manifest.json"
_WAITING = ".scenes"


@dataclass(frozen=True)
class CurationConfig:
    """What pairs are like.

    sizes: of procedural scenes' clips (width, height), one by lot per scene; captures keep their aspect ratio, their longest side is the
        largest here. Multiples of 16.
    frames: shortest and longest clip; lengths are multiples of the video model's temporal factor, plus one.
    photos_per_frame: photos of a procedural scene per frame of the clip.
    path_share: how much of a procedural scene's camera path is captured, a range: from an arc around one thing to a walk with a pan.
    points_per_photo: sparse points tried per photo of a procedural scene that is captured along its whole path, a range.
    groups: how many of the two groups of Algorithm 1 give a pair each, by lot.
    camera_scale: which scale is stored, see ``scenes/scale.py``. depth_model: for ``metric``, a network that predicts metres.
    """

    sizes: tuple[tuple[int, int], ...] = ((1024, 576),)
    frames: tuple[int, int] = (81, 81)
    photos_per_frame: int = 2
    path_share: tuple[float, float] = (0.45, 1.0)
    points_per_photo: tuple[int, int] = (15, 50)
    groups: int = 2
    camera_scale: ScaleKind = "median_depth"
    depth_model: str | None = None
    caption: CaptionConfig = field(default_factory=CaptionConfig)
    sparse: SparseConfig = field(default_factory=SparseConfig)
    flaws: FlawConfig = field(default_factory=FlawConfig)


@dataclass(frozen=True)
class Source:
    """One scene to make pairs from. name: a capture's path, or ``procedural:NUMBER``; identity: what its content is known by."""

    name: str
    identity: str

    @property
    def is_procedural(self) -> bool:
        return self.name.startswith(PROCEDURAL_PREFIX)


@dataclass(frozen=True)
class PairFigures:
    """What one pair is like: its training views and fit, PSNR of the renders against the clip in dB (mean per frame, and pooled over all
    pixels), and the shares of pixels with opacity over 0.9 and under 0.1."""

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
    """What a worker returns: encoded pairs with their index lines and figures, or the error; and how long it took."""

    samples: tuple[tuple[SampleEntry, bytes], ...]
    figures: tuple[PairFigures, ...]
    seconds: float
    error: str | None = None


@dataclass(frozen=True)
class SceneRecord:
    """A finished scene in the manifest; ``error`` is None for one that gave pairs."""

    scene: str
    seconds: float
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

    Raises ``InputError`` for a malformed count, a capture that does not exist, and a scene named twice.
    """
    sources: list[Source] = []
    for name in names:
        if name.startswith(PROCEDURAL_PREFIX):
            match = re.fullmatch(r"procedural:(\d{1,7})(?::(\d{1,9}))?", name)
            if match is None or not 1 <= int(match[1]) <= SCENES_PER_SEED:
                raise InputError(f"{name}: expected procedural:COUNT or procedural:COUNT:SEED, with 1 to {SCENES_PER_SEED:,} scenes")
            first = int(match[2] or 0) * SCENES_PER_SEED
            numbered = (f"{PROCEDURAL_PREFIX}{number}" for number in range(first, first + int(match[1])))
            sources.extend(Source(scene, scene) for scene in numbered)
        else:
            sources.append(Source(name, _capture_identity(Path(name))))
    if not sources:
        raise InputError("no source: expected captures or procedural:COUNT")
    seen: set[str] = set()
    for source in sources:
        if source.identity in seen:
            raise InputError(f"{source.name}: named twice; expected every scene once")
        seen.add(source.identity)
    return sources


def curate(
    sources: Sequence[Source], config: CurationConfig, seed: int, out: Path, workers: int, overwrite: bool = False
) -> CurationResult:
    """Make the pairs of all sources; calling it again with the same arguments continues or returns at once.

    workers: processes with one thread each; 1 works in this process.
    Raises ``InputError`` when the folder belongs to other sources or settings, ``Stopped`` after SIGTERM.
    """
    identity = {"sources": fingerprint([source.identity for source in sources]), "scenes": len(sources)}
    settings = {"config": asdict(config), "seed": seed, "version of pairs": VERSION}
    with RunFolder.open(out, identity, settings, overwrite) as run, stop_on_sigterm():
        folder = _PairFolder(run, sources)
        with Progress(("curate",), log_file=run.path("log.txt")) as progress, progress.stage("curate", len(sources)) as stage:
            stage.update(len(folder.records))
            waiting = [number for number in range(len(sources)) if number not in folder.records]
            jobs = ((number, (number, sources[number], config, seed)) for number in waiting)
            with _worked(jobs, workers) as results:
                for number, made in results:
                    folder.add(number, made)
                    if made.error is not None:
                        progress.note(f"{sources[number].name} failed: {made.error}")
                    failed = sum(record.error is not None for record in folder.records.values())
                    stage.update(len(folder.records), pairs=folder.pairs, failed=failed)
            if stop_requested() and len(folder.records) < len(sources):
                raise Stopped(f"curation stopped after {len(folder.records)} of {len(sources)} scenes; run the same command to continue")
        return folder.finish()


def make_scene(number: int, source: Source, config: CurationConfig, seed: int) -> MadeScene:
    """All pairs of one scene, encoded; a scene that cannot be used comes back with its error."""
    started = time.monotonic()
    try:
        pairs = list(scene_pairs(number, source, config, seed))
    except (InputError, RuntimeError, AssertionError, ValueError, ArithmeticError, LookupError, OSError) as error:
        # A worker goes on with the next scene whatever is wrong with this one; the error stands in the manifest.
        text = " ".join(str(error).split()) if isinstance(error, InputError) else f"{type(error).__name__}: {error}"
        return MadeScene((), (), time.monotonic() - started, text)
    samples = []
    for pair, _ in pairs:
        data = encode_sample(pair)
        samples.append((describe(pair, data), data))
    return MadeScene(tuple(samples), tuple(figures for _, figures in pairs), time.monotonic() - started)


def scene_pairs(number: int, source: Source, config: CurationConfig, seed: int) -> Iterator[tuple[TrainingPair, PairFigures]]:
    """The pairs of one scene: one clip, seen by the splats of each group."""
    rng = numpy_generator(seed, f"scene {source.identity}")
    frames = _clip_length(config.frames, rng)
    scene, captured = _load(source, frames, config, rng)
    clip = draw_clip(captured, frames, rng)
    groups = training_groups(scene, captured)
    if not groups:
        raise InputError(f"{source.name}: {len(captured)} photos; no group of Algorithm 1 has two")
    groups = tuple(groups[index] for index in rng.permutation(len(groups))[: config.groups])
    caption: str | None = None
    for position, group in enumerate(groups):
        fit = draw_fit(config.sparse, rng)
        training = tuple(sorted(group[: fit.views]))
        photographed, photos_used = scene, tuple(scene.photos[index] for index in training)
        if source.is_procedural:
            photographed, photos_used = with_flaws(scene, training, config.flaws, rng)
        splats = sparse_splats(photographed, training, photos_used, fit.config, int(rng.integers(2**31)))
        observed = sparse_observations(scene, training)
        scale = camera_scale(config.camera_scale, observed, depth_model=config.depth_model, may_assume=False)
        pair = render_pair(f"{number:06d}_{position}", scene, clip, training, photos_used, splats, scale)
        caption = caption_clip(pair.clean_frames, captioner(config.caption)) if position == 0 else caption
        pair = replace(pair, caption=caption)
        yield pair, _figures(pair, fit, len(splats))


def _load(source: Source, frames: int, config: CurationConfig, rng: np.random.Generator) -> tuple[Scene, range]:
    """The scene at the size of its clips, and which of its photos count as captured."""
    if not source.is_procedural:
        scene = sized_for_clips(load_scene(source.name), max(max(size) for size in config.sizes))
        return scene, range(len(scene.photos))
    width, height = config.sizes[rng.integers(len(config.sizes))]
    share = rng.uniform(*config.path_share)
    photos = config.photos_per_frame * frames
    path = int(photos / share)
    points = max(1, round(share * rng.uniform(*config.points_per_photo)))
    scene = load_scene(f"{source.name}:frames={path},width={width},height={height},points_per_photo={points}")
    first = int(rng.integers(path - photos + 1))
    return scene, range(first, first + photos)


class _PairFolder:
    """The growing folder: scenes that are done, and shards that are full."""

    def __init__(self, run: RunFolder, sources: Sequence[Source]) -> None:
        self._run, self._sources = run, sources
        for name in (INDEX_FILE, MANIFEST_FILE, _WAITING):
            run.path(name)
        self._shards = {shard.file: shard for shard in read_index(run.root)} if (run.root / INDEX_FILE).is_file() else {}
        self.records: dict[int, SceneRecord] = {}
        if (run.root / MANIFEST_FILE).is_file():
            for entry in read_json(run.root / MANIFEST_FILE)["scenes"]:
                if entry["state"] != "waiting" and self._shard_file(entry["number"]) in self._shards:
                    self.records[entry["number"]] = _record_from_json(entry)
        for path in sorted((run.root / _WAITING).glob("*.json")):
            self.records[int(path.stem)] = _record_from_json(read_json(path))

    @property
    def pairs(self) -> int:
        return sum(len(record.pairs) for record in self.records.values())

    def add(self, number: int, made: MadeScene) -> None:
        """Keep a scene's pairs, and close its shard when it was the last."""
        record = SceneRecord(self._sources[number].name, round(made.seconds, 2), made.error, made.figures)
        # The json comes last: it says that the scene is done.
        write_bytes(self._waiting(number, "tar"), b"".join(data for _, data in made.samples))
        write_json(self._waiting(number, "json"), {**to_json(record), "samples": [to_json(entry) for entry, _ in made.samples]})
        self.records[number] = record
        self._close_shard(number // SCENES_PER_SHARD)

    def finish(self) -> CurationResult:
        """Everything that is due is closed; the index says that it is complete."""
        for shard in range(-(-len(self._sources) // SCENES_PER_SHARD)):
            self._close_shard(shard)
        self._write_lists()
        shutil.rmtree(self._run.root / _WAITING, ignore_errors=True)
        failed = tuple(record for _, record in sorted(self.records.items()) if record.error is not None)
        return CurationResult(len(self._sources), self.pairs, failed)

    def _close_shard(self, shard: int) -> None:
        file = f"pairs-{shard:05d}.tar"
        numbers = range(shard * SCENES_PER_SHARD, min(len(self._sources), (shard + 1) * SCENES_PER_SHARD))
        if file in self._shards or not all(number in self.records for number in numbers):
            return
        samples: list[tuple[SampleEntry, bytes]] = []
        for number in numbers:
            data, offset = self._waiting(number, "tar").read_bytes(), 0
            for content in read_json(self._waiting(number, "json"))["samples"]:
                entry = SampleEntry(**content)
                samples.append((entry, data[offset : offset + entry.bytes]))
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
        write_json(self._run.root / MANIFEST_FILE, {"version": 1, "scenes": scenes})
        is_complete = len(self.records) == len(self._sources)
        write_index(self._run.root, [shard for _, shard in sorted(self._shards.items())], is_complete)

    def _waiting(self, number: int, suffix: str) -> Path:
        return self._run.root / _WAITING / f"{number:06d}.{suffix}"

    @staticmethod
    def _shard_file(number: int) -> str:
        return f"pairs-{number // SCENES_PER_SHARD:05d}.tar"


# Settings of one scene --------------------------------------------------------------------------------------------------------------


def _clip_length(limits: tuple[int, int], rng: np.random.Generator) -> int:
    """A length from shortest to longest in steps of the video model's temporal factor."""
    shortest, longest = limits
    steps = (longest - shortest) // 4
    return shortest + 4 * int(rng.integers(steps + 1))


def _figures(pair: TrainingPair, fit: SparseFit, gaussians: int) -> PairFigures:
    error = (pair.renders.to(torch.float32) - pair.clean_frames.to(torch.float32)).div(255).square().mean(dim=(1, 2, 3)).clamp(min=1e-6)
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


def _capture_identity(path: Path) -> str:
    """Name, and names and sizes of the files: enough to notice another capture at the same place."""
    if not path.exists():
        raise InputError(f"{path}: does not exist, expected a capture folder, a video or procedural:COUNT")
    files = [path] if path.is_file() else sorted(file for file in path.rglob("*") if file.is_file())
    return f"{path.resolve().name} {fingerprint([(file.relative_to(path).as_posix(), file.stat().st_size) for file in files])}"


def _record_to_json(record: SceneRecord) -> dict[str, Any]:
    return {**to_json(record), "state": "done" if record.error is None else "failed"}


def _record_from_json(content: dict[str, Any]) -> SceneRecord:
    figures = tuple(PairFigures(**pair) for pair in content["pairs"])
    return SceneRecord(content["scene"], content["seconds"], content["error"], figures)


# Processes --------------------------------------------------------------------------------------------------------------------------

Job = tuple[int, Source, CurationConfig, int]


@contextmanager
def _worked(jobs: Iterator[tuple[int, Job]], workers: int) -> Iterator[Iterator[tuple[int, MadeScene]]]:
    """Results of ``make_scene`` for the jobs, as they are done. After a request to stop no new job begins, and those running finish."""
    if workers <= 1:
        with _one_thread():
            yield ((number, make_scene(*job)) for number, job in jobs if not stop_requested())
        return
    with _thread_limits():
        pool = ProcessPoolExecutor(workers, mp_context=get_context("spawn"), initializer=_start_worker, initargs=(os.getpid(),))
        try:
            yield _from_pool(pool, jobs, workers)
        finally:
            pool.shutdown(wait=True, cancel_futures=True)


def _from_pool(pool: ProcessPoolExecutor, jobs: Iterator[tuple[int, Job]], workers: int) -> Iterator[tuple[int, MadeScene]]:
    running: dict[Future[MadeScene], int] = {}
    try:
        while True:
            while len(running) < workers and not stop_requested() and (job := next(jobs, None)) is not None:
                running[pool.submit(make_scene, *job[1])] = job[0]
            if not running:
                return
            for future in wait(running, return_when=FIRST_COMPLETED).done:
                yield running.pop(future), future.result()
    except BrokenProcessPool:
        raise InputError("a worker process was killed (out of memory?); use fewer --workers; the same command continues") from None


def _start_worker(parent: int) -> None:
    """One thread; Ctrl-C and SIGTERM are the parent's business; no life after the parent's death."""
    import signal

    torch.set_num_threads(1)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    threading.Thread(target=_end_with, args=(parent,), daemon=True).start()


def _end_with(parent: int) -> None:
    while os.getppid() == parent:
        time.sleep(ORPHAN_CHECK_SECONDS)
    os._exit(1)


@contextmanager
def _one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


@contextmanager
def _thread_limits() -> Iterator[None]:
    """Libraries of processes started inside read their number of threads from the environment when they are loaded."""
    names = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS", "NUMBA_NUM_THREADS")
    before = {name: os.environ.get(name) for name in names}
    os.environ.update(dict.fromkeys(names, "1"))
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value
