"""The blind choice: what the sheets show and hide, who is on which side, and what answers count."""

from __future__ import annotations

import importlib
import json
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
from PIL import Image

from artifixer.runtime.errors import InputError
from artifixer.runtime.image_files import write_png

#: Colours of the candidates' pictures; the number of the frame is the first channel.
COLOURS = {"ours": 40, "telea": 120, "fill": 200}
FRAMES, CLIPS, SIDE = 5, ("3001", "procedural-7"), 24


@pytest.fixture
def blind(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.syspath_prepend(str(Path(__file__).parents[1] / "benchmarks"))
    return importlib.import_module("blind")


@pytest.fixture
def folders(tmp_path: Path) -> dict[str, Path]:
    for name, colour in COLOURS.items():
        for clip in CLIPS:
            (tmp_path / name / clip).mkdir(parents=True)
            for frame in range(FRAMES):
                pixels = np.full((SIDE, SIDE, 3), colour, np.uint8)
                pixels[..., 0] = 20 * frame
                write_png(tmp_path / name / clip / f"{frame:05d}.png", pixels)
    return {name: tmp_path / name for name in COLOURS}


def made(blind: ModuleType, folders: dict[str, Path], tmp_path: Path, *more: str) -> int:
    words = ["make", *(f"{name}={folder}" for name, folder in folders.items())]
    words += ["--out", str(tmp_path / "sheets"), "--key", str(tmp_path / "key.json"), *more]
    return blind.main(words)


def test_sides_and_order_are_drawn_and_every_view_appears_once(blind, folders):
    pairs = blind.draw_pairs(folders, 20, seed=3)
    assert len({(pair.other, pair.clip, pair.frame) for pair in pairs}) == 20
    assert 4 <= sum(pair.ours == "left" for pair in pairs) <= 16
    assert {pair.other for pair in pairs} == {"telea", "fill"}
    assert blind.draw_pairs(folders, 20, seed=3) == pairs
    assert blind.draw_pairs(folders, 20, seed=4) != pairs


def test_few_pairs_are_spread_over_others_clips_and_views(blind, folders):
    pairs = blind.draw_pairs(folders, 12, seed=0)
    counts = {
        (other, clip): [pair.frame for pair in pairs if (pair.other, pair.clip) == (other, clip)]
        for other in ("telea", "fill")
        for clip in CLIPS
    }
    assert all(len(frames) == 3 for frames in counts.values())
    assert all(sorted(frames)[1] == "00002.png" for frames in counts.values())


def test_views_that_look_alike_are_no_choice(blind, folders):
    for clip in CLIPS:
        (folders["telea"] / clip / "00002.png").write_bytes(
            (folders["ours"] / clip / "00002.png").read_bytes()
        )
    pairs = blind.draw_pairs(folders, 18, seed=0)
    assert ("telea", "00002.png") not in {(pair.other, pair.frame) for pair in pairs}
    with pytest.raises(InputError, match=r"differ in 18 views; expected at least --pairs 19"):
        blind.draw_pairs(folders, 19, seed=0)


def test_the_sheets_show_the_sides_of_the_key_and_name_nobody(blind, folders, tmp_path):
    assert made(blind, folders, tmp_path, "--pairs", "20", "--scale", "2", "--seed", "1") == 0
    shown = sorted(path.name for path in (tmp_path / "sheets").iterdir())
    assert shown == ["question.txt", *(f"sheet_0{number}.png" for number in range(1, 5))]
    question = (tmp_path / "sheets" / "question.txt").read_text()
    assert not any(word in question for word in (*COLOURS, *CLIPS))
    _, pairs = blind.read_key(tmp_path / "key.json")
    width, height = 2 * 2 * SIDE + 3 * blind.MARGIN, 2 * SIDE + blind.TITLE + blind.MARGIN
    for number, pair in enumerate(pairs):
        sheet, place = divmod(number, blind.SHEET_ROWS * blind.SHEET_COLUMNS)
        with Image.open(tmp_path / "sheets" / f"sheet_0{sheet + 1}.png") as picture:
            assert not picture.info, "no text that could tell"
            pixels = np.asarray(picture)
        row, column = divmod(place, blind.SHEET_COLUMNS)
        top = row * height + blind.TITLE + SIDE
        left = column * width + blind.MARGIN + SIDE
        sides = [pixels[top, left, 1], pixels[top, left + 2 * SIDE + blind.MARGIN, 1]]
        expected = [COLOURS["ours"], COLOURS[pair.other]]
        assert sides == (expected if pair.ours == "left" else expected[::-1])
        assert pixels[top, left, 0] == 20 * int(pair.frame[:5])


def test_the_key_lies_outside_the_sheets(blind, folders, tmp_path, capsys):
    words = ["make", *(f"{name}={folder}" for name, folder in folders.items())]
    words += ["--out", str(tmp_path / "sheets"), "--key", str(tmp_path / "sheets" / "key.json")]
    assert blind.main(words) == 2
    assert "is inside the folder of the sheets" in capsys.readouterr().err
    assert not (tmp_path / "sheets").exists()


def test_a_judge_who_always_sees_ours_has_share_one(blind, folders, tmp_path, capsys):
    groups = ("--group", "rooms=30*", "--group", "procedural=procedural-*")
    assert made(blind, folders, tmp_path, "--pairs", "20", *groups) == 0
    _, pairs = blind.read_key(tmp_path / "key.json")
    best = [f"{number}: {pair.ours} tiles" for number, pair in enumerate(pairs, start=1)]
    lazy = ["Tie"] * 20
    (tmp_path / "best.txt").write_text("\n".join(best))
    (tmp_path / "lazy.txt").write_text("\n".join(lazy) + "\n")
    answers = {name: blind.read_answers(tmp_path / f"{name}.txt", 20) for name in ("best", "lazy")}
    rows = blind.tallies(pairs, answers)
    assert (rows["against telea"].wins, rows["against telea"].losses) == (10, 0)
    assert rows["against telea"].ties == 10 and rows["against telea"].share == 1
    assert rows["against telea"].share_with_ties == 0.75
    assert rows["against fill, rooms"].pairs == rows["against fill, procedural"].pairs == 10
    assert rows["against fill, by lazy"].share is None
    capsys.readouterr()
    files = [str(tmp_path / "best.txt"), str(tmp_path / "lazy.txt")]
    assert blind.main(["judge", "--key", str(tmp_path / "key.json"), "--judge", *files]) == 0
    shown = capsys.readouterr().out
    assert "| against telea | 20 | 10 | 0 | 10 | 100% | 72% to 100% | 75% |" in shown


def test_answers_about_the_other_side_are_losses(blind):
    pair = blind.BlindPair("telea", "3001", "00000.png", "right", "rooms")
    tally = blind.Tally()
    for answer in ("left", "left", "right", "tie"):
        tally.add(pair, answer)
    assert (tally.wins, tally.losses, tally.ties) == (1, 2, 1)


def test_intervals_of_known_shares(blind):
    """Wilson's interval, against the values of published tables."""
    assert blind.wilson_interval(8, 10) == pytest.approx((0.4902, 0.9433), abs=1e-4)
    assert blind.wilson_interval(0, 10) == pytest.approx((0, 0.2775), abs=1e-4)
    assert blind.wilson_interval(0, 0) == (0, 1)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("left\nright\n", "2 lines; expected one for each of 3 pairs"),
        ("left\nneither\ntie\n", "line 2 is 'neither'"),
        ("1: left\n3: tie\n2: left\n", "line 2 is '3: tie'"),
        ("leftish\nleft\nleft\n", "line 1 is 'leftish'"),
    ],
)
def test_unclear_judgements_are_refused(blind, tmp_path, text, said):
    (tmp_path / "judge.txt").write_text(text)
    with pytest.raises(InputError, match=said):
        blind.read_answers(tmp_path / "judge.txt", 3)


def test_bad_input_is_one_line(blind, folders, tmp_path, capsys):
    (folders["fill"] / CLIPS[0] / "00003.png").unlink()
    assert made(blind, folders, tmp_path) == 2
    assert "does not exist; expected the same views" in capsys.readouterr().err
    (tmp_path / "key.json").write_text(json.dumps({"pairs": [{"clip": 1}]}))
    (tmp_path / "judge.txt").write_text("left\n")
    words = ["--key", str(tmp_path / "key.json"), "--judge", str(tmp_path / "judge.txt")]
    assert blind.main(["judge", *words]) == 2
    assert "is not a key of" in capsys.readouterr().err
    assert blind.main(["make", f"ours={tmp_path}", "--out", "x", "--key", "y"]) == 2
    assert "expected two or more NAME=FOLDER" in capsys.readouterr().err
