"""Splats for viser's own renderer in the browser: covariances and base colours only."""

from __future__ import annotations

from typing import Any

import numpy as np

from artifixer.geometry.transforms import quaternion_to_matrix
from artifixer.splats.splats import SH_BASE, Splats

#: The scene's distance and the maximum scale of Gaussians, in units of the viser node. Covariances
#: are sent as float16: a standard deviation of 0.1 % of the distance keeps 3 digits, and scales are
#: clamped to 20 distances.
UNITS, LARGEST_SCALE = 10.0, 200.0


def add_client_splats(scene: Any, splats: Splats, distance: float) -> Any:
    """Add the Gaussians to a viser scene; returns the node.

    distance: typical distance of the scene's content from the cameras, world units.
    """
    unit = distance / UNITS
    plain = splats.map(lambda tensor: tensor.detach().cpu())
    rotation = quaternion_to_matrix(plain.unit_quats)
    spread = rotation * (plain.scales / unit).clamp(max=LARGEST_SCALE)[:, None, :]
    colors = (plain.sh[:, 0] * SH_BASE + 0.5).clamp(0, 1)
    return scene.add_gaussian_splats(
        "/splats",
        centers=(plain.means / unit).numpy(),
        covariances=(spread @ spread.mT).numpy(),
        rgbs=colors.numpy(),
        opacities=np.asarray(plain.opacities[:, None].numpy()),
        scale=unit,
    )
