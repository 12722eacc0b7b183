"""Numba kernels over Gaussians: unscented projection, what compositing needs to know of each, and
the way back.

Everything between load and store is in float64 scalars: it costs nothing here and keeps the
unscented transform, a small difference of large numbers, exact. Work is in camera axes, so that
pixel rays don't depend on the pose.

A visible Gaussian becomes one row of ``features``. Let ``M`` (3x3) map camera axes to the space
where the Gaussian is a unit sphere, and ``g = -M mean`` be the camera's centre there. A ray ``d``
passes the sphere's centre at squared distance ``q = |g x Md|^2 / |Md|^2``. With an orthonormal
basis ``e0, e1, e2 = g / |g|``::

    p0 = |g| e0.Md    p1 = |g| e1.Md    p2 = e2.Md    s = p0^2 + p1^2    q = s / (s / |g|^2 + p2^2)

so a row holds the covectors of p0, p1, p2 and ``1 / |g|^2``: no cross product per pixel.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np
from numba import njit

from artifixer.splats.rasterizers.constants import (
    EPS_2D,
    MAX_EXTENT,
    MIN_ALPHA,
    SH_1,
    SH_2,
    SH_3,
    UT_CENTRAL_COVARIANCE_WEIGHT,
    UT_OUTER_WEIGHT,
    UT_SPREAD,
)
from artifixer.splats.splats import SH_BASE

#: Columns of a feature row; those of its gradient are the same.
P0, P1, P2 = 0, 3, 6
INVERSE_G2, OPACITY, RED, DEPTH = 9, 10, 11, 14
FEATURES = 15

_Vector = tuple[float, float, float]
_Matrix = tuple[_Vector, _Vector, _Vector]


class Gaussians(NamedTuple):
    """Arrays of all Gaussians, float32, contiguous; ``quats`` of any length, ``scales`` and
    ``opacities`` as rendered.
    """

    means: np.ndarray
    quats: np.ndarray
    scales: np.ndarray
    opacities: np.ndarray
    sh: np.ndarray


class View(NamedTuple):
    """One camera: world_to_camera as ``rotation`` and ``translation``; ``lens``: fx, fy, cx, cy,
    then the eight distortion coefficients, then the limit of the lens model (radius, or angle for a
    fisheye)."""

    rotation: np.ndarray
    translation: np.ndarray
    lens: np.ndarray
    fisheye: bool
    width: int
    height: int
    near: float


@njit(cache=True, nogil=True, error_model="numpy")
def project(
    start: int,
    stop: int,
    gaussians: Gaussians,
    view: View,
    boxes: np.ndarray,
    depths: np.ndarray,
    visible: np.ndarray,
) -> None:
    """For Gaussians ``start`` to ``stop``: pixel box (first column, first row, last column, last
    row; inclusive, cut at the image's borders), camera z of the centre, and whether it is drawn.
    Boxes of the others are not written."""
    for i in range(start, stop):
        visible[i] = False
        opacity = np.float64(gaussians.opacities[i])
        x, y, z = _to_camera(gaussians.means, i, view)
        depths[i] = z
        if opacity <= MIN_ALPHA or z <= view.near:
            continue
        u, v, valid = _image_point(x, y, z, view)
        axes = _axes_in_camera(gaussians.quats, i, view)
        sum_u, sum_v, sum_uu, sum_vv = 0.0, 0.0, 0.0, 0.0
        for k in range(3):
            spread = UT_SPREAD * np.float64(gaussians.scales[i, k])
            for sign in (1.0, -1.0):
                step = sign * spread
                point_u, point_v, point_valid = _image_point(
                    x + step * axes[0][k], y + step * axes[1][k], z + step * axes[2][k], view
                )
                valid = valid and point_valid
                du, dv = point_u - u, point_v - v
                sum_u += du
                sum_v += dv
                sum_uu += du * du
                sum_vv += dv * dv
        if not valid:
            continue
        extent = min(MAX_EXTENT, math.sqrt(2 * math.log(opacity / MIN_ALPHA)))
        left, right = _interval(u, sum_u, sum_uu, extent)
        top, bottom = _interval(v, sum_v, sum_vv, extent)
        if right < 0 or bottom < 0 or left > view.width - 1 or top > view.height - 1:
            continue
        visible[i] = True
        boxes[i, 0] = max(left, 0.0)
        boxes[i, 1] = max(top, 0.0)
        boxes[i, 2] = min(right, view.width - 1.0)
        boxes[i, 3] = min(bottom, view.height - 1.0)


@njit(cache=True, nogil=True, error_model="numpy")
def prepare(
    start: int,
    stop: int,
    visible: np.ndarray,
    gaussians: Gaussians,
    view: View,
    sh_degree: int,
    features: np.ndarray,
) -> None:
    """Fill feature rows ``start`` to ``stop``; row r is Gaussian ``visible[r]``."""
    basis = np.zeros(16)
    for row in range(start, stop):
        i = visible[row]
        mean = _to_camera(gaussians.means, i, view)
        M = _whitening(_axes_in_camera(gaussians.quats, i, view), gaussians.scales, i)
        g = _minus_times(M, mean)
        e0, e1, e2, length = _basis_around(g)
        for c in range(3):
            features[row, P0 + c] = length * (e0[0] * M[0][c] + e0[1] * M[1][c] + e0[2] * M[2][c])
            features[row, P1 + c] = length * (e1[0] * M[0][c] + e1[1] * M[1][c] + e1[2] * M[2][c])
            features[row, P2 + c] = e2[0] * M[0][c] + e2[1] * M[1][c] + e2[2] * M[2][c]
        features[row, INVERSE_G2] = 1 / (length * length)
        features[row, OPACITY] = gaussians.opacities[i]
        x, y, z, _ = _direction(gaussians.means, i, view)
        _sh_basis(x, y, z, sh_degree, basis)
        for c in range(3):
            color = 0.5
            for k in range((sh_degree + 1) ** 2):
                color += basis[k] * gaussians.sh[i, k, c]
            features[row, RED + c] = max(color, 0.0)
        features[row, DEPTH] = mean[2]


@njit(cache=True, nogil=True, error_model="numpy")
def sum_pairs(
    start: int,
    stop: int,
    first: np.ndarray,
    slots: np.ndarray,
    shown: np.ndarray,
    per_pair: np.ndarray,
    sums: np.ndarray,
) -> None:
    """Gradients of feature rows ``start`` to ``stop`` as sums over their tiles:
    ``per_pair[slots[first[r] : first[r + 1]]]`` in this order, without pairs that are not shown.
    Apart from ``gradients``, so that reads of scattered memory overlap."""
    total = np.zeros(FEATURES)
    for row in range(start, stop):
        total[:] = 0
        for pair in range(first[row], first[row + 1]):
            slot = slots[pair]
            if shown[slot]:
                for k in range(FEATURES):
                    total[k] += per_pair[slot, k]
        sums[row] = total


@njit(cache=True, nogil=True, error_model="numpy")
def gradients(
    start: int,
    stop: int,
    visible: np.ndarray,
    gaussians: Gaussians,
    view: View,
    sh_degree: int,
    features: np.ndarray,
    feature_bars: np.ndarray,
    result: Gaussians,
) -> None:
    """From gradients of feature rows ``start`` to ``stop`` to gradients of the parameters in
    ``result`` (``Gaussians``; log_scales in ``scales``, opacity_logits in ``opacities``)."""
    basis = np.zeros(16)
    slopes = np.zeros((16, 3))
    bar = np.zeros(FEATURES)
    # gradients of the axes, in camera and in world axes: a buffer of _shape_gradients
    axes_bar = np.zeros((2, 3, 3))
    for row in range(start, stop):
        i = visible[row]
        bar[:] = feature_bars[row]
        opacity = np.float64(gaussians.opacities[i])
        result.opacities[i] = bar[OPACITY] * opacity * (1 - opacity)
        color_to_mean = _color_gradients(
            i, row, gaussians, view, sh_degree, features, bar, result.sh, basis, slopes
        )
        shape_to_mean = _shape_gradients(i, gaussians, view, bar, axes_bar, result)
        for c in range(3):
            result.means[i, c] = color_to_mean[c] + shape_to_mean[c]


@njit(cache=True, nogil=True, error_model="numpy")
def _color_gradients(
    i: int,
    row: int,
    gaussians: Gaussians,
    view: View,
    sh_degree: int,
    features: np.ndarray,
    bar: np.ndarray,
    sh_result: np.ndarray,
    basis: np.ndarray,
    slopes: np.ndarray,
) -> _Vector:
    """Writes the gradient of the SH coefficients; returns the mean's, through the viewing
    direction.
    """
    x, y, z, distance = _direction(gaussians.means, i, view)
    _sh_basis(x, y, z, sh_degree, basis)
    _sh_slopes(x, y, z, sh_degree, slopes)
    to_x, to_y, to_z = 0.0, 0.0, 0.0
    for c in range(3):
        color_bar = bar[RED + c] if features[row, RED + c] > 0 else 0.0
        for k in range((sh_degree + 1) ** 2):
            sh_result[i, k, c] = color_bar * basis[k]
            weight = color_bar * gaussians.sh[i, k, c]
            to_x += weight * slopes[k, 0]
            to_y += weight * slopes[k, 1]
            to_z += weight * slopes[k, 2]
    along = to_x * x + to_y * y + to_z * z
    return (
        (to_x - along * x) / distance,
        (to_y - along * y) / distance,
        (to_z - along * z) / distance,
    )


@njit(cache=True, nogil=True, error_model="numpy")
def _shape_gradients(
    i: int,
    gaussians: Gaussians,
    view: View,
    bar: np.ndarray,
    axes_bar: np.ndarray,
    result: Gaussians,
) -> _Vector:
    """Writes the gradients of rotation and scale; returns the mean's, through position and depth.

    A change of ``g`` turns the basis: de0 = -(e0.dg) e2 / |g|, likewise e1, and de2 = (e0 (e0.dg) +
    e1 (e1.dg)) / |g|. Turning e0 and e1 around e2 changes nothing, so it needs no term.
    """
    mean = _to_camera(gaussians.means, i, view)
    axes = _axes_in_camera(gaussians.quats, i, view)
    M = _whitening(axes, gaussians.scales, i)
    e0, e1, e2, length = _basis_around(_minus_times(M, mean))
    p0_bar = (bar[P0], bar[P0 + 1], bar[P0 + 2])
    p1_bar = (bar[P1], bar[P1 + 1], bar[P1 + 2])
    p2_bar = (bar[P2], bar[P2 + 1], bar[P2 + 2])
    e0_M, e1_M, e2_M = _row_times(e0, M), _row_times(e1, M), _row_times(e2, M)
    along_0 = -_dot(p0_bar, e2_M) + _dot(p2_bar, e0_M) / length
    along_1 = -_dot(p1_bar, e2_M) + _dot(p2_bar, e1_M) / length
    along_2 = _dot(p0_bar, e0_M) + _dot(p1_bar, e1_M) - 2 * bar[INVERSE_G2] / length**3

    mean_x, mean_y, mean_z = 0.0, 0.0, bar[DEPTH]
    in_camera, in_world = axes_bar[0], axes_bar[1]
    for k in range(3):
        scale = np.float64(gaussians.scales[i, k])
        g_bar = e0[k] * along_0 + e1[k] * along_1 + e2[k] * along_2
        mean_x -= M[k][0] * g_bar
        mean_y -= M[k][1] * g_bar
        mean_z -= M[k][2] * g_bar
        log_scale_bar = 0.0
        for c in range(3):
            M_bar = (
                length * (e0[k] * p0_bar[c] + e1[k] * p1_bar[c])
                + e2[k] * p2_bar[c]
                - g_bar * mean[c]
            )
            log_scale_bar -= M_bar * M[k][c]
            in_camera[c, k] = M_bar / scale
        result.scales[i, k] = log_scale_bar

    r = view.rotation
    for k in range(3):
        for c in range(3):
            in_world[c, k] = (
                r[0, c] * in_camera[0, k] + r[1, c] * in_camera[1, k] + r[2, c] * in_camera[2, k]
            )
    _quaternion_gradient(gaussians.quats, i, in_world, result.quats)
    return (
        r[0, 0] * mean_x + r[1, 0] * mean_y + r[2, 0] * mean_z,
        r[0, 1] * mean_x + r[1, 1] * mean_y + r[2, 1] * mean_z,
        r[0, 2] * mean_x + r[1, 2] * mean_y + r[2, 2] * mean_z,
    )


@njit(cache=True, nogil=True, error_model="numpy")
def _quaternion_gradient(quats: np.ndarray, i: int, g: np.ndarray, result: np.ndarray) -> None:
    """Gradient of the stored (not normalised) quaternion from that of its rotation matrix."""
    w, x, y, z, length = _unit_quaternion(quats, i)
    bar_w = 2 * (x * (g[2, 1] - g[1, 2]) + y * (g[0, 2] - g[2, 0]) + z * (g[1, 0] - g[0, 1]))
    bar_x = 2 * (
        y * (g[0, 1] + g[1, 0])
        + z * (g[0, 2] + g[2, 0])
        + w * (g[2, 1] - g[1, 2])
        - 2 * x * (g[1, 1] + g[2, 2])
    )
    bar_y = 2 * (
        x * (g[0, 1] + g[1, 0])
        + z * (g[1, 2] + g[2, 1])
        + w * (g[0, 2] - g[2, 0])
        - 2 * y * (g[0, 0] + g[2, 2])
    )
    bar_z = 2 * (
        x * (g[0, 2] + g[2, 0])
        + y * (g[1, 2] + g[2, 1])
        + w * (g[1, 0] - g[0, 1])
        - 2 * z * (g[0, 0] + g[1, 1])
    )
    along = w * bar_w + x * bar_x + y * bar_y + z * bar_z
    result[i, 0] = (bar_w - along * w) / length
    result[i, 1] = (bar_x - along * x) / length
    result[i, 2] = (bar_y - along * y) / length
    result[i, 3] = (bar_z - along * z) / length


@njit(cache=True, nogil=True, error_model="numpy")
def _to_camera(means: np.ndarray, i: int, view: View) -> _Vector:
    """A mean in camera axes."""
    x, y, z = np.float64(means[i, 0]), np.float64(means[i, 1]), np.float64(means[i, 2])
    r, t = view.rotation, view.translation
    return (
        r[0, 0] * x + r[0, 1] * y + r[0, 2] * z + t[0],
        r[1, 0] * x + r[1, 1] * y + r[1, 2] * z + t[1],
        r[2, 0] * x + r[2, 1] * y + r[2, 2] * z + t[2],
    )


@njit(cache=True, nogil=True, error_model="numpy")
def _unit_quaternion(quats: np.ndarray, i: int) -> tuple[float, float, float, float, float]:
    """w, x, y, z and the length it had."""
    w, x, y, z = (
        np.float64(quats[i, 0]),
        np.float64(quats[i, 1]),
        np.float64(quats[i, 2]),
        np.float64(quats[i, 3]),
    )
    length = math.sqrt(w * w + x * x + y * y + z * z)
    return w / length, x / length, y / length, z / length, length


@njit(cache=True, nogil=True, error_model="numpy")
def _axes_in_camera(quats: np.ndarray, i: int, view: View) -> _Matrix:
    """Rows of the matrix whose columns are the Gaussian's axes in camera axes."""
    w, x, y, z, _ = _unit_quaternion(quats, i)
    a = (1 - 2 * (y * y + z * z), 2 * (x * y - w * z), 2 * (x * z + w * y))
    b = (2 * (x * y + w * z), 1 - 2 * (x * x + z * z), 2 * (y * z - w * x))
    c = (2 * (x * z - w * y), 2 * (y * z + w * x), 1 - 2 * (x * x + y * y))
    r = view.rotation
    return (
        (
            r[0, 0] * a[0] + r[0, 1] * b[0] + r[0, 2] * c[0],
            r[0, 0] * a[1] + r[0, 1] * b[1] + r[0, 2] * c[1],
            r[0, 0] * a[2] + r[0, 1] * b[2] + r[0, 2] * c[2],
        ),
        (
            r[1, 0] * a[0] + r[1, 1] * b[0] + r[1, 2] * c[0],
            r[1, 0] * a[1] + r[1, 1] * b[1] + r[1, 2] * c[1],
            r[1, 0] * a[2] + r[1, 1] * b[2] + r[1, 2] * c[2],
        ),
        (
            r[2, 0] * a[0] + r[2, 1] * b[0] + r[2, 2] * c[0],
            r[2, 0] * a[1] + r[2, 1] * b[1] + r[2, 2] * c[1],
            r[2, 0] * a[2] + r[2, 1] * b[2] + r[2, 2] * c[2],
        ),
    )


@njit(cache=True, nogil=True, error_model="numpy")
def _whitening(axes: _Matrix, scales: np.ndarray, i: int) -> _Matrix:
    """Camera axes -> unit sphere: row k is axis k divided by its scale."""
    s0, s1, s2 = (
        1 / np.float64(scales[i, 0]),
        1 / np.float64(scales[i, 1]),
        1 / np.float64(scales[i, 2]),
    )
    return (
        (axes[0][0] * s0, axes[1][0] * s0, axes[2][0] * s0),
        (axes[0][1] * s1, axes[1][1] * s1, axes[2][1] * s1),
        (axes[0][2] * s2, axes[1][2] * s2, axes[2][2] * s2),
    )


@njit(cache=True, nogil=True, error_model="numpy")
def _minus_times(M: _Matrix, v: _Vector) -> _Vector:
    return -_dot(M[0], v), -_dot(M[1], v), -_dot(M[2], v)


@njit(cache=True, nogil=True, error_model="numpy")
def _row_times(v: _Vector, M: _Matrix) -> _Vector:
    return (
        v[0] * M[0][0] + v[1] * M[1][0] + v[2] * M[2][0],
        v[0] * M[0][1] + v[1] * M[1][1] + v[2] * M[2][1],
        v[0] * M[0][2] + v[1] * M[1][2] + v[2] * M[2][2],
    )


@njit(cache=True, nogil=True, error_model="numpy")
def _dot(a: _Vector, b: _Vector) -> float:
    return a[0] * b[0] + a[1] * b[1] + a[2] * b[2]


@njit(cache=True, nogil=True, error_model="numpy")
def _basis_around(g: _Vector) -> tuple[_Vector, _Vector, _Vector, float]:
    """Orthonormal e0, e1, e2 with e2 along ``g``, and the length of ``g`` (Duff et al. 2017)."""
    length = math.sqrt(_dot(g, g))
    x, y, z = g[0] / length, g[1] / length, g[2] / length
    sign = math.copysign(1.0, z)
    a = -1 / (sign + z)
    b = x * y * a
    return (1 + sign * x * x * a, sign * b, -sign * x), (b, sign + y * y * a, -y), (x, y, z), length


@njit(cache=True, nogil=True, error_model="numpy")
def _image_point(x: float, y: float, z: float, view: View) -> tuple[float, float, bool]:
    """Camera axes -> pixel, and whether the lens can image the point: the same formulas as
    ``Cameras.project``.
    """
    if z <= 0:
        return 0.0, 0.0, False
    lens = view.lens
    k1, k2, k3, k4 = lens[4], lens[5], lens[6], lens[7]
    x, y = x / z, y / z
    r2 = x * x + y * y
    if view.fisheye:
        radius = math.sqrt(r2)
        angle = math.atan(radius)
        a2 = angle * angle
        scale = (
            1.0
            if radius == 0
            else angle * (1 + a2 * (k1 + a2 * (k2 + a2 * (k3 + a2 * k4)))) / radius
        )
        return lens[0] * scale * x + lens[2], lens[1] * scale * y + lens[3], angle <= lens[12]
    k5, k6, p1, p2 = lens[8], lens[9], lens[10], lens[11]
    factor = (1 + r2 * (k1 + r2 * (k2 + r2 * k3))) / (1 + r2 * (k4 + r2 * (k5 + r2 * k6)))
    u = x * factor + 2 * p1 * x * y + p2 * (r2 + 2 * x * x)
    v = y * factor + p1 * (r2 + 2 * y * y) + 2 * p2 * x * y
    return lens[0] * u + lens[2], lens[1] * v + lens[3], math.sqrt(r2) <= lens[12]


@njit(cache=True, nogil=True, error_model="numpy")
def _interval(center: float, first: float, second: float, extent: float) -> tuple[float, float]:
    """Pixels covered along one axis, from the central sigma point and the sums of the outer ones'
    offsets and squares.
    """
    shift = UT_OUTER_WEIGHT * first
    variance = (
        EPS_2D
        + UT_OUTER_WEIGHT * second
        + shift * shift * (UT_CENTRAL_COVARIANCE_WEIGHT + 6 * UT_OUTER_WEIGHT - 2)
    )
    radius = extent * math.sqrt(max(variance, 0.0))
    return math.floor(center + shift - radius - 0.5), math.ceil(center + shift + radius - 0.5)


@njit(cache=True, nogil=True, error_model="numpy")
def _direction(means: np.ndarray, i: int, view: View) -> tuple[float, float, float, float]:
    """Unit vector from the camera's centre to the mean in world axes, and their distance."""
    r, t = view.rotation, view.translation
    x = means[i, 0] + r[0, 0] * t[0] + r[1, 0] * t[1] + r[2, 0] * t[2]
    y = means[i, 1] + r[0, 1] * t[0] + r[1, 1] * t[1] + r[2, 1] * t[2]
    z = means[i, 2] + r[0, 2] * t[0] + r[1, 2] * t[1] + r[2, 2] * t[2]
    distance = math.sqrt(x * x + y * y + z * z)
    return x / distance, y / distance, z / distance, distance


@njit(cache=True, nogil=True, error_model="numpy")
def _sh_basis(x: float, y: float, z: float, degree: int, basis: np.ndarray) -> None:
    """As ``reference.sh_basis``."""
    basis[0] = SH_BASE
    if degree >= 1:
        basis[1], basis[2], basis[3] = -SH_1 * y, SH_1 * z, -SH_1 * x
    xx, yy, zz = x * x, y * y, z * z
    if degree >= 2:
        basis[4], basis[5], basis[6] = (
            SH_2[0] * x * y,
            SH_2[1] * y * z,
            SH_2[2] * (2 * zz - xx - yy),
        )
        basis[7], basis[8] = SH_2[3] * x * z, SH_2[4] * (xx - yy)
    if degree >= 3:
        basis[9], basis[10], basis[11] = (
            SH_3[0] * y * (3 * xx - yy),
            SH_3[1] * x * y * z,
            SH_3[2] * y * (4 * zz - xx - yy),
        )
        basis[12], basis[13] = (
            SH_3[3] * z * (2 * zz - 3 * xx - 3 * yy),
            SH_3[4] * x * (4 * zz - xx - yy),
        )
        basis[14], basis[15] = SH_3[5] * z * (xx - yy), SH_3[6] * x * (xx - 3 * yy)


@njit(cache=True, nogil=True, error_model="numpy")
def _sh_slopes(x: float, y: float, z: float, degree: int, slopes: np.ndarray) -> None:
    """Derivatives of the basis along x, y and z; row 0 stays zero."""
    if degree >= 1:
        slopes[1, 1], slopes[2, 2], slopes[3, 0] = -SH_1, SH_1, -SH_1
    if degree >= 2:
        slopes[4, 0], slopes[4, 1] = SH_2[0] * y, SH_2[0] * x
        slopes[5, 1], slopes[5, 2] = SH_2[1] * z, SH_2[1] * y
        slopes[6, 0], slopes[6, 1], slopes[6, 2] = (
            -2 * SH_2[2] * x,
            -2 * SH_2[2] * y,
            4 * SH_2[2] * z,
        )
        slopes[7, 0], slopes[7, 2] = SH_2[3] * z, SH_2[3] * x
        slopes[8, 0], slopes[8, 1] = 2 * SH_2[4] * x, -2 * SH_2[4] * y
    if degree >= 3:
        xx, yy, zz, xy, xz, yz = x * x, y * y, z * z, x * y, x * z, y * z
        slopes[9, 0], slopes[9, 1] = 6 * SH_3[0] * xy, 3 * SH_3[0] * (xx - yy)
        slopes[10, 0], slopes[10, 1], slopes[10, 2] = SH_3[1] * yz, SH_3[1] * xz, SH_3[1] * xy
        slopes[11, 0], slopes[11, 1], slopes[11, 2] = (
            -2 * SH_3[2] * xy,
            SH_3[2] * (4 * zz - xx - 3 * yy),
            8 * SH_3[2] * yz,
        )
        slopes[12, 0], slopes[12, 1], slopes[12, 2] = (
            -6 * SH_3[3] * xz,
            -6 * SH_3[3] * yz,
            SH_3[3] * (6 * zz - 3 * xx - 3 * yy),
        )
        slopes[13, 0], slopes[13, 1], slopes[13, 2] = (
            SH_3[4] * (4 * zz - 3 * xx - yy),
            -2 * SH_3[4] * xy,
            8 * SH_3[4] * xz,
        )
        slopes[14, 0], slopes[14, 1], slopes[14, 2] = (
            2 * SH_3[5] * xz,
            -2 * SH_3[5] * yz,
            SH_3[5] * (xx - yy),
        )
        slopes[15, 0], slopes[15, 1] = 3 * SH_3[6] * (xx - yy), -6 * SH_3[6] * xy
