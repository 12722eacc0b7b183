"""The tables of an evaluation as Markdown, LaTeX and CSV."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from artifixer.evaluation.benchmarks.lists import data
from artifixer.evaluation.protocols import protocol
from artifixer.evaluation.tables import CONSISTENCY, Table, facts, figure_at, tables


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
    """CSV, one figure per line: method, scene ("" for all), profile, averaging, figure, value."""
    buffer = io.StringIO()
    writer = csv.writer(buffer, lineterminator="\n")
    writer.writerow(["method", "scene", "profile", "averaging", "figure", "value"])
    for name, method in results["methods"].items():
        for row in _csv_rows(method["summary"]):
            writer.writerow([name, *row])
        for part, error, _ in CONSISTENCY:
            value = figure_at(method, "consistency", part, error)
            writer.writerow([name, "", "consistency", part, error, _plain(value)])
    for row in data("published")["rows"]:
        if row["protocol"] == protocol(results["protocol"]).published and not results["stand_in"]:
            for figure in ("psnr", "ssim", "lpips", "fid"):
                published = [f"published: {row['method']}", "", f"table {row['table']}", ""]
                writer.writerow([*published, figure, _plain(row[figure])])
    return buffer.getvalue()


def number(value: float | None, digits: int) -> str:
    """The value with its digits; "-" without a value."""
    return "-" if value is None else f"{value:.{digits}f}"


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


def _cells(table: Table, values: Sequence[float | None]) -> list[str]:
    return [
        number(value, digits) for value, (_, digits, _) in zip(values, table.columns, strict=True)
    ]


def _plain(value: float | None) -> str:
    return "" if value is None else repr(float(value))


def _tex(text: str) -> str:
    for sign in "&%_#":
        text = text.replace(sign, f"\\{sign}")
    return text.replace("†", "$^\\dagger$").replace("*", "$^*$")
