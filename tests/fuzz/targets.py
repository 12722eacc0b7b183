"""Every reader of the project, with a small good folder to begin from.

A new reader gets a function that makes a folder, one that reads it, and a line in ``TARGETS``.
Reading ends in a result or in ``InputError``; the harness knows nothing else.
"""

from __future__ import annotations

import json
import shutil
import sys
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch
from PIL import Image

from artifixer.geometry.local_origin import WORLD
from tests.pairs.small_pairs import small_pair, write_pairs
from tests.scenes.capture_files import (
    HEIGHT,
    WIDTH,
    noise,
    pose_matrix,
    rich_transforms,
    transforms_content,
    write_colmap,
    write_transforms,
)
from tests.video.made_models import SMALL, WAN_LIKE, made_model, save_text_encoder


@dataclass(frozen=True)
class Target:
    """make: fills an empty folder, once. read: reads it. weight: how often it is drawn. changes:
    pattern of the files that are changed.
    """

    make: Callable[[Path], None]
    read: Callable[[Path], object]
    weight: int = 1
    changes: str = "*"


# Captures ----------------------------------------------------------------------------------------


def _inspect(folder: Path) -> object:
    from artifixer.pipeline.capture import identify
    from artifixer.pipeline.inspect_capture import inspect_capture

    identify(str(folder))
    return inspect_capture(str(folder))


def _make_rich_transforms(folder: Path) -> None:
    write_transforms(folder, rich_transforms())
    _write_points(folder / "points.ply", binary=True)
    names = [f"images/{number:03d}.png" for number in range(3)]
    splits = {
        "splits": {
            "a": {
                "train": names[:2],
                "test": names[2:],
                "train_in_fps_order": names[1::-1],
                "test_far": names[2:],
            }
        }
    }
    (folder / "splits.json").write_text(json.dumps(splits))


def _write_points(path: Path, binary: bool) -> None:
    kind = "binary_little_endian" if binary else "ascii"
    header = f"ply\nformat {kind} 1.0\nelement vertex 9\n" + "".join(
        f"property float {name}\n" for name in "xyz"
    )
    header += "".join(f"property uchar {name}\n" for name in ("red", "green", "blue"))
    header += "element face 1\nproperty list uchar int vertex_indices\nend_header\n"
    if not binary:
        rows = "".join(f"{i} {i % 3} 2.5 {i} 20 30\n" for i in range(9))
        path.write_text(header + rows + "3 0 1 2\n")
        return
    points = np.zeros(9, [("xyz", "<f4", 3), ("rgb", "u1", 3)])
    points["xyz"], points["rgb"] = np.arange(27).reshape(9, 3), 7
    path.write_bytes(
        header.encode() + points.tobytes() + b"\3" + np.arange(3, dtype="<i4").tobytes()
    )


