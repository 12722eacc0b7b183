"""Training pairs in little space: their frames as H.264 videos without chroma subsampling (about a
third of the size of single AVIF pictures), their photos as JPEG.

In: sets of pairs, a limit in bytes. Out: a bundle, which is a folder of shards like one of
``artifixer curate`` whose samples have compressed pictures; and the pairs of a bundle.
"""

from __future__ import annotations

import io
import json
import tarfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from artifixer.pairs.loader import PairSet, StoredPair
from artifixer.pairs.pair import TrainingPair
from artifixer.pairs.sample_file import decode_sample
from artifixer.pairs.shards import describe, read_index, read_sample_bytes, write_index, write_shard
from artifixer.runtime.errors import InputError
from artifixer.runtime.files import PARSER_ERRORS
from artifixer.runtime.stopping import stop_if_requested

#: Pairs per shard of a bundle.
PAIRS_PER_SHARD = 64

#: JPEG quality of reference photos.
PHOTO_QUALITY = 92

#: Pixel formats of the videos, without chroma subsampling.
COLOUR, GREY = "yuv444p", "gray"

#: With lookahead, x264's output for small frames depends on uninitialised memory.
REPEATABLE = "threads=1:mbtree=0:rc-lookahead=0"

PHOTO_SUFFIX, VIDEO_SUFFIX = "jpg", "h264"


def packed(sample: bytes, crf: int) -> bytes:
    """A sample of ``pairs/sample_file`` with its pictures compressed: videos, and JPEG photos.

    crf: constant rate factor of H.264, 0 (lossless) to 51.
    """
    members = _members(sample)
    header = json.loads(next(members[key] for key in members if key.endswith(".json")))
    frames, views = (len(header[key]["viewmats"]) for key in ("cameras", "reference_cameras"))
    small: dict[str, bytes] = {}
    for key, content in members.items():
        kind = key.split(".", 1)[1]
        if kind == "reference.png":
            pixels = _stacked(content, views)
            small[key.replace("png", PHOTO_SUFFIX)] = _jpeg(pixels)
        elif kind.endswith(".png"):
            small[key.replace("png", VIDEO_SUFFIX)] = encode_video(_stacked(content, frames), crf)
        else:
            small[key] = content
    return _archive(small)


def unpacked(data: bytes) -> bytes:
    """The sample of ``packed`` bytes, with its decompressed pictures."""
    return _archive(dict(_plain_members(data)))


@dataclass(frozen=True)
class PackedPair(StoredPair):
    """A pair of a bundle."""

    def read(self) -> TrainingPair:
        try:
            return decode_sample(unpacked(read_sample_bytes(self.folder, self.shard, self.entry)))
        except (InputError, tarfile.TarError, *PARSER_ERRORS) as error:
            raise InputError(
                f"{self.folder / self.shard.file}: sample {self.entry.name}: {error}"
            ) from error


def open_bundle(folder: Path) -> PairSet:
    """The pairs of one half of a bundle."""
    pairs = [
        PackedPair(folder, shard, entry) for shard in read_index(folder) for entry in shard.samples
    ]
    if not pairs:
        raise InputError(f"{folder}: no pairs; expected at least one (gpu_session.py prepare)")
    return PairSet(tuple(pairs))


def write_bundle(folder: Path, sources: Sequence[PairSet], limit: float, crf: int) -> int:
    """Pack pairs of the sources in turn until ``limit`` bytes are full; returns how many fit."""
    shards, waiting, used, count = [], [], 0, 0
    for stored in _in_turn(sources):
        sample = packed(read_sample_bytes(stored.folder, stored.shard, stored.entry), crf)
        if used + len(sample) > limit:
            break
        used, count = used + len(sample), count + 1
        waiting.append((describe(decode_sample(unpacked(sample)), sample), sample))
        if len(waiting) == PAIRS_PER_SHARD:
            shards.append(write_shard(folder / f"pairs-{len(shards):05d}.tar", waiting))
            waiting = []
        stop_if_requested("while packing")
    if waiting:
        shards.append(write_shard(folder / f"pairs-{len(shards):05d}.tar", waiting))
    write_index(folder, shards, complete=True)
    in_all = sum(map(len, sources))
    print(f"{folder}: {count} of {in_all} pairs, {used / 1e6:.1f} MB", flush=True)
    return count


