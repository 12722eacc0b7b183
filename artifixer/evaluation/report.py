"""``report.html``: the results and the quality of a run in one self-contained HTML file.

In: a ``Report``, which names pictures and videos on disk. Out: one HTML page with before/after
sliders, videos, the table of variants, a plot of the held-out views, the frame -> photo table and
every setting. Pictures are embedded as WebP and videos unchanged, up to ``MAX_BYTES``; beyond it
fewer views have a slider and further videos are linked. The same inputs give the same bytes: times
are in ``timing.json``, which the page shows in an iframe.
"""

from __future__ import annotations

import base64
import html
import io
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from string import Template
from typing import Any

import numpy as np
from jaxtyping import UInt8

from artifixer.evaluation.evaluate import (
    BASELINES,
    RENDERS,
    VARIANT_TITLES,
    VariantQuality,
    best_of,
    difference,
)
from artifixer.evaluation.plot import Line, legend, plot
from artifixer.evaluation.report_scenes import NO_SCENES, ReportScenes, scene_figures
from artifixer.imaging.quality import EMPTY_BELOW, OPAQUE_ABOVE
from artifixer.runtime.files import write_bytes
from artifixer.runtime.image_files import read_image
from artifixer.runtime.json_io import to_json

#: Maximum size of the file, and the fraction of it for pictures; videos get the rest.
MAX_BYTES = 25_000_000
PICTURE_SHARE = 0.5

#: Maximum number of views with a slider, evenly spaced.
MAX_VIEWS = 24

#: Quality of embedded pictures on WebP's scale to 100.
PICTURE_QUALITY = 88

#: Pictures of a view, in the order of the menus.
PICTURE_TITLES = {
    "photo": "Photo (truth)",
    "opacity": "Opacity of the input render",
    **VARIANT_TITLES,
}

#: Picture that is shown on the right at first: the first of these that a view has.
PREFERRED = ("artifixer3d_plus", "artifixer", "artifixer3d", "3dgut")

#: Columns of the table of variants: field, heading, digits, whether larger is better.
COLUMNS = (
    ("psnr", "PSNR", 2, True),
    ("psnr_pooled", "pooled", 2, True),
    ("psnr_opaque", "opaque", 2, True),
    ("psnr_empty", "empty", 2, True),
    ("ssim", "SSIM", 3, True),
    ("lpips_vgg01", "LPIPS VGG", 3, False),
    ("lpips_alex", "LPIPS Alex", 3, False),
)

#: Line colour and dash pattern of each variant in the plot.
_STROKES = {
    "3dgut": ("#8a949e", ""),
    "input": ("#8a949e", "2 3"),
    "inpainting_telea": ("#c9a227", "5 4"),
    "inpainting_ns": ("#c2703d", "5 4"),
    "inpainting_push_pull": ("#7d6b2a", "5 4"),
    "artifixer_unadapted": ("#1f77d0", "2 3"),
    "artifixer": ("#1f77d0", ""),
    "artifixer3d": ("#8e44ad", ""),
    "artifixer3d_plus": ("#0b9a6d", ""),
}

PLOT_CAPTION = "PSNR in dB of the held-out photos in the order of the path"


@dataclass(frozen=True)
class ReportView:
    """One view with a before/after slider."""

    title: str
    """Name of the photo, or number of the frame."""

    pictures: Mapping[str, Path]
    """Image files of one size by names of ``PICTURE_TITLES``."""


@dataclass(frozen=True)
class Report:
    """The content of the page."""

    title: str
    """Name of the capture."""

    subtitle: str
    """One line below the title."""

    facts: Sequence[tuple[str, str]]
    """(name, value) rows of "What was done"."""

    variants: Mapping[str, VariantQuality]
    """Quality by names of ``VARIANT_TITLES``; empty without held-out photos."""

    views: Sequence[ReportView]
    """Views with sliders."""

    videos: Sequence[tuple[str, Path]]
    """(caption, file); files whose name starts with ``side_by_side`` take the whole width."""

    frames: Sequence[str | None]
    """For each frame of the path, the photo taken at its camera, or None."""

    splats: Sequence[str]
    """Splat files relative to the report."""

    settings: Any
    """JSON data."""

    notes: Sequence[str] = ()
    """Warnings and remarks."""

    scenes: ReportScenes = NO_SCENES
    """Splats as interactive scenes."""


