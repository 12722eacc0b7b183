"""Files that were damaged, or made to do harm, through the command line: exit code 2, one line that
names the file, at once.

Next to ``test_bad_input``, which has the mistakes that people make.
"""

from __future__ import annotations

import json
import os
import re
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from artifixer.cli import main
from artifixer.runtime.errors import EXIT_BAD_INPUT, EXIT_DONE
from artifixer.runtime.json_io import read_json, write_json
from artifixer.splats.ply import write_splats
from artifixer.splats.splats import Splats
from artifixer.training.watching import MetricsFile
from artifixer.video.checkpoints.ours import save_model
from tests.flows.test_bad_input import (
    QUICK,
    assert_refused,
    change_frame,
    colmap_with,
    good_capture,
    write_text,
)
from tests.pairs.small_pairs import small_pair, write_pairs
from tests.scenes.capture_files import pose_matrix, transforms_content
from tests.video.made_models import SMALL, made_model

#: Pipes, sockets, devices and links.
pytestmark = pytest.mark.posix

HUGE = 10**400


def fifo(name: str) -> Callable[[Path], None]:
    def plant(capture: Path) -> None:
        (capture / name).unlink(missing_ok=True)
        os.mkfifo(capture / name)

    return plant


def postscript(capture: Path) -> None:
    (capture / "images" / "001.png").write_bytes(
        b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 64 48\n%%EndComments\n"
    )


def whole_file(**values: Any) -> Callable[[Path], None]:
    return lambda capture: (
        (capture / "transforms.json").write_text(json.dumps(transforms_content(5) | values))
        and None
    )


def points(header: str) -> Callable[[Path], None]:
    def write(capture: Path) -> None:
        (capture / "sparse_pc.ply").write_text(header)

    return write


def rename_in_colmap(capture: Path) -> None:
    path = capture / "sparse" / "0" / "images.bin"
    data = path.read_bytes()
    start = data.index(b"camera")
    end = data.index(b"\0", start)
    path.write_bytes(data[:start] + b"../" * 8 + data[start:end] + data[end:])


#: What is wrong with the capture, and what the message says.
CAPTURES: dict[str, tuple[Callable[[Path], None], str]] = {
    "a focal length of 400 digits": (
        whole_file(fl_x=HUGE),
        r'"fl_x" = a huge number; expected a finite number',
    ),
    "a size of 400 digits": (whole_file(w=HUGE), r'"w" = a huge number'),
    "a pose with 400 digits": (
        change_frame(transform_matrix=[[1, 0, 0, HUGE], *pose_matrix((0, 0, 0))[1:]]),
        r'frame 1 has "transform_matrix"',
    ),
    "a pose at 1e30": (
        change_frame(transform_matrix=pose_matrix((1e30, 0, 0))),
        r'frame 1 has "transform_matrix".*at most 1e\+12',
    ),
    "a list for a number": (
        whole_file(fl_x=[64.0]),
        r'"fl_x" = \[64.0\]; expected a finite number',
    ),
    "a name of 300 bytes": (
        change_frame(file_path="a" * 300),
        r"has 300 bytes; expected a path that a file can have",
    ),
    "a camera of 4 gigapixels": (
        whole_file(w=65_000, h=65_000),
        r"65000x65000 pixels; expected at most",
    ),
    "a photo that is PostScript": (postscript, r"001\.png: cannot read: none of PNG, JPEG"),
    "a photo that is a pipe": (fifo("images/001.png"), r"001\.png: cannot read: it is a FIFO"),
    "a transforms file that is a pipe": (
        fifo("transforms.json"),
        r"transforms\.json: cannot read: it is a FIFO",
    ),
    "a list of splits that is a pipe": (
        fifo("splits.json"),
        r"splits\.json: cannot read: it is a FIFO",
    ),
    "a model that is a pipe": (
        colmap_with("PINHOLE", fifo("sparse/0/points3D.bin")),
        r"points3D\.bin: cannot read: it is a FIFO",
    ),
    "a COLMAP name that leaves the folder": (
        colmap_with("PINHOLE", rename_in_colmap),
        r"leaves the capture's folder",
    ),
    "points that are not there": (
        points(
            "ply\nformat binary_little_endian 1.0\nelement vertex 4000000000\nproperty double "
            "x\nend_header\n"
        ),
        r"sparse_pc\.ply: not a readable PLY file \(4,000,000,000 rows of vertex",
    ),
    "rows without properties": (
        points("ply\nformat ascii 1.0\nelement vertex 4000000000\nend_header\n"),
        r"sparse_pc\.ply: the element vertex has 4,000,000,000 rows without a property",
    ),
    "points at 1e30": (
        points(
            "ply\nformat ascii 1.0\nelement vertex 1\n"
            + "".join(f"property float {n}\n" for n in "xyz")
            + "end_header\n1e30 0 0\n"
        ),
        r"sparse_pc\.ply: 1 of 1 points have positions that are not numbers of at most 1e\+12",
    ),
    "a split of numbers": (
        write_text("splits.json", '{"splits": {"a": {"train": [1], "test": []}}}'),
        r"splits\.json: split a has",
    ),
}