def _make_photos(folder: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    exif[0x920A] = 35.0
    image = Image.fromarray(noise(WIDTH, HEIGHT))
    (folder / "images").mkdir()
    for name, options in {
        "a.png": {}, "b.jpg": {"exif": exif}, "c.webp": {"exif": exif},
        "d.tif": {"compression": "tiff_lzw"}, "e.bmp": {},
        "f.png": {"exif": exif},
    }.items():  # fmt: skip
        image.save(folder / "images" / name, **options)
    Image.fromarray(noise(WIDTH, HEIGHT)[..., 0].astype(np.uint16) * 257).save(
        folder / "images" / "g.png"
    )
    image.convert("P").save(folder / "images" / "h.png")
    image.convert("RGBA").save(folder / "images" / "i.webp")
    image.save(folder / "images" / "j.avif")
    import pillow_heif

    pillow_heif.from_pillow(image).save(folder / "images" / "k.heic")


def _read_photos(folder: Path) -> object:
    from artifixer.runtime.errors import InputError
    from artifixer.runtime.image_files import exif_orientation, read_image
    from artifixer.scenes import photos

    names = photos.photo_names(folder / "images")
    for name in names:
        for read in (read_image, exif_orientation):
            try:
                read(folder / "images" / name)
            except InputError:
                continue  # the next photo is read all the same
    photos._camera_groups(photos.readable_photos(folder, folder / "images")[0])
    return _inspect(folder)


def _make_video(folder: Path) -> None:
    import av

    from artifixer.runtime.video_files import VideoWriter

    with VideoWriter(folder / "a.mp4", 32, 24, fps=10) as video:
        for number in range(5):
            video.add(noise(32, 24, number))
    shutil.copy(folder / "a.mp4", folder / "b.mkv")  # the content counts
    with av.open(str(folder / "c.avi"), "w") as container:
        container.metadata["title"] = "a title"
        stream = container.add_stream("mpeg4", rate=10)
        stream.width, stream.height, stream.pix_fmt = 32, 24, "yuv420p"
        for number in range(5):
            container.mux(
                stream.encode(av.VideoFrame.from_ndarray(noise(32, 24, number), format="rgb24"))
            )
        container.mux(stream.encode(None))
    (folder / "list.mp4").write_text("ffconcat version 1.0\nfile a.mp4\n")


def _read_video(folder: Path) -> object:
    from artifixer.runtime.errors import InputError
    from artifixer.runtime.video_files import read_video

    for name in ("a.mp4", "b.mkv", "c.avi", "list.mp4"):
        try:
            frames = sum(1 for _ in read_video(folder / name))
        except InputError:
            continue
        assert name != "list.mp4" or not frames, "a play list opened another file"
    return None


def _make_structure_from_motion(folder: Path) -> None:
    """A work folder as an earlier structure from motion leaves it."""
    import pycolmap

    from artifixer.runtime.fingerprint import fingerprint
    from artifixer.scenes.sfm import SfmConfig

    write_colmap(folder / "capture", "SIMPLE_RADIAL", views=4)
    names = sorted(path.name for path in (folder / "capture" / "images").iterdir())
    images = folder / "capture" / "images"
    stage = (
        folder
        / "work"
        / f"sfm-{fingerprint(SfmConfig(), [(name, images / name) for name in names])[:16]}"
    )
    stage.mkdir(parents=True)
    (folder / "capture" / "sparse" / "0").rename(stage / "model")
    shutil.rmtree(folder / "capture" / "sparse")
    with pycolmap.Database.open(stage / "database.db") as database:
        for camera in pycolmap.Reconstruction(stage / "model").cameras.values():
            database.write_camera(camera)
    (stage / "agreement.json").write_text('{"agreement": 0.9}\n')


def _read_structure_from_motion(folder: Path) -> object:
    from artifixer.scenes import photos

    return photos.load(folder / "capture", folder / "capture" / "images", folder / "work")


def _make_train_list(folder: Path) -> None:
    _make_rich_transforms(folder)
    (folder / "list.txt").write_text("images/000.png # first\n002.png\n")
    (folder / "list.json").write_text(
        json.dumps({"train": ["images/000.png", "001.png"], "test": ["images/002.png"]})
    )


def _read_train_list(folder: Path) -> object:
    from artifixer.scenes.formats import load_scene
    from artifixer.scenes.resize_scene import resize_scene
    from artifixer.scenes.splits import read_train_list

    scene = load_scene(folder)
    small = resize_scene(scene, 32, folder / "cache")
    for photo in small.photos:
        photo.read()
    return [_try(read_train_list, folder / name, scene) for name in ("list.txt", "list.json")]


def _try(function: Callable[..., object], *arguments: Any) -> object:
    """The result, or the refusal: what follows is read too."""
    from artifixer.runtime.errors import InputError

    try:
        return function(*arguments)
    except InputError as error:
        return error


# Splats, renders, cameras ------------------------------------------------------------------------


def _splats(count: int = 12, degree: int = 1) -> Any:
    from artifixer.splats.splats import Splats

    random = torch.Generator().manual_seed(0)

    def normal(*shape: int) -> torch.Tensor:
        return torch.randn(*shape, generator=random)

    return Splats(
        normal(count, 3),
        normal(count, 4),
        normal(count, 3) - 3,
        normal(count),
        normal(count, (degree + 1) ** 2, 3),
    )


def _make_ply(folder: Path) -> None:
    from artifixer.splats.ply import write_splats

    write_splats(folder / "splats.ply", _splats())
    _write_points(folder / "binary.ply", binary=True)
    _write_points(folder / "text.ply", binary=False)


def _read_ply(folder: Path) -> object:
    from artifixer.scenes import point_cloud
    from artifixer.splats import ply

    for name in ("binary.ply", "text.ply", "splats.ply"):
        _try(point_cloud.read_points, folder / name)
        _try(ply.read_ply_origin, folder / name)
    return ply.read_splats(folder / "splats.ply")


def _make_splat_files(folder: Path) -> None:
    """The formats of other tools; a compressed PLY, which nobody here writes, is packed by hand."""
    from artifixer.splats.files import write_splat_file

    for name in ("a.spz", "b.sog"):
        write_splat_file(folder / name, _splats(40, degree=1))
    record = np.dtype(
        [("position", "<f4", 3), ("scale", "<f4", 3), ("rgba", "u1", 4), ("rotation", "u1", 4)]
    )
    records = np.zeros(7, record)
    records["scale"], records["rotation"] = 0.1, 200
    (folder / "c.splat").write_bytes(records.tobytes())
    bounds = [
        f"{end}_{axis}"
        for group in (("x", "y", "z"), ("scale_x", "scale_y", "scale_z"))
        for end in ("min", "max")
        for axis in group
    ]
    header = [
        "ply",
        "format binary_little_endian 1.0",
        "element chunk 1",
        *(f"property float {name}" for name in bounds),
    ]
    header += [
        "element vertex 9",
        *(f"property uint packed_{name}" for name in ("position", "rotation", "scale", "color")),
        "end_header",
        "",
    ]
    values = np.array([-1, -1, -1, 1, 1, 1, -3, -3, -3, -1, -1, -1], "<f4")
    words = np.random.default_rng(0).integers(0, 2**32, (9, 4), dtype=np.uint32).astype("<u4")
    (folder / "d.compressed.ply").write_bytes(
        "\n".join(header).encode() + values.tobytes() + words.tobytes()
    )


def _read_splat_files(folder: Path) -> object:
    from artifixer.splats.files import read_splat_file

    return [
        _try(read_splat_file, folder / name)
        for name in ("a.spz", "b.sog", "c.splat", "d.compressed.ply")
    ]


def _cameras(count: int = 2, width: int = WIDTH, height: int = HEIGHT) -> Any:
    from artifixer.geometry.cameras import Cameras

    viewmats = torch.eye(4).repeat(count, 1, 1)
    viewmats[:, 0, 3] = torch.arange(count)
    viewmats[:, 2, 3] = 4.0
    K = torch.tensor([[60.0, 0, width / 2], [0, 60, height / 2], [0, 0, 1]])
    return Cameras.pinhole(viewmats, K.repeat(count, 1, 1), width, height)


def _make_camera_path(folder: Path) -> None:
    from artifixer.geometry.camera_file import CameraFrame, write_cameras

    cameras = _cameras(3)
    frames = [CameraFrame(cameras[i], f"images/{i:03d}.png") for i in range(3)]
    write_cameras(folder / "cameras.json", frames, [(frames[0], "references/00000.png")])
    content = transforms_content() | {
        "frames": [{"transform_matrix": pose_matrix((i, 0, 0))} for i in range(3)]
    }
    (folder / "path.json").write_text(json.dumps(content))


def _read_camera_path(folder: Path) -> object:
    from artifixer.geometry.camera_file import read_references
    from artifixer.geometry.paths import alike
    from artifixer.scenes.camera_path_file import read_camera_path

    _try(read_references, folder / "cameras.json")
    _try(lambda: alike([frame.camera for frame in read_camera_path(folder / "path.json")]))
    return read_camera_path(folder / "cameras.json")


def _make_other_paths(folder: Path) -> None:
    """Paths of other tools, and a COLMAP model."""
    pose = pose_matrix((1, 2, 3))
    sizes = {"width": WIDTH, "height": HEIGHT, "fx": 50.0, "fy": 50.0}
    camera = {"id": 0, "img_name": "a", "position": [1, 2, 3], "rotation": np.eye(3).tolist()}
    (folder / "cameras.json").write_text(json.dumps([camera | sizes]))
    frame = {"camera_to_world": [v for row in pose for v in row], "fov": 50.0, "aspect": 1.3}
    path = {"camera_type": "perspective", "render_width": WIDTH, "render_height": HEIGHT}
    (folder / "camera_path.json").write_text(json.dumps(path | {"camera_path": [frame]}))
    (folder / "dataparser_transforms.json").write_text(
        json.dumps({"transform": pose[:3], "scale": 0.5})
    )
    write_colmap(folder, "OPENCV", ".bin", views=3)


def _read_other_paths(folder: Path) -> object:
    from artifixer.scenes.camera_path_file import path_origin, read_camera_path

    for path in (folder / "cameras.json", folder):
        _try(read_camera_path, path)
        _try(path_origin, path)
    return read_camera_path(folder / "camera_path.json")


def _make_masked(folder: Path) -> None:
    """A NeRF-synthetic folder with alpha, and masks of other photos."""
    for part in ("train", "val", "test"):
        frames = []
        for number in range(2):
            path = folder / part / f"r_{number}.png"
            path.parent.mkdir(exist_ok=True)
            alpha = np.full((HEIGHT, WIDTH), 100 * number, np.uint8)
            Image.fromarray(np.dstack([noise(WIDTH, HEIGHT), alpha])).save(path)
            pose = pose_matrix((number, 0, 0))
            frames.append({"file_path": f"./{part}/r_{number}", "transform_matrix": pose})
        content = {"camera_angle_x": 0.7, "frames": frames}
        (folder / f"transforms_{part}.json").write_text(json.dumps(content))
    (folder / "masks" / "test").mkdir(parents=True)
    Image.fromarray(noise(WIDTH, HEIGHT)[..., 0]).save(folder / "masks" / "test" / "r_0.png")


def _read_masked(folder: Path) -> object:
    from artifixer.scenes.formats import load_scene

    for photo in load_scene(folder).photos:
        for layer in (photo.read, photo.mask, photo.opacity):
            if layer is not None:
                _try(layer)
    return _inspect(folder)


def _make_renders(folder: Path) -> None:
    from artifixer.geometry.camera_file import CameraFrame
    from artifixer.scenes.view import View
    from artifixer.splats.render import render
    from artifixer.splats.render_folder import write_render_folder

    cameras = _cameras()
    frames = [CameraFrame(cameras[i], f"{i}.png") for i in range(2)]
    with torch.no_grad():
        renders = [render(_splats(), cameras[i]) for i in range(2)]
    reference = View.of_pixels(frames[0].camera, noise(WIDTH, HEIGHT), "0.png")
    write_render_folder(folder, list(zip(frames, renders, strict=True)), [reference])


def _read_renders(folder: Path) -> object:
    from artifixer.enhance.render_scale import sampled_depths
    from artifixer.enhance.sources import alike_cameras, checked_source, read_frames
    from artifixer.splats.render_folder import read_render_folder

    found = read_render_folder(folder)
    for reference in found.references:
        _try(reference.photo.read)
    cameras = alike_cameras(found.frames, str(folder))
    source = checked_source(found, cameras)
    _try(sampled_depths, found, cameras)
    return read_frames(source, cameras, 0, len(cameras))


# Run folders -------------------------------------------------------------------------------------


def _make_run(folder: Path) -> None:
    """State of a run: markers, times, figures, and a list of its files."""
    from artifixer.runtime.files import write_bytes
    from artifixer.runtime.json_io import write_json
    from artifixer.runtime.progress import Progress
    from artifixer.runtime.run_folder import RunFolder
    from artifixer.runtime.stages import StageFiles, Stages

    with RunFolder.open(folder / "run", {"capture": "fox"}, {"steps": {"a": 1}}) as run:
        stages = Stages(run, Progress(output=None))
        stages.complete(
            StageFiles("render", ("renders",)),
            {"splats": "a"},
            1,
            lambda stage: write_bytes(run.path("renders", "00000.png"), b"png"),
        )
        view = {
            "photo": "a.png",
            "psnr": 20.0,
            "ssim": 0.5,
            "lpips_vgg01": None,
            "lpips_alex": None,
            "empty": 0.1,
        }
        variant = {
            "psnr": 20.0,
            "psnr_pooled": 20.0,
            "psnr_opaque": 21.0,
            "psnr_empty": None,
            "ssim": 0.5,
            "lpips_vgg01": None,
        }
        variant |= {"lpips_alex": None, "empty": 0.1, "fid": None, "views": 1, "per_view": [view]}
        from dataclasses import fields

        from artifixer.evaluation.evaluate import VariantQuality

        variant = {field.name: variant.get(field.name) for field in fields(VariantQuality)}
        write_json(run.path("metrics.json"), {"variants": {"3dgut": variant, "artifixer": variant}})
        lines = "".join(json.dumps({"step": step, "loss": 1 / step}) + "\n" for step in range(1, 6))
        write_bytes(run.path("metrics.jsonl"), lines.encode())


def _read_run(folder: Path) -> object:
    from artifixer.evaluation.variant_table import read_variants, variant_lines
    from artifixer.runtime.errors import InputError
    from artifixer.runtime.files import write_bytes
    from artifixer.runtime.progress import Progress
    from artifixer.runtime.run_folder import RunFolder
    from artifixer.runtime.stages import StageFiles, Stages
    from artifixer.training.watching import MetricsFile

    root = folder / "run"
    _try(lambda: list(variant_lines(read_variants(root / "metrics.json"))))
    with RunFolder.open(root, {"capture": "fox"}, {"steps": {"a": 1}}) as run:
        stages = _try(Stages, run, Progress(output=None, log_file=root / "log.txt"))
        if isinstance(stages, Stages):
            files = StageFiles("render", ("renders",))
            work = lambda stage: write_bytes(run.path("renders", "00000.png"), b"png")  # noqa: E731
            for key in ("a", "b"):
                _try(stages.complete, files, {"splats": key}, 1, work)
            _try(stages.discard, files)
        if isinstance(_try(MetricsFile, root / "metrics.jsonl", 3), InputError):
            raise InputError("metrics.jsonl refused")
    return _try(lambda: RunFolder.open(root, {"capture": "plush"}, {}, overwrite=True).close())


def _make_reconstruction(folder: Path) -> None:
    from artifixer.geometry.camera_file import CameraFrame, write_cameras
    from artifixer.runtime.json_io import write_json
    from artifixer.runtime.run_folder import RunFolder
    from artifixer.splats.fit_checkpoint import FitCheckpoint, FitState
    from artifixer.splats.free_space import STATE_PREFIX
    from artifixer.splats.ply import write_splats

    splats, cameras = _splats(), _cameras(1, 16, 12)
    with RunFolder.open(folder / "run", {}, {}) as run:
        write_splats(run.path("splats.ply"), splats)
        write_cameras(run.path("cameras.json"), [CameraFrame(cameras, "a.png")])
        write_json(run.path("split.json"), {"name": "x", "train": [], "heldout": ["a.png"]})
        view = {"photo": "a.png", "psnr": 20.0, "ssim": 0.5}
        write_json(
            run.path("metrics.json"),
            {half: {"psnr": 1.0, "ssim": 1.0, "per_view": [view]} for half in ("train", "heldout")},
        )
        _make_renders(run.path("renders", "heldout"))
    tensors = dict(vars(splats))
    state = {
        f"adam.{name}.{key}": torch.ones_like(value)
        for name, value in tensors.items()
        for key in ("exp_avg", "exp_avg_sq")
    }
    state |= {f"adam.{name}.step": torch.tensor(3.0) for name in tensors}
    FitCheckpoint(folder / "run" / "checkpoint.safetensors", "me").save(
        FitState(3, {**tensors, **state, f"{STATE_PREFIX}0": torch.ones(12, 16)})
    )


def _read_reconstruction(folder: Path) -> object:
    from artifixer.pipeline.reconstruct import _result
    from artifixer.pipeline.render import open_source, path_frames
    from artifixer.recipes.run import RECIPES
    from artifixer.runtime.run_folder import RunFolder
    from artifixer.splats.fit_checkpoint import FitCheckpoint
    from artifixer.splats.free_space import FreeSpaceConfig, FreeSpaceLoss
    from artifixer.splats.ply import read_splats
    from artifixer.splats.trainable import TrainableSplats

    config = RECIPES["tiny"].reconstruct
    capture: Any = SimpleNamespace(scene=SimpleNamespace(origin=WORLD))
    free_space = FreeSpaceLoss([_cameras(1, 16, 12)], 1.0, 0.01, FreeSpaceConfig())

    def continued() -> None:
        checkpoint = FitCheckpoint(folder / "run" / "checkpoint.safetensors", "me")
        state = checkpoint.load("cpu", _splats(), [(12, 16)], config.iterations)
        if state is None:
            return
        free_space.load_state(state.tensors)
        trainable = TrainableSplats.from_state(state.tensors, config.learning_rates.by_name(1.0))
        trainable.splats.means.square().sum().backward()
        trainable.step()

    _try(continued)
    with RunFolder.open(folder / "run", {}, {}) as run:
        _try(lambda: _result(run, read_splats(run.root / "splats.ply"), capture))
    source = open_source(folder / "run")
    return path_frames(source, "heldout", 5)


# Pairs -------------------------------------------------------------------------------------------


def _make_pairs(folder: Path) -> None:
    pair = replace(
        small_pair("000001_0", height=8, width=16),
        caption="a house",
        caption_embedding=torch.ones(3, 4),
    )
    write_pairs(folder, [[pair], [small_pair("000017_0", views=1, height=8, width=16)]])


def _read_pairs(folder: Path) -> object:
    from artifixer.pairs.loader import OrderedPairs, open_pairs
    from artifixer.pairs.shards import read_index

    _try(read_index, folder)
    for skip in (True, False):
        pairs = _try(lambda skip=skip: open_pairs(folder, skip_broken=skip))
        if hasattr(pairs, "pairs"):
            order = OrderedPairs(pairs, 0)
            for index in range(len(pairs)):
                _try(order.pair, index)
    # Whoever makes a hostile shard makes its checksums right.
    return _try(_read_with_right_checksums, folder)


def _read_with_right_checksums(folder: Path) -> object:
    import zlib

    from artifixer.pairs.shards import read_index, read_sample

    for shard in read_index(folder):
        data = (
            (folder / shard.file).read_bytes()
            if (folder / shard.file).is_file() and (folder / shard.file).stat().st_size < 10**7
            else b""
        )
        for entry in shard.samples:
            piece = data[entry.offset : entry.offset + entry.bytes]
            _try(
                read_sample,
                folder,
                shard,
                replace(entry, bytes=len(piece), crc32=zlib.crc32(piece)),
            )
    return None


def _make_curation(folder: Path) -> None:
    """A folder with one scene waiting for its shard."""
    from artifixer.curation.make_scene import MadeScene, PairFigures
    from artifixer.curation.pair_folder import PairFolder
    from artifixer.curation.sources import Source
    from artifixer.pairs.sample_file import encode_sample
    from artifixer.pairs.shards import describe
    from artifixer.runtime.run_folder import RunFolder

    sources = [Source(f"procedural:{number}", f"procedural:{number}") for number in range(20)]
    figures = PairFigures("a", 3, 10, 100, 20.0, 20.0, 0.5, 0.5)
    with RunFolder.open(folder / "pairs", {}, {}) as run:
        made = PairFolder(run, sources)
        for number in (*range(16), 17):
            pair = small_pair(f"{number:06d}_0", height=8, width=16, frames=5, views=1)
            data = encode_sample(pair)
            has_pairs = number in (0, 17)
            samples = ((describe(pair, data), data),) if has_pairs else ()
            made.add(
                number,
                MadeScene(
                    samples,
                    (figures,) if has_pairs else (),
                    1.0,
                    None if has_pairs else "no photos",
                ),
            )


def _read_curation(folder: Path) -> object:
    from artifixer.curation.make_scene import MadeScene
    from artifixer.curation.pair_folder import PairFolder
    from artifixer.curation.sources import Source
    from artifixer.runtime.run_folder import RunFolder

    sources = [Source(f"procedural:{number}", f"procedural:{number}") for number in range(20)]
    with RunFolder.open(folder / "pairs", {}, {}) as run:
        found = PairFolder(run, sources)
        for number in range(20):
            if number not in found.records:
                found.add(number, MadeScene((), (), 1.0, "no photos"))
        return found.finish()


# Models ------------------------------------------------------------------------------------------


def _make_model(folder: Path) -> None:
    from artifixer.video.checkpoints.ours import save_model

    save_model(folder, made_model(SMALL))


def _make_wan_like(folder: Path) -> None:
    from artifixer.video.checkpoints.ours import save_model

    save_model(folder, made_model(WAN_LIKE), part_bytes=100_000)


def _make_release(folder: Path) -> None:
    from artifixer.video.checkpoints.release_names import release_name

    transformer = replace(
        WAN_LIKE.transformer, width=256, ffn_width=16, heads=2, layers=1, text_tokens=512
    )
    model = made_model(replace(WAN_LIKE, transformer=transformer))
    tensors = {
        release_name(name): value.half() for name, value in model.transformer.state_dict().items()
    }
    torch.save(tensors, folder / "release.pt")
    model.vae.network.save_pretrained(folder / "vae")


def _make_wan(folder: Path) -> None:
    """A folder of diffusers, with an index of its parts."""
    from safetensors.torch import save_file

    from artifixer.video.checkpoints.release_names import release_name
    from artifixer.video.initialise import is_added_layer

    model = made_model(WAN_LIKE)
    (folder / "transformer").mkdir()
    tensors = {
        release_name(name): value
        for name, value in model.transformer.state_dict().items()
        if not is_added_layer(name)
    }
    parts = {
        "a.safetensors": dict(list(tensors.items())[::2]),
        "b.safetensors": dict(list(tensors.items())[1::2]),
    }
    for name, part in parts.items():
        save_file(part, folder / "transformer" / name)
    index = {
        "metadata": {},
        "weight_map": {tensor: name for name, part in parts.items() for tensor in part},
    }
    (folder / "transformer" / "diffusion_pytorch_model.safetensors.index.json").write_text(
        json.dumps(index)
    )
    network = WAN_LIKE.transformer
    config = {
        "num_attention_heads": network.heads,
        "attention_head_dim": network.head_width,
        "ffn_dim": network.ffn_width,
    }
    config |= {
        "num_layers": network.layers,
        "in_channels": 16,
        "text_dim": network.text_width,
        "freq_dim": network.frequency_width,
    }
    config |= {
        "patch_size": [1, 2, 2],
        "qk_norm": "rms_norm_across_heads",
        "cross_attn_norm": True,
        "image_dim": None,
    }
    (folder / "transformer" / "config.json").write_text(json.dumps(config))
    model.vae.network.save_pretrained(folder / "vae")


def _read_model(folder: Path) -> object:
    from artifixer.video.memory_estimate import check_memory, default_plan
    from artifixer.video.model_files import load_model, locate_model

    files = locate_model(folder)
    files.check_prompt("")
    device = torch.device("cpu")
    check_memory(files.config, default_plan(files.config, 64, 64, 2, device), device)
    files.check_weights()
    _ = files.identity
    return load_model(files)


def _make_text_encoder(folder: Path) -> None:
    from artifixer.video.text import TextConfig, TextEncoder

    save_text_encoder(folder, 8)
    TextEncoder(folder, TextConfig(8, 8), folder / "cache", dtype=torch.float32).encode(
        "a red house"
    )


def _read_text_encoder(folder: Path) -> object:
    from artifixer.video.text import TextConfig, TextEncoder

    encoder = TextEncoder(folder, TextConfig(8, 8), folder / "cache", dtype=torch.float32)
    for path in sorted((folder / "cache").glob("*.safetensors")):
        _try(encoder._read, path)
    return encoder.encode("a house")


def _make_resumed_enhance(folder: Path) -> None:
    from artifixer.pipeline.enhance import StoreOnDisk

    StoreOnDisk(folder / "state").save(0, torch.ones(1, 6, 2, 4, 4))


def _read_resumed_enhance(folder: Path) -> object:
    from artifixer.pipeline.enhance import StoreOnDisk

    return StoreOnDisk(folder / "state").load(0)


def _make_sharded(folder: Path) -> None:
    """A sharded checkpoint of the release beside Wan's autoencoder."""
    import warnings

    import torch.distributed.checkpoint as dcp

    _make_release(folder)
    tensors = torch.load(folder / "release.pt", weights_only=True)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        dcp.save({"model": tensors, "iteration": 7}, checkpoint_id=folder / "sharded", no_dist=True)
    (folder / "release.pt").unlink()


def _training_state() -> tuple[dict[str, torch.nn.Module], dict[str, torch.optim.Optimizer]]:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        network = torch.nn.Linear(5, 3)
    optimizer = torch.optim.AdamW(network.parameters())
    network(torch.ones(2, 5)).sum().backward()
    optimizer.step()
    optimizer.zero_grad()
    return {"network": network}, {"adam": optimizer}


def _make_training(folder: Path) -> None:
    from artifixer.training.checkpoint import save_checkpoint, state_tensors

    modules, optimizers = _training_state()
    plain = {"seconds": 1.0, "cooldown_start": None, "total": None}
    save_checkpoint(
        folder / "checkpoints",
        3,
        state_tensors(modules, optimizers, {"average": torch.ones(4)}),
        plain,
    )


def _read_training(folder: Path) -> object:
    from artifixer.training.checkpoint import latest_checkpoint, load_checkpoint

    modules, optimizers = _training_state()
    newest = latest_checkpoint(folder / "checkpoints")
    return (
        None
        if newest is None
        else load_checkpoint(newest, modules, optimizers, {"average": torch.ones(4)})
    )


def _make_depth_model(folder: Path) -> None:
    from tests.scenes.test_depth_models import _depth_anything

    _depth_anything(folder)


def _read_depth_model(folder: Path) -> object:
    from artifixer.scenes.depth_models import metric_depth_model

    metric_depth_model.cache_clear()
    return metric_depth_model(str(folder))(noise(WIDTH, HEIGHT), _cameras(1))


DL3DV_SCENE = "a" * 64


def _make_dl3dv(folder: Path) -> None:
    from tests.evaluation.made_benchmarks import dl3dv_files, write_zip

    files, _ = dl3dv_files(DL3DV_SCENE, 3)
    write_zip(folder / "1K" / f"{DL3DV_SCENE}.zip", files)
    for name, content in files.items():
        path = folder / "unpacked" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)