def write_report(path: Path, report: Report) -> None:
    """Write the page atomically. Raises ``InputError`` for a picture that cannot be read."""
    views, picture_bytes = _embedded_views(report.views, int(PICTURE_SHARE * MAX_BYTES))
    taken = picture_bytes + report.scenes.size
    template = Template(
        (Path(__file__).parent / "report_template.html").read_text(encoding="utf-8")
    )
    page = template.substitute(
        title=html.escape(report.title),
        subtitle=html.escape(report.subtitle),
        tiles=_tiles(report.variants),
        comparison="" if views else "hidden",
        videos=_videos(report.videos, path.parent, MAX_BYTES - taken - 1_000_000),
        quality=_quality(report.variants),
        facts="".join(
            f"<tr><td>{html.escape(what)}</td><td>{html.escape(how)}</td></tr>"
            for what, how in report.facts
        ),
        notes="".join(f'<p class="soft below">{html.escape(note)}</p>' for note in report.notes),
        splats=" and ".join(f"<code>{html.escape(file)}</code>" for file in report.splats),
        scenes=scene_figures(report.scenes),
        frames=_frame_table(report.frames),
        settings=html.escape(
            json.dumps(to_json(report.settings), indent=2, sort_keys=True, ensure_ascii=False)
        ),
        views=_script_json(views),
        picture_titles=_script_json(PICTURE_TITLES),
        scene_data=_script_json([scene.data for scene in report.scenes.scenes]),
        player=_script_json(report.scenes.player),
        place=_script_json(report.scenes.place),
    )
    write_bytes(path, page.encode())


# Sliders ------------------------------------------------------------------------------------------


