"""One training pair as members of a tar archive.

::

    NAME.json           version, cameras, reference cameras, camera scale, caption
    NAME.clean.png      the frames stacked vertically; NAME.render.png, NAME.opacity.png,
                        NAME.reference.png likewise
    NAME.caption.npy    embedding of the caption, if there is one

WebDataset groups members by the part of their name before the first dot. Equal pairs give equal
bytes: archive members have time zero and no owner. All images are lossless.
"""

from __future__ import annotations

import io
import json
import tarfile
from pathlib import Path
from typing import Any, get_args

import numpy as np
import torch
from jaxtyping import Float, UInt8
from torch import Tensor

from artifixer.geometry.camera_file import LARGEST_POSITION, LARGEST_SIDE
from artifixer.geometry.cameras import Cameras, LensModel
from artifixer.pairs.pair import TrainingPair
from artifixer.runtime.counts import counted
from artifixer.runtime.errors import InputError
from artifixer.runtime.files import PARSER_ERRORS
from artifixer.runtime.image_files import opened_image
from artifixer.runtime.json_io import as_object, is_number, is_whole, shown
from artifixer.runtime.npy import read_npy_stream

FORMAT = "artifixer pairs"
VERSION = 2

#: zlib level of the PNG files: twice as fast as the default, 3 % larger.
PNG_COMPRESSION = 3

#: A tar archive ends with two empty blocks.
TAR_END = bytes(2 * tarfile.BLOCKSIZE)


def encode_sample(pair: TrainingPair) -> bytes:
    """The pair as members of a tar archive, without the end of the archive."""
    header = {
        "format": FORMAT,
        "version": VERSION,
        "name": pair.name,
        "cameras": _cameras_to_json(pair.cameras),
        "reference_cameras": _cameras_to_json(pair.reference_cameras),
        "camera_scale": pair.camera_scale,
        "camera_scale_kind": pair.camera_scale_kind,
        "caption": pair.caption,
    }
    members = {
        "json": json.dumps(header, sort_keys=True, allow_nan=False).encode(),
        "clean.png": _encode_images(pair.clean_frames),
        "render.png": _encode_images(pair.renders),
        "opacity.png": _encode_images(pair.opacity),
    }
    if pair.views:
        members["reference.png"] = _encode_images(pair.reference_photos)
    if pair.caption_embedding is not None:
        buffer = io.BytesIO()
        np.save(buffer, pair.caption_embedding.to(torch.float32).numpy(), allow_pickle=False)
        members["caption.npy"] = buffer.getvalue()
    return b"".join(
        _member(f"{pair.name}.{suffix}", content) for suffix, content in members.items()
    )


def decode_sample(data: bytes) -> TrainingPair:
    """The inverse of ``encode_sample``. Raises ``InputError`` for damaged data; the message does
    not name the shard.
    """
    try:
        with tarfile.open(fileobj=io.BytesIO(data + TAR_END), mode="r:") as archive:
            members = {
                member.name.partition(".")[2]: _content(archive, member, len(data))
                for member in archive.getmembers()
            }
        header = as_object(json.loads(members["json"]), "json")
        if header.get("version") != VERSION or header.get("format") != FORMAT:
            raise InputError(
                f"format {shown(header.get('format'))}, version {shown(header.get('version'))}; "
                f"this program reads version {VERSION}"
            )
        for key in ("name", "caption"):
            if not isinstance(header[key], str) and (key == "name" or header[key] is not None):
                raise InputError(f'"{key}" is {shown(header[key])}, expected text')
        if (
            not is_number(header["camera_scale"], LARGEST_POSITION)
            or header["camera_scale"] < 1 / LARGEST_POSITION
        ):
            raise InputError(
                f'"camera_scale" is {shown(header["camera_scale"])}, expected a positive finite '
                "number"
            )
        cameras = _cameras_from_json(header["cameras"])
        references = _cameras_from_json(header["reference_cameras"])
        embedding = members.get("caption.npy")
        return TrainingPair(
            name=header["name"],
            clean_frames=_decode_images("clean.png", members, cameras),
            renders=_decode_images("render.png", members, cameras),
            opacity=_decode_images("opacity.png", members, cameras),
            cameras=cameras,
            reference_photos=_decode_images("reference.png", members, references)
            if len(references)
            else _no_images(references),
            reference_cameras=references,
            camera_scale=header["camera_scale"],
            camera_scale_kind=header["camera_scale_kind"],
            caption=header["caption"],
            caption_embedding=None if embedding is None else _decode_embedding(embedding),
        )
    except (tarfile.TarError, *PARSER_ERRORS) as error:
        raise InputError(f"cannot read: {type(error).__name__}: {error}") from error


