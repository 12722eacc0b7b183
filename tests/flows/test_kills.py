"""Every verb that continues, killed in the middle of writing a file of its state and just after:
the same call ends with the same bytes.

Each verb is killed twice, at writes in the middle of its work. The long form kills a hundred times,
spread over all writes (three minutes of two cores): ``python -m pytest -m slow
tests/flows/test_kills.py``.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from artifixer.cli import main
from artifixer.curation import pair_folder
from artifixer.recipes import curate as curate_recipes
from artifixer.recipes import train as train_recipes
from artifixer.splats import fit_checkpoint
from artifixer.video.checkpoints.ours import save_model
from tests.flows.kills import Point, Write, killed_at, watched_writes
from tests.flows.made_runs import CAPTURE, results, small_run
from tests.in_process import in_process
from tests.pipeline.test_enhance_verb import write_renders
from tests.video.made_models import made_model

#: Files that are kept for continuing, and whose loss at a wrong moment would matter: markers of
#: stages, states inside stages, lists.
STATE = (
    r"^config\.json$|^\.run/(stages/|owned)|checkpoint|\.state/|^state/|^\.scenes/|^index\.json$|"
    r"^manifest\.json$|^pairs-"
)

#: Of which the bytes depend on times.
UNDECIDED = ("log.txt", "timing.json", "tensorboard/", "checkpoints/")


@dataclass(frozen=True)
class Verb:
    """Work into a folder, as a call that can be repeated until it is done; and the files at whose
    writes the suite dies.

    half: the state that it continues with. placed: what says that a part of the work is done, with
    which the state becomes superfluous.
    """

    work: Callable[[Path], Any]
    half: str
    placed: str


def run_into(out: Path, model: Path) -> int:
    small_run(out, model)
    return 0


def reconstruct_into(out: Path) -> int:
    fit = (
        "--views",
        "3",
        "--size",
        "48",
        "--iterations",
        "12",
        "--max-gaussians",
        "300",
        "--device",
        "cpu",
    )
    return main(["reconstruct", CAPTURE, "--out", str(out), *fit])


def enhance_into(out: Path, renders: Path, model: Path) -> int:
    return main(
        ["enhance", str(renders), "--model", str(model), "--out", str(out), "--device", "cpu"]
    )


def train_into(out: Path, pairs: Path) -> int:
    options = ("--steps", "4", "--save-every", "1", "--device", "cpu")
    return main(["train", "autoencoder", "--pairs", str(pairs), "--out", str(out), *options])


def curate_into(out: Path) -> int:
    return main(["curate", "procedural:3:5", "--out", str(out), "--seed", "1"])


@pytest.fixture(scope="module")
def verbs(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """State is saved as often as possible, and in processes that are forked from this one
    everything is loaded already.
    """
    with pytest.MonkeyPatch.context() as patch:
        for folder in ("training", "curation"):  # their helpers import each other by bare names
            patch.syspath_prepend(str(Path(__file__).parents[1] / folder))
        from short_fits import CONFIG as SHORT_FITS
        from test_job import small_recipe, write_made_pairs
    inputs = tmp_path_factory.mktemp("inputs")
    save_model(inputs / "model", made_model())
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(fit_checkpoint, "SECONDS_BETWEEN_CHECKPOINTS", 0)
        patch.setattr(fit_checkpoint, "SAVING_FRACTION", 1e9)
        patch.setattr(pair_folder, "SCENES_PER_SHARD", 2)
        patch.setitem(train_recipes.RECIPES, "tiny", small_recipe())
        patch.setitem(curate_recipes.RECIPES, "tiny", SHORT_FITS)
        assert reconstruct_into(inputs / "loads_the_kernels") == 0
        enhance_renders_into = partial(
            enhance_into, renders=write_renders(inputs / "renders"), model=inputs / "model"
        )
        yield {
            "run": Verb(
                partial(run_into, model=inputs / "model"),
                r"initial\.checkpoint",
                r"stages/reconstruct\.json",
            ),
            "reconstruct": Verb(
                reconstruct_into, r"checkpoint\.safetensors", r"stages/reconstruct\.json"
            ),
            "enhance": Verb(enhance_renders_into, r"^state/", r"stages/enhance\.json"),
            "train": Verb(
                partial(train_into, pairs=write_made_pairs(inputs / "pairs")),
                r"checkpoints/",
                r"complete\.json",
            ),
            "curate": Verb(curate_into, r"^\.scenes/.*json", r"^index\.json"),
        }


def decided(out: Path) -> dict[str, bytes]:
    """All files whose bytes follow from inputs, settings and seed."""
    return {
        name: content for name, content in results(out).items() if not name.startswith(UNDECIDED)
    }


def chosen(writes: list[Write], files: str, count: int) -> list[Write]:
    """The middle one of the writes of these files, and others evenly spread over all writes."""
    named = [write for write in writes if re.search(files, write.path)]
    spread = [
        writes[number * (len(writes) - 1) // max(1, count - 2)] for number in range(count - 1)
    ]
    return [named[len(named) // 2], *spread]


@pytest.mark.parametrize("kills", [2, pytest.param(20, marks=pytest.mark.slow)])
@pytest.mark.parametrize("name", ["run", "reconstruct", "enhance", "train", "curate"])
def test_killed_in_the_middle_of_a_write_and_just_after_it_ends_with_the_same_bytes(
    name: str, kills: int, verbs: dict[str, Verb], tmp_path: Path
) -> None:
    verb, told = verbs[name], tmp_path / "told.json"
    writes = watched_writes(verb.work, tmp_path / "whole", STATE, told)
    expected = decided(tmp_path / "whole")
    assert len(expected) > 2
    died: list[str] = []
    points: tuple[Point, ...] = ("half", "placed")
    for point in points:
        for write in chosen(writes, getattr(verb, point), kills // 2):
            out = tmp_path / f"{point}-{len(died)}-{write.number}"
            died.append(killed_at(verb.work, out, STATE, told, point, write))
            assert in_process(partial(verb.work, out)) == 0, f"{point} {write}: does not continue"
            assert decided(out) == expected, f"{point} {write}: other bytes"
            assert not list(out.rglob(".partial-*")), f"{point} {write}: leftovers"
    assert len(died) == kills
