"""``convert``, ``--export`` of ``reconstruct`` and ``run``, and splat files of other tools as
input: as a user runs them.
"""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path

import pytest
from made_runs import results, small_run

from artifixer.cli import main
from artifixer.pipeline.run import Result
from artifixer.runtime.errors import EXIT_BAD_INPUT, EXIT_DONE
from artifixer.splats.files import read_splat_file, write_splat_file
from artifixer.splats.ply import read_splats, write_splats
from artifixer.video.checkpoints.ours import save_model
from tests.flows.test_reconstruct_flow import CAPTURE, killed
from tests.video.made_models import SMALL, made_model

RECONSTRUCT = (
    "reconstruct",
    CAPTURE,
    "--views",
    "3",
    "--size",
    "48",
    "--iterations",
    "4",
    "--max-gaussians",
    "900",
    "--device",
    "cpu",
)


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("model")
    save_model(folder, made_model(replace(SMALL, steps=1)))
    return folder


@pytest.fixture(scope="module")
def finished(model: Path, tmp_path_factory: pytest.TempPathFactory) -> Result:
    return small_run(
        tmp_path_factory.mktemp("runs") / "finished",
        model,
        variants=("artifixer",),
        export=("spz",),
    )


@pytest.fixture
def copied(finished: Result, tmp_path: Path) -> Path:
    return Path(shutil.copytree(finished.out, tmp_path / "copy"))


def exports(out: Path) -> set[str]:
    return (
        {path.name for path in (out / "export").iterdir()} if (out / "export").is_dir() else set()
    )


# reconstruct --------------------------------------------------------------------------------------


def test_exports_of_a_reconstruction_resume_and_are_added_later(tmp_path: Path) -> None:
    """The process dies between two exports; then a third format is asked for: nothing is fitted
    again, nothing is lost.
    """
    words = (*RECONSTRUCT, "--out", str(tmp_path / "run"))
    killed((*words, "--export", "spz,sog"), "run/export/", 2, tmp_path / "said")
    assert {name for name in exports(tmp_path / "run") if not name.startswith(".partial-")} == {
        "splats.spz"
    }
    assert main([*words, "--export", "spz,sog"]) == EXIT_DONE
    assert exports(tmp_path / "run") == {"splats.spz", "splats.sog"}
    before = results(tmp_path / "run")
    splats = read_splats(tmp_path / "run" / "splats.ply")
    write_splat_file(tmp_path / "again.sog", splats)
    assert (tmp_path / "again.sog").read_bytes() == before["export/splats.sog"]
    assert main([*words, "--export", "ply"]) == EXIT_DONE
    after = results(tmp_path / "run")
    assert after.pop("export/splats.ply") == before["splats.ply"]
    assert {**after, "log.txt": b""} == {**before, "log.txt": b""}


