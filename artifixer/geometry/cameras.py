"""``Cameras``: a batch of views of one size, and the only implementation of the lens models.

Axes are OpenCV's (+x right, +y down, +z forward); the centre of the first pixel is at (0.5, 0.5).
``viewmats`` are world_to_camera. Lens models follow OpenCV's formulas: ``pinhole`` with the
rational radial terms k1-k6 and the tangential terms p1, p2; ``fisheye`` (equidistant) with k1-k4.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal

import torch
from jaxtyping import Bool, Float
from torch import Tensor

LensModel = Literal["pinhole", "fisheye"]

#: Smallest divisor, below every length that matters, above the underflow of float32.
_TINY = 1e-20

#: Half angle of view, radians, up to which pinhole distortion is evaluated; wider lenses are
#: described by the fisheye model.
_WIDEST_PINHOLE = 1.5

#: Resolution of the search for the angle where a lens model folds over.
_LIMIT_STEPS = 1024

#: Most Newton steps of the inverse lens models; they converge to rounding in 5 to 10 for lenses in
#: use, float64 included.
_NEWTON_STEPS = 20

#: Columns of ``Cameras.distortion``. Fisheye lenses use the first four, the rest is zero.
DISTORTION_NAMES = ("k1", "k2", "k3", "k4", "k5", "k6", "p1", "p2")


@dataclass(frozen=True)
class Cameras:
    """Views of one image size and one lens model.

    viewmats: world_to_camera, rigid, ``[views 4 4]``.
    Ks: intrinsics in pixels ``[[fx 0 cx] [0 fy cy] [0 0 1]]``, ``[views 3 3]``.
    width, height: image size in pixels.
    model: lens model of all views.
    distortion: coefficients in the order of ``DISTORTION_NAMES``, ``[views 8]``; zeros for an ideal
    lens.
    """

    viewmats: Float[Tensor, "views 4 4"]
    Ks: Float[Tensor, "views 3 3"]
    width: int
    height: int
    model: LensModel
    distortion: Float[Tensor, "views 8"]

    def __post_init__(self) -> None:
        views = self.viewmats.shape[0]
        assert self.viewmats.shape == (views, 4, 4), f"viewmats: {tuple(self.viewmats.shape)}"
        assert self.Ks.shape == (views, 3, 3), f"Ks: {tuple(self.Ks.shape)} for {views} views"
        assert self.distortion.shape == (views, 8), (
            f"distortion: {tuple(self.distortion.shape)} for {views} views"
        )
        assert self.width > 0 and self.height > 0, f"size {self.width}x{self.height}"

    @staticmethod
    def pinhole(
        viewmats: Float[Tensor, "views 4 4"],
        Ks: Float[Tensor, "views 3 3"],
        width: int,
        height: int,
    ) -> Cameras:
        """Ideal pinhole cameras without distortion."""
        return Cameras(
            viewmats, Ks, width, height, "pinhole", viewmats.new_zeros(viewmats.shape[0], 8)
        )

    def __len__(self) -> int:
        return self.viewmats.shape[0]

    def __getitem__(self, index: int | slice | Sequence[int] | Tensor) -> Cameras:
        """The chosen views, still a batch: ``cameras[3]`` has one view."""
        if isinstance(index, int):
            index = [index]
        elif not isinstance(index, (slice, Tensor)):
            index = list(index)
        return replace(
            self,
            viewmats=self.viewmats[index],
            Ks=self.Ks[index],
            distortion=self.distortion[index],
        )

    def to(
        self, device: torch.device | str | None = None, dtype: torch.dtype | None = None
    ) -> Cameras:
        """The same cameras on another device or in another float type."""
        moved = {
            name: getattr(self, name).to(device=device, dtype=dtype)
            for name in ("viewmats", "Ks", "distortion")
        }
        return replace(self, **moved)

    @property
    def camera_to_world(self) -> Float[Tensor, "views 4 4"]:
        """Inverse of ``viewmats``, using that they are rigid."""
        rotation = self.viewmats[:, :3, :3].mT
        inverse = torch.zeros_like(self.viewmats)
        inverse[:, :3, :3] = rotation
        inverse[:, :3, 3] = -(rotation @ self.viewmats[:, :3, 3:])[..., 0]
        inverse[:, 3, 3] = 1
        return inverse

    @property
    def centers(self) -> Float[Tensor, "views 3"]:
        """Camera positions in world units."""
        return self.camera_to_world[:, :3, 3]

    def resized(self, width: int, height: int) -> Cameras:
        """The same views for images resized to ``width`` x ``height``; intrinsics scale per
        axis.
        """
        factors = self.Ks.new_tensor([width / self.width, height / self.height, 1.0])
        return replace(self, Ks=self.Ks * factors[None, :, None], width=width, height=height)

    def project(
        self, points: Float[Tensor, "points 3"]
    ) -> tuple[
        Float[Tensor, "views points 2"], Float[Tensor, "views points"], Bool[Tensor, "views points"]
    ]:
        """World points -> pixels, camera z (world units), and validity.

        A point is valid in front of the camera and within the angle up to which the lens model is
        one-to-one. The image borders are not checked. Pixels of invalid points are finite and
        meaningless.
        """
        in_camera = points @ self.viewmats[:, :3, :3].mT + self.viewmats[:, None, :3, 3]
        plane, valid = self._distorted(in_camera)
        pixels = plane * self.Ks[:, None, [0, 1], [0, 1]] + self.Ks[:, None, :2, 2]
        return pixels, in_camera[..., 2], valid

    def unproject(self, pixels: Float[Tensor, "views pixels 2"]) -> Float[Tensor, "views pixels 3"]:
        """Pixels -> unit directions in camera axes; the inverse of ``project`` up to length.

        Pixels outside the image circle of a lens whose model folds over get the direction at its
        edge.
        """
        plane = (pixels - self.Ks[:, None, :2, 2]) / self.Ks[:, None, [0, 1], [0, 1]]
        if self.model == "fisheye":
            return _fisheye_directions(plane, self.distortion[:, None])
        if bool((self.distortion != 0).any()):
            plane = _undistort(plane, self.distortion[:, None], self.lens_limits()[:, None])
        return torch.nn.functional.normalize(
            torch.cat([plane, torch.ones_like(plane[..., :1])], dim=-1), dim=-1
        )

    def _distorted(
        self, in_camera: Float[Tensor, "views points 3"]
    ) -> tuple[Float[Tensor, "views points 2"], Bool[Tensor, "views points"]]:
        """Points in camera axes -> the lens's image plane at focal length 1, and validity."""
        x, y, z = in_camera.unbind(dim=-1)
        in_front = z > 0
        if self.model == "fisheye":
            radius = torch.hypot(x, y)
            angle = torch.atan2(radius, z)
            scale = torch.where(
                radius > 0,
                _fisheye_radius(angle, self.distortion[:, None]) / radius.clamp(min=_TINY),
                1 / z.clamp(min=_TINY),
            )
            return in_camera[..., :2] * scale[..., None], in_front & (
                angle <= self.lens_limits()[:, None]
            )
        plane = in_camera[..., :2] / torch.where(in_front, z, torch.ones_like(z))[..., None]
        if not bool((self.distortion != 0).any()):
            return plane, in_front
        inside = plane.square().sum(dim=-1).sqrt() <= self.lens_limits()[:, None]
        return _distort(plane, self.distortion[:, None]), in_front & inside

    def lens_limits(self) -> Float[Tensor, " views"]:
        """Limit up to which the radial model is monotonic: undistorted radius at focal length 1
        (pinhole), angle in radians (fisheye).
        """
        if self.model == "fisheye":
            steps = torch.linspace(
                0,
                torch.pi,
                _LIMIT_STEPS,
                dtype=self.distortion.dtype,
                device=self.distortion.device,
            )
            reached = _fisheye_radius(steps, self.distortion[:, None])
        else:
            angles = torch.linspace(
                0,
                _WIDEST_PINHOLE,
                _LIMIT_STEPS,
                dtype=self.distortion.dtype,
                device=self.distortion.device,
            )
            steps = torch.tan(angles)
            reached = steps * _radial_factor(steps.square(), self.distortion[:, None])
        growing = (reached[:, 1:] > reached[:, :-1]).cumprod(dim=1).sum(dim=1)
        return steps[growing]


