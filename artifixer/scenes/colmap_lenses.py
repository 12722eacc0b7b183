"""COLMAP's lens models and the lenses of ``Cameras``, both ways: names and order of parameters."""

from __future__ import annotations

from dataclasses import dataclass

from artifixer.geometry.cameras import DISTORTION_NAMES, Cameras, LensModel


@dataclass(frozen=True)
class Lens:
    """How a COLMAP lens model reads: our model, and the names of its parameters (``f`` stands for
    ``fx`` and ``fy``).
    """

    model: LensModel | None
    parameters: tuple[str, ...]


_PINHOLE_ORDER = ("fx", "fy", "cx", "cy")
_SINGLE_ORDER = ("f", "cx", "cy")

#: Lens models in COLMAP's numbering. Those without one of our models must be undistorted first;
#: only their parameter counts matter.
LENSES: dict[str, Lens] = {
    "SIMPLE_PINHOLE": Lens("pinhole", _SINGLE_ORDER),
    "PINHOLE": Lens("pinhole", _PINHOLE_ORDER),
    "SIMPLE_RADIAL": Lens("pinhole", (*_SINGLE_ORDER, "k1")),
    "RADIAL": Lens("pinhole", (*_SINGLE_ORDER, "k1", "k2")),
    "OPENCV": Lens("pinhole", (*_PINHOLE_ORDER, "k1", "k2", "p1", "p2")),
    "OPENCV_FISHEYE": Lens("fisheye", (*_PINHOLE_ORDER, "k1", "k2", "k3", "k4")),
    "FULL_OPENCV": Lens(
        "pinhole", (*_PINHOLE_ORDER, "k1", "k2", "p1", "p2", "k3", "k4", "k5", "k6")
    ),
    "FOV": Lens(None, (*_PINHOLE_ORDER, "omega")),
    "SIMPLE_RADIAL_FISHEYE": Lens("fisheye", (*_SINGLE_ORDER, "k1")),
    "RADIAL_FISHEYE": Lens("fisheye", (*_SINGLE_ORDER, "k1", "k2")),
    "THIN_PRISM_FISHEYE": Lens(
        None, (*_PINHOLE_ORDER, "k1", "k2", "p1", "p2", "k3", "k4", "sx1", "sy1")
    ),
    "RAD_TAN_THIN_PRISM_FISHEYE": Lens(
        None, (*_PINHOLE_ORDER, *(f"k{i}" for i in range(6)), "p0", "p1", "s0", "s1", "s2", "s3")
    ),
    "SIMPLE_DIVISION": Lens(None, (*_SINGLE_ORDER, "k")),
    "DIVISION": Lens(None, (*_PINHOLE_ORDER, "k")),
    "SIMPLE_FISHEYE": Lens("fisheye", _SINGLE_ORDER),
    "FISHEYE": Lens("fisheye", _PINHOLE_ORDER),
    "EUCM": Lens(None, (*_PINHOLE_ORDER, "alpha", "beta")),
    "EQUIRECTANGULAR": Lens(None, ("w", "h")),
}

LENS_NAMES = tuple(LENSES)


def lens_name(camera: Cameras) -> str:
    """The smallest COLMAP model that holds the camera's lens."""
    if camera.model == "fisheye":
        return "OPENCV_FISHEYE"
    used = {name for name, value in _coefficients(camera).items() if value}
    return next(
        name
        for name in ("PINHOLE", "OPENCV", "FULL_OPENCV")
        if used <= set(LENSES[name].parameters)
    )


def lens_coefficients(camera: Cameras, lens: str) -> dict[str, float]:
    """The camera's distortion coefficients by name in the order of COLMAP's model ``lens``, which
    lists them after fx, fy, cx and cy (``lens_name``).
    """
    value = _coefficients(camera)
    return {name: value[name] for name in LENSES[lens].parameters[len(_PINHOLE_ORDER) :]}


def _coefficients(camera: Cameras) -> dict[str, float]:
    return dict(zip(DISTORTION_NAMES, camera.distortion[0].tolist(), strict=True))
