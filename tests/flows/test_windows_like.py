"""The package without what only POSIX has, and with files that behave as on Windows
(``windows_like``).
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

import artifixer
from artifixer.cli import main
from artifixer.runtime.errors import EXIT_DONE, EXIT_INTERRUPTED
from artifixer.runtime.system import windows_refusal
from tests.flows.made_runs import results
from tests.flows.windows_like import (
    ABSENT_FUNCTIONS,
    ABSENT_MODULES,
    ABSENT_SIGNALS,
    UNUSED_FUNCTIONS,
)
from tests.scenes.capture_files import transforms_content, write_transforms

pytestmark = pytest.mark.skipif(
    not Path("/proc/self/fd").is_dir(), reason="needs Linux's account of open files"
)


def test_the_package_names_nothing_that_only_posix_has() -> None:
    """Where it looks for such a thing, it is prepared not to find it (``getattr``, or an import in
    a function).
    """
    names = "|".join((*ABSENT_FUNCTIONS, *UNUSED_FUNCTIONS))
    pattern = re.compile(
        rf"\bos\.({names})\b|\bsignal\.({'|'.join(ABSENT_SIGNALS)})\b|"
        rf"^(import|from) ({'|'.join(ABSENT_MODULES)})\b",
        re.M,
    )
    package = Path(artifixer.__file__).parent
    files = {
        path.relative_to(package): path.read_text(encoding="utf-8")
        for path in package.rglob("*.py")
    }
    assert len(files) > 100
    assert {
        str(name): found[0] for name, text in files.items() if (found := pattern.search(text))
    } == {}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("windows_like")
    content = transforms_content(4)
    for frame in content["frames"]:
        frame["file_path"] = (
            frame["file_path"].replace("images", "Images").upper().replace("PNG", "png")
        )
    write_transforms(folder / "capture", content, views=4)
    path = folder / "capture" / "transforms.json"
    path.write_bytes(path.read_text().replace(",", ",\n").replace("\n", "\r\n").encode())
    return folder


@pytest.fixture(scope="module")
def report(folder: Path) -> dict[str, object]:
    command = [
        sys.executable,
        "-X",
        "warn_default_encoding",
        "-m",
        "tests.flows.windows_like",
        str(folder),
    ]
    environment = {**os.environ, "PYTHONIOENCODING": "cp1252", "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, capture_output=True, timeout=300, env=environment, check=False)
    assert done.returncode == 0, done.stderr.decode(errors="replace")
    return json.loads(done.stdout)


def test_every_module_is_imported_and_the_verbs_work(report: dict[str, object]) -> None:
    assert report["modules"] > 100  # type: ignore[operator]
    assert report["codes"] == {
        "demo --help": EXIT_DONE,
        "inspect": EXIT_DONE,
        "interrupted": EXIT_INTERRUPTED,
        "continued": EXIT_DONE,
        "overwritten": EXIT_DONE,
        "again": EXIT_DONE,
    }


def test_no_file_is_replaced_or_removed_while_it_is_open(report: dict[str, object]) -> None:
    assert report["layer"] == {"refused": 1, "open": True, "moved": False}, "the layer itself"
    assert report["refused"] == []


def test_the_files_have_names_for_every_system(folder: Path, report: dict[str, object]) -> None:
    assert report["codes"]
    names = [path.relative_to(folder / "run") for path in (folder / "run").rglob("*")]
    assert [windows_refusal(name) for name in names] == [None] * len(names)
    assert len({str(name).casefold() for name in names}) == len(names) > 10
    assert max(len(str(name)) for name in names) < 100


def test_the_bytes_are_those_of_every_system(
    folder: Path, report: dict[str, object], tmp_path: Path
) -> None:
    assert report["codes"]
    options = ["--iterations", "20", "--size", "32", "--max-gaussians", "200", "--device", "cpu"]
    assert (
        main(["reconstruct", str(folder / "capture"), "--out", str(tmp_path / "run"), *options])
        == EXIT_DONE
    )
    theirs, ours = (
        {name: content for name, content in results(out).items() if name != "log.txt"}
        for out in (folder / "run", tmp_path / "run")
    )
    assert theirs == ours
    assert b"\r" not in (folder / "run" / "log.txt").read_bytes()
