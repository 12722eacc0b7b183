"""Videos on disk.

In and out: frames as uint8 ``[height width 3]`` RGB, upright, with square pixels. PyAV is imported
at first use. Files are written atomically, and the same frames give the same bytes.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from fractions import Fraction
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np
from jaxtyping import UInt8

from artifixer.runtime.errors import InputError
from artifixer.runtime.files import PARSER_ERRORS, atomic_path, check_regular, reason
from artifixer.runtime.image_files import MAX_PIXELS

#: FFmpeg's names of the containers that are read. Others, such as playlists, can open other files.
VIDEO_FORMATS = ("mov", "matroska", "avi", "mpegts", "mpeg", "flv")

#: Maximum aspect ratio of a video's pixels; larger values, or smaller inverses, are ignored as
#: errors in the header.
LARGEST_PIXEL_ASPECT = 4

#: x264's constant rate factor; 18 is visually lossless. The macroblock tree is switched off: for
#: some sizes (200x120, 96x54) it reads uninitialised memory, so that the bytes would change from
#: run to run.
VIDEO_QUALITY = 18
X264_OPTIONS = {"crf": str(VIDEO_QUALITY), "preset": "fast", "x264-params": "mbtree=0"}


class VideoWriter:
    """An MP4 that every player opens (H.264, 4:2:0, BT.709), written frame by frame::

        with VideoWriter(path, width, height, fps=30) as video:
            for frame in frames:
                video.add(frame)

    The file appears when the context ends without an error. Odd sides are padded by repeating the
    last row or column, because 4:2:0 needs even ones. There is one encoder thread: with several the
    bytes would depend on the machine. Raises ``InputError`` if the file cannot be written.
    """

    def __init__(self, path: str | Path, width: int, height: int, fps: float = 30.0) -> None:
        assert width > 0 and height > 0, f"{path}: video of {width}x{height}"
        assert fps > 0, f"{path}: {fps} frames per second"
        self.path = Path(path)
        self.width, self.height, self.fps = width, height, fps

    def __enter__(self) -> VideoWriter:
        self._encoder = _encoder(
            self.path, self.width + self.width % 2, self.height + self.height % 2, self.fps
        )
        self._encode = self._encoder.__enter__()
        return self

    def add(self, frame: UInt8[np.ndarray, "height width 3"]) -> None:
        """Append one frame."""
        frame = np.asarray(frame)
        assert frame.shape == (self.height, self.width, 3), (
            f"{self.path}: frame {frame.shape}, expected {(self.height, self.width, 3)}"
        )
        assert frame.dtype == np.uint8, f"{self.path}: frame is {frame.dtype}, expected uint8"
        self._encode(
            np.pad(frame, ((0, self.height % 2), (0, self.width % 2), (0, 0)), mode="edge")
        )

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._encoder.__exit__(kind, error, traceback)


def read_video(path: str | Path) -> Iterator[UInt8[np.ndarray, "height width 3"]]:
    """The frames of a video's first video stream in display order, upright, with square pixels.

    Raises ``InputError`` if the video cannot be read to its end, is in none of ``VIDEO_FORMATS``,
    or has frames of more than ``MAX_PIXELS``.
    """
    path = Path(path)
    with opened_video(path) as container:
        for frame in container.decode(video=0):
            if frame.width * frame.height > MAX_PIXELS:
                raise InputError(
                    f"{path}: frames of {frame.width}x{frame.height} pixels, expected at most "
                    f"{MAX_PIXELS:,}"
                )
            quarter_turns = round(frame.rotation / 90)
            width = _square_pixel_width(container.streams.video[0], frame.width)
            if width * frame.height > MAX_PIXELS:
                width = frame.width
            pixels = frame.reformat(width=width, format="rgb24").to_ndarray()
            yield np.ascontiguousarray(np.rot90(pixels, quarter_turns))


def _square_pixel_width(stream: Any, width: int) -> int:
    """Width of the frames with square pixels; anamorphic video stores frames narrower or wider than
    they are shown.
    """
    aspect = stream.sample_aspect_ratio or stream.codec_context.sample_aspect_ratio
    if not aspect or aspect == 1 or not 1 / LARGEST_PIXEL_ASPECT <= aspect <= LARGEST_PIXEL_ASPECT:
        return width
    return max(1, round(width * float(aspect)))


@contextmanager
def opened_video(path: Path) -> Iterator[Any]:
    """PyAV's container of a file with a video stream. All videos that the program reads are opened
    here.

    Protocols (``concat:``, ``http:``) and formats that refer to other files are refused. Metadata
    in other encodings than UTF-8 is ignored. Errors while the video is open become an
    ``InputError`` that names the file.
    """
    import av

    check_regular(path, "a video file")
    options = {"protocol_whitelist": "file", "format_whitelist": ",".join(VIDEO_FORMATS)}
    try:
        with av.open(
            f"file:{path.absolute()}", options=options, metadata_errors="ignore"
        ) as container:
            streams = container.streams.video
            if not streams:
                raise InputError(f"{path}: has no video stream, expected a video file")
            if streams[0].width * streams[0].height > MAX_PIXELS:
                raise InputError(
                    f"{path}: {streams[0].width}x{streams[0].height} pixels, expected at most "
                    f"{MAX_PIXELS:,}"
                )
            yield container
    except av.error.FFmpegError as error:
        raise InputError(f"{path}: cannot read: {reason(error)}, expected a video file") from error
    except PARSER_ERRORS as error:
        raise InputError(f"{path}: cannot read: {reason(error)}, expected a video file") from error


@contextmanager
def _encoder(
    path: Path, width: int, height: int, fps: float
) -> Iterator[Callable[[np.ndarray], None]]:
    """A function that appends one frame of even size to the video."""
    import av
    from av.codec.context import Flags
    from av.video.reformatter import ColorPrimaries, ColorRange, Colorspace, ColorTrc

    rate = Fraction(fps).limit_denominator(1001)
    # the index at the start, for streaming; no version or time in the file
    muxing = {"movflags": "+faststart", "fflags": "+bitexact"}
    with (
        atomic_path(path) as temporary,
        av.open(str(temporary), "w", format="mp4", options=muxing) as container,
    ):
        stream = container.add_stream("libx264", rate=rate, options=dict(X264_OPTIONS))
        stream.width, stream.height, stream.pix_fmt = width, height, "yuv420p"
        context = stream.codec_context
        context.thread_count = 1
        context.flags |= Flags.bitexact
        context.color_range, context.colorspace = ColorRange.MPEG, Colorspace.ITU709
        context.color_primaries, context.color_trc = ColorPrimaries.BT709, ColorTrc.BT709
        count = 0

        def encode(frame: np.ndarray) -> None:
            nonlocal count
            picture = av.VideoFrame.from_ndarray(frame, format="rgb24").reformat(
                format="yuv420p", dst_colorspace=Colorspace.ITU709
            )
            picture.pts, picture.time_base = count, 1 / rate
            container.mux(stream.encode(picture))
            count += 1

        yield encode
        assert count, f"{path}: a video without frames"
        container.mux(stream.encode(None))