@pytest.mark.parametrize("verb", ["inspect", "reconstruct"])
@pytest.mark.parametrize("what", CAPTURES)
def test_hostile_captures(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], what: str, verb: str
) -> None:
    spoil, message = CAPTURES[what]
    capture = good_capture(tmp_path / "capture")
    spoil(capture)
    if what in ("a pose with 400 digits", "a pose at 1e30", "a photo that is PostScript"):
        # one photo of many is left out, and named with what is wrong with it
        assert main(["inspect", str(capture)]) == EXIT_DONE
        assert re.search(message, capsys.readouterr().out)
        return
    out = [] if verb == "inspect" else ["--out", str(tmp_path / "runs" / "a"), *QUICK]
    assert_refused_with_pipes([verb, str(capture), *out], capsys, message, tmp_path)


def assert_refused_with_pipes(
    words: list[str], capsys: pytest.CaptureFixture[str], message: str, folder: Path
) -> None:
    assert_refused(words, capsys, message, folder)
    assert not (folder / "runs").exists()


# Splats and renders ------------------------------------------------------------------------------


def splats(**values: torch.Tensor) -> Splats:
    return Splats(
        **{
            "means": torch.zeros(4, 3),
            "quats": torch.ones(4, 4),
            "log_scales": torch.zeros(4, 3),
            "opacity_logits": torch.zeros(4),
            "sh": torch.zeros(4, 4, 3),
        }
        | values
    )


def f_rest_gap(path: Path) -> None:
    write_splats(path, splats())
    path.write_bytes(path.read_bytes().replace(b"float f_rest_3\n", b"float f_rest_9\n"))


@pytest.mark.parametrize(
    ("write", "message"),
    [
        (
            f_rest_gap,
            r"f_rest_3 is missing among 9 f_rest_\* fields; expected f_rest_0 to f_rest_8",
        ),
        (
            lambda path: write_splats(path, splats(means=torch.full((4, 3), 1e30))),
            r"means of 1e\+30, expected at most 1e\+12",
        ),
        (
            lambda path: write_splats(path, splats(log_scales=torch.full((4, 3), 60.0))),
            r"log_scales",
        ),
        (
            lambda path: write_splats(path, splats(opacity_logits=torch.full((4,), torch.nan))),
            r"none of its 4 Gaussians has finite values \(opacity_logits\)",
        ),
        (lambda path: os.mkfifo(path), r"splats\.ply: does not exist|it is a FIFO"),
        (
            lambda path: path.write_bytes(b"ply\n" + b"comment x\n" * 10_000),
            r"no line 'end_header' in its first",
        ),
    ],
    ids=["f_rest", "far", "large", "nan", "pipe", "endless header"],
)
def test_hostile_splats(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], write: Callable[[Path], None], message: str
) -> None:
    write(tmp_path / "splats.ply")
    words = [
        "render",
        str(tmp_path / "splats.ply"),
        "--path",
        "orbit",
        "--frames",
        "2",
        "--out",
        str(tmp_path / "runs"),
        "--device",
        "cpu",
    ]
    if (tmp_path / "splats.ply").is_file():
        assert_refused(words, capsys, message, tmp_path)
    else:
        assert main(words) == EXIT_BAD_INPUT


