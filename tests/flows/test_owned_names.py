"""Everything that a verb writes into its folder is on the list of names that ``--overwrite`` may
remove.
"""

from __future__ import annotations

from pathlib import Path

import pytest

from artifixer.cli import main
from artifixer.runtime.errors import EXIT_DONE
from artifixer.runtime.run_folder import RunFolder
from artifixer.splats.free_space import FreeSpaceConfig
from artifixer.video.checkpoints.ours import save_model
from tests.flows.made_runs import FIT, small_run
from tests.video.made_models import SMALL, made_model

CAPTURE = "procedural:7:frames=6,width=24,height=18"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One folder of each verb."""
    from dataclasses import replace

    place = tmp_path_factory.mktemp("owned")
    save_model(place / "model", made_model(SMALL))
    quick = ["--iterations", "2", "--size", "24", "--max-gaussians", "500", "--device", "cpu"]
    assert (
        main(
            ["reconstruct", CAPTURE, "--out", str(place / "reconstruct"), "--export", "spz", *quick]
        )
        == EXIT_DONE
    )
    renders = str(place / "reconstruct" / "renders" / "heldout")
    for words in (
        [
            "render",
            str(place / "reconstruct"),
            "--path",
            "heldout",
            "--out",
            str(place / "render"),
            "--device",
            "cpu",
        ],
        [
            "enhance",
            renders,
            "--model",
            str(place / "model"),
            "--out",
            str(place / "enhance"),
            "--device",
            "cpu",
        ],
        [
            "render",
            str(place / "reconstruct"),
            "--path",
            "heldout",
            "--equirectangular",
            "--size",
            "32",
            "--out",
            str(place / "panorama"),
            "--device",
            "cpu",
        ],
    ):
        assert main(words) == EXIT_DONE
    fit = replace(FIT, free_space=FreeSpaceConfig(weight=0.3))
    small_run(place / "run", place / "model", reconstruct=fit, export=("spz",))
    return place


@pytest.mark.parametrize("verb", ["reconstruct", "render", "panorama", "enhance", "run"])
def test_overwrite_leaves_nothing_of_the_earlier_run(folder: Path, verb: str) -> None:
    RunFolder.open(folder / verb, {"capture": "another"}, {}, overwrite=True).close()
    left = sorted(path.name for path in (folder / verb).iterdir())
    assert left == [".run", "config.json"], (
        "a name that --overwrite may remove belongs into run_folder.OUTPUT_NAMES"
    )
