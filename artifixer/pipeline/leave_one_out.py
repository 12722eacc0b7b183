"""Leave-one-out pairs of a run, for scene adaptation; not in the paper.

In: the training photos of a run and the settings of its reconstruction. Out: for each left-out
photo a ``TrainingPair`` of one frame: the photo, the render at its camera of splats fitted to the
other photos, and these as references. Such renders have the artifacts of renders along the path,
only stronger, and their ground truth is known. Pairs of some photos that the fit has seen are
added: they teach the model to keep correct renders unchanged.
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

#: Maximum size of a stored pair, bytes.
LARGEST_PAIR = 1 << 30


def leave_one_out_pairs(
    run: RunContext,
    config: ReconstructConfig,
    scale: CameraScale,
    chosen: tuple[int, ...],
    seen: int,
    folder: Path,
    shown: Callable[[int], None],
) -> Iterator[TrainingPair]:
    """Yield the pairs of the photos ``chosen``, at the size of the run's renders.

    seen: number of pairs per fit of photos that the fit has seen. folder: holds finished pairs and
    the state of the current fit, from which an interrupted call with the same arguments continues.
    shown: called with the number of iterations done in all fits.
    """
    for number, index in enumerate(chosen):
        checkpoint, done = folder / f"{number:05d}.checkpoint", number * config.iterations
        # the pair of the left-out photo is written last, when the fit is no longer needed
        targets = (*_seen_photos(run, index, seen), index)
        files = {folder / f"{number:05d}-{target:05d}.tar": target for target in targets}
        if not all(path.is_file() for path in files):
            splats = _fit_without(run, config, index, checkpoint, shown, done)
            for path, photo in files.items():
                write_bytes(path, encode_sample(_pair(run, splats, photo, index, scale)))
        checkpoint.unlink(missing_ok=True)
        shown(done + config.iterations)
        run.stop_if_requested()
        for path in files:
            yield decode_sample(read_whole(path, "a training pair", LARGEST_PAIR))


def _seen_photos(run: RunContext, index: int, count: int) -> list[int]:
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
    """Splats fitted to all training photos but one. done: iterations of earlier fits."""
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
    """The pair of the photo ``index``. left_out: the photo that the splats were not fitted to,
    which is not used as a reference either.
    """
    scene = run.capture.scene
    width, height = run.renders[0].camera.width, run.renders[0].camera.height
    photo, camera = scene.photos[index], scene.cameras[index].resized(width, height)
    with torch.no_grad():
        renders = render(splats.map(lambda tensor: tensor.to(run.device)), camera.to(run.device))
    rgb, opacity = to_uint8(renders.rgb).cpu(), to_uint8(renders.opacity).cpu()
    clean = torch.from_numpy(resize_photo(photo.read(), width, height))[None]
    if photo.mask is not None:
        # masked pixels must not be learnt: their target is the render
        clean = torch.where(_unmasked(photo.mask(), width, height), clean, rgb)
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
    """Reference photos with their cameras: evenly spaced other photos of the same lens model, at
    most as many as the run has references.
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


def _unmasked(
    mask: UInt8[np.ndarray, "height width"], width: int, height: int
) -> Bool[Tensor, "1 new_height new_width 1"]:
    """The resized mask: true where the photo is used."""
    grey = np.repeat(mask[..., None], 3, axis=-1)
    return torch.from_numpy(resize_photo(grey, width, height))[None, ..., :1] > 127
