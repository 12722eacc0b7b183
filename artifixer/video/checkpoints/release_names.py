"""Names of the transformer's tensors: ours, and those of the public release."""

from __future__ import annotations

import re

#: Our names of the transformer's parts, and those of the public release, which are the names of Wan
#: 2.1 in diffusers where Wan has the part.
RELEASE_NAMES = (
    ("layers", "blocks"),
    ("modulation", "scale_shift_table"),
    ("head", "proj_out"),
    ("time_embedding.first", "condition_embedder.time_embedder.linear_1"),
    ("time_embedding.second", "condition_embedder.time_embedder.linear_2"),
    ("time_modulation", "condition_embedder.time_proj"),
    ("text_embedding.first", "condition_embedder.text_embedder.linear_1"),
    ("text_embedding.second", "condition_embedder.text_embedder.linear_2"),
    ("ray_embedding", "camera_embedding"),
    ("self_attention", "attn1"),
    ("cross_attention", "attn2"),
    ("cross_norm", "norm2"),
    ("query", "to_q"),
    ("key", "to_k"),
    ("value", "to_v"),
    ("out", "to_out.0"),
    ("query_norm", "norm_q"),
    ("key_norm", "norm_k"),
    ("reference_key", "add_k_proj"),
    ("reference_value", "add_v_proj"),
    ("reference_key_norm", "norm_added_k"),
    ("feed_forward.first", "ffn.net.0.proj"),
    ("feed_forward.second", "ffn.net.2"),
)


def release_name(name: str) -> str:
    """The public release's name of one of the transformer's tensors:
    "layers.0.self_attention.query.bias" -> "blocks.0.attn1.to_q.bias".
    """
    return _translated(name, RELEASE_NAMES)


def our_name(name: str) -> str:
    """Our name of a tensor of the public release or of Wan 2.1 in diffusers; the inverse of
    ``release_name``.
    """
    return _translated(name, tuple((theirs, ours) for ours, theirs in RELEASE_NAMES))


def _translated(name: str, table: tuple[tuple[str, str], ...]) -> str:
    """Replace whole dot-separated parts, each at most once."""
    words = dict(table)
    parts = "|".join(re.escape(part) for part in sorted(words, key=len, reverse=True))
    return re.sub(rf"(?<![^.])(?:{parts})(?![^.])", lambda match: words[match.group()], name)
