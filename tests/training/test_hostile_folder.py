"""A training folder from somebody else runs nothing: a payload in the place of every file of it,
and of files that older formats had.
"""

from __future__ import annotations

import io
import os
import pickle
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from forked import ended, fork
from test_job import small_recipe, write_made_pairs

from artifixer import cli
from artifixer.recipes.train import RECIPES
from artifixer.runtime.errors import EXIT_BAD_INPUT, EXIT_DONE

#: What formats that can hold pickles call their files; ours have none of them.
FOREIGN = (".metadata", "__0_0.distcp", "part-00001-of-00001.pt", "optimizer.pt")


class Payload:
    """Its unpickling makes a folder."""

    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, (str(self.mark),)


def payload(mark: Path, suffix: str) -> bytes:
    """As ``torch.save`` writes it where weights are expected, else as plain text, which no reader
    refuses for its encoding.
    """
    if suffix not in (".safetensors", ".pt", ".distcp"):
        return pickle.dumps(Payload(mark), protocol=0)
    file = io.BytesIO()
    torch.save({"weight": Payload(mark)}, file)
    return file.getvalue()


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished training with its pairs beside it."""
    folder = tmp_path_factory.mktemp("hostile")
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(RECIPES, "tiny", small_recipe())
        write_made_pairs(folder / "pairs")
        autoencoder = [
            "train",
            "autoencoder",
            "--pairs",
            str(folder / "pairs"),
            "--out",
            str(folder / "first"),
            "--device",
            "cpu",
        ]
        assert cli.main(autoencoder) == EXIT_DONE
        assert cli.main(command(folder, folder / "run")) == EXIT_DONE
    return folder


def command(
    folder: Path, run: Path, stage: str = "bidirectional", init: Path | None = None
) -> list[str]:
    pairs = str(folder / "pairs")
    words = [
        "train",
        stage,
        "--pairs",
        pairs,
        "--validation",
        pairs,
        "--validation-steps",
        "1",
        "--validate-every",
        "2",
        "--steps",
        "2",
    ]
    return [*words, "--init", str(init or folder / "first"), "--out", str(run), "--device", "cpu"]


def files(folder: Path) -> list[Path]:
    return sorted(path.relative_to(folder) for path in folder.rglob("*") if path.is_file())


def test_the_payload_runs_where_it_is_unpickled(tmp_path: Path) -> None:
    """Or the tests below would prove nothing."""
    pickle.loads(payload(tmp_path / "plain", ".json"))
    torch.load(io.BytesIO(payload(tmp_path / "torch", ".pt")), weights_only=False)
    assert (tmp_path / "plain").is_dir() and (tmp_path / "torch").is_dir()


def test_no_file_of_a_training_folder_runs_code(
    trained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Continued, and as the start of the next training; each file in its turn."""
    monkeypatch.setitem(RECIPES, "tiny", small_recipe())
    mark, run = tmp_path / "ran", trained / "hostile"
    (checkpoint,) = (
        path.relative_to(trained / "run") for path in (trained / "run" / "checkpoints").iterdir()
    )
    places = files(trained / "run")
    assert {"config.json", "metrics.jsonl", "timing.json", "log.txt"} < {
        str(place) for place in places
    }
    ends = {}
    for place in [*places, *(checkpoint / name for name in FOREIGN)]:
        shutil.rmtree(run, ignore_errors=True)
        shutil.copytree(trained / "run", run)
        (run / place).write_bytes(payload(mark, place.suffix))
        words = command(trained, run)
        if place.parts[0] == "model":
            words = command(trained, tmp_path / f"next-{len(ends)}", "diffusion_forcing", run)
        ends[str(place)] = ended(fork(lambda words=words: cli.main(words)))
        assert not mark.exists(), f"{place} has run"
    assert set(ends.values()) <= {EXIT_DONE, EXIT_BAD_INPUT}, ends
    read = {
        "config.json",
        "metrics.jsonl",
        "model/config.json",
        "model/transformer.safetensors",
        "model/vae.safetensors",
    }
    read |= {str(place) for place in places if place.parts[0] == "checkpoints"}
    assert {place for place, end in ends.items() if end == EXIT_BAD_INPUT} >= read


def test_a_checkpoint_in_a_format_that_can_hold_code_is_refused(
    trained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(RECIPES, "tiny", small_recipe())
    mark, run = tmp_path / "ran", tmp_path / "run"
    shutil.copytree(trained / "run", run)
    (checkpoint,) = (run / "checkpoints").iterdir()
    for path in checkpoint.iterdir():
        if path.name != "complete.json":
            path.unlink()
    for name in FOREIGN:
        (checkpoint / name).write_bytes(payload(mark, Path(name).suffix))
    assert ended(fork(lambda: cli.main(command(trained, run)))) == EXIT_BAD_INPUT
    assert not mark.exists()
