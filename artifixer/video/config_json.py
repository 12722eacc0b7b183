"""The model's ``config.json``: one flat JSON object of plain values and lists.

In: a path. Out: ``ModelConfig``; every number is checked against bounds before it is used.
"""

from __future__ import annotations

import types
import typing
from dataclasses import MISSING, fields
from pathlib import Path
from typing import Any, Literal

from artifixer.runtime.errors import InputError
from artifixer.runtime.json_io import is_number, is_whole, read_json, shown
from artifixer.video.model import ModelConfig
from artifixer.video.small_autoencoder import SmallAutoencoderConfig
from artifixer.video.transformer_config import VideoTransformerConfig
from artifixer.video.vae import AutoencoderConfig, VaeConfig

FORMAT = "artifixer-model"

VERSION = 1

#: Maximum values of a configuration's integers: several times those of any known model, and small
#: enough that no product of them overflows and a network without weights is built in a second. Fit
#: to the memory is checked by ``memory_estimate.py``.
MAX_WIDTH, MAX_DEPTH, MAX_FACTOR = 1 << 17, 512, 64

_DEPTHS = ("layers", "depth", "encoder_depth", "steps", "generate_steps")

_FACTORS = ("patch_size", "spatial_factor", "temporal_factor", "dim_mult", "num_res_blocks")

_SIDES = (
    "width",
    "ffn_width",
    "heads",
    "latent_channels",
    "text_width",
    "text_tokens",
    "encoder_width",
    "z_dim",
    "base_dim",
)

#: Maximum length of a list, number of resolutions of an autoencoder, and absolute value of any
#: other number.
MAX_LIST, MAX_RESOLUTIONS, MAX_NUMBER = 4096, 8, 1e6

#: Fields of ``config.json`` of earlier versions that are ignored.
RETIRED_FIELDS = ("detail",)

#: Values of ``vae_kind`` in ``config.json``.
AUTOENCODERS: dict[str, type[AutoencoderConfig]] = {
    "wan": VaeConfig,
    "small": SmallAutoencoderConfig,
}


def flat_config(config: ModelConfig) -> dict[str, Any]:
    """The configuration as one JSON object of plain values and lists."""
    flat: dict[str, Any] = {"format": FORMAT, "version": VERSION}
    for field in fields(config):
        if field.name not in ("transformer", "vae"):
            value = getattr(config, field.name)
            flat[field.name] = list(value) if isinstance(value, tuple) else value
    flat["vae_kind"] = next(
        kind for kind, type_ in AUTOENCODERS.items() if isinstance(config.vae, type_)
    )
    for prefix, part in (("transformer", config.transformer), ("vae", config.vae)):
        for field in fields(part):
            value = getattr(part, field.name)
            flat[f"{prefix}_{field.name}"] = list(value) if isinstance(value, tuple) else value
    return flat


def read_config(path: Path) -> ModelConfig:
    """Read a ``config.json``; raises ``InputError`` naming a field that is missing, unknown or of
    another type. ``RETIRED_FIELDS`` are ignored.
    """
    flat = read_flat_json(path)
    if flat.get("format") != FORMAT:
        raise InputError(f'{path}: not a model; expected "format": "{FORMAT}"')
    if flat.get("version") != VERSION:
        raise InputError(
            f"{path}: version {shown(flat.get('version'))}; this program reads version {VERSION}"
        )
    kind = flat.get("vae_kind")
    if not isinstance(kind, str) or kind not in AUTOENCODERS:
        raise InputError(
            f'{path}: "vae_kind" is {shown(kind)}; expected one of {", ".join(AUTOENCODERS)}'
        )
    rest = {
        key: value
        for key, value in flat.items()
        if key not in ("format", "version", "vae_kind", *RETIRED_FIELDS)
    }
    try:
        transformer = VideoTransformerConfig(
            **take_fields(path, rest, VideoTransformerConfig, "transformer_")
        )
        vae = AUTOENCODERS[kind](**take_fields(path, rest, AUTOENCODERS[kind], "vae_"))
        values = take_fields(path, rest, ModelConfig, "", leave_out=("transformer", "vae"))
        if rest:
            raise InputError(
                f'{path}: unknown "{next(iter(rest))}" ({len(rest)} such); written by a newer '
                "version?"
            )
        return ModelConfig(transformer=transformer, vae=vae, **values)
    except (AssertionError, ArithmeticError) as error:
        raise InputError(f"{path}: {error}") from error


