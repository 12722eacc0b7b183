"""The tables of ``results.json``, with the published rows beside ours.

Each metric profile has a table of its own, so that no column mixes definitions. Rows of the paper
appear only in the table of the profile that they were measured with; a note says why they are not
comparable, if they are not.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from artifixer.evaluation.benchmarks.lists import data
from artifixer.evaluation.diagnostics import PREFIX, TITLES
from artifixer.evaluation.evaluate import VARIANT_TITLES
from artifixer.evaluation.profiles import FID, KD, PROFILES, ST_LPIPS, Figure
from artifixer.evaluation.protocols import protocol, short
from artifixer.runtime.counts import counted

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
    """One table."""

    title: str

    columns: tuple[tuple[str, int, bool | None], ...]
    """(heading, digits after the point, whether larger is better: None where neither is)."""

    rows: tuple[tuple[str, tuple[float | None, ...], bool], ...]
    """(label, a value per column, whether the row was measured here: False for published rows)."""

    notes: tuple[str, ...] = ()
    """Lines below the table."""


def method_title(name: str) -> str:
    """A method's name in tables."""
    return VARIANT_TITLES.get(name, "Photos" if name == "photos" else TITLES.get(name, name))


def without_diagnostics(results: Mapping[str, Any]) -> dict[str, Any]:
    """The results without the methods of ``--diagnostics``, which have a table of their own."""
    methods = results["methods"].items()
    return {
        **results,
        "methods": {name: method for name, method in methods if not name.startswith(PREFIX)},
    }


def tables(results: Mapping[str, Any]) -> list[Table]:
    """All tables of an evaluation."""
    diagnostics = _diagnostics_table(results)
    results = without_diagnostics(results)
    found = [_profile_table(results, name) for name in results["profiles"]]
    return [
        *(table for table in found if table is not None),
        *([] if diagnostics is None else [diagnostics]),
        _general_table(results),
        *_consistency_tables(results),
        *_scene_tables(results),
    ]


def published_rows(results: Mapping[str, Any], profile: str) -> list[Mapping[str, Any]]:
    """Rows of the paper for the table of a profile: those of the benchmark's published table in the
    profile that it was measured with; none where our split is a stand-in.
    """
    entry = protocol(results["protocol"])
    if not entry.published or profile != entry.profiles[0] or results["stand_in"]:
        return []
    rows: list[Mapping[str, Any]] = data("published")["rows"]
    return [row for row in rows if row["protocol"] == entry.published]


def facts(results: Mapping[str, Any]) -> Iterator[str]:
    """Lines above the tables: protocol, number of scenes and photos, caveats, missing networks."""
    scenes = results["scenes"]
    yield (
        f"protocol `{results['protocol']}`, {counted(len(scenes), 'scene')}, "
        + counted(sum(len(scene["heldout"]) for scene in scenes.values()), "held-out photo")
    )
    if results["comparable"]:
        yield "scenes, split, photos and masks are those of the published table"
    for caveat in results["caveats"]:
        yield f"not comparable with published figures: {caveat}"
    for name, why in results["missing"].items():
        yield f"{name}: {why}" if not why.startswith(name) else why


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


def _diagnostics_table(results: Mapping[str, Any]) -> Table | None:
    """Renders, the evaluated model and all rows of ``evaluation/diagnostics``, in the first profile
    that has figures; with the published rows of Table 4 for its data set.
    """
    if not results["diagnostics"]:
        return None
    methods = {name: method["summary"] for name, method in results["methods"].items()}
    reference = next(iter(methods.values()))
    profile = PROFILES[
        next(name for name in results["profiles"] if name in reference[PROFILES[name].averaging])
    ]
    order = profile.averaging
    regions = ("all", "opaque", "empty")
    columns = [*profile.figures, *([FID] if profile.has_fid else [])]

    def values(summary: Mapping[str, Any] | None) -> tuple[float | None, ...]:
        if summary is None:
            return (None,) * (len(columns) + len(regions))
        figures = [
            summary["fid"].get(profile.name, {}).get("value")
            if figure is FID
            else summary[order][profile.name].get(figure.name)
            for figure in columns
        ]
        return (*figures, *(summary["pooled"][region] for region in regions))

    rows: list[tuple[str, tuple[float | None, ...], bool]] = []
    notes = [
        f"Mean over {'all frames' if order == 'frames' else 'the scenes'}; {profile.title}; then "
        "PSNR pooled over all, opaque and empty pixels. One reconstruction per scene: all rows "
        "enhance the same renders. Inputs are withheld from weights that were trained with them."
    ]
    if results["protocol"].startswith("mipnerf360-"):
        for published in data("published")["rows"]:
            if published["table"] == 4:
                found = (*_published(columns, published), *(None,) * len(regions))
                rows.append((f"{published['method']} (paper){NOT_COMPARABLE}", found, False))
        notes.append(
            f"{NOT_COMPARABLE} not comparable: means over 3, 6 and 9 views, models trained in "
            "10,000 + 2,000 + 600 steps."
        )
    for name in ("3dgut", "input", "artifixer"):
        if name in methods:
            title = method_title(name) + (", all inputs" if name == "artifixer" else "")
            rows.append((title, values(methods[name]), True))
    for row in results["diagnostics"]:
        rows.append((_diagnostic_label(row), values(methods.get(row["method"])), True))
        if row["absent"] is not None:
            notes.append(f"- {row['title']}: absent, {row['absent']}.")
    notes += _absent(results, columns)
    titles = [(figure.title, figure.digits, figure.larger_is_better) for figure in columns]
    pooled = [("PSNR pooled", 2, True), ("opaque", 2, True), ("empty", 2, True)]
    return Table("Diagnostics", (*titles, *pooled), tuple(rows), tuple(notes))


def _diagnostic_label(row: Mapping[str, Any]) -> str:
    if row["absent"] is not None or row["group"] == "steps":
        return str(row["title"])
    trained = "trained for it" if row["trained_for"] else "the evaluated model"
    steps = f"{row['steps']} step{'' if row['steps'] == 1 else 's'}"
    return f"{row['title']} ({trained}, {steps})" if row["group"] == "start" else str(row["title"])


def _published(columns: Sequence[Figure], row: Mapping[str, Any]) -> tuple[float | None, ...]:
    """Values of a published row; SSIM and LPIPS go to the profile's first column of that kind."""
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
    """Figures outside all profiles: pooled PSNR by region, ST-LPIPS, KD."""
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
            figure_at(method, "consistency", *column[:2]) is not None
            for method in results["methods"].values()
        )
    ]
    if not columns:
        return []
    rows = []
    shown: dict[str, Any] = {"photos": {"consistency": results["photo_consistency"]}}
    for name, method in {**shown, **results["methods"]}.items():
        values = tuple(figure_at(method, "consistency", part, error) for part, error, _ in columns)
        rows.append((method_title(name), values, name != "photos"))
    return [
        Table(
            "Consistency",
            tuple((title, 4, False) for _, _, title in columns),
            tuple(rows),
            (
                "Mean absolute colour difference after one frame is warped into another with the "
                "splats' depth, over the pixels that both see: neighbouring frames, and frames far "
                "apart whose cameras are in the same place. All methods share the same depth.",
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


def figure_at(content: Mapping[str, Any], *keys: str) -> float | None:
    """The value at a path of keys; None where it is missing."""
    inside: Any = content
    for key in keys:
        inside = inside.get(key) if isinstance(inside, Mapping) else None
    found: float | None = inside
    return found
