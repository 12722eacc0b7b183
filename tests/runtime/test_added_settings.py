"""Folders written before a setting was added: continued at the value as before, else refused."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field, replace
from pathlib import Path

import pytest

from artifixer.runtime.added_settings import added_setting, with_added, without_added
from artifixer.runtime.errors import InputError
from artifixer.runtime.fingerprint import fingerprint
from artifixer.runtime.json_io import read_json, to_json, write_json
from artifixer.runtime.progress import Progress, ProgressBar
from artifixer.runtime.run_folder import RunFolder
from artifixer.runtime.stages import StageFiles, Stages


@dataclass(frozen=True)
class Fit:
    iterations: int = 10
    dropout: float = added_setting(0.0)
    rates: tuple[float, ...] = (0.5, 0.25)


@dataclass(frozen=True)
class Distill:
    fit: Fit = field(default_factory=Fit)
    start: str = "fresh"
    mirror: bool = added_setting(False)


#: The settings of ``Distill()`` before its added settings.
EARLIER = {"fit": {"iterations": 10, "rates": [0.5, 0.25]}, "start": "fresh"}

WRITE = StageFiles("write", ("out.txt",))


def test_missing_settings_have_the_value_as_before() -> None:
    assert with_added(EARLIER, Distill()) == to_json(Distill())
    assert with_added([EARLIER, EARLIER], [Distill(), Distill()]) == to_json([Distill()] * 2)
    assert with_added({"seed": 3, "recipe": EARLIER}, {"seed": 4, "recipe": Distill()}) == {
        "seed": 3,
        "recipe": to_json(Distill()),
    }


def test_stored_values_are_kept() -> None:
    other = to_json(Distill(Fit(dropout=0.5), mirror=True))
    assert with_added(other, Distill()) == other
    unlike = {"fit": None, "start": [1], "removed": 3}
    assert with_added(unlike, Distill()) == {**unlike, "mirror": False}
    assert with_added("text", Distill()) == "text"


def test_settings_as_before_have_the_fingerprint_of_earlier_versions() -> None:
    assert without_added({"seed": 0, "recipes": [Distill()]}) == {"seed": 0, "recipes": [EARLIER]}
    assert fingerprint(without_added(Fit())) == fingerprint(
        {name: value for name, value in asdict(Fit()).items() if name != "dropout"}
    )
    changed = replace(Distill(), mirror=True)
    assert without_added(changed) == {**EARLIER, "mirror": True}


def test_a_folder_without_an_added_setting_is_continued_and_completed(tmp_path: Path) -> None:
    out = tmp_path / "run"
    RunFolder.open(out, {}, {"config": EARLIER, "seed": 0}).close()
    RunFolder.open(out, {}, {"config": Distill(), "seed": 0}).close()
    assert read_json(out / "config.json")["settings"]["config"] == to_json(Distill())
    RunFolder.open(out, {}, {"config": Distill(), "seed": 0}).close()


@pytest.mark.parametrize(
    ("earlier", "present", "expected"),
    [
        (EARLIER, Distill(Fit(dropout=0.5)), r"config\.fit\.dropout is 0\.0 there, 0\.5 now;"),
        (to_json(Distill(mirror=True)), Distill(), r"config\.mirror is true there, false now;"),
        (
            {"fit": EARLIER["fit"]},
            Distill(),
            r'config\.start is absent there, "fresh" now; use --overwrite',
        ),
    ],
    ids=["another value now", "another value there", "not an added setting"],
)
def test_a_folder_of_other_settings_is_refused(
    tmp_path: Path, earlier: object, present: Distill, expected: str
) -> None:
    out = tmp_path / "run"
    RunFolder.open(out, {}, {"config": earlier}).close()
    before = (out / "config.json").read_bytes()
    with pytest.raises(InputError, match=expected) as refused:
        RunFolder.open(out, {}, {"config": present})
    assert "\n" not in str(refused.value)
    assert (out / "config.json").read_bytes() == before


def test_stages_without_an_added_setting_are_kept_with_their_fingerprint(tmp_path: Path) -> None:
    with RunFolder.open(tmp_path / "run", {}, {}) as folder:

        def write(bar: ProgressBar) -> None:
            folder.path("out.txt").write_text("done")

        def completed(recipe: object) -> tuple[str, list[str]]:
            stages = Stages(folder, Progress(output=None))
            key = stages.complete(WRITE, {"recipe": recipe}, 1, write)
            return key, stages.executed

        earlier, _ = completed(EARLIER)
        assert completed(Distill()) == (earlier, [])
        write_json(
            tmp_path / "run" / ".run" / "stages" / "write.json",
            {"key": {"recipe": EARLIER}, "outputs": ["out.txt"], "files": []},
        )
        assert completed(Distill())[1] == ["write"], "of another version of the stages"
        changed, executed = completed(replace(Distill(), mirror=True))
        assert (changed == earlier, executed) == (False, ["write"])