@pytest.fixture(scope="module")
def renders(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A render folder."""
    folder = tmp_path_factory.mktemp("renders")
    words = [
        "reconstruct",
        "procedural:7:frames=6,width=32,height=32",
        "--out",
        str(folder / "run"),
        "--iterations",
        "2",
        "--size",
        "32",
    ]
    assert main([*words, "--max-gaussians", "500", "--device", "cpu"]) == EXIT_DONE
    return folder / "run" / "renders" / "heldout"


def edited(name: str, change: Callable[[Any], None]) -> Callable[[Path], None]:
    def edit(folder: Path) -> None:
        content = read_json(folder / name)
        change(content)
        (folder / name).write_text(json.dumps(content))

    return edit


RENDERS: dict[str, tuple[Callable[[Path], None], str]] = {
    "a focal length of 400 digits": (
        edited("cameras.json", lambda content: content["frames"][0].update(fx=HUGE)),
        r'cameras\.json: frame 0 has "fx" = a huge number',
    ),
    "a pose at 1e30": (
        edited(
            "cameras.json",
            lambda content: content["frames"][0]["world_to_camera"][0].__setitem__(3, 1e30),
        ),
        r'cameras\.json: frame 0 has "world_to_camera"',
    ),
    "4 gigapixels": (
        edited(
            "cameras.json", lambda content: content["frames"][0].update(width=65_000, height=65_000)
        ),
        r"cameras\.json: frame 0 is 65000x65000",
    ),
    "a reference elsewhere": (
        edited(
            "cameras.json", lambda content: content["references"][0].update(file="../../secret.png")
        ),
        r"cameras\.json: the path '../../secret\.png' leaves the folder",
    ),
    "depth of another shape": (
        lambda folder: np.save(folder / "depth" / "00000.npy", np.zeros((5, 5), np.float32)),
        r"depth/00000\.npy: float32 \(5, 5\); expected floats of",
    ),
    "depth that promises too much": (
        lambda folder: (
            (folder / "depth" / "00000.npy").write_bytes(
                (folder / "depth" / "00000.npy")
                .read_bytes()
                .replace(b"(32, 32)", b"(9999999999, 3)"[:8])
            )
            and None
        ),
        r"depth/00000\.npy: ",
    ),
}


@pytest.mark.parametrize("what", RENDERS)
def test_hostile_renders(
    renders: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], what: str
) -> None:
    import shutil

    spoil, message = RENDERS[what]
    shutil.copytree(renders, tmp_path / "renders")
    spoil(tmp_path / "renders")
    words = [
        "enhance",
        str(tmp_path / "renders"),
        "--out",
        str(tmp_path / "runs"),
        "--model",
        "tiny",
        "--device",
        "cpu",
    ]
    capsys.readouterr()
    assert main(words) == EXIT_BAD_INPUT
    error = capsys.readouterr().err.splitlines()[-1]
    assert error.startswith("artifixer: error: ")

    assert re.search(message, error), error


# Models ------------------------------------------------------------------------------------------


def not_a_number(folder: Path) -> None:
    model = made_model(SMALL)
    with torch.no_grad():
        model.transformer.head.weight[0, 0] = float("nan")
    save_model(folder, model)


def lying_header(folder: Path) -> None:
    path = folder / "vae.safetensors"
    path.write_bytes(struct.pack("<Q", 10**12) + path.read_bytes()[8:])


def zip_bomb(folder: Path) -> None:
    """A checkpoint whose parts unpack to far more than the file holds."""
    import zipfile

    with zipfile.ZipFile(folder / "release.pt", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("archive/data.pkl", bytes(300_000_000))
    for name in ("config.json", "transformer.safetensors", "vae.safetensors"):
        (folder / name).unlink()


def expanded_tensor(folder: Path) -> None:
    """A tensor that repeats one stored value over a shape of any size."""
    torch.save({"blocks.0.x": torch.zeros(1).expand(10**6, 10**6)}, folder / "release.pt")
    for name in ("config.json", "transformer.safetensors", "vae.safetensors"):
        (folder / name).unlink()


MODELS: dict[str, tuple[Callable[[Path], None], str]] = {
    "a million layers": (
        edited("config.json", lambda c: c.update(transformer_layers=10**6)),
        r'"transformer_layers" is 1000000',
    ),
    "more layers than tensors": (
        edited("config.json", lambda c: c.update(transformer_layers=400)),
        r"do not fit a model of 400 layers",
    ),
    "a width of 400 digits": (
        edited("config.json", lambda c: c.update(transformer_width=HUGE)),
        r'"transformer_width" is a huge number',
    ),
    "an epsilon of 400 digits": (
        edited("config.json", lambda c: c.update(transformer_eps=HUGE)),
        r'"transformer_eps" is .*expected',
    ),
    "no heads": (
        edited("config.json", lambda c: c.update(transformer_heads=0)),
        r'"transformer_heads" is 0',
    ),
    "a list for a number": (
        edited("config.json", lambda c: c.update(steps=[1])),
        r'"steps" is .*expected int',
    ),
    "weights that are not numbers": (
        not_a_number,
        r"head\.weight holds values that are not finite",
    ),
    "weights with a lying header": (lying_header, r"vae\.safetensors: truncated or damaged"),
    "a zip bomb": (
        zip_bomb,
        r"release\.pt: truncated or damaged \(its parts are compressed or larger",
    ),
    "an expanded tensor": (
        expanded_tensor,
        r"release\.pt: blocks\.0\.x is .*expected a plain table",
    ),
    "weights in a pipe": (
        fifo("vae.safetensors"),
        r"vae\.safetensors: (cannot read: it is a FIFO|does not exist)",
    ),
}


@pytest.mark.parametrize("what", MODELS)
def test_hostile_models(
    renders: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], what: str
) -> None:

    spoil, message = MODELS[what]
    save_model(tmp_path / "model", made_model(SMALL))
    spoil(tmp_path / "model")
    capsys.readouterr()
    words = [
        "enhance",
        str(renders),
        "--out",
        str(tmp_path / "runs"),
        "--model",
        str(tmp_path / "model"),
        "--device",
        "cpu",
    ]
    assert main(words) == EXIT_BAD_INPUT
    error = capsys.readouterr().err.splitlines()[-1]
    assert error.startswith("artifixer: error: ")
    assert re.search(message, error), error


@pytest.mark.parametrize(
    "target", ["../../outside.safetensors", "/etc/hostname", "a/b", 7, "a" * 300]
)
def test_an_index_of_weights_names_files_of_its_own_folder(tmp_path: Path, target: object) -> None:
    from artifixer.runtime.errors import InputError
    from artifixer.video.checkpoints.tensor_files import open_tensors

    write_json(tmp_path / "x.safetensors.index.json", {"weight_map": {"a": target}})
    with pytest.raises(InputError, match=r"index\.json: (names the file|the path)"):
        open_tensors(tmp_path)


# Pairs -------------------------------------------------------------------------------------------


def in_index(change: Callable[[Any], None]) -> Callable[[Path], None]:
    return edited("index.json", change)


PAIRS: dict[str, tuple[Callable[[Path], None], str]] = {
    "a shard elsewhere": (
        in_index(lambda c: c["shards"][0].update(file="../secret.tar")),
        r"index\.json: names the file '../secret\.tar'",
    ),
    "an absolute shard": (
        in_index(lambda c: c["shards"][0].update(file="/etc/hostname")),
        r"index\.json: names the file",
    ),
    "a sample of 400 digits": (
        in_index(lambda c: c["shards"][0]["samples"][0].update(bytes=HUGE)),
        r"a sample's bytes is a huge number",
    ),
    "a sample behind its shard": (
        in_index(lambda c: c["shards"][0]["samples"][0].update(offset=10**9)),
        r"ends behind its shard",
    ),
    "a gigapixel clip": (
        in_index(lambda c: c["shards"][0]["samples"][0].update(frames=10**7)),
        r"pixels, expected at most",
    ),
    "text for a size": (
        in_index(lambda c: c["shards"][0].update(bytes="many")),
        r"has 'many' bytes; damaged list",
    ),
    "no samples": (in_index(lambda c: c["shards"][0].update(samples=7)), r"damaged list of shards"),
}


@pytest.mark.parametrize("what", PAIRS)
def test_hostile_pairs(tmp_path: Path, capsys: pytest.CaptureFixture[str], what: str) -> None:
    spoil, message = PAIRS[what]
    write_pairs(tmp_path / "pairs", [[small_pair()]])
    spoil(tmp_path / "pairs")
    words = [
        "train",
        "autoencoder",
        "--pairs",
        str(tmp_path / "pairs"),
        "--out",
        str(tmp_path / "runs"),
        "--device",
        "cpu",
    ]
    assert_refused(words, capsys, message, tmp_path)
    assert_refused([*words, "--skip-broken"], capsys, message, tmp_path)


# Own state ---------------------------------------------------------------------------------------


def test_a_torn_last_line_of_metrics_is_repaired(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    lines = b"".join(b'{"step": %d}\n' % step for step in range(1, 6))
    for torn in (b'{"step": 6, "lo', b"\0\0\0\0", b"\0\0\0\n", b'{"step"\n', b"\xff\xfe"):
        path.write_bytes(lines + torn)
        MetricsFile(path, step=9)
        assert path.read_bytes() == lines


@pytest.mark.parametrize(
    "broken", [b"{\n", b"[1]\n", b'{"loss": 1}\n', b'{"step": "x"}\n', b"\xff\n"]
)
def test_a_broken_line_of_metrics_is_named(tmp_path: Path, broken: bytes) -> None:
    from artifixer.runtime.errors import InputError

    path = tmp_path / "metrics.jsonl"
    path.write_bytes(b'{"step": 1}\n' + broken + b'{"step": 3}\n')
    with pytest.raises(
        InputError, match=r'metrics\.jsonl: line 2 is .*expected an object with "step"'
    ):
        MetricsFile(path, step=9)


def test_a_photo_with_a_name_of_300_bytes_cannot_be(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The system refuses such names itself; lists of photos can hold them."""
    capture = good_capture(tmp_path / "capture")
    (tmp_path / "list.txt").write_text("a" * 300 + "\n" + "images/000.png\n")
    words = [
        "reconstruct",
        str(capture),
        "--out",
        str(tmp_path / "runs"),
        "--train-list",
        str(tmp_path / "list.txt"),
        *QUICK,
    ]
    assert_refused(
        words, capsys, r"list\.txt: names 'a{80}', which is no photo of this capture", tmp_path
    )


def test_a_picture_in_sixteen_thousand_frames_is_one_picture(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Animated files are read as their first frame."""
    capture = good_capture(tmp_path / "capture")
    frames = [Image.new("RGB", (64, 48), (number, 0, 0)) for number in range(50)]
    frames[0].save(capture / "images" / "000.png", save_all=True, append_images=frames[1:])
    assert main(["inspect", str(capture), "--json"]) == EXIT_DONE
    assert json.loads(capsys.readouterr().out)["photos"] == 5
