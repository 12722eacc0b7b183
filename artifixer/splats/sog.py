"""SOG, PlayCanvas' splat file for the web (version 2): WebP pictures of quantised values and a
``meta.json``, in a zip.

One texel per Gaussian, row by row, in Morton order of the positions:

``means_l``, ``means_u``   low and high byte of 16 bits between the bounds of
                           sign(x) log(1 + \\|x\\|)
``quats``                  the three smaller components of w, x, y, z in 8 bits; alpha 252 + k:
                           component k is the largest
``scales``, ``sh0``        indices into codebooks of 256 log scales and base colours;
                           alpha of sh0: the opacity in 8 bits
``shN_labels``             16 bits: which row of the palette holds the higher harmonics; a row
                           of ``shN_centroids`` is 64 entries, an entry one texel per coefficient
                           with indices into a codebook of 256 values

Axes are those of a splat PLY.
"""

from __future__ import annotations

import io
import json
import math
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Int, UInt8

from artifixer.runtime.errors import InputError
from artifixer.runtime.files import write_bytes
from artifixer.splats.codebooks import CODEBOOK, LARGEST_PALETTE, row_palette, scalar_codebook
from artifixer.splats.packing import (
    check_count,
    from_largest_component,
    largest_component,
    opacity_logits,
)
from artifixer.splats.splats import SH_COEFFICIENTS, Splats

META = "meta.json"
VERSION = 2

#: Largest meta.json and largest picture that are read, bytes.
LARGEST_META = 16 * 1024**2
LARGEST_PICTURE = 1024**3

#: Entries of the palette of harmonics in one row of its picture.
PALETTE_ROW = 64

#: Bits per axis of Morton codes.
MORTON_BITS = 20

#: Every file in the zip carries this time, the first that a zip can hold.
TIME = (1980, 1, 1, 0, 0, 0)


