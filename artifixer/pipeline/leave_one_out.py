"""Leave-one-out pairs of a run, for scene adaptation; not in the paper.

In: the training photos of a run and the settings of its reconstruction. Out: for each photo that is
left out a ``TrainingPair`` of one frame: the photo, the render at its camera of splats fitted to
the other photos, and these as references. Such a render is wrong in the way in which those along
the path are wrong, only more so, and its truth is known. Pairs of some photos that the fit has seen
stand beside: what their renders show is right and is to be left alone.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Bool, UInt8
from torch import Tensor

from artifixer.geometry.cameras import Cameras, concatenate
from artifixer.imaging.resize import resize_photo
from artifixer.pairs.pair import TrainingPair
from artifixer.pairs.sample_file import decode_sample, encode_sample
from artifixer.pipeline.reconstruct import ReconstructionJob, initial_splats
from artifixer.pipeline.run_context import RunContext
from artifixer.runtime.files import read_whole, write_bytes
from artifixer.scenes.references import select_references
from artifixer.scenes.scale import CameraScale
from artifixer.scenes.view import views_of
from artifixer.splats.reconstruct import ReconstructConfig, reconstruct
from artifixer.splats.render import render
from artifixer.splats.render_folder import to_uint8
from artifixer.splats.splats import Splats
from artifixer.splats.training_view import TrainingView

#: Bytes of a stored pair that are read at most.
LARGEST_PAIR = 1 << 30


def shortened(config: ReconstructConfig, fraction: float) -> ReconstructConfig:
    """The settings with a fraction of the iterations; schedules keep their proportions."""
    iterations = max(1, round(config.iterations * fraction))
    sh_every, mcmc_every = (
        max(1, every * iterations // config.iterations)
        for every in (config.sh_every, config.mcmc.every)
    )
    return replace(
        config,
        iterations=iterations,
        sh_every=sh_every,
        mcmc=replace(config.mcmc, every=mcmc_every),
    )


def leave_one_out_pairs(
    run: RunContext,
    config: ReconstructConfig,
    scale: CameraScale,
    chosen: tuple[int, ...],
    seen: int,
    folder: Path,
    shown: Callable[[int], None],
) -> Iterator[TrainingPair]:
    """The pairs of the photos ``chosen``, at the size of the run's renders.

    seen: number of pairs of photos that each fit has seen. folder: of finished pairs and of the
    state of the present fit, from which an interrupted call with the same arguments continues.
    shown: called with the number of iterations done in all fits.
    """
    for number, index in enumerate(chosen):
        checkpoint, done = folder / f"{number:05d}.checkpoint", number * config.iterations
        beside = _beside(run, index, seen)
        # the one left out is written last: with it the fit is not needed any more
        photos = {folder / f"{number:05d}-{other:05d}.tar": other for other in (*beside, index)}
        if not all(path.is_file() for path in photos):
            splats = _fit_without(run, config, index, checkpoint, shown, done)
            for path, photo in photos.items():
                write_bytes(path, encode_sample(_pair(run, splats, photo, index, scale)))
        checkpoint.unlink(missing_ok=True)
        shown(done + config.iterations)
        run.stop_if_asked()
        for path in photos:
            yield decode_sample(read_whole(path, "a training pair", LARGEST_PAIR))


def _beside(run: RunContext, index: int, count: int) -> list[int]:
    """At most ``count`` other training photos of the same lens model, evenly spaced."""
    cameras = run.capture.scene.cameras
    others = [
        other
        for other in run.capture.training
        if other != index and cameras[other].model == cameras[index].model
    ]
    count = min(count, len(others))
    return [others[step * len(others) // count] for step in range(count)]


def _fit_without(
    run: RunContext,
    config: ReconstructConfig,
    index: int,
    checkpoint: Path,
    shown: Callable[[int], None],
    done: int,
) -> Splats:
    """Splats fitted to all training photos but one. done: iterations of the fits before."""
    kept = tuple(other for other in run.capture.training if other != index)
    job = ReconstructionJob(run.choice, config, run.seed, run.device)
    initial, extent = initial_splats(job, replace(run.capture, training=kept))
    return reconstruct(
        [TrainingView.of(view) for view in views_of(run.capture.scene, kept)],
        initial,
        extent,
        config,
        run.seed,
        checkpoint=checkpoint,
        device=run.device,
        report=lambda report: shown(done + report.iteration),
    )


def _pair(
    run: RunContext, splats: Splats, index: int, left_out: int, scale: CameraScale
) -> TrainingPair:
    """The photo ``index`` beside its render; ``left_out``: the one that the splats have not seen,
    which is no reference either.
    """
    scene = run.capture.scene
    width, height = run.renders[0].camera.width, run.renders[0].camera.height
    photo, camera = scene.photos[index], scene.cameras[index].resized(width, height)
    with torch.no_grad():
        renders = render(splats.map(lambda tensor: tensor.to(run.device)), camera.to(run.device))
    rgb, opacity = to_uint8(renders.rgb).cpu(), to_uint8(renders.opacity).cpu()
    clean = torch.from_numpy(resize_photo(photo.read(), width, height))[None]
    if photo.mask is not None:
        # nothing is to be learnt where the photo does not count: there the render is right
        clean = torch.where(_counted(photo.mask(), width, height), clean, rgb)
    photos, cameras = _references(run, index, left_out, (width, height))
    return TrainingPair(
        name=f"without-{left_out:05d}-at-{index:05d}",
        clean_frames=clean,
        renders=rgb,
        opacity=opacity,
        cameras=camera,
        reference_photos=photos,
        reference_cameras=cameras,
        camera_scale=scale.value,
        camera_scale_kind=scale.kind,
    )


def _references(
    run: RunContext, index: int, left_out: int, size: tuple[int, int]
) -> tuple[UInt8[Tensor, "views height width 3"], Cameras]:
    """The other photos of the lens model with their cameras, at most as many as the run has
    references, evenly spaced.
    """
    scene = run.capture.scene
    model = scene.cameras[index].model
    names = {
        scene.photos[other].name: other
        for other in run.capture.training
        if other not in (index, left_out) and scene.cameras[other].model == model
    }
    chosen = [names[name] for name in select_references(list(names), len(run.references))]
    if not chosen:
        width, height = size
        none = torch.zeros(0, height, width, 3, dtype=torch.uint8)
        return none, scene.cameras[index].resized(*size)[:0]
    photos = [torch.from_numpy(resize_photo(scene.photos[i].read(), *size)) for i in chosen]
    return torch.stack(photos), concatenate([scene.cameras[i].resized(*size) for i in chosen])


def _counted(
    mask: UInt8[np.ndarray, "height width"], width: int, height: int
) -> Bool[Tensor, "1 new_height new_width 1"]:
    """Where a mask at another size says that the photo counts."""
    grey = np.repeat(mask[..., None], 3, axis=-1)
    return torch.from_numpy(resize_photo(grey, width, height))[None, ..., :1] > 127
