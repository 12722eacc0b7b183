"""The CPU rasterizer: Numba kernels with a hand-written backward, as one autograd function of the
stored parameters.

Threads take contiguous parts of the Gaussians or tiles and write to places of their own, so the
result has the same bits for any number of them (``torch.get_num_threads()``). Kernels are compiled
at first use and kept on disk.
"""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from jaxtyping import Float32
from torch import Tensor

from artifixer.geometry.cameras import Cameras
from artifixer.geometry.rays import pixel_grid
from artifixer.splats.rasterizers.numba_compositing import (
    TILE,
    Image,
    Pairs,
    composite,
    composite_backward,
    pair_up,
)
from artifixer.splats.rasterizers.numba_projection import (
    FEATURES,
    Gaussians,
    View,
    gradients,
    prepare,
    project,
    sum_pairs,
)
from artifixer.splats.rasterizers.reference import Raster
from artifixer.splats.splats import Splats

#: Pixel rays are kept for the lenses used last, up to this many bytes: photos of one capture mostly
#: share theirs.
RAY_CACHE_BYTES = 128 * 2**20

#: The buffer for gradients per pair is kept between calls up to this size: fresh pages cost more
#: time than what is written to them.
PAIR_BUFFER_BYTES = 256 * 2**20

#: Parts per thread, so that one with much work does not keep the others waiting; and the least of
#: them worth a thread.
PARTS_PER_THREAD = 8
SMALLEST_PART = 16


def rasterize(splats: Splats, camera: Cameras, sh_degree: int, near: float) -> Raster:
    """One view, float32 on the CPU (asserted, as is that all numbers are finite). See
    ``reference.rasterize``.
    """
    for name, tensor in vars(splats).items():
        assert tensor.dtype == torch.float32, (
            f"{name} is {tensor.dtype}; numba_cpu works in float32"
        )
        assert bool(torch.isfinite(tensor.detach().sum())) or bool(torch.isfinite(tensor).all()), (
            f"{name} holds values that are not finite"
        )
    rgb, opacity, weighted_depth = _Rasterize.apply(  # type: ignore[no-untyped-call]
        splats.means,
        splats.quats,
        splats.log_scales,
        splats.opacity_logits,
        splats.sh,
        camera,
        sh_degree,
        near,
    )
    return Raster(rgb, opacity, weighted_depth)


