"""Camera conditioning: one pooled camera per latent frame, in the coordinate system of the weights,
as a ray map and as normalised matrices (paper section 4.1).

In: ``Cameras`` in world units. Out: ``Cameras`` and tensors in the weights' coordinate system. This
is the only file that deviates from OpenCV axes, see ``weights_cameras``.
"""

from __future__ import annotations

from dataclasses import replace

import torch
from jaxtyping import Float, Int
from torch import Tensor

from artifixer.geometry.cameras import Cameras
from artifixer.geometry.rays import lens_directions
from artifixer.geometry.transforms import invert_rigid, matrix_to_quaternion, quaternion_to_matrix


def pooled_cameras(
    cameras: Cameras, temporal_factor: int, is_first: bool, latent_frames: int | None = None
) -> Cameras:
    """One camera per latent frame: the mean of its frames' rotations (chordal), centres, intrinsics
    and distortion.

    is_first: whether the frames start a clip, whose frame 0 is a latent frame of its own; all
    others form groups of ``temporal_factor``. An incomplete last group repeats its last camera;
    latent frames beyond the cameras repeat the last group's mean, the padding of the release.
    """
    pooled = mean_cameras(
        cameras[group_members(len(cameras), temporal_factor, is_first)], temporal_factor
    )
    return (
        pooled
        if latent_frames is None
        else pooled[torch.arange(latent_frames).clamp(max=len(pooled) - 1)]
    )


def weights_cameras(
    cameras: Cameras, first_camera: Cameras, camera_scale: float | Float[Tensor, " views"]
) -> Cameras:
    """Cameras in the coordinate system of the weights: centres times ``camera_scale``,
    ``first_camera`` at the identity.

    first_camera, camera_scale: one for all cameras, or one for each.

    The release multiplies poses in OpenGL axes (+y up, -z forward) with ray directions and
    intrinsics in OpenCV axes, without converting one to the other. Its weights were trained that
    way, so it is reproduced: conjugating each relative pose by diag(1, -1, -1, 1) has the same
    effect, and all later code (``ray_map``, PRoPE) treats the result as OpenCV cameras. Weights
    trained by this program use the same convention. Computed in float64, since paths may lead far
    from the origin; returned in the cameras' dtype.
    """
    flip = torch.diag(
        torch.tensor([1.0, -1.0, -1.0, 1.0], dtype=torch.float64, device=cameras.viewmats.device)
    )
    to_first = first_camera.viewmats.to(flip)
    relative = to_first @ cameras.to(dtype=torch.float64).camera_to_world
    relative[:, :3, 3] *= torch.as_tensor(
        camera_scale, dtype=relative.dtype, device=relative.device
    ).view(-1, 1)
    return replace(
        cameras, viewmats=invert_rigid(flip @ relative @ flip).to(cameras.viewmats.dtype)
    )


def ray_map(cameras: Cameras) -> Float[Tensor, "views height width 6"]:
    """Pluecker coordinates per pixel in the order of the weights: the moment origin x direction,
    then the unit direction, by each camera's lens model.
    """
    to_world = cameras.camera_to_world
    x, y, z = to_world[:, :3, 3].unbind(dim=-1)
    zero = torch.zeros_like(x)
    cross_origin = torch.stack([zero, -z, y, z, zero, -x, -y, x, zero], dim=-1).unflatten(
        -1, (3, 3)
    )
    # linear in the direction, so one product
    both = torch.cat([cross_origin @ to_world[:, :3, :3], to_world[:, :3, :3]], dim=1)
    rays: Tensor = (lens_directions(cameras) @ both.mT).unflatten(
        1, (cameras.height, cameras.width)
    )
    return rays


def normalised_Ks(cameras: Cameras) -> Float[Tensor, "views 3 3"]:
    """Intrinsics of an image that spans -1/2 to 1/2 on both axes."""
    Ks = cameras.resized(1, 1).Ks.clone()
    Ks[:, :2, 2] -= 0.5
    return Ks


def frame_groups(frames: int, temporal_factor: int, is_first: bool) -> int:
    """Number of latent frames of ``frames`` pixel frames, including an incomplete last group."""
    assert frames > 0, "a latent frame needs a camera"
    return is_first + -(-(frames - is_first) // temporal_factor)


def group_members(frames: int, temporal_factor: int, is_first: bool) -> Int[Tensor, " members"]:
    """Indices of the frames of each latent frame, ``temporal_factor`` per latent frame."""
    index = (
        torch.arange(frame_groups(frames, temporal_factor, is_first) * temporal_factor)
        - (temporal_factor - 1) * is_first
    )
    return index.clamp(0, frames - 1)  # the first group holds frame 0 alone, repeated


def mean_cameras(members: Cameras, temporal_factor: int) -> Cameras:
    """The mean camera of each group of ``temporal_factor`` consecutive ones."""
    groups = len(members) // temporal_factor
    poses = members.to(dtype=torch.float64).camera_to_world
    mean = torch.eye(4, dtype=poses.dtype, device=poses.device).repeat(groups, 1, 1)
    mean[:, :3, :3] = _mean_rotation(poses[:, :3, :3].unflatten(0, (groups, temporal_factor)))
    mean[:, :3, 3] = poses[:, :3, 3].unflatten(0, (groups, temporal_factor)).mean(dim=1)
    return replace(
        members,
        viewmats=invert_rigid(mean).to(members.viewmats.dtype),
        Ks=members.Ks.unflatten(0, (groups, temporal_factor)).mean(dim=1),
        distortion=members.distortion.unflatten(0, (groups, temporal_factor)).mean(dim=1),
    )


def _mean_rotation(rotations: Float[Tensor, "groups members 3 3"]) -> Float[Tensor, "groups 3 3"]:
    """The chordal mean: the rotation with the minimum sum of squared Frobenius distances to the
    members. Its quaternion q maximises the sum of (q . q_i)^2 and is thus an eigenvector.
    """
    quats = matrix_to_quaternion(rotations)
    return quaternion_to_matrix(torch.linalg.eigh(quats.mT @ quats).eigenvectors[..., -1])
