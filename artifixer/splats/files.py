"""Splat files that other tools write or read: the table of formats, one reader and one writer.

A format is recognised by the first bytes of a file, and by its suffix only where these are
ambiguous.
To add one, write a file beside this one and add a line to ``FORMATS``. A run's own files are
standard PLYs and go through ``ply.py``.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from jaxtyping import Float
from torch import Tensor

from artifixer.geometry.local_origin import WORLD, Origin, points_to_local, points_to_world
from artifixer.runtime.errors import InputError
from artifixer.runtime.files import check_regular
from artifixer.splats import ply
from artifixer.splats.compressed_ply import is_compressed_ply, read_compressed_ply
from artifixer.splats.sog import read_sog, write_sog
from artifixer.splats.splat_records import read_splat_records
from artifixer.splats.splats import Splats
from artifixer.splats.spz import clipping_note, is_spz, read_spz, write_spz
from artifixer.splats.usdz import check_usd, write_usdz

#: Bytes that are looked at to recognise a format: the header of a PLY with many fields.
HEAD_BYTES = 64 * 1024

#: Other tools store +-inf for an opacity of 1 or 0 and -inf for a flat side: as these logits and
#: logarithms they render the same.
OPAQUE_LOGIT, FLAT_LOG_SCALE = 16.0, -20.0

#: Logarithms of standard deviations above this have no finite exponential in float32.
LARGEST_LOG_SCALE = 40.0


def _never(head: bytes) -> bool:
    return False


def _nothing() -> None:
    pass


@dataclass(frozen=True)
class SplatFormat:
    """One way to store Gaussians.

    name: what ``--export`` calls it. suffix: of its files. begins: whether a file that begins with
    these bytes is one of them. read: Gaussians whose values nobody has checked, or None. write:
    writes atomically, or None.
    check: raises ``InputError`` naming the extra that writing needs, if it is not installed.
    """

    name: str
    suffix: str
    begins: Callable[[bytes], bool] = _never
    read: Callable[[Path], Splats] | None = None
    write: Callable[[Path, Splats], None] | None = None
    check: Callable[[], None] = _nothing


#: In the order in which content is looked at. A zip is a SOG file unless its name says USDZ.
FORMATS = (
    SplatFormat("compressed PLY", ".compressed.ply", is_compressed_ply, read_compressed_ply),
    SplatFormat(
        "ply",
        ".ply",
        lambda head: head.startswith(b"ply"),
        ply.read_unchecked_splats,
        ply.write_splats,
    ),
    SplatFormat("spz", ".spz", is_spz, read_spz, write_spz),
    SplatFormat("sog", ".sog", lambda head: head.startswith(b"PK\x03\x04"), read_sog, write_sog),
    SplatFormat("splat", ".splat", read=read_splat_records),
    SplatFormat("usdz", ".usdz", write=write_usdz, check=check_usd),
)

#: Writers of the formats that hold positions, or where they lie, in float64.
_PLACED: dict[str, Callable[[Path, Splats, Origin], None]] = {
    "ply": ply.write_splats,
    "usdz": write_usdz,
}

#: Names that ``--export`` takes.
EXPORTS = tuple(entry.name for entry in FORMATS if entry.write is not None)

#: Endings of splat files that are not read, and what reads them.
CONVERTERS = {
    ".ksplat": "splat-transform (npm package @playcanvas/splat-transform)",
    ".lcc": "splat-transform (npm package @playcanvas/splat-transform)",
    ".lcc2": "splat-transform (npm package @playcanvas/splat-transform)",
    ".usdz": "the program that made it",
    ".usd": "the program that made it",
    ".usda": "the program that made it",
    ".usdc": "the program that made it",
    ".glb": "the program that made it",
    ".gltf": "the program that made it",
}


@dataclass(frozen=True)
class SplatFile:
    """Finite Gaussians of a file, the name of its format, notes about omitted Gaussians, and the
    origin that ``means`` are relative to.
    """

    splats: Splats
    format: str
    notes: tuple[str, ...] = ()
    origin: Origin = WORLD


def read_splat_file(path: Path, origin: Origin | None = None) -> SplatFile:
    """The Gaussians of a splat file in any format of the table, relative to ``origin`` (None: what
    the file says, a PLY in a comment).

    Files without a comment whose Gaussians lie nearer to zero than to ``origin`` are taken as
    relative to it already, with a note: float32 formats hold georeferenced splats that way
    (``placement_note``), and most tools shift such captures.

    Gaussians with values that are not finite are left out and named in a note; opacities of exactly
    0 or 1 and flat sides, which some tools store as infinities, are none of them. Raises
    ``InputError`` for other files, and when no Gaussian is left.
    """
    entry = find_format(path)
    assert entry.read is not None, f"{entry.name} is not read"
    is_ply = entry.name == "ply"
    splats, place = ply.read_placed_splats(path) if is_ply else (entry.read(path), WORLD)
    notes: tuple[str, ...] = ()
    if origin is not None and origin != place:
        if place == WORLD and _is_near_zero(splats.means, origin):
            notes = (f"{path.name}: positions are near zero and taken as {_relative(origin)}",)
        else:
            world = points_to_world(splats.means, place)
            splats = replace(splats, means=points_to_local(world, origin))
        place = origin
    found = _checked(path, splats, entry.name)
    ply.check_extent(path, found.splats)
    return replace(found, origin=place, notes=(*notes, *found.notes))


def _is_near_zero(positions: Float[Tensor, "points 3"], origin: Origin) -> bool:
    """Whether the middle of the positions is nearer to zero than to ``origin``."""
    finite = positions[torch.isfinite(positions).all(dim=1)].to(torch.float64)
    if not len(finite):
        return False
    middle = finite.median(dim=0).values
    return bool(middle.norm() < (middle - torch.tensor(origin, dtype=torch.float64)).norm())


def _relative(origin: Origin) -> str:
    x, y, z = origin
    return f"relative to ({x:.15g}, {y:.15g}, {z:.15g}) of the world"


def find_format(path: Path) -> SplatFormat:
    """The format of a file that can be read. Raises ``InputError`` saying what to convert it with,
    or what is read.
    """
    if path.exists():
        check_regular(path, "a splat file")
    try:
        with path.open("rb") as file:
            head = file.read(HEAD_BYTES)
    except FileNotFoundError:
        raise InputError(f"{path}: no such file, expected splats ({_readable()})") from None
    except OSError as error:
        raise InputError(
            f"{path}: cannot be read ({error.strerror}), expected splats ({_readable()})"
        ) from error
    suffix = path.suffix.lower()
    if suffix in CONVERTERS:
        raise InputError(
            f"{path}: {suffix} files are not read; convert it to .ply with {CONVERTERS[suffix]}"
        )
    for entry in FORMATS:
        if entry.read is not None and entry.begins(head):
            return entry
    for entry in FORMATS:
        if entry.read is not None and entry.begins is _never and suffix == entry.suffix:
            return entry
    raise InputError(f"{path}: not a splat file of a known format, expected {_readable()}")


def write_splat_file(path: Path, splats: Splats, origin: Origin = WORLD) -> None:
    """Write splats in the format that the ending names. ``origin``: what ``means`` are relative to,
    see ``placement_note``.

    Raises ``InputError`` for other endings and for extras that are missing.
    """
    _write(format_to_write(path), path, splats, origin)


def format_to_write(path: Path) -> SplatFormat:
    """The format that a file's ending names; its extra is installed. Raises ``InputError``
    otherwise.
    """
    name = path.name.lower()
    known = next((entry for entry in FORMATS if name.endswith(entry.suffix)), None)
    if known is None or known.write is None:
        written = ", ".join(entry.suffix for entry in FORMATS if entry.write is not None)
        raise InputError(
            f"{path}: splats are not written as {''.join(Path(name).suffixes[-2:]) or 'that'}; "
            f"expected {written}"
        )
    known.check()
    return known


def parse_exports(text: str) -> tuple[str, ...]:
    """``ply,spz`` -> names of formats in the table's order, each once; their extras are installed.
    Raises ``InputError`` otherwise.
    """
    words = [word.strip().lower().removeprefix(".") for word in text.split(",") if word.strip()]
    unknown = [word for word in words if word not in EXPORTS]
    if unknown or not words:
        raise InputError(
            f"--export {text!r}: expected some of {', '.join(EXPORTS)}, separated by commas"
        )
    chosen = [entry for entry in FORMATS if entry.name in words]
    for entry in chosen:
        entry.check()
    return tuple(entry.name for entry in chosen)


def export_splats(
    folder: Path, stem: str, splats: Splats, formats: Sequence[str], origin: Origin = WORLD
) -> list[Path]:
    """Write ``folder/stem.*`` in all the formats that are not there yet; returns the files. Raises
    ``InputError`` as the writers do.

    origin: what ``means`` are relative to, see ``placement_note``.
    """
    files = []
    for entry in FORMATS:
        if entry.name in formats and entry.write is not None:
            path = folder / f"{stem}{entry.suffix}"
            if not path.is_file():
                _write(entry, path, splats, origin)
            files.append(path)
    return files


def placement_note(formats: Sequence[str], origin: Origin) -> tuple[str, ...]:
    """A remark for georeferenced splats in formats of float32: their positions are relative to the
    origin, not of the world.
    """
    local = [name for name in formats if name not in _PLACED]
    if origin == WORLD or not local:
        return ()
    return (f"{', '.join(local)}: positions are {_relative(origin)}, which float32 cannot hold",)


def range_note(formats: Sequence[str], splats: Splats) -> tuple[str, ...]:
    """A remark for splats that a format of ``formats`` holds only clipped."""
    return clipping_note(splats) if "spz" in formats else ()


def _write(entry: SplatFormat, path: Path, splats: Splats, origin: Origin) -> None:
    assert entry.write is not None, f"{entry.name} is not written"
    if entry.name in _PLACED:
        _PLACED[entry.name](path, splats, origin)
    else:
        entry.write(path, splats)


def _readable() -> str:
    return ", ".join(entry.suffix for entry in FORMATS if entry.read is not None)


def _checked(path: Path, splats: Splats, name: str) -> SplatFile:
    """The Gaussians with finite values."""
    logits = splats.opacity_logits
    flat = torch.isneginf(splats.log_scales)
    splats = Splats(
        means=splats.means,
        quats=splats.quats,
        log_scales=torch.where(flat, FLAT_LOG_SCALE, splats.log_scales),
        opacity_logits=torch.where(torch.isinf(logits), torch.sign(logits) * OPAQUE_LOGIT, logits),
        sh=splats.sh,
    )
    good = torch.ones(len(splats), dtype=torch.bool)
    bad_fields = []
    for field, values in vars(splats).items():
        fine = torch.isfinite(values.reshape(len(splats), math.prod(values.shape[1:]))).all(dim=1)
        if field == "log_scales":
            fine &= (values <= LARGEST_LOG_SCALE).all(dim=1)
        if not fine.all():
            bad_fields.append(field)
        good &= fine
    if good.all():
        return SplatFile(splats, name)
    count, first = int((~good).sum()), int(torch.nonzero(~good)[0])
    if not good.any():
        raise InputError(
            f"{path}: none of its {len(splats):,} Gaussians has finite values "
            f"({', '.join(bad_fields)})"
        )
    note = (
        f"{path.name}: {count:,} of {len(splats):,} Gaussians have non-finite "
        f"{', '.join(bad_fields)} and are left out (first: {first})"
    )
    return SplatFile(splats.map(lambda tensor: tensor[good]), name, (note,))
