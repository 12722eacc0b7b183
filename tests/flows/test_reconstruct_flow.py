"""``artifixer reconstruct`` and ``artifixer render`` as a user runs them: killed and stopped runs
end with the bytes of an undisturbed one, and a folder is never mixed up with another job's."""

from __future__ import annotations

import json
import os
import shutil
import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from artifixer.cli import main
from artifixer.runtime.errors import EXIT_BAD_INPUT, EXIT_DONE, EXIT_STOPPED
from artifixer.splats import fit_checkpoint
from artifixer.splats.render_folder import read_render_folder
from tests.flows.made_runs import forget_setting, results
from tests.in_process import in_process

CAPTURE = "procedural:7:frames=9,width=48,height=36,points_per_photo=40"

RECONSTRUCT = (
    "reconstruct",
    CAPTURE,
    "--views",
    "3",
    "--size",
    "48",
    "--iterations",
    "25",
    "--max-gaussians",
    "3200",
    "--device",
    "cpu",
)
RENDER_OPTIONS = ("--path", "orbit", "--frames", "8", "--size", "32", "--device", "cpu")


def killed(words: tuple[str, ...], name: str, count: int, output: Path) -> None:
    """Run the verb in a process of its own, which ends by SIGKILL when it is about to put the
    ``count``-th file whose path contains ``name`` in place. Checkpoints are written after every
    iteration. What it says goes to the file ``output``.
    """

    def dying() -> int:
        fit_checkpoint.SECONDS_BETWEEN_CHECKPOINTS, fit_checkpoint.SAVING_FRACTION = 0, 1e9
        left, replace = count, os.replace

        def replace_or_die(source: str, target: str) -> None:
            nonlocal left
            left -= name in str(target)
            if left == 0:
                os.kill(os.getpid(), signal.SIGKILL)
            replace(source, target)

        os.replace = replace_or_die  # type: ignore[assignment]
        return main(list(words))

    assert in_process(dying, output) == -signal.SIGKILL, output.read_text()


@contextmanager
def at_file(name: str, action: Callable[[], None]) -> Iterator[None]:
    """Within this context ``action`` happens when the first file whose path contains ``name`` has
    been put in place.
    """
    replace, is_due = os.replace, True

    def replace_and_act(source: str, target: str) -> None:
        nonlocal is_due
        replace(source, target)
        if is_due and name in str(target):
            is_due = False
            action()

    os.replace = replace_and_act  # type: ignore[assignment]
    try:
        yield
    finally:
        os.replace = replace


def terminate() -> None:
    os.kill(os.getpid(), signal.SIGTERM)


def result_files(out: Path) -> dict[str, bytes]:
    return {name: content for name, content in results(out).items() if name != "log.txt"}


def reconstructed(out: Path, *more: str) -> int:
    return main([*RECONSTRUCT, "--out", str(out), *more])


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("runs") / "whole"
    assert reconstructed(out) == EXIT_DONE
    return out


def test_a_run_holds_what_it_promises(finished: Path) -> None:
    metrics = json.loads((finished / "metrics.json").read_text())
    assert set(metrics) == {"heldout", "train", "gaussians"}
    for half, views in (("heldout", 6), ("train", 3)):
        assert len(metrics[half]["per_view"]) == views
        assert metrics[half]["psnr"] == pytest.approx(
            sum(view["psnr"] for view in metrics[half]["per_view"]) / views
        )
    folder = read_render_folder(finished / "renders" / "heldout")
    assert [frame.photo for frame in folder.frames] == [
        view["photo"] for view in metrics["heldout"]["per_view"]
    ]
    assert len(folder.references) == 3
    for name in (
        "config.json",
        "splats.ply",
        "cameras.json",
        "timing.json",
        "preview.png",
        "log.txt",
    ):
        assert (finished / name).is_file()
    assert not (finished / "checkpoint.safetensors").exists()


