"""Denoise baked light: three noisy estimates per probe -> a lightmap and light at corners."""

import numpy as np
from probes import Geometry
from scene import Scene
from scipy.ndimage import distance_transform_edt, median_filter, uniform_filter
from scipy.spatial import cKDTree


def filter_light(scene: Scene, geometry: Geometry, raw: np.ndarray):
    """raw [probes, 3 estimates, rgb] -> lightmap [height, width, 3], corners [corners, 3]."""
    count = len(geometry.hidden)
    return _lightmap(scene, geometry, raw[:count]), _corner_light(geometry, raw[count:])


def _lightmap(scene: Scene, geometry: Geometry, raw: np.ndarray) -> np.ndarray:
    height, width, corners = geometry.atlas
    atlas = np.zeros((height, width, 3), np.float32)
    at = 0
    for r, (x, y) in zip(scene.rects, corners, strict=True):
        w, h = r.texels
        texels = raw[at : at + w * h].reshape(h, w, 3, 3)
        hole = geometry.hidden[at : at + w * h].reshape(h, w)
        at += w * h
        if hole.any() and not hole.all():
            iy, ix = distance_transform_edt(hole, return_distances=False, return_indices=True)
            texels = texels[iy, ix]
        smooth = np.pad(_smooth(texels), ((1, 1), (1, 1), (0, 0)), "edge")
        atlas[y - 1 : y + h + 1, x - 1 : x + w + 1] = smooth
    return atlas


def _smooth(texels: np.ndarray) -> np.ndarray:
    """Edge-preserving smoothing at growing distances (a-trous), guided by the estimates' noise."""
    h, w = texels.shape[:2]
    mean = texels.mean(2)
    lum = mean.mean(-1)
    most = 1.25 * median_filter(lum, 5, mode="nearest") + 0.02 * np.median(lum)
    mean = mean * np.minimum(1.0, most / np.maximum(lum, 1e-6))[..., None]
    variance = uniform_filter(texels.mean(-1).var(-1) / 2, 9, mode="nearest")
    noise = np.sqrt(np.maximum(variance, 0))[..., None]
    noise = noise + 0.015 * mean.mean(-1, keepdims=True) + 1e-6
    for step in (1, 2, 4, 1):
        r = 2 * step
        pad = np.pad(mean, ((r, r), (r, r), (0, 0)), "edge")
        total, weights = np.zeros_like(mean), np.zeros((h, w, 1), np.float32)
        for dy in range(-2, 3):
            for dx in range(-2, 3):
                y, x = r + dy * step, r + dx * step
                q = pad[y : y + h, x : x + w]
                unlike = ((q - mean).mean(-1, keepdims=True) / (2.6 * noise)) ** 2
                k = np.exp(-(dx * dx + dy * dy) / 4.0 - unlike)
                total += k * q
                weights += k
        mean = total / weights
        noise = noise * 0.6 + 0.006 * mean.mean(-1, keepdims=True)
    return mean


def _corner_light(geometry: Geometry, raw: np.ndarray) -> np.ndarray:
    """Average light over neighbouring probes of a mesh that face alike, less across shadows."""
    trust = geometry.trust
    estimates, light = raw.mean(-1), raw.mean(1)
    # one outlier among the three estimates is limited
    most = np.median(estimates, 1)[:, None] * 1.6 + 0.02 * np.median(light)
    calm = np.minimum(estimates, most).mean(1)[:, None]
    light = calm * light / np.maximum(light.mean(-1, keepdims=True), 1e-6)
    place = np.concatenate(
        [geometry.mesh_p / geometry.voxel, geometry.mesh_n * 3.0, geometry.owner[:, None] * 1000.0],
        1,
    )
    d, i = cKDTree(place).query(place, k=min(22, len(place)))
    near = np.exp(-((d / 2.8) ** 2))
    # limit single outlier probes, also in one channel, and black spots at probes in folds
    light = np.minimum(light, 1.6 * np.median(light[i[:, :11]], 1))
    k = trust[i] * near
    around = (light[i] * k[..., None]).sum(1) / k.sum(1)[:, None]
    light = np.maximum(light, 0.4 * around)
    noise = (estimates.std(1) / np.sqrt(3))[:, None]
    noise = np.maximum(noise, np.median(noise, 0)) * 1.2
    for _ in range(3):
        lum = light.mean(-1)
        limit = 3.0 * noise + 0.06 * lum[:, None] + 1e-6
        unlike = trust[:, None] ** 0.5 * ((lum[i] - lum[:, None]) / limit) ** 2
        k = near * trust[i] * np.exp(-unlike)
        light = (light[i] * k[..., None]).sum(1) / np.maximum(k.sum(1), 1e-9)[:, None]
        noise = noise * 0.6
    corners = (light[geometry.nearest] * geometry.weight[..., None]).sum(1)
    return corners.astype(np.float32)