def encode_video(frames: np.ndarray, crf: int) -> bytes:
    """An H.264 stream."""
    import av

    buffer = io.BytesIO()
    colours = "gray" if frames.ndim == 3 else "rgb24"
    with av.open(buffer, "w", format="h264") as container:
        stream = container.add_stream("libx264", rate=24)
        stream.height, stream.width = frames.shape[1:3]
        stream.pix_fmt = GREY if frames.ndim == 3 else COLOUR
        stream.options = {"crf": str(crf), "preset": "slow", "x264-params": REPEATABLE}
        for pixels in frames:
            container.mux(stream.encode(av.VideoFrame.from_ndarray(pixels, format=colours)))
        container.mux(stream.encode(None))
    return buffer.getvalue()


def decode_video(video: bytes, colours: str) -> np.ndarray:
    """The frames of a video, stacked vertically."""
    import av

    with av.open(io.BytesIO(video), format="h264") as container:
        return np.concatenate([f.to_ndarray(format=colours) for f in container.decode(video=0)])


def _in_turn(sources: Sequence[PairSet]) -> Iterator[StoredPair]:
    """The pairs of all sources, interleaved by the fraction of each that has been taken."""
    places = [
        ((number + 0.5) / len(pairs), position, pair)
        for position, pairs in enumerate(sources)
        for number, pair in enumerate(pairs.pairs)
    ]
    return (pair for _, _, pair in sorted(places, key=lambda place: place[:2]))


def _plain_members(data: bytes) -> Iterator[tuple[str, bytes]]:
    for key, content in _members(data).items():
        if key.endswith(f".{VIDEO_SUFFIX}"):
            colours = "gray" if ".opacity." in key else "rgb24"
            yield key.replace(VIDEO_SUFFIX, "png"), _png(decode_video(content, colours))
        elif key.endswith(f".{PHOTO_SUFFIX}"):
            yield key.replace(PHOTO_SUFFIX, "png"), _png(_pixels(content))
        else:
            yield key, content


def _members(data: bytes) -> dict[str, bytes]:
    """The files of an archive by name, also without its end marker."""
    with tarfile.open(fileobj=io.BytesIO(data + bytes(1024)), mode="r:") as archive:
        found = {member.name: archive.extractfile(member) for member in archive.getmembers()}
        return {name: file.read() for name, file in found.items() if file is not None}


def _archive(members: Mapping[str, bytes]) -> bytes:
    """An archive whose bytes depend only on its members."""
    parts = []
    for name, content in members.items():
        info = tarfile.TarInfo(name)
        info.size = len(content)
        padding = bytes(-len(content) % tarfile.BLOCKSIZE)
        parts.append(info.tobuf(tarfile.USTAR_FORMAT) + content + padding)
    return b"".join(parts)


def _stacked(png: bytes, count: int) -> np.ndarray:
    """The frames ``[count height width *channels]`` of a picture that stacks them."""
    pixels = _pixels(png)
    return pixels.reshape(count, -1, *pixels.shape[1:])


def _pixels(data: bytes) -> np.ndarray:
    from PIL import Image

    with Image.open(io.BytesIO(data)) as image:
        return np.asarray(image)


def _png(pixels: np.ndarray) -> bytes:
    from PIL import Image

    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "PNG", compress_level=1)
    return buffer.getvalue()


def _jpeg(frames: np.ndarray) -> bytes:
    from PIL import Image

    buffer = io.BytesIO()
    stack = Image.fromarray(frames.reshape(-1, *frames.shape[2:]))
    stack.save(buffer, "JPEG", quality=PHOTO_QUALITY, subsampling=0)
    return buffer.getvalue()