def _member(name: str, content: bytes) -> bytes:
    info = tarfile.TarInfo(name)
    info.size, info.mtime, info.mode = len(content), 0, 0o644
    return info.tobuf(tarfile.USTAR_FORMAT) + content + bytes(-len(content) % tarfile.BLOCKSIZE)


def _content(archive: tarfile.TarFile, member: tarfile.TarInfo, room: int) -> bytes:
    """A member's bytes. ``InputError`` for links and sparse members, and for members larger than
    the archive (``room`` bytes).
    """
    file = (
        archive.extractfile(member)
        if member.isreg() and not member.issparse() and member.size <= room
        else None
    )
    if file is None:
        raise InputError(f"{member.name[:80]!r} is no plain file of the archive")
    return file.read()


def _encode_images(images: UInt8[Tensor, "images height width *channels"]) -> bytes:
    from PIL import Image

    tall = images.reshape(-1, *images.shape[2:]).contiguous().numpy()
    buffer = io.BytesIO()
    Image.fromarray(tall).save(buffer, "png", compress_level=PNG_COMPRESSION)
    return buffer.getvalue()


def _decode_embedding(data: bytes) -> Float[Tensor, "tokens width"]:
    embedding = read_npy_stream(io.BytesIO(data), len(data), "caption.npy")
    if embedding.ndim != 2 or embedding.dtype != np.float32 or not np.isfinite(embedding).all():
        raise InputError(
            f"caption.npy is {embedding.dtype} {embedding.shape}, expected finite float32 of "
            "tokens and widths"
        )
    return torch.from_numpy(embedding)


def _decode_images(
    name: str, members: dict[str, bytes], cameras: Cameras
) -> UInt8[Tensor, "images height width *channels"]:
    with opened_image(Path(name), members[name]) as image:
        if image.size != (cameras.width, cameras.height * len(cameras)):
            raise InputError(
                f"{name} has {image.width}x{image.height} pixels, "
                f"{counted(len(cameras), 'camera')} of {cameras.width}x{cameras.height}"
            )
        tall = np.array(image)
    return torch.from_numpy(tall).reshape(
        len(cameras), cameras.height, cameras.width, *tall.shape[2:]
    )


def _no_images(cameras: Cameras) -> UInt8[Tensor, "0 height width 3"]:
    return torch.zeros(0, cameras.height, cameras.width, 3, dtype=torch.uint8)


def _cameras_to_json(cameras: Cameras) -> dict[str, Any]:
    return {
        "width": cameras.width,
        "height": cameras.height,
        "model": cameras.model,
        "viewmats": cameras.viewmats.to(torch.float32).tolist(),
        "Ks": cameras.Ks.to(torch.float32).tolist(),
        "distortion": cameras.distortion.to(torch.float32).tolist(),
    }


def _cameras_from_json(content: dict[str, Any]) -> Cameras:
    """Cameras of a clip, possibly none. Raises ``InputError`` for values that are not finite and
    image sizes out of range.
    """
    sizes = (content["width"], content["height"])
    if not all(is_whole(side, 1, LARGEST_SIDE) for side in sizes) or content[
        "model"
    ] not in get_args(LensModel):
        raise InputError(
            f"cameras of {shown(sizes)} pixels, model {shown(content['model'])}; expected a size "
            "and pinhole or fisheye"
        )
    tensors = {}
    for name, shape in (("viewmats", (4, 4)), ("Ks", (3, 3)), ("distortion", (8,))):
        values = np.array(content[name], dtype=np.float64).reshape(-1, *shape)
        if not (np.abs(values) <= LARGEST_POSITION).all():  # NaN fails too
            raise InputError(f"{name} are not finite numbers of at most {LARGEST_POSITION:g}")
        tensors[name] = torch.from_numpy(values).to(torch.float32)
    return Cameras(**tensors, width=sizes[0], height=sizes[1], model=content["model"])