def _embedded_views(views: Sequence[ReportView], budget: int) -> tuple[list[dict[str, Any]], int]:
    """Evenly spaced views as data for the page's script, as many as fit the budget, and the bytes
    they take.
    """
    for count in range(min(MAX_VIEWS, len(views)), 0, -1):
        chosen = [views[position * len(views) // count] for position in range(count)]
        embedded = [_embedded_view(view) for view in chosen]
        size = sum(len(uri) for view in embedded for uri in view["pictures"].values())
        if size <= budget:
            return embedded, size
    return [], 0


def _embedded_view(view: ReportView) -> dict[str, Any]:
    pictures = {
        name: read_image(view.pictures[name]) for name in PICTURE_TITLES if name in view.pictures
    }
    assert pictures, f"{view.title}: no pictures"
    height, width = next(iter(pictures.values())).shape[:2]
    preferred = next((name for name in PREFERRED if name in pictures), next(iter(pictures)))
    uris = {name: _data_uri(_webp(pixels), "image/webp") for name, pixels in pictures.items()}
    return {
        "title": view.title,
        "width": width,
        "height": height,
        "preferred": preferred,
        "pictures": uris,
    }


def _webp(pixels: UInt8[np.ndarray, "height width 3"]) -> bytes:
    from PIL import Image

    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "webp", quality=PICTURE_QUALITY, method=4)
    return buffer.getvalue()


# Videos -------------------------------------------------------------------------------------------


def _videos(videos: Sequence[tuple[str, Path]], folder: Path, budget: int) -> str:
    """Players; videos that would exceed the budget are linked instead."""
    figures = []
    for caption, file in videos:
        size = math.ceil(file.stat().st_size / 3) * 4
        wide = ' class="all"' if file.name.startswith("side_by_side") else ""
        if size <= budget:
            budget -= size
            source, note = _data_uri(file.read_bytes(), "video/mp4"), ""
        else:
            source, note = (
                html.escape(file.relative_to(folder).as_posix()),
                " (too large to embed: plays from the file beside this report)",
            )
        player = (
            f'<video controls loop muted playsinline preload="metadata" src="{source}"></video>'
        )
        figures.append(
            f"<figure{wide}>{player}<figcaption>{html.escape(caption)}{note}</figcaption></figure>"
        )
    return f'<h2>Along the path</h2><div class="films">{"".join(figures)}</div>' if figures else ""


# Quality ------------------------------------------------------------------------------------------


def _tiles(variants: Mapping[str, VariantQuality]) -> str:
    """Headline figures: the best output of the model, its gains over the better of the renders,
    and how it compares with the best baseline, which may be above it.
    """
    ours = {
        name: variants[name]
        for name in PREFERRED[:3]
        if name in variants and variants[name].psnr is not None
    }
    if not ours or not any(name in variants for name in RENDERS):
        return ""
    best = max(ours, key=lambda name: ours[name].psnr or 0.0)
    tiles = [(VARIANT_TITLES[best], "best of the model's outputs by mean PSNR")]
    for field, label in (
        ("psnr", "PSNR, mean of the held-out photos"),
        ("psnr_pooled", "PSNR over all held-out pixels"),
        ("ssim", "SSIM"),
    ):
        digits, unit = (3, "") if field == "ssim" else (2, " dB")
        value = f"{getattr(ours[best], field):.{digits}f}{unit}"
        against = "; ".join(
            f"{change:+.{digits}f}{unit} against {other}"
            for other, change in _comparisons(variants, best, field)
        )
        tiles.append((value, f"{label}: {against}" if against else label))
    cells = "".join(
        f'<div class="card tile"><b>{html.escape(value)}</b><span>{html.escape(label)}</span></div>'
        for value, label in tiles
    )
    return f'<div class="tiles">{cells}</div>'


def _comparisons(
    variants: Mapping[str, VariantQuality], name: str, field: str
) -> list[tuple[str, float]]:
    """Differences of a variant's figure to the better of the renders and to the best baseline, with
    what they are called.
    """
    render, baseline = best_of(variants, RENDERS, field), best_of(variants, BASELINES, field)
    both = all(each in variants for each in RENDERS)
    title = "the better of the two renders" if both else "the plain 3DGUT render"
    if render is None or baseline is None:
        return []
    if render == baseline:
        compared = [(render, f"{title}, the best baseline")]
    else:
        compared = [(render, title), (baseline, f"the best baseline, {VARIANT_TITLES[baseline]}")]
    return [
        (words, change)
        for other, words in compared
        if (change := difference(variants, name, other, field)) is not None
    ]


def _quality(variants: Mapping[str, VariantQuality]) -> str:
    if not any(quality.per_view for quality in variants.values()):
        return (
            '<h2>Quality</h2><div class="card"><p>No photo was held out, so the frames cannot be '
            "compared with photos.</p></div>"
        )
    columns = [
        column
        for column in COLUMNS
        if any(getattr(quality, column[0]) is not None for quality in variants.values())
    ]
    headings = "".join(f"<th>{heading}</th>" for _, heading, _, _ in columns)
    rows = []
    for name, quality in variants.items():
        cells = "".join(
            _cell(quality, field, digits, _best(variants, field, larger))
            for field, _, digits, larger in columns
        )
        rows.append(f"<tr><td>{html.escape(VARIANT_TITLES[name])}</td>{cells}</tr>")
    lines = _lines(variants)
    absent = (
        ""
        if any(field.startswith("lpips") for field, *_ in columns)
        else " LPIPS was not computed (extra or weights absent)."
    )
    return (
        "<h2>Quality on held-out photos</h2>"
        '<div class="card"><div class="wide">'
        f"<table><tr><th>variant</th>{headings}</tr>{''.join(rows)}</table></div>"
        '<p class="soft below">PSNR in dB: mean over the photos; pooled over all their pixels; '
        "over the pixels that"
        f" the model's input render shows (opacity above {OPAQUE_ABOVE}) and leaves empty (below "
        f"{EMPTY_BELOW}).{absent}</p></div>"
        f'<div class="card below">{plot(lines, PLOT_CAPTION)}{legend(lines)}'
        f"<details><summary>Every held-out photo</summary>{_view_table(variants)}</details></div>"
    )


def _best(variants: Mapping[str, VariantQuality], field: str, larger: bool) -> float | None:
    values = [
        value for quality in variants.values() if (value := getattr(quality, field)) is not None
    ]
    return (max if larger else min)(values, default=None)


def _cell(quality: VariantQuality, field: str, digits: int, best: float | None) -> str:
    value = getattr(quality, field)
    mark = ' class="best"' if value is not None and value == best else ""
    return f"<td{mark}>{_number(value, digits)}</td>"


def _number(value: float | None, digits: int) -> str:
    return "-" if value is None else "equal" if math.isinf(value) else f"{value:.{digits}f}"


def _view_table(variants: Mapping[str, VariantQuality]) -> str:
    first = next(iter(variants.values()))
    headings = "".join(f"<th>{html.escape(VARIANT_TITLES[name])}</th>" for name in variants)
    rows = []
    for position, view in enumerate(first.per_view):
        cells = "".join(
            f"<td>{_number(quality.per_view[position].psnr, 2)}</td>"
            for quality in variants.values()
        )
        rows.append(
            f"<tr><td>{html.escape(view.photo)}</td><td>{100 * view.empty:.0f} %</td>{cells}</tr>"
        )
    return (
        '<div class="wide"><table><tr><th>photo</th><th>empty</th>'
        f"{headings}</tr>{''.join(rows)}</table></div>"
    )


def _lines(variants: Mapping[str, VariantQuality]) -> list[Line]:
    """PSNR of every held-out photo."""
    return [
        Line(VARIANT_TITLES[name], [view.psnr for view in quality.per_view], *_STROKES[name])
        for name, quality in variants.items()
    ]


# Tables and escapes -------------------------------------------------------------------------------


def _frame_table(frames: Sequence[str | None]) -> str:
    stops = [(index, photo) for index, photo in enumerate(frames) if photo is not None]
    rows = "".join(
        f"<tr><td>{index:05d}</td><td>{html.escape(photo)}</td></tr>" for index, photo in stops
    )
    text = f"{len(stops)} of the {len(frames)} frames are at exactly the camera of a photo."
    table = f'<div class="wide"><table><tr><th>frame</th><th>photo</th></tr>{rows}</table></div>'
    details = (
        f"<details><summary>Which frame is which photo</summary>{table}</details>" if stops else ""
    )
    return f'<h2>Frames</h2><div class="card"><p>{text}</p>{details}</div>'


def _data_uri(content: bytes, kind: str) -> str:
    return f"data:{kind};base64,{base64.b64encode(content).decode()}"


def _script_json(value: object) -> str:
    """JSON that may stand inside a script element."""
    return json.dumps(value, ensure_ascii=False).replace("<", "\\u003c")
