"""What the weights see of cameras: one pooled camera per latent frame, in the weights' own world,
as a ray map and as normalised matrices (paper section 4.1).

In: ``Cameras`` in world units. Out: ``Cameras`` and tensors in the weights' world. The only file
that departs from OpenCV axes, see ``weights_cameras``.
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

    is_first: the frames start a clip, whose frame 0 is a latent frame of its own; all others come
    in groups of ``temporal_factor``. An incomplete last group repeats its last camera; latent
    frames beyond the cameras repeat the last group's mean, as the release pads.
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
    """Cameras in the world that the weights were trained in: centres times ``camera_scale``,
    ``first_camera`` at the identity.

    first_camera, camera_scale: one for all cameras, or one for each.

    The release takes poses in OpenGL axes (+y up, -z forward) but ray directions and intrinsics in
    OpenCV axes, and multiplies the two without turning one into the other. Its weights have learned
    that world, so it is reproduced. Conjugating each relative pose by diag(1, -1, -1, 1) does so:
    everything that follows (``ray_map``, PRoPE) then treats the result as ordinary OpenCV cameras.
    Weights trained here use the same world. Computed in float64, since paths lead far from the
    origin; returned in the cameras' type.
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
    """Per pixel the moment origin x direction and the unit direction, through each camera's lens,
    in the order of the weights.
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
    """Latent frames of so many pixel frames; an incomplete last group counts."""
    assert frames > 0, "a latent frame needs a camera"
    return is_first + -(-(frames - is_first) // temporal_factor)


def group_members(frames: int, temporal_factor: int, is_first: bool) -> Int[Tensor, " members"]:
    """Which frames stand for which latent frame, ``temporal_factor`` of them for each."""
    index = (
        torch.arange(frame_groups(frames, temporal_factor, is_first) * temporal_factor)
        - (temporal_factor - 1) * is_first
    )
    return index.clamp(0, frames - 1)  # the first group holds frame 0 alone, repeated


def mean_cameras(members: Cameras, temporal_factor: int) -> Cameras:
    """The mean camera of each ``temporal_factor`` that follow each other."""
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
    """The rotation with the least sum of squared distances to the members (Frobenius norm): the
    quaternion q that maximises the sum of (q . q_i)^2, which is an eigenvector."""
    quats = matrix_to_quaternion(rotations)
    return quaternion_to_matrix(torch.linalg.eigh(quats.mT @ quats).eigenvectors[..., -1])
