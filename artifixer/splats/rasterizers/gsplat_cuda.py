"""The CUDA rasterizer: gsplat's 3DGUT kernels (versions from 1.5.2), which gsplat compiles at first
use.

The steps of ``gsplat.rasterization(with_ut=True, with_eval3d=True, packed=False)`` one by one,
because only the single steps take the settings of the unscented transform: by default gsplat drops
a Gaussian whose centre lies more than a tenth of the image outside it, which large ones near the
border can't afford. Colours and depth are made here, since gsplat's depth has no gradient, and
blended one after the other: these kernels are compiled for other numbers of channels than three,
but an assertion before them lets only three pass.

Two differences remain: gsplat cuts a footprint at its 16x16 tiles instead of its box of pixels,
which shows where Gaussians are so large or near that their ellipse bends; and it draws nothing
where OpenCV's radial factor falls under 0.8.
"""

from __future__ import annotations

from types import ModuleType
from typing import Any

from torch import Tensor

from artifixer.geometry.cameras import Cameras
from artifixer.runtime.errors import InputError
from artifixer.splats.rasterizers.constants import EPS_2D, UT_ALPHA, UT_BETA, UT_KAPPA
from artifixer.splats.rasterizers.reference import Raster, view_colors
from artifixer.splats.splats import Splats

#: Side of gsplat's tiles in pixels; the only one it is tested with.
TILE = 16

#: How far outside the image, in image sizes, sigma points may fall: far enough for every Gaussian
#: that reaches into it.
MARGIN = 1e3


def rasterize(splats: Splats, camera: Cameras, sh_degree: int, near: float) -> Raster:
    """One view, float32 on a CUDA device. See ``reference.rasterize``; raises ``InputError``
    without a fitting gsplat.
    """
    gsplat = _gsplat()
    means, quats, scales, opacities = (
        splats.means,
        splats.unit_quats,
        splats.scales,
        splats.opacities,
    )
    lens = _lens(camera) | {"ut_params": _unscented_parameters()}
    radii, centers, depths, _, _ = gsplat.fully_fused_projection_with_ut(
        means.detach(),
        quats.detach(),
        scales.detach(),
        # with opacities gsplat shrinks the footprints of specks as if they were drawn fainter than
        # they are, or drops them
        None,
        camera.viewmats,
        camera.Ks,
        camera.width,
        camera.height,
        eps2d=EPS_2D,
        near_plane=near,
        **lens,
    )
    tiles_x, tiles_y = -(-camera.width // TILE), -(-camera.height // TILE)
    _, pair_keys, pair_rows = gsplat.isect_tiles(centers, radii, depths, TILE, tiles_x, tiles_y)
    offsets = gsplat.isect_offset_encode(pair_keys, 1, tiles_x, tiles_y).reshape(
        1, tiles_y, tiles_x
    )

    def blended(values: Tensor) -> tuple[Tensor, Tensor]:
        """Three values of each Gaussian, front to back, and the opacity."""
        drawn, opacity = gsplat.rasterize_to_pixels_eval3d(
            means,
            quats,
            scales,
            values[None],
            opacities[None],
            camera.viewmats,
            camera.Ks,
            camera.width,
            camera.height,
            TILE,
            offsets,
            pair_rows,
            **lens,
        )
        return drawn[0], opacity[0, ..., 0]

    viewmat = camera.viewmats[0]
    depth = means @ viewmat[2, :3] + viewmat[2, 3]
    colors, opacity = blended(view_colors(splats, camera, sh_degree))
    depths_blended, _ = blended(depth[:, None].expand(-1, 3).contiguous())
    return Raster(colors, opacity, depths_blended[..., 0])


def _lens(camera: Cameras) -> dict[str, Any]:
    """gsplat's keywords for our lens: radial k1-k6 and tangential p1, p2 of a pinhole, k1-k4 of a
    fisheye; none for an ideal lens.
    """
    coefficients: dict[str, Tensor | None] = {"radial_coeffs": None, "tangential_coeffs": None}
    if camera.model == "fisheye":
        coefficients["radial_coeffs"] = camera.distortion[:, :4]
    elif bool((camera.distortion != 0).any()):
        coefficients = {
            "radial_coeffs": camera.distortion[:, :6],
            "tangential_coeffs": camera.distortion[:, 6:],
        }
    return {"camera_model": camera.model} | coefficients


def _gsplat() -> ModuleType:
    try:
        import gsplat
    except ImportError as error:
        raise InputError(
            f"backend gsplat_cuda: gsplat can't be imported ({error}); expected the extra 'gpu' to "
            "be installed"
        ) from None
    if not hasattr(gsplat, "rasterize_to_pixels_eval3d"):
        raise InputError(
            f"backend gsplat_cuda: gsplat {gsplat.__version__} has no 3DGUT; expected version "
            "1.5.2 or newer"
        )
    module: ModuleType = gsplat
    return module


def _unscented_parameters() -> Any:
    from gsplat.cuda._wrapper import UnscentedTransformParameters

    return UnscentedTransformParameters(
        alpha=UT_ALPHA,
        beta=UT_BETA,
        kappa=UT_KAPPA,
        in_image_margin_factor=MARGIN,
        require_all_sigma_points_valid=True,
    )
