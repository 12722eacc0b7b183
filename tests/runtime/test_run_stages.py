"""Stages: done once per set of dependencies, whole or absent; they say why they run again."""

from __future__ import annotations

import io
import json
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest

from artifixer.runtime.progress import Progress, ProgressBar
from artifixer.runtime.run_folder import RunFolder
from artifixer.runtime.stages import StageFiles, Stages

WRITE = StageFiles("write", ("out",))
WITH_SCRATCH = StageFiles("write", ("out",), ("out/half",))


class Killed(BaseException):
    """The process ends here."""


@pytest.fixture
def folder(tmp_path: Path) -> Iterator[RunFolder]:
    with RunFolder.open(tmp_path / "run", {"capture": "a"}, {}) as run:
        yield run


def writing(folder: RunFolder, *names: str, dies_after: int | None = None):
    """Work that writes the files with their names and what is there already, and may die in
    between.
    """

    def work(stage: ProgressBar) -> None:
        for number, name in enumerate(names):
            if number == dies_after:
                raise Killed
            path = folder.root / "out" / name
            path.parent.mkdir(exist_ok=True)
            path.write_text(
                f"{name} beside {sorted(other.name for other in path.parent.iterdir())}"
            )

    return work


def complete(folder: RunFolder, key: dict, work, said: io.StringIO | None = None) -> Stages:
    stages = Stages(folder, Progress(output=said))
    stages.complete(WRITE, key, 1, work)
    return stages


def test_a_stage_runs_once_per_key(folder: RunFolder) -> None:
    said = io.StringIO()
    assert complete(folder, {"seed": 0}, writing(folder, "a")).executed == ["write"]
    assert complete(folder, {"seed": 0}, writing(folder, "b"), said).executed == []
    assert [path.name for path in (folder.root / "out").iterdir()] == ["a"]
    assert "write: done before, kept" in said.getvalue()


def test_another_key_starts_from_nothing_and_says_what_changed(folder: RunFolder) -> None:
    said = io.StringIO()
    complete(folder, {"seed": 0, "steps": 1, "path": "tour"}, writing(folder, "a"))
    complete(folder, {"seed": 0, "steps": 2, "path": "orbit"}, writing(folder, "b"), said)
    assert [path.name for path in (folder.root / "out").iterdir()] == ["b"]
    assert "write: runs again, changed: steps, path\n" in said.getvalue()


def test_what_a_killed_stage_wrote_is_there_when_it_continues(folder: RunFolder) -> None:
    with pytest.raises(Killed):
        complete(folder, {"seed": 0}, writing(folder, "a", "b", dies_after=1))
    assert complete(folder, {"seed": 0}, writing(folder, "c")).executed == ["write"]
    assert (folder.root / "out" / "c").read_text() == "c beside ['a']"


def test_what_a_killed_stage_wrote_for_another_key_is_not(folder: RunFolder) -> None:
    complete(folder, {"seed": 0}, writing(folder, "a"))
    with pytest.raises(Killed):
        complete(folder, {"seed": 1}, writing(folder, "b", "c", dies_after=1))
    assert complete(folder, {"seed": 0}, writing(folder, "d")).executed == ["write"], (
        "half of another key's files are no result"
    )
    assert [path.name for path in (folder.root / "out").iterdir()] == ["d"]


def test_a_stage_whose_files_are_gone_runs_again(folder: RunFolder) -> None:
    complete(folder, {"seed": 0}, writing(folder, "a"))
    (folder.root / "out" / "a").unlink()
    (folder.root / "out").rmdir()
    assert complete(folder, {"seed": 0}, writing(folder, "a")).executed == ["write"]


def test_a_frame_deleted_from_a_finished_stage_is_made_again(folder: RunFolder) -> None:
    said = io.StringIO()
    complete(folder, {"seed": 0}, writing(folder, "a", "b"))
    whole = {path.name: path.read_text() for path in (folder.root / "out").iterdir()}
    (folder.root / "out" / "a").unlink()
    assert not Stages(folder, Progress(output=None)).is_done(WRITE, {"seed": 0})
    again = complete(folder, {"seed": 0}, writing(folder, "a", "b"), said)
    assert again.executed == ["write"]
    assert "write: runs again, missing: out/a\n" in said.getvalue()
    assert whole == {path.name: path.read_text() for path in (folder.root / "out").iterdir()}, (
        "from nothing: work that skips what is there would not see the gap"
    )


