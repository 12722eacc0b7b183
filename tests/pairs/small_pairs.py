"""Training pairs of random pixels."""

from __future__ import annotations

from pathlib import Path

import torch

from artifixer.geometry.cameras import Cameras
from artifixer.geometry.transforms import quaternion_to_matrix
from artifixer.pairs.pair import TrainingPair
from artifixer.pairs.sample_file import encode_sample
from artifixer.pairs.shards import describe, write_index, write_shard


def small_pair(
    name: str = "000001_0", *, frames: int = 5, height: int = 16, width: int = 32, views: int = 3
) -> TrainingPair:
    random = torch.Generator().manual_seed(hash_of(name))

    def pixels(*shape: int) -> torch.Tensor:
        return torch.randint(0, 256, shape, generator=random, dtype=torch.uint8)

    def cameras(count: int) -> Cameras:
        viewmats = torch.eye(4).repeat(count, 1, 1)
        viewmats[:, :3, :3] = quaternion_to_matrix(torch.randn(count, 4, generator=random))
        viewmats[:, :3, 3] = torch.randn(count, 3, generator=random) / 3
        K = torch.tensor([[30.1, 0, width / 2], [0, 29.9, height / 2], [0, 0, 1]])
        return Cameras(
            viewmats,
            K.repeat(count, 1, 1),
            width,
            height,
            "pinhole",
            torch.randn(count, 8, generator=random) / 100,
        )

    return TrainingPair(
        name,
        pixels(frames, height, width, 3),
        pixels(frames, height, width, 3),
        pixels(frames, height, width),
        cameras(frames),
        pixels(views, height, width, 3),
        cameras(views),
        camera_scale_kind="median_depth",
        camera_scale=0.1 + float(torch.rand((), generator=random)),
    )


def hash_of(name: str) -> int:
    return sum(ord(letter) * 31**place for place, letter in enumerate(name)) % 2**31


def write_pairs(folder: Path, shards: list[list[TrainingPair]], complete: bool = True) -> None:
    """A folder of pairs, one list per shard."""
    entries = []
    for number, pairs in enumerate(shards):
        samples = [(describe(pair, data), data) for pair in pairs for data in [encode_sample(pair)]]
        entries.append(write_shard(folder / f"pairs-{number:05d}.tar", samples))
    write_index(folder, entries, complete)


def same_pair(one: TrainingPair, other: TrainingPair) -> bool:
    """Whether all fields are equal to the bit."""
    tensors = ("clean_frames", "renders", "opacity", "reference_photos")
    cameras = ("cameras", "reference_cameras")
    parts = [(getattr(one, name), getattr(other, name)) for name in tensors]
    parts += [
        (getattr(getattr(one, c), name), getattr(getattr(other, c), name))
        for c in cameras
        for name in ("viewmats", "Ks", "distortion")
    ]
    plain = ("name", "camera_scale", "caption")
    embeddings = (one.caption_embedding, other.caption_embedding)
    return (
        all(torch.equal(a, b) for a, b in parts)
        and all(getattr(one, name) == getattr(other, name) for name in plain)
        and all(getattr(one, c).model == getattr(other, c).model for c in cameras)
        and ((embeddings[0] is None and embeddings[1] is None) or torch.equal(*embeddings))  # type: ignore[arg-type]
    )