def _read_dl3dv(folder: Path) -> object:
    from artifixer.scenes.dl3dv import find_scene, open_scene

    found = []
    for root in (folder, folder / "unpacked"):
        path = find_scene(root, DL3DV_SCENE)
        if path is not None:
            scene = open_scene(path, DL3DV_SCENE)
            found.append([scene.read(name) for name in scene.names])
    return found


def _make_benchmarks(folder: Path) -> None:
    """Nerfbusters with masks, the split of DL3DV's authors, and frames of another method."""
    from tests.evaluation.made_benchmarks import dl3dv_files, write, write_nerfbusters, write_zip

    _, heldout = write_nerfbusters(folder / "data", "art", folder / "masks")
    for rank in range(len(heldout)):
        write(folder / "frames" / f"{rank:05d}.png", b"\x89PNG")
    scene = _difix_scene()
    files, _ = dl3dv_files(scene, 4)
    write_zip(folder / "data" / f"{scene}.zip", files)
    write(folder / "ids" / scene / "difix_train_ids.json", "[0, 2]")


def _read_benchmarks(folder: Path) -> object:
    from artifixer.evaluation.benchmarks.masks import read_visibility_mask
    from artifixer.evaluation.benchmarks.scene import Options
    from artifixer.evaluation.frames import find_frames
    from artifixer.evaluation.protocols import protocol

    options = Options(masks=folder / "masks", train_ids=folder / "ids")
    data, work = folder / "data", folder / "work"
    scene = protocol("nerfbusters").open(data, "art", options, work / "capture")
    for mask in scene.masks.values():
        read_visibility_mask(mask, WIDTH, HEIGHT)
    find_frames("mine", folder / "frames", "art", scene.photos, scene.heldout, "rank")
    name = _difix_scene()
    if protocol("dl3dv-difix").find(data, name) is None:
        return scene.heldout
    return protocol("dl3dv-difix").open(data, name, replace(options, masks=None), work / "other")