def concatenate(batches: Sequence[Cameras]) -> Cameras:
    """One batch from several of the same size and lens model (asserted)."""
    first = batches[0]
    kinds = {(cameras.width, cameras.height, cameras.model) for cameras in batches}
    assert len(kinds) == 1, (
        f"cameras of different sizes or lens models cannot form one batch: {sorted(kinds)}"
    )
    return replace(
        first,
        viewmats=torch.cat([cameras.viewmats for cameras in batches]),
        Ks=torch.cat([cameras.Ks for cameras in batches]),
        distortion=torch.cat([cameras.distortion for cameras in batches]),
    )


def _radial_factor(
    r2: Float[Tensor, "*#shape"], k: Float[Tensor, "*#shape 8"]
) -> Float[Tensor, "*shape"]:
    """OpenCV's rational radial factor at squared radius ``r2``."""
    k1, k2, k3, k4, k5, k6, _, _ = k.unbind(dim=-1)
    return (1 + r2 * (k1 + r2 * (k2 + r2 * k3))) / (1 + r2 * (k4 + r2 * (k5 + r2 * k6)))


def _distort(
    plane: Float[Tensor, "*#shape 2"], k: Float[Tensor, "*#shape 8"]
) -> Float[Tensor, "*shape 2"]:
    """OpenCV's pinhole distortion at focal length 1."""
    x, y = plane.unbind(dim=-1)
    p1, p2 = k[..., 6], k[..., 7]
    r2 = x * x + y * y
    factor = _radial_factor(r2, k)
    return torch.stack(
        [
            x * factor + 2 * p1 * x * y + p2 * (r2 + 2 * x * x),
            y * factor + p1 * (r2 + 2 * y * y) + 2 * p2 * x * y,
        ],
        dim=-1,
    )


