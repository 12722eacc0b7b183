"""Reads the quality of the variants from ``metrics.json``, and prints it as a table."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import fields
from pathlib import Path
from typing import Any

from artifixer.evaluation.evaluate import (
    RENDERS,
    VARIANT_TITLES,
    VariantQuality,
    gain,
)
from artifixer.imaging.quality import ViewQuality
from artifixer.runtime.errors import InputError
from artifixer.runtime.files import reason
from artifixer.runtime.json_io import is_number, read_json

#: Heading, field and digits of each column.
COLUMNS = (
    ("PSNR", "psnr", 2),
    ("pooled", "psnr_pooled", 2),
    ("opaque", "psnr_opaque", 2),
    ("empty", "psnr_empty", 2),
    ("SSIM", "ssim", 3),
    ("LPIPS", "lpips_vgg01", 3),
)


def read_variants(path: Path) -> dict[str, VariantQuality]:
    """The variants of a ``metrics.json`` in the order of ``VARIANT_TITLES``. Infinite PSNRs, which
    the file holds as null, become None.
    """
    content = read_json(path)
    try:
        return {
            name: _variant(content["variants"][name])
            for name in VARIANT_TITLES
            if name in content["variants"]
        }
    except (KeyError, TypeError, AttributeError) as error:
        raise InputError(f"{path}: not a metrics file of a run ({reason(error)})") from error


def variant_lines(variants: Mapping[str, VariantQuality]) -> list[str]:
    """One line per variant in the order of ``VARIANT_TITLES``; columns without any value are left
    out. The last column is the gain in mean PSNR over the better of the renders."""
    columns = [
        column
        for column in COLUMNS
        if any(getattr(quality, column[1]) is not None for quality in variants.values())
    ]
    if not columns:
        return [
            "no target camera is that of a held-out photo, so there are no photos to compare the "
            "frames with"
        ]
    width = max(map(len, VARIANT_TITLES.values()))
    gains = {name: None if name in RENDERS else gain(variants, name, "psnr") for name in variants}
    has_gains = any(value is not None for value in gains.values())
    lines = [
        " " * width
        + "".join(f"{heading:>9}" for heading, _, _ in columns)
        + (f"{'gain':>9}" if has_gains else "")
    ]
    for name, title in VARIANT_TITLES.items():
        if name in variants:
            cells = "".join(
                _cell(getattr(variants[name], field), digits) for _, field, digits in columns
            )
            change = gains[name]
            lines.append(
                (
                    f"{title:{width}}{cells}" + ("" if change is None else f"{change:>+9.2f}")
                ).rstrip()
            )
    return lines


def _variant(entry: Mapping[str, Any]) -> VariantQuality:
    values = {field.name: entry[field.name] for field in fields(VariantQuality)}
    per_view = tuple(ViewQuality(**view) for view in entry["per_view"])
    figures = [
        value
        for part in (values, *map(vars, per_view))
        for name, value in part.items()
        if name not in ("per_view", "photo")
    ]
    if not all(value is None or is_number(value, 1e12) for value in figures):
        raise TypeError("a figure is text, not a number")
    return VariantQuality(**(values | {"per_view": per_view}))


def _cell(value: float | None, digits: int) -> str:
    return f"{'-':>9}" if value is None else f"{value:>9.{digits}f}"