def _difix_scene() -> str:
    from tests.evaluation.made_benchmarks import plain_dl3dv_scene

    return plain_dl3dv_scene("difix")


def _make_scores(folder: Path) -> None:
    from artifixer.evaluation.profiles import Networks
    from artifixer.evaluation.score_files import write_scores
    from artifixer.evaluation.scores import BenchmarkView, score_scene

    pixels = noise(WIDTH, HEIGHT)
    scores = score_scene(
        [BenchmarkView("a.png", pixels, pixels[::-1].copy(), "b.png", "a.png")],
        ["genfusion"],
        Networks(),
    )
    scores = replace(scores, features={"kd_ours": np.ones((2, 3), np.float32)})
    write_scores(folder / "scores.json", scores)


def _read_scores(folder: Path) -> object:
    from artifixer.evaluation.score_files import read_scores
    from artifixer.evaluation.summary import summarise

    return summarise({"scene": read_scores(folder / "scores.json")}, {})


TARGETS: dict[str, Target] = {
    "colmap binary": Target(
        lambda folder: write_colmap(folder, "OPENCV", ".bin", views=3) and None, _inspect, 3
    ),
    "colmap text": Target(
        lambda folder: write_colmap(folder, "OPENCV", ".txt", views=3) and None, _inspect, 3
    ),
    "transforms": Target(_make_rich_transforms, _inspect, 4),
    "photos": Target(_make_photos, _read_photos, 4),
    "video": Target(_make_video, _read_video, 2),
    "structure from motion": Target(
        _make_structure_from_motion, _read_structure_from_motion, 1, "work/*"
    ),
    "train list": Target(_make_train_list, _read_train_list, 1, "list.*"),
    "ply": Target(_make_ply, _read_ply, 4),
    "splat files": Target(_make_splat_files, _read_splat_files, 3),
    "camera path": Target(_make_camera_path, _read_camera_path, 2),
    "paths of other tools": Target(_make_other_paths, _read_other_paths, 2),
    "masks and alpha": Target(_make_masked, _read_masked, 2),
    "render folder": Target(_make_renders, _read_renders, 3),
    "run": Target(_make_run, _read_run, 4),
    "reconstruction": Target(_make_reconstruction, _read_reconstruction, 3),
    "pairs": Target(_make_pairs, _read_pairs, 3),
    "curation": Target(_make_curation, _read_curation, 2),
    "model": Target(_make_model, _read_model, 3),
    "model in parts": Target(_make_wan_like, _read_model, 1),
    "release": Target(_make_release, _read_model, 1),
    "wan": Target(_make_wan, _read_model, 2),
    "text encoder": Target(_make_text_encoder, _read_text_encoder, 1),
    "sharded": Target(_make_sharded, _read_model, 2),
    "training": Target(_make_training, _read_training, 2),
    "depth model": Target(_make_depth_model, _read_depth_model, 1),
    "resumed enhance": Target(_make_resumed_enhance, _read_resumed_enhance, 1),
    "dl3dv": Target(_make_dl3dv, _read_dl3dv, 3),
    "benchmarks": Target(_make_benchmarks, _read_benchmarks, 2),
    "scores": Target(_make_scores, _read_scores, 1),
}

if __name__ == "__main__":  # makes the folders of all targets: python -m tests.fuzz.targets FOLDER
    torch.set_num_threads(1)
    for name, target in TARGETS.items():
        place = Path(sys.argv[1]) / name
        place.mkdir(parents=True)
        target.make(place)
