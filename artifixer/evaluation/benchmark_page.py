"""The page of an evaluation: one self-contained HTML file.

In: ``results.json`` and the pictures in the scenes' folders. Out: the tables with published rows,
plots of the PSNR of every held-out view by scene, and the worst and best views of every method
beside their photos.
"""

from __future__ import annotations

import base64
import html
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from artifixer.evaluation.files import method_file, scene_folder
from artifixer.evaluation.plot import Line, legend, plot
from artifixer.evaluation.profiles import PROFILES
from artifixer.evaluation.protocols import short
from artifixer.evaluation.table_files import number
from artifixer.evaluation.tables import (
    Table,
    facts,
    method_title,
    tables,
    without_diagnostics,
)
from artifixer.imaging.quality import SquaredError
from artifixer.runtime.files import is_regular, read_whole, write_bytes

#: Maximum total size of embedded pictures, bytes; further views are left out.
MAX_PICTURE_BYTES = 16_000_000

#: Maximum size of one picture, bytes.
LARGEST_PICTURE = 4_000_000

#: Number of worst and of best views that are shown per method.
SHOWN_VIEWS = 3

#: Line colours of methods, repeated when there are more.
COLORS = ("#8a949e", "#c9a227", "#c2703d", "#1f77d0", "#8e44ad", "#0b9a6d", "#c0392b", "#2c8fa3")


def write_page(path: Path, results: Mapping[str, Any], out: Path) -> None:
    """Write the page atomically. out: the evaluation's folder."""
    shown, results = [*map(_table, tables(results))], without_diagnostics(results)
    sections = [
        *shown,
        '<h2>Every held-out view</h2><div class="card">',
        *(_plot(results, scene) for scene in results["scenes"]),
        legend(_lines(results, next(iter(results["scenes"])), results["profiles"][0])),
        "</div>",
        _views(results, out),
    ]
    listed = "".join(f"<p>{_text(line)}</p>" for line in facts(results))
    page = (
        '<!doctype html><html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>{html.escape(results['title'])} - ArtiFixer</title>{_style()}</head><body><main>"
        f'<h1>{html.escape(results["title"])}</h1><div class="soft">{listed}</div>'
        f"{''.join(sections)}</main></body></html>\n"
    )
    write_bytes(path, page.encode())


def _style() -> str:
    """The style sheet of the report of a run, with additional rules."""
    template = (Path(__file__).parent / "report_template.html").read_text(encoding="utf-8")
    style = template[template.index("<style>") : template.index("</style>")]
    return (
        f"{style}tr.paper td {{ color: var(--soft); }} "
        ".pair img { width: 100%; border-radius: 8px; }"
        ".pairs { display: grid; gap: 14px; "
        "grid-template-columns: repeat(auto-fill, minmax(min(100%, 460px), 1fr)); } "
        ".pairs figure { margin: 0; }</style>"
    )


def _text(line: str) -> str:
    """A line of Markdown (a fact or a note) as HTML: without the dash of a list, code marked."""
    return re.sub("`([^`]*)`", r"<code>\1</code>", html.escape(line.removeprefix("- ")))


def _table(table: Table) -> str:
    best: list[float | None] = []
    for position, (_, _, larger) in enumerate(table.columns):
        ours = [
            value
            for _, values, is_ours in table.rows
            if is_ours and (value := values[position]) is not None
        ]
        best.append((max if larger else min)(ours, default=None) if larger is not None else None)
    headings = "".join(f"<th>{html.escape(heading)}</th>" for heading, _, _ in table.columns)
    rows = []
    for label, values, is_ours in table.rows:
        cells = []
        for value, target, (_, digits, _) in zip(values, best, table.columns, strict=True):
            mark = ' class="best"' if is_ours and value is not None and value == target else ""
            cells.append(f"<td{mark}>{number(value, digits)}</td>")
        kind = "" if is_ours else ' class="paper"'
        rows.append(f"<tr{kind}><td>{html.escape(label)}</td>{''.join(cells)}</tr>")
    notes = "".join(f'<p class="soft below">{_text(note)}</p>' for note in table.notes)
    return (
        f'<h2>{html.escape(table.title)}</h2><div class="card"><div class="wide">'
        f"<table><tr><th></th>{headings}</tr>{''.join(rows)}</table></div>{notes}</div>"
    )


# Plots --------------------------------------------------------------------------------------------


def _psnr(view: Mapping[str, Any], profile: str) -> float | None:
    value: float | None = view["figures"].get(profile, {}).get("psnr")
    return value


def _plot(results: Mapping[str, Any], scene: str) -> str:
    """PSNR of a scene's held-out views in the first profile that has them, a line per method."""
    profile = next(
        (
            name
            for name in results["profiles"]
            if any(
                view["scene"] == scene and _psnr(view, name) is not None
                for method in results["methods"].values()
                for view in method["views"]
            )
        ),
        None,
    )
    if profile is None:
        return ""
    title = f"{short(scene)}: PSNR in dB ({PROFILES[profile].title}), held-out photos by name"
    return plot(_lines(results, scene, profile), title)


def _lines(results: Mapping[str, Any], scene: str, profile: str) -> list[Line]:
    """PSNR of every held-out view of a scene."""
    return [
        Line(
            method_title(name),
            [_psnr(view, profile) for view in method["views"] if view["scene"] == scene],
            COLORS[position % len(COLORS)],
        )
        for position, (name, method) in enumerate(results["methods"].items())
    ]


# Pictures -----------------------------------------------------------------------------------------


def _views(results: Mapping[str, Any], out: Path) -> str:
    """The worst and the best views of every method by PSNR of the whole image: photo, frame."""
    parts, left = [], MAX_PICTURE_BYTES
    for name, method in results["methods"].items():
        found = []
        for label, sign in (("worst", 1), ("best", -1)):
            by_scene: dict[str, Mapping[str, Any]] = {}
            for view in method["views"]:
                best = by_scene.get(view["scene"])
                if best is None or sign * _error(view) > sign * _error(best):
                    by_scene[view["scene"]] = view
            chosen = sorted(by_scene.values(), key=lambda view: -sign * _error(view))[:SHOWN_VIEWS]
            found += [(label, view) for view in chosen]
        figures = []
        for label, view in found:
            picture = _picture(out, view["scene"], name, label)
            if picture is None or len(picture) > left:
                continue
            left -= len(picture)
            decibels = number(SquaredError(view["squared"][0], 3 * view["pixels"]).psnr(), 1)
            caption = html.escape(
                f"{label}: {short(view['scene'])}, {view['photo']}, {decibels} dB"
            )
            figures.append(
                f'<figure class="pair"><img alt="{caption}; left: photo, right: frame" '
                f'src="{picture}"><figcaption>{caption}</figcaption></figure>'
            )
        if figures:
            parts.append(
                f"<h2>{html.escape(method_title(name))}: worst and best views</h2>"
                '<p class="soft">Left: photo, right: frame; PSNR of the whole image.</p>'
                f'<div class="pairs">{"".join(figures)}</div>'
            )
    return "".join(parts)


def _error(view: Mapping[str, Any]) -> float:
    return float(view["squared"][0] / view["pixels"])


def _picture(out: Path, scene: str, method: str, label: str) -> str | None:
    path = scene_folder(out, scene) / "pictures" / method_file(method) / f"{label}.webp"
    if not is_regular(path):
        return None
    content = read_whole(path, "a picture", LARGEST_PICTURE)
    return f"data:image/webp;base64,{base64.b64encode(content).decode()}"
