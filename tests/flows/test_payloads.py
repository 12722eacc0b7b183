"""A run folder, a model folder and a render folder from somebody else run nothing: a payload in the
place of their files.

Training folders have the same test in ``tests/training/test_hostile_folder.py``.
"""

from __future__ import annotations

import io
import os
import pickle
import shutil
import zipfile
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from artifixer.cli import main
from artifixer.pipeline.run import run
from artifixer.runtime.errors import EXIT_BAD_INPUT, EXIT_DONE, InputError
from artifixer.runtime.progress import Progress
from artifixer.video.checkpoints.ours import save_model
from tests.flows.made_runs import small_config, small_run
from tests.video.made_models import SMALL, made_model, save_text_encoder


class Payload:
    """Its unpickling makes a folder."""

    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, (str(self.mark),)


def payloads(mark: Path) -> Iterator[bytes]:
    """In all forms in which a reader might unpickle it."""
    yield pickle.dumps(Payload(mark), protocol=0)
    file = io.BytesIO()
    torch.save({"weight": Payload(mark)}, file)
    yield file.getvalue()
    file = io.BytesIO()
    np.save(file, np.array([Payload(mark)], dtype=object), allow_pickle=True)
    yield file.getvalue()


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("payloads") / "model"
    save_model(folder, made_model(SMALL))
    return folder


@pytest.fixture(scope="module")
def finished(weights: Path) -> Path:
    """A whole run."""
    small_run(weights.parent / "run", weights)
    return weights.parent / "run"


def one_of_each(folder: Path) -> list[Path]:
    """The first file of every kind in every folder, relative."""
    found: dict[tuple[Path, str], Path] = {}
    for path in sorted(path.relative_to(folder) for path in folder.rglob("*") if path.is_file()):
        found.setdefault((path.parent, path.suffix), path)
    return list(found.values())


def test_the_payloads_run_where_they_are_unpickled(tmp_path: Path) -> None:
    """Or the tests below would prove nothing."""
    plain, archive, array = payloads(tmp_path / "ran")
    for unpickle in (
        lambda: pickle.loads(plain),
        lambda: torch.load(io.BytesIO(archive), weights_only=False),
        lambda: np.load(io.BytesIO(array), allow_pickle=True),
    ):
        assert not (tmp_path / "ran").exists()
        unpickle()
        assert (tmp_path / "ran").is_dir()
        (tmp_path / "ran").rmdir()


def test_no_file_of_a_run_folder_runs_code(finished: Path, weights: Path, tmp_path: Path) -> None:
    """The run is continued: it refuses a file in one line, or makes it anew."""
    mark, ends = tmp_path / "ran", set()
    for number, place in enumerate(one_of_each(finished)):
        folder = tmp_path / f"run-{number}"
        shutil.copytree(finished, folder)
        (folder / place).write_bytes(list(payloads(mark))[number % 3])
        try:
            run(small_config(folder, weights), progress=Progress(output=None))
            ends.add("done")
        except InputError:
            ends.add("refused")
        assert not mark.exists(), f"{place} has run"
        shutil.rmtree(folder)
    assert ends == {"done", "refused"}


def test_no_file_of_a_reconstruction_or_render_folder_runs_code(
    finished: Path, weights: Path, tmp_path: Path
) -> None:
    mark = tmp_path / "ran"
    for number, place in enumerate(one_of_each(finished / "renders")):
        folder = tmp_path / f"renders-{number}"
        shutil.copytree(finished / "renders", folder)
        (folder / place).write_bytes(
            list(payloads(mark))[2 if place.suffix == ".npy" else number % 3]
        )
        words = [
            "enhance",
            str(folder),
            "--model",
            str(weights),
            "--out",
            str(tmp_path / f"out-{number}"),
            "--device",
            "cpu",
        ]
        assert main(words) in (EXIT_DONE, EXIT_BAD_INPUT)
        assert not mark.exists(), f"{place} has run"
    for number, content in enumerate(payloads(mark)):
        (tmp_path / f"{number}.ply").write_bytes(content)
        words = [
            "render",
            str(tmp_path / f"{number}.ply"),
            "--path",
            "orbit",
            "--frames",
            "1",
            "--out",
            str(tmp_path / "x"),
            "--device",
            "cpu",
        ]
        assert main(words) == EXIT_BAD_INPUT
        assert not mark.exists()


