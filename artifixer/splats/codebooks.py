"""Codebooks of values and palettes of rows, by k-means.

In: values or rows of values. Out: at most 256 values, or at most 65,536 rows, and for each input
the index of its representative. Splat files that store indices (``sog.py``) are written with these.
"""

from __future__ import annotations

import math

import numpy as np
import torch
from jaxtyping import Float, Int, UInt8
from torch import Tensor

#: Entries of a codebook.
CODEBOOK = 256

#: Size of a palette: a power of two between these, at most the number of rows.
SMALLEST_PALETTE, LARGEST_PALETTE = 1024, 65_536

#: Rounds of k-means, for codebooks (cheap) and for palettes.
CODEBOOK_ROUNDS, PALETTE_ROUNDS = 30, 8

#: Rows whose distances to all centers are in memory at a time.
ROWS_AT_A_TIME = 16_384


def scalar_codebook(
    values: Float[np.ndarray, "*shape"],
) -> tuple[list[float], UInt8[np.ndarray, "*shape"]]:
    """A codebook of 256 values by one-dimensional k-means, and for each value the index of the
    nearest entry.
    """
    flat = np.sort(values.reshape(-1).astype(np.float64))
    distinct = np.unique(flat)
    if len(distinct) <= CODEBOOK:
        centers = distinct
    else:
        sums = np.concatenate([[0.0], np.cumsum(flat)])
        # Half of the initial centers by rank, half by value: fine steps where values are dense, and
        # a center near every outlier.
        ranks = flat[np.linspace(0, len(flat) - 1, CODEBOOK // 2).astype(int)]
        centers = np.sort(np.concatenate([ranks, np.linspace(flat[0], flat[-1], CODEBOOK // 2)]))
        for _ in range(CODEBOOK_ROUNDS):
            borders = np.searchsorted(flat, (centers[1:] + centers[:-1]) / 2)
            starts, ends = np.concatenate([[0], borders]), np.concatenate([borders, [len(flat)]])
            filled = ends > starts
            centers = np.where(
                filled, (sums[ends] - sums[starts]) / np.maximum(ends - starts, 1), centers
            )
    centers = centers.astype(np.float32).astype(np.float64)
    indices = np.searchsorted((centers[1:] + centers[:-1]) / 2, values.astype(np.float64)).astype(
        np.uint8
    )
    book = np.concatenate([centers, np.full(CODEBOOK - len(centers), centers[-1])])
    return book.tolist(), indices


def row_palette(
    rows: Float[Tensor, "count values"],
) -> tuple[Float[Tensor, "centroids values"], Int[np.ndarray, " count"]]:
    """Representative rows by two-level k-means, and for each row the index of its own; the rows
    themselves where there are at most ``SMALLEST_PALETTE``.
    """
    count = len(rows)
    if count <= SMALLEST_PALETTE:
        return rows, np.arange(count)
    size = min(LARGEST_PALETTE, 2 ** int(math.log2(count)))
    # Two levels, so that the work grows with the root of the palette's size: coarse groups, then
    # clusters within each group in proportion to its size.
    coarse, group = _clusters(rows, min(round(math.sqrt(size)), count))
    centroids: list[Tensor] = []
    labels, start = np.zeros(count, np.int64), 0
    for index in range(len(coarse)):
        members = torch.nonzero(group == index)[:, 0]
        if len(members) == 0:
            continue
        found, inside = _clusters(rows[members], max(1, size * len(members) // count))
        labels[members.numpy()] = start + inside.numpy()
        centroids.append(found)
        start += len(found)
    return torch.cat(centroids), labels


def _clusters(
    rows: Float[Tensor, "count values"], wanted: int
) -> tuple[Float[Tensor, "centroids values"], Int[Tensor, " count"]]:
    """k-means that starts at evenly spaced rows; empty clusters keep their centers."""
    centers = rows[torch.linspace(0, len(rows) - 1, wanted).long()]
    nearest = torch.zeros(len(rows), dtype=torch.int64)
    for _ in range(PALETTE_ROUNDS):
        nearest = torch.cat(
            [torch.cdist(part, centers).argmin(dim=1) for part in rows.split(ROWS_AT_A_TIME)]
        )
        sizes = torch.bincount(nearest, minlength=len(centers))
        sums = torch.zeros_like(centers).index_add_(0, nearest, rows)
        centers = torch.where(sizes[:, None] > 0, sums / sizes.clamp(min=1)[:, None], centers)
    return centers, nearest