class _Rasterize(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, means, quats, log_scales, opacity_logits, sh, camera, sh_degree, near):  # type: ignore[no-untyped-def]
        tensors = (means, quats, log_scales.exp(), torch.sigmoid(opacity_logits), sh)
        gaussians = Gaussians(*(tensor.detach().contiguous().numpy() for tensor in tensors))
        view = _view(camera, near)
        visible, front_to_back, boxes = _visible(gaussians, view)
        features = np.empty((len(visible), FEATURES), np.float32)
        _in_parts(prepare, len(visible), visible, gaussians, view, sh_degree, features)
        tiles_x, tiles_y = -(-view.width // TILE), -(-view.height // TILE)
        pairs = Pairs(*pair_up(boxes, front_to_back, tiles_x, tiles_y))
        image = _empty_image(view)
        shown = np.zeros(len(pairs.rows), np.uint8)
        rays = camera_rays(camera)
        _in_parts(composite, tiles_x * tiles_y, rays, features, boxes, pairs, image, shown)
        ctx.saved = (
            gaussians,
            view,
            visible,
            boxes,
            features,
            pairs,
            image,
            shown,
            rays,
            sh_degree,
        )
        color = torch.from_numpy(image.color)
        return (
            color[..., :3].clone(),
            1 - torch.from_numpy(image.transmittance),
            color[..., 3].clone(),
        )

    @staticmethod
    def backward(ctx: Any, rgb_bar: Tensor, opacity_bar: Tensor, depth_bar: Tensor):  # type: ignore[no-untyped-def]
        gaussians, view, visible, boxes, features, pairs, image, shown, rays, sh_degree = ctx.saved
        bar = _empty_image(view)
        color_bar = torch.from_numpy(bar.color)
        color_bar[..., :3] = rgb_bar
        color_bar[..., 3] = depth_bar
        torch.neg(opacity_bar, out=torch.from_numpy(bar.transmittance))
        per_pair = pair_buffer(len(pairs.rows))
        _in_parts(
            composite_backward,
            len(pairs.offsets) - 1,
            rays,
            features,
            boxes,
            pairs,
            image,
            shown,
            bar,
            per_pair,
        )
        feature_bars = np.empty_like(features)
        _in_parts(sum_pairs, len(visible), pairs.first, pairs.slots, shown, per_pair, feature_bars)
        result = Gaussians(*(np.zeros_like(array) for array in gaussians))
        _in_parts(
            gradients,
            len(visible),
            visible,
            gaussians,
            view,
            sh_degree,
            features,
            feature_bars,
            result,
        )
        return (*(torch.from_numpy(array) for array in result), None, None, None)


def _view(camera: Cameras, near: float) -> View:
    viewmat = camera.viewmats[0].double()
    K, distortion = camera.Ks[0].tolist(), camera.distortion[0].tolist()
    ideal = camera.model == "pinhole" and not any(distortion)
    limit = np.inf if ideal else float(camera.lens_limits()[0])
    return View(
        rotation=viewmat[:3, :3].contiguous().numpy(),
        translation=viewmat[:3, 3].contiguous().numpy(),
        lens=np.array([K[0][0], K[1][1], K[0][2], K[1][2], *distortion, limit]),
        fisheye=camera.model == "fisheye",
        width=camera.width,
        height=camera.height,
        near=float(near),
    )


def _visible(gaussians: Gaussians, view: View) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Indices of the Gaussians to draw, their order front to back (positions in that list), and
    their boxes of pixels.
    """
    count = len(gaussians.means)
    boxes, depths, drawn = (
        np.empty((count, 4), np.int32),
        np.empty(count, np.float32),
        np.empty(count, np.bool_),
    )
    _in_parts(project, count, gaussians, view, boxes, depths, drawn)
    visible = np.flatnonzero(drawn)
    return visible, np.argsort(depths[visible], kind="stable"), boxes[visible]


def _empty_image(view: View) -> Image:
    return Image(
        np.empty((view.height, view.width, 4), np.float32),
        np.empty((view.height, view.width), np.float32),
    )


_kept = threading.local()


def pair_buffer(count: int) -> Float32[np.ndarray, "count features"]:
    """Memory for the backward, not initialised; this thread's next call may return the same."""
    buffer = getattr(_kept, "pair_buffer", None)
    if buffer is None or len(buffer) < count:
        buffer = np.empty((count + count // 4, FEATURES), np.float32)
        if buffer.nbytes <= PAIR_BUFFER_BYTES:
            _kept.pair_buffer = buffer
    return buffer[:count]


def _in_parts(kernel: Callable[..., None], count: int, *arguments: Any) -> None:
    """``kernel(start, stop, *arguments)`` over 0..count, by as many threads as torch uses."""
    threads = min(torch.get_num_threads(), count // SMALLEST_PART)
    if threads <= 1:
        kernel(0, count, *arguments)
        return
    size = -(-count // (threads * PARTS_PER_THREAD))
    starts = iter(range(0, count, size))  # next() on it is atomic
    failures: list[BaseException] = []

    def work() -> None:
        try:
            for start in starts:
                kernel(start, min(start + size, count), *arguments)
        except BaseException as failure:  # handed to the calling thread
            failures.append(failure)

    helpers = [threading.Thread(target=work) for _ in range(threads - 1)]
    for helper in helpers:
        helper.start()
    work()
    for helper in helpers:
        helper.join()
    if failures:
        raise failures[0]


_ray_cache: OrderedDict[tuple[Any, ...], np.ndarray] = OrderedDict()
_ray_cache_lock = threading.Lock()


def camera_rays(camera: Cameras) -> Float32[np.ndarray, "height width 3"]:
    """Unit directions of the pixels in camera axes, from the cache when the lens was used
    before.
    """
    key = (
        camera.width,
        camera.height,
        camera.model,
        camera.Ks[0].numpy().tobytes(),
        camera.distortion[0].numpy().tobytes(),
    )
    with _ray_cache_lock:
        rays = _ray_cache.pop(key, None)
        if rays is None:
            rays = (
                camera.unproject(pixel_grid(camera)[None])[0]
                .reshape(camera.height, camera.width, 3)
                .contiguous()
                .numpy()
            )
        _ray_cache[key] = rays
        while (
            len(_ray_cache) > 1
            and sum(entry.nbytes for entry in _ray_cache.values()) > RAY_CACHE_BYTES
        ):
            _ray_cache.popitem(last=False)
    return rays