def test_no_file_of_a_model_folder_runs_code(finished: Path, weights: Path, tmp_path: Path) -> None:
    """Ours, with the text encoder that models may share; and a ``.pt`` in the place of a model."""
    mark, number = tmp_path / "ran", 0
    save_text_encoder(weights, 8)
    for place in [
        path for path in one_of_each(weights) if path.parts[0] not in ("text_encoder", "tokenizer")
    ]:
        for content in payloads(mark):
            number += 1
            folder = tmp_path / f"model-{number}"
            shutil.copytree(weights, folder)
            (folder / place).write_bytes(content)
            words = [
                "enhance",
                str(finished / "renders"),
                "--model",
                str(folder),
                "--out",
                str(tmp_path / f"out-{number}"),
                "--device",
                "cpu",
            ]
            assert main(words) == EXIT_BAD_INPUT
            assert not mark.exists(), f"{place} has run"
    for content in payloads(mark):
        (tmp_path / "release.pt").write_bytes(content)
        assert main(["models", str(tmp_path / "release.pt")]) == EXIT_BAD_INPUT
        assert not mark.exists()


def test_no_file_of_a_text_encoder_runs_code(tmp_path: Path) -> None:
    """Weights in pickles beside a configuration that asks for them, and a class of its own in a
    Python file, are not looked at.
    """
    from artifixer.video.text import TextConfig, TextEncoder

    mark = tmp_path / "ran"
    save_text_encoder(tmp_path / "good", 8)
    places = [path for path in one_of_each(tmp_path / "good") if path.suffix != ".txt"]
    foreign = [
        Path("text_encoder") / "pytorch_model.bin",
        Path("tokenizer") / "tokenizer.pkl",
        Path("tokenizer") / "code.py",
    ]
    for number, place in enumerate([*places, *foreign]):
        folder = tmp_path / f"model-{number}"
        shutil.copytree(tmp_path / "good", folder)
        code = f"import os\nos.mkdir({str(mark)!r})\n".encode()
        (folder / place).write_bytes(code if place.suffix == ".py" else list(payloads(mark))[1])
        if place.suffix == ".bin":
            (folder / "text_encoder" / "model.safetensors").unlink()
        if place.suffix == ".py":
            settings = folder / "tokenizer" / "tokenizer_config.json"
            settings.write_text(
                '{"auto_map": {"AutoTokenizer": ["code.Tokenizer", null]}, "tokenizer_class": '
                '"Tokenizer"}'
            )
        with suppress(InputError):
            TextEncoder(
                folder, TextConfig(8, 8), tmp_path / f"cache-{number}", dtype=torch.float32
            ).encode("a house")
        assert not mark.exists(), f"{place} has run"


def test_no_file_of_a_depth_model_runs_code(tmp_path: Path) -> None:
    from artifixer.scenes.depth_models import metric_depth_model
    from tests.scenes.test_depth_models import _depth_anything

    mark = tmp_path / "ran"
    (tmp_path / "model").mkdir()
    _depth_anything(tmp_path / "model")
    (tmp_path / "model" / "model.safetensors").unlink()
    (tmp_path / "model" / "pytorch_model.bin").write_bytes(list(payloads(mark))[1])
    with pytest.raises(InputError):
        metric_depth_model(str(tmp_path / "model"))
    assert not mark.exists()


def test_archives_are_not_unpacked_beside_their_folder(tmp_path: Path) -> None:
    """A splat file that is a zip names its pictures, never paths."""
    from artifixer.splats.files import read_splat_file

    with zipfile.ZipFile(tmp_path / "a.sog", "w") as archive:
        archive.writestr("../evil.txt", "x")
        archive.writestr(
            "meta.json",
            '{"version": 2, "count": 4, "means": {"files": ["../../evil.txt"], "mins": [0,0,0], '
            '"maxs": [1,1,1]}}',
        )
    with pytest.raises(InputError):
        read_splat_file(tmp_path / "a.sog")
    assert [path.name for path in tmp_path.iterdir()] == ["a.sog"]
