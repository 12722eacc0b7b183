"""Splats for the browser's own renderer: covariances and base colours, without view dependence."""

from __future__ import annotations

from typing import Any

import numpy as np

from artifixer.geometry.transforms import quaternion_to_matrix
from artifixer.splats.splats import SH_BASE, Splats


def add_client_splats(scene: Any, splats: Splats) -> Any:
    """Add the Gaussians to a viser scene; returns the node."""
    plain = splats.map(lambda tensor: tensor.detach().cpu())
    rotation = quaternion_to_matrix(plain.unit_quats)
    spread = rotation * plain.scales[:, None, :]
    colors = (plain.sh[:, 0] * SH_BASE + 0.5).clamp(0, 1)
    return scene.add_gaussian_splats(
        "/splats",
        centers=plain.means.numpy(),
        covariances=(spread @ spread.mT).numpy(),
        rgbs=colors.numpy(),
        opacities=np.asarray(plain.opacities[:, None].numpy()),
    )
