"""``artifixer inspect``: what a capture holds, for people or as JSON."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Annotated

import tyro

from artifixer.pipeline.capture import CaptureChoice
from artifixer.pipeline.inspect_capture import Inspection, LensGroup, Range, inspect_capture
from artifixer.runtime.json_io import to_json

#: Names of lost photos that are printed; ``--json`` has them all.
LOST_PHOTOS_SHOWN = 5


@dataclass(frozen=True)
class Command:
    """Show what a capture holds: format, photos, cameras, sparse points, splits, and what is wrong
    with it.

    CAPTURE is a folder (COLMAP, nerfstudio transforms.json, or just photos), a transforms file, a
    video, or procedural:SEED. Nothing is written.

    Examples:
      artifixer inspect my_capture
      artifixer inspect my_capture --json
    """

    capture: Annotated[str, tyro.conf.Positional]
    """Folder, transforms file, video or procedural:SEED."""
    json: bool = False
    """Print one JSON object instead of text."""
    find_poses: bool = False
    """Run structure from motion on photos or a video without poses (takes minutes)."""
    faces: int | None = None
    """Perspective views of each equirectangular (360 degree) photo or frame: 6, 8 or 14. Default: 8
    where they look like that.
    """
    sparse_model: Annotated[int | None, tyro.conf.arg(aliases=["--model"])] = None
    """Number of the COLMAP model, where a capture has several (sparse/0, sparse/1 ...). Default:
    the largest.
    """
    ignore_masks: bool = False
    """Use whole photos where masks or alpha channels say which pixels count."""
    skip_photos: bool = False
    """Do not decode the photos, which takes most of the time and finds damaged ones."""


def run_command(command: Command) -> None:
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