def read_flat_json(path: Path) -> dict[str, Any]:
    """A JSON object whose values are plain or lists of plain values; ``InputError`` otherwise."""
    content = read_json(path)
    if not isinstance(content, dict):
        raise InputError(f"{path}: {type(content).__name__}, expected a JSON object")
    nested = [key for key, value in content.items() if isinstance(value, dict)]
    if nested:
        raise InputError(f'{path}: "{nested[0][:60]}" is an object, expected a flat configuration')
    return content


def take_fields(
    path: Path, flat: dict[str, Any], type_: type, prefix: str, leave_out: tuple[str, ...] = ()
) -> dict[str, Any]:
    """Arguments of a dataclass, removed from the flat configuration and checked against the
    fields' types and bounds.
    """
    kinds = typing.get_type_hints(type_)
    values = {}
    for field in fields(type_):
        key = prefix + field.name
        if field.name in leave_out or key not in flat:
            continue
        value = flat.pop(key)
        if not _fits(value, kinds[field.name]):
            raise InputError(
                f'{path}: "{key}" is {str(value)[:60]!r}; expected {_kind_name(kinds[field.name])}'
            )
        _check_bounds(path, key, field.name, value, kinds[field.name])
        values[field.name] = tuple(value) if isinstance(value, list) else value
    required = [
        field.name
        for field in fields(type_)
        if not _has_default(field) and field.name not in (*leave_out, *values)
    ]
    if required:
        raise InputError(f'{path}: lacks "{prefix}{required[0]}"')
    return values


def _check_bounds(path: Path, key: str, name: str, value: object, kind: Any) -> None:
    """Raise ``InputError`` for a number or list out of bounds. name, kind: of the field."""
    values = value if isinstance(value, list) else [value]
    longest = MAX_RESOLUTIONS if name in ("dim_mult", "temporal_downsample") else MAX_LIST
    if len(values) > longest or (isinstance(value, str) and len(value) > MAX_LIST):
        raise InputError(
            f'{path}: "{key}" has {len(values)} entries or is too long; expected at most {longest} '
            "entries"
        )
    most = MAX_DEPTH if name in _DEPTHS else MAX_FACTOR if name in _FACTORS else MAX_WIDTH
    for item in values:
        if isinstance(item, bool) or not isinstance(item, (int, float)):
            continue
        if float in (kind, *typing.get_args(kind)):
            if not is_number(item, MAX_NUMBER):
                raise InputError(
                    f'{path}: "{key}" is {shown(item)}; expected a number of at most {MAX_NUMBER:g}'
                )
        elif not is_whole(item, 1 if name in (*_SIDES, *_FACTORS, "layers") else 0, most):
            raise InputError(
                f'{path}: "{key}" is {shown(item)}; expected a whole number up to {most:,}'
            )


def _fits(value: object, kind: Any) -> bool:
    """Whether a JSON value matches the type of a field."""
    origin = typing.get_origin(kind)
    if origin is Literal:
        return value in typing.get_args(kind)
    if origin in (typing.Union, types.UnionType):
        return any(_fits(value, option) for option in typing.get_args(kind))
    if origin is tuple:
        return isinstance(value, list) and all(
            _fits(item, typing.get_args(kind)[0]) for item in value
        )
    if isinstance(value, bool) or kind is bool:
        return isinstance(value, bool) and kind is bool
    if kind is float:
        return is_number(value, MAX_NUMBER)
    return isinstance(value, kind)


def _kind_name(kind: Any) -> str:
    origin = typing.get_origin(kind)
    if origin is Literal:
        return " or ".join(map(str, typing.get_args(kind)))
    return "a list" if origin is tuple else getattr(kind, "__name__", str(kind))


def _has_default(field: Any) -> bool:
    return field.default is not MISSING or field.default_factory is not MISSING
