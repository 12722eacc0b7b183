"""``render``: images of splats from cameras, by one of several rasterizers with the same signature.

Colours are ``max(SH(direction) + 0.5, 0)`` with the direction from the camera's centre to the
Gaussian's. Gradients reach the stored parameters (means, quats, log_scales, opacity_logits, sh)
through rgb, opacity and depth; not the cameras.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import torch
from jaxtyping import Float
from torch import Tensor

from artifixer.geometry.cameras import Cameras
from artifixer.runtime.errors import InputError
from artifixer.splats.rasterizers.constants import MIN_DEPTH_OPACITY, RELATIVE_NEAR
from artifixer.splats.rasterizers.reference import Raster
from artifixer.splats.splats import SH_BASE, Splats


@dataclass(frozen=True)
class Renders:
    """Colour, opacity and depth of one or more views.

    rgb: colour premultiplied by opacity, on black, ``[views height width 3]``.
    opacity: accumulated alpha in [0,1], ``[views height width]``.
    depth: expected camera z, sum(w z) / sum(w), world units, NaN where opacity < 0.01, ``[views
    height width]``.
    """

    rgb: Float[Tensor, "views height width 3"]
    opacity: Float[Tensor, "views height width"]
    depth: Float[Tensor, "views height width"]

    def __len__(self) -> int:
        return self.rgb.shape[0]


def render(
    splats: Splats,
    cameras: Cameras,
    *,
    backend: str = "auto",
    sh_degree: int | None = None,
    near: float | None = None,
) -> Renders:
    """Render every view.

    backend: a name in ``BACKENDS``, or ``auto``: ``gsplat_cuda`` for tensors on a GPU, else
    ``numba_cpu``. sh_degree: highest degree of the spherical harmonics that is used; None for all
    there are.
    near: Gaussians whose centre has a smaller camera z (world units) are not drawn; None for
    ``RELATIVE_NEAR`` times the median positive depth of the centres, per view.
    Raises ``InputError`` for a backend that is unknown or can't run here; a named backend is never
    replaced by another.
    """
    rasterize = _rasterizer(backend, splats.means.device)
    degree = splats.sh_degree if sh_degree is None else min(sh_degree, splats.sh_degree)
    views = []
    for view in range(len(cameras)):
        camera = cameras[view]
        views.append(
            rasterize(
                splats, camera, degree, default_near(splats, camera) if near is None else near
            )
        )
    rgb, opacity, weighted_depth = (_stack(maps) for maps in zip(*views, strict=True))
    depth = torch.where(
        opacity >= MIN_DEPTH_OPACITY,
        weighted_depth / opacity.clamp(min=MIN_DEPTH_OPACITY),
        torch.nan,
    )
    return Renders(rgb, opacity, depth)


#: Incremented when the median of the same renders changes, so that stored ones count as outdated.
MEDIAN_VERSION = 2


def median_render(renders: Sequence[Renders]) -> Renders:
    """Median, per pixel and channel, of an odd number of renders of the same views: what only one
    of several independent fits shows is left out. The depth is the median of the known depths, NaN
    where the median opacity is below 0.01, as in every render.
    """
    assert len(renders) % 2, f"{len(renders)} renders, expected an odd number"
    rgb, opacity, depth = (
        torch.stack([getattr(render, name) for render in renders])
        for name in ("rgb", "opacity", "depth")
    )
    opacity = opacity.median(dim=0).values
    known = torch.where(opacity >= MIN_DEPTH_OPACITY, depth.nanmedian(dim=0).values, torch.nan)
    return Renders(rgb.median(dim=0).values, opacity, known)


def contributions(
    splats: Splats, cameras: Cameras, near: float | None = None
) -> Float[Tensor, " count"]:
    """Per Gaussian, the sum of its blending weight over all pixels of all views: 0 for one that no
    view shows.

    The weight is the derivative of a pixel's colour with respect to the Gaussian's.
    """
    total = torch.zeros_like(splats.opacity_logits, requires_grad=False)
    with torch.enable_grad():
        for view in range(len(cameras)):
            base = torch.zeros_like(splats.sh[:, :1]).requires_grad_()
            plain = replace(splats.map(torch.Tensor.detach), sh=base)
            (gradient,) = torch.autograd.grad(
                render(plain, cameras[view], near=near).rgb[..., 0].sum(), base
            )
            total += gradient[:, 0, 0] / SH_BASE
    return total


@torch.no_grad()
def default_near(splats: Splats, camera: Cameras) -> float:
    """``RELATIVE_NEAR`` times the median depth of the centres in front of a single view; 0 when
    there are none.
    """
    viewmat = camera.viewmats[0]
    depth = splats.means @ viewmat[2, :3] + viewmat[2, 3]
    depth = depth[depth > 0]
    return RELATIVE_NEAR * float(depth.median()) if len(depth) else 0.0


def _reference(splats: Splats, camera: Cameras, sh_degree: int, near: float) -> Raster:
    from artifixer.splats.rasterizers.reference import rasterize

    return rasterize(splats, camera, sh_degree, near)


def _numba_cpu(splats: Splats, camera: Cameras, sh_degree: int, near: float) -> Raster:
    if splats.means.device.type != "cpu":
        raise InputError(
            f"backend numba_cpu: the splats are on {splats.means.device}; expected the CPU"
        )
    from artifixer.splats.rasterizers.numba_cpu import rasterize

    return rasterize(splats, camera, sh_degree, near)


def _gsplat_cuda(splats: Splats, camera: Cameras, sh_degree: int, near: float) -> Raster:
    if splats.means.device.type != "cuda":
        raise InputError(
            f"backend gsplat_cuda: the splats are on {splats.means.device}; expected a CUDA device"
        )
    from artifixer.splats.rasterizers.gsplat_cuda import rasterize

    return rasterize(splats, camera, sh_degree, near)


#: Rasterizers of one view: (splats, camera, sh_degree, near) -> Raster. Each imports its library
#: when it is called.
BACKENDS: dict[str, Callable[[Splats, Cameras, int, float], Raster]] = {
    "reference": _reference,
    "numba_cpu": _numba_cpu,
    "gsplat_cuda": _gsplat_cuda,
}


def _rasterizer(
    backend: str, device: torch.device
) -> Callable[[Splats, Cameras, int, float], Raster]:
    if backend == "auto":
        backend = "gsplat_cuda" if device.type == "cuda" else "numba_cpu"
    if backend not in BACKENDS:
        raise InputError(
            f"backend {backend!r}: unknown; expected auto or one of {', '.join(BACKENDS)}"
        )
    return BACKENDS[backend]


def _stack(maps: tuple[Tensor, ...]) -> Tensor:
    """``torch.stack`` without a copy for a single view."""
    return maps[0][None] if len(maps) == 1 else torch.stack(maps)
