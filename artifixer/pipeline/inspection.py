"""``Inspection``: the result of ``artifixer inspect``, as plain numbers and sentences."""

from __future__ import annotations

from dataclasses import dataclass

#: Version of the fields, for readers of ``inspect --json``.
INSPECTION_VERSION = 1

#: Smallest and largest value.
Range = tuple[float, float]


@dataclass(frozen=True)
class LensGroup:
    """Views of one photo size and lens model, with the range of each parameter over them."""

    width: int
    height: int
    model: str
    """``pinhole`` or ``fisheye``."""
    views: int
    """Number of views."""
    focal_x: Range
    """Pixels."""
    focal_y: Range
    """Pixels."""
    center_x: Range
    """Pixels."""
    center_y: Range
    """Pixels."""
    field_of_view: Range
    """Horizontal field of view in degrees, without distortion."""
    distortion: dict[str, Range]
    """The coefficients that are not zero in all views, by name."""


@dataclass(frozen=True)
class PointSummary:
    """Sparse points of a capture."""

    points: int
    """Number of points."""
    observations: int
    """Number of observations; 0 without tracks."""
    views_per_point: float
    """Mean number of views that observe a point; 0 without tracks."""
    reprojection_error: float | None
    """Median distance in pixels between an observation and the projected point; None without
    tracks."""


@dataclass(frozen=True)
class SplitSummary:
    """A split that the capture defines."""

    name: str
    train: int
    """Number of training photos."""
    heldout: int
    """Number of held-out photos."""


@dataclass(frozen=True)
class Inspection:
    """The content and the problems of a capture."""

    version: int
    """``INSPECTION_VERSION``."""
    name: str
    """Name of the capture."""
    format: str
    """The loader's name of the format."""
    photos: int
    """Number of usable photos."""
    lost_photos: tuple[str, ...]
    """Names of listed photos that are missing or have no pose."""
    sizes: dict[str, int]
    """Number of photos by size, ``WxH``."""
    has_poses: bool
    """False where structure from motion has to estimate them first."""
    lenses: tuple[LensGroup, ...]
    """Empty without poses."""
    camera_spread: float | None
    """Mean distance of the cameras from their centroid, world units."""
    points: PointSummary | None
    """None without sparse points."""
    median_depth: float | None
    """Of the observed sparse points, world units."""
    splits: tuple[SplitSummary, ...]
    """Splits that the capture defines."""
    notes: tuple[str, ...]
    """Remarks of the loader."""
    problems: tuple[str, ...]
    """Defects that degrade a reconstruction, one sentence each."""