def test_a_finished_run_is_left_alone(finished: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = {
        path: path.stat().st_mtime_ns
        for path in finished.rglob("*")
        if path.is_file() and path.name not in ("lock", "log.txt")
    }
    assert reconstructed(finished) == EXIT_DONE
    assert {path: path.stat().st_mtime_ns for path in before} == before
    assert "iteration" not in capsys.readouterr().err


@pytest.mark.posix
def test_killed_reconstructions_end_with_the_same_bytes(finished: Path, tmp_path: Path) -> None:
    """The process dies among the iterations; the next one is stopped among the renders of the
    held-out photos.
    """
    out = tmp_path / "run"
    killed((*RECONSTRUCT, "--out", str(out)), "checkpoint", 11, tmp_path / "said")
    assert (out / "checkpoint.safetensors").is_file()
    assert list(out.rglob(".partial-*")), "it died with a file half in place"
    with at_file("heldout/rgb", terminate):
        reconstructed(out)
    assert (out / "splats.ply").is_file()
    assert reconstructed(out) == EXIT_DONE
    assert result_files(out) == result_files(finished)
    assert not list(out.rglob(".partial-*"))


def test_stopped_reconstructions_end_with_75_and_continue(
    finished: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    out = tmp_path / "run"
    monkeypatch.setattr(fit_checkpoint, "SECONDS_BETWEEN_CHECKPOINTS", 0)
    # the last of them is the last write of all
    for name in ("checkpoint", "stages/reconstruct.json", "stages/evaluate.json"):
        with at_file(name, terminate):
            assert reconstructed(out) == EXIT_STOPPED
    assert reconstructed(out) == EXIT_DONE
    assert result_files(out) == result_files(finished)
    stopped = [
        line for line in capsys.readouterr().err.splitlines() if line.startswith("artifixer: ")
    ]
    assert len(stopped) == 3
    assert all("run the same command to continue" in line for line in stopped)


@pytest.mark.parametrize(
    ("old", "new", "expected"),
    [
        ("25", "26", "config.iterations is 25 there, 26 now"),
        ("--views", "--all-views", "choice.all_views is false there, true now"),
        ("frames=9", "frames=10", 'frames=9,width=48,height=36,points_per_photo=40" there'),
    ],
)
def test_other_jobs_are_refused_and_told_apart(
    finished: Path, capsys: pytest.CaptureFixture[str], old: str, new: str, expected: str
) -> None:
    before = result_files(finished)
    words = [word.replace(old, new) for word in RECONSTRUCT]
    if new == "--all-views":
        words.remove("3")
    assert main([*words, "--out", str(finished)]) == EXIT_BAD_INPUT
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    assert expected in error
    assert "--overwrite" in error
    assert result_files(finished) == before


def test_a_folder_from_before_a_setting_is_kept_at_the_value_as_before(
    finished: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Folders of versions without dropout were refused."""
    out = tmp_path / "run"
    shutil.copytree(finished, out)
    assert forget_setting(out, "dropout") == 1
    assert reconstructed(out, "--dropout", "0.3") == EXIT_BAD_INPUT
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    assert "config.dropout is 0.0 there, 0.3 now" in error
    assert reconstructed(out) == EXIT_DONE
    assert "done before, kept" in capsys.readouterr().err
    assert result_files(out) == result_files(finished)


def test_overwrite_starts_anew_and_keeps_files_of_others(finished: Path, tmp_path: Path) -> None:
    out = tmp_path / "run"
    assert (
        main(
            [
                "reconstruct",
                CAPTURE,
                "--views",
                "2",
                "--size",
                "24",
                "--iterations",
                "2",
                "--out",
                str(out),
            ]
        )
        == EXIT_DONE
    )
    (out / "notes.txt").write_text("mine")
    assert reconstructed(out, "--overwrite") == EXIT_DONE
    assert (out / "notes.txt").read_text() == "mine"
    (out / "notes.txt").unlink()
    assert result_files(out) == result_files(finished)


# Render -------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def rendered(finished: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("renders") / "whole"
    assert main(["render", str(finished), "--out", str(out), *RENDER_OPTIONS]) == EXIT_DONE
    return out


def test_renders_are_a_render_folder_with_a_video(rendered: Path) -> None:
    from artifixer.runtime.video_files import read_video

    folder = read_render_folder(rendered)
    assert len(folder) == 8
    assert folder.rgb(0).shape == (24, 32, 3)
    depth = folder.depth(7)
    assert depth is not None and depth.shape == (24, 32)
    assert len(list(read_video(rendered / "video.mp4"))) == 8


@pytest.mark.posix
def test_killed_and_stopped_renders_end_with_the_same_bytes(
    finished: Path, rendered: Path, tmp_path: Path
) -> None:
    out = tmp_path / "renders"
    words = ("render", str(finished), "--out", str(out), *RENDER_OPTIONS)
    killed(words, "rgb", 4, tmp_path / "said")
    assert len(list((out / "rgb").glob("0*.png"))) == 3
    with at_file("00005.npy", terminate):
        assert main(words) == EXIT_STOPPED
    assert main(words) == EXIT_DONE
    assert result_files(out) == result_files(rendered)


@pytest.mark.parametrize("deleted", ["rgb/00003.png", "depth/00003.npy", "video.mp4"])
def test_a_deleted_frame_of_finished_renders_comes_back(
    finished: Path, rendered: Path, tmp_path: Path, deleted: str, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "renders"
    shutil.copytree(rendered, out)
    (out / deleted).unlink()
    assert main(["render", str(finished), "--out", str(out), *RENDER_OPTIONS]) == EXIT_DONE
    assert f"render: runs again, missing: {deleted}" in capsys.readouterr().err
    assert result_files(out) == result_files(rendered)


def test_renders_of_other_splats_or_paths_are_refused(
    finished: Path, rendered: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert (
        main(
            [
                "render",
                str(finished),
                "--out",
                str(rendered),
                "--path",
                "orbit",
                "--frames",
                "9",
                "--device",
                "cpu",
            ]
        )
        == EXIT_BAD_INPUT
    )
    assert "was made from other settings" in capsys.readouterr().err


def test_every_path_renders(finished: Path, tmp_path: Path) -> None:
    """By name, and from a camera file; a PLY alone has an orbit."""
    for path, source in (
        ("heldout", finished),
        (str(finished / "cameras.json"), finished),
        ("orbit", finished / "splats.ply"),
    ):
        out = tmp_path / f"path{len(list(tmp_path.iterdir()))}"
        assert (
            main(
                [
                    "render",
                    str(source),
                    "--path",
                    path,
                    "--out",
                    str(out),
                    "--frames",
                    "3",
                    "--size",
                    "24",
                    "--device",
                    "cpu",
                ]
            )
            == EXIT_DONE
        )
        assert len(read_render_folder(out)) == {"heldout": 6, "orbit": 3}.get(path, 9)
    heldout = read_render_folder(tmp_path / "path0")
    assert [frame.photo for frame in heldout.frames] == json.loads(
        (finished / "split.json").read_text()
    )["heldout"]
