"""Line plots for the HTML pages: one line per method, one point per held-out photo, as SVG."""

from __future__ import annotations

import html
import math
from collections.abc import Sequence
from dataclasses import dataclass

WIDTH, HEIGHT, MARGIN = 960, 300, 44

#: Distances of grid lines, in the unit of the values; the first that gives at most 8 lines is used.
STEPS = (1, 2, 5, 10, 20)


@dataclass(frozen=True)
class Line:
    """The values of one method."""

    title: str

    values: Sequence[float | None]
    """None leaves a point out; infinite values are drawn at the upper end."""

    color: str
    """As CSS writes it."""

    dashes: str = ""
    """Dash pattern as in SVG's ``stroke-dasharray``; empty for a solid line."""


def plot(lines: Sequence[Line], caption: str) -> str:
    """The plot with its caption as HTML; empty without any finite value."""
    known = [value for line in lines for value in line.values if value is not None]
    finite = [value for value in known if math.isfinite(value)]
    if not finite:
        return ""
    low, high = math.floor(min(finite)) - 1, math.ceil(max(finite)) + 1
    count = max(len(line.values) for line in lines)

    def at(position: int, value: float) -> tuple[float, float]:
        x = MARGIN + (position + 0.5) / count * (WIDTH - 2 * MARGIN)
        share = (min(max(value, low), high) - low) / (high - low)
        return x, HEIGHT - 12 - share * (HEIGHT - 28)

    step = next(step for step in STEPS if (high - low) / step <= 8 or step == STEPS[-1])
    parts = []
    for value in range(-(-low // step) * step, high + 1, step):
        y = at(0, value)[1]
        parts.append(
            f'<line class="grid" x1="{MARGIN}" x2="{WIDTH - 8}" y1="{y:.1f}" y2="{y:.1f}"/>'
            f'<text x="{MARGIN - 8}" y="{y + 4:.1f}" text-anchor="end">{value}</text>'
        )
    for line in lines:
        points = [
            at(position, value) for position, value in enumerate(line.values) if value is not None
        ]
        path = " ".join(f"{x:.1f},{y:.1f}" for x, y in points)
        parts.append(
            f'<polyline fill="none" stroke="{line.color}" stroke-width="2" '
            f'stroke-dasharray="{line.dashes}" points="{path}"/>'
        )
        parts += [
            f'<circle cx="{x:.1f}" cy="{y:.1f}" r="3" fill="{line.color}"/>' for x, y in points
        ]
    label = html.escape(caption)
    return (
        f'<figure class="plot"><div><svg viewBox="0 0 {WIDTH} {HEIGHT}" role="img" '
        f'aria-label="{label}">{"".join(parts)}</svg></div><figcaption>{label}</figcaption></figure>'
    )


def legend(lines: Sequence[Line]) -> str:
    """Titles of the lines with their strokes as HTML."""
    entries = "".join(
        f'<span><i style="border-color: {line.color}; border-top-style: '
        f'{"dashed" if line.dashes else "solid"}"></i>{html.escape(line.title)}</span>'
        for line in lines
    )
    return f'<div class="legend">{entries}</div>'
