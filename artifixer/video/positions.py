"""Positional encodings: rotary embedding over frame, row and column (RoPE), and over cameras and
pixels (PRoPE).

In: indices of frames, rows and columns, camera matrices. Out: tables, and queries, keys and values
transformed by them. Tokens are ordered by frame (or view), row, column. RoPE is for self-attention
of the video's tokens, PRoPE for attention from the video to reference photos (paper section 4.1).

Angles are computed in float64 for any index and used in float32: the length of a video is not
limited. (The release's inference rounds its tables to bfloat16 and is limited to 1024 latent
frames; in float32 the values are equal.)
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from artifixer.geometry.transforms import invert_rigid

#: Longest wavelengths of the two embeddings, in positions over 2 pi.
ROPE_BASE = 10_000.0
PROPE_BASE = 100.0

#: PRoPE's split of a head's channels: half encode cameras in groups of four, a quarter each encode
#: columns and rows in pairs.
CAMERA_GROUP = 4
PROPE_DIVISOR = 8


def rope_table(
    first_frame: int,
    frames: int,
    rows: int,
    columns: int,
    head_width: int,
    device: torch.device | str = "cpu",
) -> Float[Tensor, "tokens pairs 2"]:
    """Cosine and sine of each pair of channels, for the tokens of ``frames`` latent frames from
    ``first_frame`` on.

    Rows and columns get a third of the pairs each (rounded down), frames the remaining ones.
    """
    axis_width = 2 * (head_width // 6)
    shape = (frames, rows, columns)
    widths = (head_width - 2 * axis_width, axis_width, axis_width)
    starts = (first_frame, 0, 0)
    parts = []
    for axis, (start, count, width) in enumerate(zip(starts, shape, widths, strict=True)):
        angles = _angles(
            torch.arange(start, start + count, device=device, dtype=torch.float64),
            width // 2,
            ROPE_BASE,
        )
        spread = [1, 1, 1, width // 2, 2]
        spread[axis] = count
        parts.append(
            torch.stack([angles.cos(), angles.sin()], dim=-1)
            .float()
            .view(spread)
            .expand(*shape, -1, -1)
        )
    return torch.cat(parts, dim=-2).flatten(0, 2)


def rotate_pairs(
    x: Float[Tensor, "batch tokens heads width"], table: Float[Tensor, "tokens pairs 2"]
) -> Float[Tensor, ...]:
    """Rotate each pair of neighbouring channels (a, b) to (a cos - b sin, a sin + b cos), in
    float32. table: from ``rope_table``.
    """
    pairs = x.to(table.dtype).unflatten(-1, (-1, 2))
    if torch.compiler.is_compiling():
        turned = rotate_pairs_real(pairs, table)
    else:  # a complex product: on a CPU 15 to 30 times faster than real arithmetic
        turned = torch.view_as_real(
            torch.view_as_complex(pairs) * torch.view_as_complex(table)[:, None]
        )
    return turned.flatten(-2).to(x.dtype)


def rotate_pairs_real(
    pairs: Float[Tensor, "batch tokens heads pairs 2"], table: Float[Tensor, "tokens pairs 2"]
) -> Float[Tensor, "batch tokens heads pairs 2"]:
    """The complex product in real arithmetic, for compilers that fuse only that."""
    a, b = pairs.unbind(dim=-1)
    cos, sin = table[:, None].unbind(dim=-1)
    return torch.stack([a * cos - b * sin, a * sin + b * cos], dim=-1)


@dataclass(frozen=True)
class ViewPositions:
    """Cameras of views and positions of tokens in them, for PRoPE."""

    projections: Float[Tensor, "batch views 4 4"]
    """World to normalised image, lifted to 4x4."""

    unprojections: Float[Tensor, "batch views 4 4"]
    """Inverse of ``projections``."""

    table: Float[Tensor, "tokens_per_view 2 quarter_pairs 2"]
    """Cosine and sine per token of a view for (column, row), the same for all views."""

    @staticmethod
    def of_cameras(
        viewmats: Float[Tensor, "batch views 4 4"],
        Ks: Float[Tensor, "batch views 3 3"],
        rows: int,
        columns: int,
        head_width: int,
    ) -> ViewPositions:
        """Positions of views of ``rows`` x ``columns`` tokens. Ks: normalised, without skew; see
        ``Conditions``. Computed in float32.
        """
        assert head_width % PROPE_DIVISOR == 0, (
            f"heads of {head_width} channels, PRoPE expects a multiple of {PROPE_DIVISOR}"
        )
        viewmats, Ks = viewmats.float(), Ks.float()
        pairs = head_width // PROPE_DIVISOR
        row, column = (
            _angles(
                torch.arange(count, device=viewmats.device, dtype=torch.float64), pairs, PROPE_BASE
            )
            for count in (rows, columns)
        )
        angles = torch.stack(
            [column.expand(rows, -1, -1), row[:, None].expand(-1, columns, -1)], dim=2
        ).flatten(0, 1)
        return ViewPositions(
            projections=_lifted(Ks) @ viewmats,
            unprojections=invert_rigid(viewmats) @ _lifted(_inverse_Ks(Ks)),
            table=torch.stack([angles.cos(), angles.sin()], dim=-1).float(),
        )

    def query(
        self, x: Float[Tensor, "batch tokens heads width"]
    ) -> Float[Tensor, "batch tokens heads width"]:
        """Encoded queries of these views' tokens: their logits with ``key_or_value`` keys depend on
        relative cameras only.
        """
        return prope(x, self.projections.mT, self.table)

    def key_or_value(
        self, x: Float[Tensor, "batch tokens heads width"]
    ) -> Float[Tensor, "batch tokens heads width"]:
        """Encoded keys or values of these views' tokens."""
        return prope(x, self.unprojections, self.table)

    def result(
        self, x: Float[Tensor, "batch tokens heads width"]
    ) -> Float[Tensor, "batch tokens heads width"]:
        """The attention output of these views' queries over ``key_or_value`` values, transformed to
        the queries' views.
        """
        return prope(x, self.projections, self.table, backwards=True)


