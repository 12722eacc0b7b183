"""``results.json`` as tables: Markdown, CSV and TeX, with the published rows beside ours.

Each metric profile has a table of its own, so that no column mixes definitions; a row of the paper
stands there only when the profile is that of its table, and says why where it cannot be compared.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from artifixer.evaluation.evaluate import VARIANT_TITLES
from artifixer.evaluation.profiles import FID, KD, PROFILES, ST_LPIPS, Figure
from artifixer.evaluation.protocols import data, protocol, short

#: Columns of consistency: part, error, title.
CONSISTENCY = (
    ("views", "neighbours", "held-out views"),
    ("views", "revisit", "held-out views, revisit"),
    ("path", "neighbours", "whole path"),
    ("path", "revisit", "whole path, revisit"),
)

#: Marks of rows, explained below a table.
SECONDHAND, NOT_COMPARABLE = "†", "*"


@dataclass(frozen=True)
class Table:
    """title, columns (heading, digits, whether larger is better or None), rows of a label and
    values, whether a row is ours, notes below.
    """

    title: str
    columns: tuple[tuple[str, int, bool | None], ...]
    rows: tuple[tuple[str, tuple[float | None, ...], bool], ...]
    notes: tuple[str, ...] = ()


def method_title(name: str) -> str:
    """What people read for a method."""
    return VARIANT_TITLES.get(name, "Photos" if name == "photos" else name)


def tables(results: Mapping[str, Any]) -> list[Table]:
    """All tables of an evaluation."""
    found = [_profile_table(results, name) for name in results["profiles"]]
    return [
        *(table for table in found if table is not None),
        _general_table(results),
        *_consistency_tables(results),
        *_scene_tables(results),
    ]


def published_rows(results: Mapping[str, Any], profile: str) -> list[Mapping[str, Any]]:
    """Rows of the paper that belong beside a profile's figures: those of the benchmark's table, in
    the profile that it was measured with, unless the split is a stand-in of ours.
    """
    entry = protocol(results["protocol"])
    if not entry.published or profile != entry.profiles[0] or results["stand_in"]:
        return []
    rows: list[Mapping[str, Any]] = data("published")["rows"]
    return [row for row in rows if row["protocol"] == entry.published]


def markdown(results: Mapping[str, Any]) -> str:
    """Everything as one Markdown page."""
    lines = [f"# {results['title']}", "", *(f"* {line}" for line in facts(results)), ""]
    for table in tables(results):
        headings = "".join(f" {heading} |" for heading, _, _ in table.columns)
        lines += [
            f"## {table.title}",
            "",
            f"| |{headings}",
            "|---" + "|---:" * len(table.columns) + "|",
        ]
        for label, values, _ in table.rows:
            cells = " | ".join(_cells(table, values))
            lines.append(f"| {label.replace('|', '/')} | {cells} |")
        lines += ["", *(f"{note}  " for note in table.notes), ""]
    return "\n".join(lines).rstrip() + "\n"


def tex(results: Mapping[str, Any]) -> str:
    """The tables as LaTeX tabulars (needs ``booktabs``)."""
    parts = []
    for table in tables(results):
        headings = " & ".join(_tex(heading) for heading, _, _ in table.columns)
        lines = [
            f"% {table.title}",
            f"\\begin{{tabular}}{{l{'r' * len(table.columns)}}}",
            "\\toprule",
            f" & {headings} \\\\",
            "\\midrule",
        ]
        ours = [is_ours for _, _, is_ours in table.rows]
        for position, (label, values, is_ours) in enumerate(table.rows):
            if is_ours and position and not ours[position - 1]:
                lines.append("\\midrule")
            lines.append(f"{_tex(label)} & {' & '.join(_cells(table, values))} \\\\")
        lines += ["\\bottomrule", "\\end{tabular}"]
        lines += [f"% {note}" for note in table.notes]
        parts.append("\n".join(lines))
    return "\n\n".join(parts) + "\n"


def comma_separated(results: Mapping[str, Any]) -> str:
    """One figure per line: method, scene ("" for all), profile, averaging, figure, value."""
    buffer = io.StringIO()
    writer = csv.writer(buffer, lineterminator="\n")
    writer.writerow(["method", "scene", "profile", "averaging", "figure", "value"])
    for name, method in results["methods"].items():
        for row in _csv_rows(method["summary"]):
            writer.writerow([name, *row])
        for part, error, _ in CONSISTENCY:
            value = _at(method, "consistency", part, error)
            writer.writerow([name, "", "consistency", part, error, _plain(value)])
    for row in data("published")["rows"]:
        if row["protocol"] == protocol(results["protocol"]).published and not results["stand_in"]:
            for figure in ("psnr", "ssim", "lpips", "fid"):
                published = [f"published: {row['method']}", "", f"table {row['table']}", ""]
                writer.writerow([*published, figure, _plain(row[figure])])
    return buffer.getvalue()


def facts(results: Mapping[str, Any]) -> Iterator[str]:
    """What has to be known about the figures."""
    scenes = results["scenes"]
    yield (
        f"protocol `{results['protocol']}`, {len(scenes)} scenes, "
        f"{sum(len(scene['heldout']) for scene in scenes.values())} held-out photos"
    )
    if results["comparable"]:
        yield "scenes, split, photos and masks are those of the published table"
    for caveat in results["caveats"]:
        yield f"not comparable with published figures: {caveat}"
    for name, why in results["missing"].items():
        yield f"{name}: {why}" if not why.startswith(name) else why


# The tables ---------------------------------------------------------------------------------------


def _profile_table(results: Mapping[str, Any], name: str) -> Table | None:
    profile = PROFILES[name]
    order = profile.averaging
    columns = [*profile.figures, *([FID] if profile.has_fid else [])]
    methods = {
        key: method["summary"]
        for key, method in results["methods"].items()
        if name in method["summary"][order]
    }
    if not methods:
        return None
    rows: list[tuple[str, tuple[float | None, ...], bool]] = []
    notes = [f"Mean over {'all frames' if order == 'frames' else 'the scenes'}; {profile.title}."]
    for row in published_rows(results, name):
        mark = SECONDHAND if row["secondhand"] else "" if results["comparable"] else NOT_COMPARABLE
        rows.append((f"{row['method']} (paper){mark}", _published(columns, row), False))
    if any(SECONDHAND in label for label, _, _ in rows):
        notes.append(f"{SECONDHAND} measured by other authors, with other metric code.")
    if any(NOT_COMPARABLE in label for label, _, _ in rows):
        notes.append(f"{NOT_COMPARABLE} not comparable: {'; '.join(results['caveats'])}.")
    for key, summary in methods.items():
        values = [
            summary["fid"].get(name, {}).get("value")
            if figure is FID
            else summary[order][name].get(figure.name)
            for figure in columns
        ]
        own = "; own photos" if results["methods"][key]["own_gt"] else ""
        rows.append((method_title(key) + own, tuple(values), True))
    notes += _absent(results, columns)
    return Table(
        f"Profile {name}",
        tuple((figure.title, figure.digits, figure.larger_is_better) for figure in columns),
        tuple(rows),
        tuple(notes),
    )


def _published(columns: Sequence[Figure], row: Mapping[str, Any]) -> tuple[float | None, ...]:
    """The paper's SSIM and LPIPS stand in the profile's first columns of that kind."""
    values: list[float | None] = []
    taken: set[str] = set()
    for figure in columns:
        kind = figure.name.split("_")[0]
        is_first = kind in ("psnr", "ssim", "lpips", "fid") and kind not in taken
        values.append(row.get(kind) if is_first else None)
        taken.add(kind)
    return tuple(values)


def _absent(results: Mapping[str, Any], columns: Sequence[Figure]) -> list[str]:
    return [
        f"- {results['missing'][figure.name]}."
        for figure in columns
        if figure.name in results["missing"]
    ]


def _general_table(results: Mapping[str, Any]) -> Table:
    """What no profile defines: pooled PSNR by region, ST-LPIPS, KD."""
    columns = (
        ("PSNR pooled", 2, True),
        ("opaque", 2, True),
        ("empty", 2, True),
        (ST_LPIPS.title, ST_LPIPS.digits, False),
        (KD.title, KD.digits, False),
    )
    rows = []
    for name, method in results["methods"].items():
        summary = method["summary"]
        pooled = summary["pooled"]
        values = (
            *(pooled[region] for region in ("all", "opaque", "empty")),
            summary["frames"]["st_lpips"],
            summary["kd"]["value"],
        )
        rows.append((method_title(name), values, True))
    reasons = {method["summary"]["kd"].get("why", "") for method in results["methods"].values()} - {
        ""
    }
    notes = [
        "Whole images, all frames pooled. Opaque and empty: pixels of the render that the "
        "generator gets. ST-LPIPS is not LPIPS, KD (EfficientNet-Lite0 features) is neither FID "
        "nor KID.",
        *_absent(results, [ST_LPIPS]),
        *(f"- {reason}." for reason in sorted(reasons)),
    ]
    return Table("Whole images", columns, tuple(rows), tuple(notes))


def _consistency_tables(results: Mapping[str, Any]) -> list[Table]:
    columns = [
        column
        for column in CONSISTENCY
        if any(
            _at(method, "consistency", *column[:2]) is not None
            for method in results["methods"].values()
        )
    ]
    if not columns:
        return []
    rows = []
    shown: dict[str, Any] = {"photos": {"consistency": results["photo_consistency"]}}
    for name, method in {**shown, **results["methods"]}.items():
        values = tuple(_at(method, "consistency", part, error) for part, error, _ in columns)
        rows.append((method_title(name), values, name != "photos"))
    return [
        Table(
            "Consistency",
            tuple((title, 4, False) for _, _, title in columns),
            tuple(rows),
            (
                "Mean absolute colour difference after one frame was moved into another by the "
                "splats' depth, over what both see: neighbouring frames, and frames far apart "
                "whose cameras are back in the same place. The same depth for all methods.",
            ),
        )
    ]


def _scene_tables(results: Mapping[str, Any]) -> list[Table]:
    """Mean PSNR of every scene, in the first profile that all methods have."""
    if len(results["scenes"]) < 2:
        return []
    profile = next(
        (
            name
            for name in results["profiles"]
            if all(name in method["summary"]["frames"] for method in results["methods"].values())
        ),
        None,
    )
    if profile is None:
        return []
    scenes = list(results["scenes"])
    rows = tuple(
        (
            method_title(name),
            tuple(
                method["summary"]["per_scene"][scene].get(profile, {}).get("psnr")
                for scene in scenes
            ),
            True,
        )
        for name, method in results["methods"].items()
    )
    columns = tuple((short(scene), 2, True) for scene in scenes)
    return [Table(f"PSNR by scene, profile {profile}", columns, rows)]


def _csv_rows(summary: Mapping[str, Any]) -> Iterator[list[str]]:
    for averaging in ("frames", "scenes"):
        yield from _figures("", averaging, summary[averaging])
    for scene, figures in summary["per_scene"].items():
        yield from _figures(scene, "frames", figures)
    for region, value in summary["pooled"].items():
        yield ["", "", "pooled", f"psnr_{region}", _plain(value)]
    for profile, fid in summary["fid"].items():
        yield ["", profile, "pooled", "fid", _plain(fid["value"])]
    yield ["", "", "pooled", "kd", _plain(summary["kd"]["value"])]


def _figures(scene: str, averaging: str, figures: Mapping[str, Any]) -> Iterator[list[str]]:
    for profile, values in figures.items():
        if profile == "pooled":
            for region, value in values.items():
                yield [scene, "", "pooled", f"psnr_{region}", _plain(value)]
        elif isinstance(values, dict):
            for figure, value in values.items():
                yield [scene, profile, averaging, figure, _plain(value)]
        else:
            yield [scene, "", averaging, profile, _plain(values)]


# Cells --------------------------------------------------------------------------------------------


def _at(content: Mapping[str, Any], *keys: str) -> float | None:
    inside: Any = content
    for key in keys:
        inside = inside.get(key) if isinstance(inside, Mapping) else None
    found: float | None = inside
    return found


def _cells(table: Table, values: Sequence[float | None]) -> list[str]:
    return [
        number(value, digits) for value, (_, digits, _) in zip(values, table.columns, strict=True)
    ]


def number(value: float | None, digits: int) -> str:
    """A figure for people; a PSNR that JSON could not hold is that of equal images."""
    return "-" if value is None else f"{value:.{digits}f}"


def _plain(value: float | None) -> str:
    return "" if value is None else repr(float(value))


def _tex(text: str) -> str:
    for sign in "&%_#":
        text = text.replace(sign, f"\\{sign}")
    return text.replace("†", "$^\\dagger$").replace("*", "$^*$")