def read_sog(path: Path) -> Splats:
    """The Gaussians of a SOG file, in the file's order. Raises ``InputError`` for files that are
    none, damaged, or of another version.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            return _decoded(_Sog(path, archive))
    except (
        zipfile.BadZipFile,
        OSError,
        NotImplementedError,
        RuntimeError,
        EOFError,
        ValueError,
    ) as error:
        raise InputError(f"{path}: damaged ({error}), expected a SOG file") from error


def write_sog(path: Path, splats: Splats) -> None:
    """Write a SOG file, atomically.

    The same splats give the same bytes on one machine with the same libraries: sums behind the
    palette of harmonics depend on the processor, and the bytes of a WebP picture on the version of
    its encoder.
    """
    splats = splats.map(lambda tensor: tensor.detach().cpu().to(torch.float32))
    order = torch.from_numpy(_morton_order(splats.means.numpy()))
    splats = splats.map(lambda tensor: tensor[order])
    count = len(splats)
    meta: dict[str, Any] = {"version": VERSION, "asset": {"generator": "artifixer"}, "count": count}
    pictures: dict[str, np.ndarray] = {}

    folded = _folded(splats.means.numpy().astype(np.float64))
    low, high = folded.min(axis=0), folded.max(axis=0)
    words = np.round((folded - low) / np.where(high > low, high - low, 1) * 65_535).astype(
        np.uint16
    )
    meta["means"] = {
        "mins": low.tolist(),
        "maxs": high.tolist(),
        "files": ["means_l.webp", "means_u.webp"],
    }
    pictures["means_l.webp"], pictures["means_u.webp"] = _texels(words & 255), _texels(words >> 8)

    largest, others = largest_component(splats.quats.numpy().astype(np.float64))
    pictures["quats.webp"] = _texels(
        np.round((others / math.sqrt(2) + 0.5) * 255).clip(0, 255), 252 + largest
    )
    meta["quats"] = {"files": ["quats.webp"]}

    codebook, indices = scalar_codebook(splats.log_scales.numpy())
    meta["scales"], pictures["scales.webp"] = (
        {"codebook": codebook, "files": ["scales.webp"]},
        _texels(indices),
    )
    codebook, indices = scalar_codebook(splats.sh[:, 0].numpy())
    meta["sh0"] = {"codebook": codebook, "files": ["sh0.webp"]}
    pictures["sh0.webp"] = _texels(indices, np.round(splats.opacities.numpy() * 255))

    if splats.sh_degree > 0:
        centroids, labels = row_palette(splats.sh[:, 1:].reshape(count, -1))
        codebook, indices = scalar_codebook(centroids.numpy())
        coefficients = splats.sh.shape[1] - 1
        rows = np.zeros(
            (-(-len(centroids) // PALETTE_ROW) * PALETTE_ROW, coefficients, 4), np.uint8
        )
        rows[..., 3] = 255
        rows[: len(centroids), :, :3] = indices.reshape(len(centroids), coefficients, 3)
        files = ["shN_centroids.webp", "shN_labels.webp"]
        meta["shN"] = {
            "count": len(centroids),
            "bands": splats.sh_degree,
            "codebook": codebook,
            "files": files,
        }
        pictures[files[0]] = rows.reshape(-1, PALETTE_ROW * coefficients, 4)
        pictures[files[1]] = _texels(
            np.stack([labels & 255, labels >> 8, np.zeros_like(labels)], axis=1)
        )

    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_STORED) as archive:
        archive.writestr(zipfile.ZipInfo(META, TIME), json.dumps(meta, separators=(",", ":")))
        for name, picture in pictures.items():
            archive.writestr(zipfile.ZipInfo(name, TIME), _webp(picture))
    write_bytes(path, buffer.getbuffer())


# Writing ------------------------------------------------------------------------------------------


def _folded(values: np.ndarray) -> np.ndarray:
    """sign(x) log(1 + \\|x\\|): fine steps near the origin, coarse ones far away."""
    folded: np.ndarray = np.sign(values) * np.log1p(np.abs(values))
    return folded


def _texels(
    rgb: np.ndarray, alpha: np.ndarray | None = None
) -> UInt8[np.ndarray, "height width 4"]:
    """One texel per row of ``rgb``; sides are multiples of four, what is left over stays
    transparent black.
    """
    count = len(rgb)
    width = 4 * math.ceil(math.sqrt(count) / 4)
    height = 4 * math.ceil(count / width / 4)
    texels = np.zeros((height * width, 4), np.uint8)
    texels[:count, :3] = rgb
    texels[:count, 3] = 255 if alpha is None else alpha
    return texels.reshape(height, width, 4)


def _webp(texels: UInt8[np.ndarray, "height width 4"]) -> bytes:
    from PIL import Image

    buffer = io.BytesIO()
    # exact: colours below alpha 0 stay
    Image.fromarray(texels).save(buffer, "webp", lossless=True, exact=True)
    return buffer.getvalue()


def _morton_order(means: Float[np.ndarray, "count 3"]) -> Int[np.ndarray, " count"]:
    """Positions along a Morton curve through their bounds, so that neighbouring texels are
    alike.
    """
    low, high = means.min(axis=0).astype(np.float64), means.max(axis=0).astype(np.float64)
    cells = ((means - low) / np.where(high > low, high - low, 1) * (2**MORTON_BITS - 1)).astype(
        np.uint64
    )
    codes = np.zeros(len(means), np.uint64)
    for bit in range(MORTON_BITS):
        for axis in range(3):
            codes |= (cells[:, axis] >> np.uint64(bit) & np.uint64(1)) << np.uint64(3 * bit + axis)
    return np.argsort(codes, kind="stable")


# Reading ------------------------------------------------------------------------------------------


class _Sog:
    """An open SOG file: its checked ``meta.json`` and the pictures that it lists."""

    def __init__(self, path: Path, archive: zipfile.ZipFile) -> None:
        self.path, self._archive = path, archive
        text = self._member(META, LARGEST_META)
        try:
            meta = json.loads(text)
        except (ValueError, RecursionError) as error:
            raise self.wrong(f"{META} is not JSON ({error})") from error
        if not isinstance(meta, dict) or meta.get("version") != VERSION:
            version = meta.get("version", 1) if isinstance(meta, dict) else None
            raise InputError(
                f"{path}: SOG version {str(version)[:20]}, expected {VERSION}; convert older ones "
                "with splat-transform"
            )
        self.meta: dict[str, Any] = meta
        self.count = self._whole(meta, "count")
        check_count(path, self.count)

    def wrong(self, what: str) -> InputError:
        return InputError(f"{self.path}: {what}, expected a SOG file of version {VERSION}")

    def part(self, name: str) -> dict[str, Any]:
        part = self.meta.get(name)
        if not isinstance(part, dict):
            raise self.wrong(f"{META} lacks {name!r}")
        return part

    def palette(self) -> tuple[int, int]:
        """Entries of the palette of harmonics, and the degree."""
        part = self.part("shN")
        return self._whole(part, "count"), self._whole(part, "bands")

    def numbers(self, part: str, name: str, count: int) -> Float[np.ndarray, " count"]:
        """A list of numbers in a part of ``meta.json``."""
        values = self.part(part).get(name)
        if (
            not isinstance(values, list)
            or len(values) != count
            or not all(isinstance(value, (int, float)) for value in values)
        ):
            raise self.wrong(f"{part}.{name} is {str(values)[:40]}")
        return np.array(values, np.float64)

    def texels(
        self, part: str, position: int, needed: int, width: int | None = None
    ) -> UInt8[np.ndarray, "texels 4"]:
        """At least ``needed`` texels of the picture that a part lists at a position."""
        from PIL import Image

        files = self.part(part).get("files")
        if (
            not isinstance(files, list)
            or len(files) <= position
            or not isinstance(files[position], str)
        ):
            raise self.wrong(f"{part}.files is {str(files)[:40]}")
        with Image.open(
            io.BytesIO(self._member(files[position], LARGEST_PICTURE)), formats=["WEBP"]
        ) as image:
            # Writers round the sides up a little; a picture much larger than its values is damaged
            # or hostile.
            texels = image.width * image.height
            if texels < needed or texels > 4 * needed + 65_536 or width not in (None, image.width):
                raise self.wrong(
                    f"{files[position]} has {image.width}x{image.height} texels for {needed:,} "
                    "values"
                )
            return np.asarray(image.convert("RGBA")).reshape(-1, 4)

    def _member(self, name: str, most: int) -> bytes:
        try:
            info = self._archive.getinfo(name)
        except KeyError:
            raise self.wrong(f"has no file {name[:60]!r}") from None
        if info.file_size > min(most, 1000 * self.path.stat().st_size):
            raise self.wrong(f"{name} unpacks to {info.file_size:,} bytes")
        with self._archive.open(info) as file:
            return file.read(info.file_size)

    def _whole(self, part: dict[str, Any], name: str) -> int:
        value = part.get(name)
        if not isinstance(value, int) or isinstance(value, bool) or not 0 < value < 2**31:
            raise self.wrong(f"{name} is {str(value)[:40]}")
        return value


def _decoded(sog: _Sog) -> Splats:
    count = sog.count
    low, high = sog.numbers("means", "mins", 3), sog.numbers("means", "maxs", 3)
    words = [
        sog.texels("means", position, count)[:count, :3].astype(np.float64) for position in (0, 1)
    ]
    # damaged bounds give damaged Gaussians, see files.py
    with np.errstate(over="ignore", invalid="ignore"):
        folded = low + (words[0] + 256 * words[1]) / 65_535 * (high - low)
        means = (np.sign(folded) * np.expm1(np.abs(folded))).astype(np.float32)
    quats = sog.texels("quats", 0, count)[:count]
    if (quats[:, 3] < 252).any():
        raise sog.wrong("quats name no largest component")
    scales = sog.numbers("scales", "codebook", CODEBOOK)[sog.texels("scales", 0, count)[:count, :3]]
    base = sog.texels("sh0", 0, count)[:count]
    sh = sog.numbers("sh0", "codebook", CODEBOOK)[base[:, None, :3]]
    if "shN" in sog.meta:
        sh = np.concatenate([sh, _higher(sog)], axis=1)
    return Splats(
        means=torch.from_numpy(means),
        quats=torch.from_numpy(
            from_largest_component(
                quats[:, 3].astype(np.int64) - 252, (quats[:, :3] / 255 - 0.5) * math.sqrt(2)
            )
        ),
        log_scales=torch.from_numpy(scales.astype(np.float32)),
        opacity_logits=opacity_logits(base[:, 3] / 255),
        sh=torch.from_numpy(sh.astype(np.float32)),
    )


def _higher(sog: _Sog) -> Float[np.ndarray, "count coefficients 3"]:
    entries, degree = sog.palette()
    if degree not in (1, 2, 3) or entries > LARGEST_PALETTE:
        raise sog.wrong(f"harmonics of degree {degree} in a palette of {entries}")
    coefficients = SH_COEFFICIENTS[degree] - 1
    needed = -(-entries // PALETTE_ROW) * PALETTE_ROW * coefficients
    indices = sog.texels("shN", 0, needed, PALETTE_ROW * coefficients)[: entries * coefficients, :3]
    palette = (
        sog.numbers("shN", "codebook", CODEBOOK)[indices]
        .astype(np.float32)
        .reshape(entries, coefficients, 3)
    )
    labels = sog.texels("shN", 1, sog.count)[: sog.count, :2].astype(np.int64) @ np.array([1, 256])
    if (labels >= entries).any():
        raise sog.wrong(f"a label beyond the palette of {entries}")
    higher: np.ndarray = palette[labels]
    return higher