def _undistort(
    plane: Float[Tensor, "*#shape 2"],
    k: Float[Tensor, "*#shape 8"],
    limit: Float[Tensor, "*#shape"],
) -> Float[Tensor, "*shape 2"]:
    """Inverse of ``_distort`` by Newton's method, kept within the radius ``limit``."""
    k1, k2, k3, k4, k5, k6, p1, p2 = k.unbind(dim=-1)
    found = _within(plane, limit)
    for _ in range(_NEWTON_STEPS):
        x, y = found.unbind(dim=-1)
        r2 = x * x + y * y
        below = 1 + r2 * (k4 + r2 * (k5 + r2 * k6))
        factor = _radial_factor(r2, k)
        # d factor / d r2
        slope = (
            k1 + r2 * (2 * k2 + 3 * r2 * k3) - factor * (k4 + r2 * (2 * k5 + 3 * r2 * k6))
        ) / below
        du_dx = factor + 2 * x * x * slope + 2 * p1 * y + 6 * p2 * x
        du_dy = 2 * x * y * slope + 2 * p1 * x + 2 * p2 * y
        dv_dy = factor + 2 * y * y * slope + 6 * p1 * y + 2 * p2 * x
        determinant = du_dx * dv_dy - du_dy * du_dy  # the Jacobian is symmetric
        determinant = torch.where(
            determinant.abs() < 1e-6, torch.ones_like(determinant), determinant
        )
        u, v = (_distort(found, k) - plane).unbind(dim=-1)
        step = torch.stack(
            [(dv_dy * u - du_dy * v) / determinant, (du_dx * v - du_dy * u) / determinant], dim=-1
        )
        found = _within(found - step, limit)
        if step.numel() == 0 or float(step.abs().max()) <= 8 * torch.finfo(step.dtype).eps:
            break
    return found


def _within(
    plane: Float[Tensor, "*#shape 2"], limit: Float[Tensor, "*#shape"]
) -> Float[Tensor, "*shape 2"]:
    """Points moved towards the axis until their radius is at most ``limit``."""
    radius = torch.linalg.vector_norm(plane, dim=-1)
    return (
        plane * torch.minimum(limit / radius.clamp(min=_TINY), torch.ones_like(radius))[..., None]
    )


def _fisheye_radius(
    angle: Float[Tensor, "*#shape"], k: Float[Tensor, "*#shape 8"]
) -> Float[Tensor, "*shape"]:
    """Distance from the image centre at focal length 1 of a ray ``angle`` radians off the axis."""
    k1, k2, k3, k4 = k[..., :4].unbind(dim=-1)
    a2 = angle * angle
    return angle * (1 + a2 * (k1 + a2 * (k2 + a2 * (k3 + a2 * k4))))


def _fisheye_directions(
    plane: Float[Tensor, "*#shape 2"], k: Float[Tensor, "*#shape 8"]
) -> Float[Tensor, "*shape 3"]:
    """Unit directions of points on the fisheye image plane at focal length 1, by Newton's method on
    the angle.
    """
    k1, k2, k3, k4 = k[..., :4].unbind(dim=-1)
    radius = plane.square().sum(dim=-1).sqrt()
    angle = radius.clamp(max=torch.pi)
    for _ in range(_NEWTON_STEPS):
        a2 = angle * angle
        slope = 1 + a2 * (3 * k1 + a2 * (5 * k2 + a2 * (7 * k3 + a2 * 9 * k4)))
        angle = (angle - (_fisheye_radius(angle, k) - radius) / slope.clamp(min=1e-3)).clamp(
            0, torch.pi
        )
    sideways = torch.where(
        radius > 0, torch.sin(angle) / radius.clamp(min=_TINY), torch.ones_like(radius)
    )
    return torch.cat([plane * sideways[..., None], torch.cos(angle)[..., None]], dim=-1)