def prope(
    x: Float[Tensor, "batch tokens heads width"],
    matrices: Float[Tensor, "batch views 4 4"],
    table: Float[Tensor, "tokens_per_view 2 quarter_pairs 2"],
    backwards: bool = False,
) -> Float[Tensor, "batch tokens heads width"]:
    """Multiply the first half of each head by the view's matrix, four channels at a time, and
    rotate the other half by column and row, in float32.

    The pairs of each quarter are (i, i + width / 8) and are rotated clockwise: (a cos + b sin,
    b cos - a sin); backwards: by the opposite angle.
    """
    by_view = x.to(table.dtype).unflatten(1, (matrices.shape[1], -1))
    cameras, places = by_view.chunk(2, dim=-1)
    groups = cameras.reshape(*matrices.shape[:2], -1, CAMERA_GROUP) @ matrices.mT
    a, b = places.unflatten(-1, (2, 2, -1)).unbind(dim=-2)
    cos, sin = table[:, None].unbind(dim=-1)
    if backwards:
        sin = -sin
    turned = torch.stack([torch.addcmul(a * cos, b, sin), torch.addcmul(b * cos, a, -sin)], dim=-2)
    return (
        torch.cat([groups.view(cameras.shape), turned.flatten(-3)], dim=-1)
        .flatten(1, 2)
        .to(x.dtype)
    )


def _angles(
    positions: Float[Tensor, " count"], pairs: int, base: float
) -> Float[Tensor, "count pairs"]:
    frequencies = base ** (
        -torch.arange(pairs, device=positions.device, dtype=positions.dtype) / pairs
    )
    return positions[:, None] * frequencies


def _lifted(Ks: Float[Tensor, "*batch 3 3"]) -> Float[Tensor, "*batch 4 4"]:
    """4x4 matrices: intrinsics in the upper left, 1 in the last diagonal entry."""
    lifted = torch.eye(4, device=Ks.device, dtype=Ks.dtype).repeat(*Ks.shape[:-2], 1, 1)
    lifted[..., :3, :3] = Ks
    return lifted


def _inverse_Ks(Ks: Float[Tensor, "*batch 3 3"]) -> Float[Tensor, "*batch 3 3"]:
    """Inverse of intrinsics without skew, in closed form, since a GPU solver would synchronise with
    the host.
    """
    inverse = torch.zeros_like(Ks)
    for axis in range(2):
        inverse[..., axis, axis] = 1 / Ks[..., axis, axis]
        inverse[..., axis, 2] = -Ks[..., axis, 2] / Ks[..., axis, axis]
    inverse[..., 2, 2] = 1
    return inverse
