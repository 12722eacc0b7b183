"""``artifixer inspect``: the content of a capture as text or JSON."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated

import tyro

if TYPE_CHECKING:
    from artifixer.pipeline.inspection import Inspection, LensGroup, Range

#: Loaded when the options are right (see ``cli.py``).
WORK_MODULES = ("artifixer.pipeline.inspect_capture",)

#: Maximum number of lost photos that are named; ``--json`` has them all.
LOST_PHOTOS_SHOWN = 5


@dataclass(frozen=True)
class Command:
    """Show the content of a capture: format, photos, cameras, sparse points, splits, and problems.

    CAPTURE is a folder (COLMAP, nerfstudio transforms.json, or photos alone), a transforms file, a
    video, or procedural:SEED (a generated scene). Nothing is written.

    Examples:
      artifixer inspect my_capture
      artifixer inspect my_capture --json
    """

    capture: Annotated[str, tyro.conf.Positional]
    """Folder, transforms file, video or procedural:SEED."""
    json: bool = False
    """Print one JSON object instead of text."""
    find_poses: bool = False
    """Estimate the poses of photos or a video by structure from motion (takes minutes)."""
    faces: int | None = None
    """Number of perspective views that each equirectangular (360 degree) photo or frame is split
    into: 6, 8 or 14. Default: 8 for photos that look equirectangular.
    """
    sparse_model: Annotated[
        int | None, tyro.conf.arg(aliases=["--model"], help_behavior_hint="")
    ] = None
    """Which COLMAP model to use when a capture has several (sparse/0, sparse/1 ...). Default: the
    one with the most photos.
    """
    ignore_masks: bool = False
    """Ignore the masks and alpha channels of the photos and use all pixels."""
    skip_photos: bool = False
    """Skip decoding the photos: faster, but damaged photos are not found."""


def run_command(command: Command) -> None:
    from artifixer.pipeline.capture import CaptureChoice
    from artifixer.pipeline.inspect_capture import inspect_capture
    from artifixer.runtime.json_io import to_json

    choice = CaptureChoice(
        command.capture,
        faces=command.faces,
        sparse_model=command.sparse_model,
        ignore_masks=command.ignore_masks,
    )
    inspection = inspect_capture(
        choice, find_poses=command.find_poses, read_photos=not command.skip_photos
    )
    print(
        json.dumps(to_json(inspection), indent=2, allow_nan=False)
        if command.json
        else "\n".join(report_lines(inspection))
    )


def report_lines(inspection: Inspection) -> Iterator[str]:
    """The inspection as text."""
    yield f"{inspection.name} ({inspection.format})"
    sizes = ", ".join(
        f"{count} of {size}" if len(inspection.sizes) > 1 else size
        for size, count in inspection.sizes.items()
    )
    yield _row("photos", f"{inspection.photos}, {sizes}")
    if inspection.lost_photos:
        shown = ", ".join(inspection.lost_photos[:LOST_PHOTOS_SHOWN])
        more = len(inspection.lost_photos) - LOST_PHOTOS_SHOWN
        yield _row(
            "left out",
            f"{len(inspection.lost_photos)}: {shown}{f' and {more} more' if more > 0 else ''}",
        )
    if not inspection.has_poses:
        yield _row("cameras", "unknown yet")
    for lens in inspection.lenses:
        yield _row("cameras", _lens(lens))
    if inspection.camera_spread is not None:
        yield _row(
            "positions", f"{inspection.camera_spread:.4g} units from their centre on average"
        )
    if inspection.points is not None:
        points = inspection.points
        tracks = (
            f", {points.views_per_point:.1f} views each"
            if points.observations
            else ", seen by unknown views"
        )
        error = (
            ""
            if points.reprojection_error is None
            else f", median reprojection error {points.reprojection_error:.2f} px"
        )
        yield _row("points", f"{points.points:,}{tracks}{error}")
    if inspection.median_depth is not None:
        yield _row("median depth", f"{inspection.median_depth:.4g} units")
    for split in inspection.splits:
        yield _row("split", f"{split.name}: {split.train} train, {split.heldout} held out")
    for note in inspection.notes:
        yield _row("note", note)
    for problem in inspection.problems:
        yield _row("problem", problem)
    if not inspection.problems:
        yield _row("problems", "none found")


def _row(label: str, text: str) -> str:
    return f"  {label:<13} {text}"


def _lens(lens: LensGroup) -> str:
    distortion = (
        ", ".join(f"{name} {_shown(values)}" for name, values in lens.distortion.items())
        or "no distortion"
    )
    return (
        f"{lens.views} {lens.model} at {lens.width}x{lens.height}: focal length "
        f"{_shown(lens.focal_x)} x {_shown(lens.focal_y)} px "
        f"({_shown(lens.field_of_view)} degrees wide), centre {_shown(lens.center_x)}, "
        f"{_shown(lens.center_y)}; {distortion}"
    )


def _shown(values: Range) -> str:
    low, high = (f"{value:.4g}" for value in values)
    return low if low == high else f"{low} to {high}"