def test_scratch_is_no_output_that_could_be_missing(folder: RunFolder) -> None:
    for executed in (["write"], []):
        stages = Stages(folder, Progress(output=None))
        stages.complete(WITH_SCRATCH, {"seed": 0}, 1, writing(folder, "a", "half"))
        assert stages.executed == executed


def test_equal_dependencies_have_equal_fingerprints(folder: RunFolder) -> None:
    stages = Stages(folder, Progress(output=None))
    first = stages.complete(StageFiles("one", ("out",)), {"seed": 0}, 1, writing(folder, "a"))
    assert first == stages.complete(
        StageFiles("one", ("out",)), {"seed": 0}, 1, writing(folder, "a")
    )
    assert first != stages.complete(
        StageFiles("one", ("out",)), {"seed": 1}, 1, writing(folder, "a")
    )


def test_discarded_stages_lose_their_files_and_scratch_goes_at_the_end(folder: RunFolder) -> None:
    stages = Stages(folder, Progress(output=None))
    stages.complete(WITH_SCRATCH, {"seed": 0}, 1, writing(folder, "a", "half"))
    assert [path.name for path in (folder.root / "out").iterdir()] == ["a"]
    stages.discard(WRITE)
    stages.discard(StageFiles("never_ran", ("out",)))
    assert not (folder.root / "out").exists()
    assert complete(folder, {"seed": 0}, writing(folder, "a")).executed == ["write"]


@pytest.mark.parametrize("is_wanted", [False, True])
def test_files_stayed_behind_for_good_when_discarding_a_stage_was_killed(
    folder: RunFolder, monkeypatch: pytest.MonkeyPatch, is_wanted: bool
) -> None:
    """The next call discards the rest, whether it has the stage or not, and continues nothing."""
    complete(folder, {"seed": 0}, writing(folder, "a", "b"))

    def die_after_a_file(stages: Stages, names: Sequence[str]) -> None:
        (folder.root / "out" / "a").unlink()
        raise Killed

    with monkeypatch.context() as patch:
        patch.setattr(Stages, "_delete", die_after_a_file)
        with pytest.raises(Killed):
            Stages(folder, Progress(output=None)).discard(WRITE)
    if is_wanted:
        complete(folder, {"seed": 0}, writing(folder, "a"))
        assert (folder.root / "out" / "a").read_text() == "a beside []"
    else:
        Stages(folder, Progress(output=None)).discard(WRITE)
        assert not (folder.root / "out").exists()


def test_scratch_that_outlived_its_stage_goes_with_the_next_call(
    folder: RunFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The process was killed when the stage had just been marked as done."""

    delete = Stages._delete

    def die_at_scratch(stages: Stages, names: Sequence[str]) -> None:
        if list(names) == ["out/half"]:
            raise Killed
        delete(stages, names)

    work = writing(folder, "a", "half")
    with monkeypatch.context() as patch:
        patch.setattr(Stages, "_delete", die_at_scratch)
        with pytest.raises(Killed):
            Stages(folder, Progress(output=None)).complete(WITH_SCRATCH, {"seed": 0}, 1, work)
    stages = Stages(folder, Progress(output=None))
    stages.complete(WITH_SCRATCH, {"seed": 0}, 1, work)
    assert stages.executed == []
    assert [path.name for path in (folder.root / "out").iterdir()] == ["a"]


def test_times_of_all_stages_are_kept(folder: RunFolder) -> None:
    complete(folder, {"seed": 0}, writing(folder, "a"))
    other = Stages(folder, Progress(output=None))
    other.complete(StageFiles("other", ("out",)), {"seed": 0}, 1, writing(folder, "b"))
    timing = json.loads((folder.root / "timing.json").read_text())
    assert set(timing["stages"]) == {"write", "other"} == set(other.seconds)
    assert timing["peak_memory_mb"] > 1