def test_a_reconstruction_continues_from_an_spz(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([*RECONSTRUCT, "--out", str(tmp_path / "one"), "--export", "spz"]) == EXIT_DONE
    spz = tmp_path / "one" / "export" / "splats.spz"
    assert (
        main([*RECONSTRUCT, "--out", str(tmp_path / "two"), "--warm-start", str(spz)]) == EXIT_DONE
    )
    assert (
        main(
            [
                "render",
                str(spz),
                "--path",
                "orbit",
                "--frames",
                "2",
                "--size",
                "32",
                "--out",
                str(tmp_path / "orbit"),
            ]
        )
        == EXIT_DONE
    )
    capsys.readouterr()
    assert (
        main([*RECONSTRUCT, "--out", str(tmp_path / "three"), "--export", "obj"]) == EXIT_BAD_INPUT
    )
    assert "--export 'obj': expected some of ply, spz, sog, usdz" in capsys.readouterr().err
    assert not (tmp_path / "three").exists()


# run ----------------------------------------------------------------------------------------------


def test_a_run_exports_its_last_splats(finished: Result) -> None:
    assert exports(finished.out) == {"initial.spz"}
    assert len(read_splat_file(finished.out / "export" / "initial.spz").splats) == len(
        read_splats(finished.out / "splats" / "initial.ply")
    )


def test_another_export_redoes_nothing_else(copied: Path, model: Path) -> None:
    before = results(copied)
    result = small_run(copied, model, variants=("artifixer",), export=("ply", "sog"))
    assert set(result.executed) <= {"export", "report"} and "export" in result.executed
    assert exports(copied) == {"initial.ply", "initial.sog"}
    after = results(copied)
    assert all(
        after[name] == content
        for name, content in before.items()
        if not name.startswith(("export/", "report.html"))
    )


def test_exports_go_when_the_splats_change_and_stay_when_they_do_not(
    copied: Path, model: Path
) -> None:
    small_run(copied, model, variants=("artifixer",))
    assert exports(copied) == {"initial.spz"}
    result = small_run(copied, model, variants=("artifixer",), seed=1)
    assert "reconstruct" in result.executed
    assert exports(copied) == set()


def test_a_run_starts_from_an_spz(finished: Result, model: Path, tmp_path: Path) -> None:
    spz = Path(shutil.copy(finished.out / "export" / "initial.spz", tmp_path / "scene.spz"))
    result = small_run(tmp_path / "run", model, from_splats=spz, variants=("artifixer",))
    used = read_splats(result.out / "splats" / "initial.ply")
    assert len(used) == len(read_splats(finished.out / "splats" / "initial.ply"))


def test_damaged_gaussians_of_another_tool_are_left_out_of_a_run(
    finished: Result, model: Path, tmp_path: Path
) -> None:
    splats = read_splats(finished.out / "splats" / "initial.ply")
    splats.means[2] = float("nan")
    write_splats(tmp_path / "scene.ply", splats)
    result = small_run(
        tmp_path / "run", model, from_splats=tmp_path / "scene.ply", variants=("artifixer",)
    )
    assert len(read_splats(result.out / "splats" / "initial.ply")) == len(splats) - 1


# convert ------------------------------------------------------------------------------------------


def test_convert_there_and_back(
    finished: Result, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    source = finished.out / "splats" / "initial.ply"
    count = len(read_splats(source))
    assert main(["convert", str(source), str(tmp_path / "a.sog")]) == EXIT_DONE
    assert f"{count:,} Gaussians of degree 1 in {tmp_path / 'a.sog'}" in capsys.readouterr().out
    assert main(["convert", str(tmp_path / "a.sog"), str(tmp_path / "b.ply")]) == EXIT_DONE
    assert len(read_splats(tmp_path / "b.ply")) == count
    assert main(["convert", str(source), str(tmp_path / "c.ply")]) == EXIT_DONE
    assert (tmp_path / "c.ply").read_bytes() == source.read_bytes()


def test_convert_says_what_it_left_out(
    tmp_path: Path, finished: Result, capsys: pytest.CaptureFixture[str]
) -> None:
    splats = read_splats(finished.out / "splats" / "initial.ply")
    splats.opacity_logits[:3] = float("nan")
    write_splats(tmp_path / "a.ply", splats)
    assert main(["convert", str(tmp_path / "a.ply"), str(tmp_path / "a.spz")]) == EXIT_DONE
    assert "a.ply: 3 of" in capsys.readouterr().err


def test_convert_refuses_in_one_line(
    tmp_path: Path, finished: Result, capsys: pytest.CaptureFixture[str]
) -> None:
    source = str(finished.out / "splats" / "initial.ply")
    (tmp_path / "there.spz").write_bytes(b"mine")
    (tmp_path / "folder.ply").mkdir()
    for words, message in (
        (
            (source, str(tmp_path / "a.ksplat")),
            "splats are not written as .ksplat; expected .ply, .spz, .sog, .usdz",
        ),
        ((source, str(tmp_path / "a.compressed.ply")), "splats are not written as .compressed.ply"),
        (
            (source, str(tmp_path / "there.spz")),
            "there.spz: exists; give --overwrite to replace it",
        ),
        ((source, str(tmp_path / "folder.ply")), "is a folder, expected a file to write"),
        ((source, source, "--overwrite"), "is the file to read"),
        ((str(tmp_path / "absent.ply"), str(tmp_path / "a.ply")), "absent.ply: no such file"),
    ):
        assert main(["convert", *words]) == EXIT_BAD_INPUT
        said = capsys.readouterr().err
        assert message in said and said.count("\n") == 1
    assert (tmp_path / "there.spz").read_bytes() == b"mine"
    assert main(["convert", source, str(tmp_path / "there.spz"), "--overwrite"]) == EXIT_DONE
    assert read_splat_file(tmp_path / "there.spz").format == "spz"
