"""Blind comparison: sheets of picture pairs in random order, and win rates from judgements.

    python benchmarks/blind.py make OURS=FOLDER OTHER=FOLDER... --out SHEETS --key KEY.json
        [--pairs 60] [--scale 3] [--seed N] [--group NAME=PATTERN]... [--min-difference 2]
    python benchmarks/blind.py judge --key KEY.json --judge FILE [FILE...]

A candidate's folder holds ``CLIP/%05d.png``, the same views for all, as ``benchmarks/invention.py``
writes them under ``frames/``. Each pair shows the first candidate and one of the others at the same
view; pairs are spread evenly over others, clips and views, and views where both are nearly equal
are left out. ``SHEETS/`` receives ``sheet_01.png``, ... and ``question.txt``, and nothing that
names a candidate or a clip. The key is stored elsewhere; judges must not see it.

A judgement file has one line per pair: ``left``, ``right`` or ``tie``, optionally after the pair's
number and a colon, and followed by remarks (``7: left tiles on the right``). Prints the wins,
losses and ties of the first candidate against each other one, per group of clips (shell patterns)
and per judge; the fraction of wins among decided pairs with its 95 % interval (Wilson 1927); and
the fraction with ties as one half.

Exit codes: 0 done; 2 bad input.
"""

from __future__ import annotations

import argparse
import fnmatch
import math
import re
import secrets
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
from exit_codes import exit_code_of
from jaxtyping import UInt8
from PIL import Image, ImageDraw, ImageFont

from artifixer.runtime.errors import InputError
from artifixer.runtime.files import read_whole
from artifixer.runtime.image_files import read_image, write_png
from artifixer.runtime.json_io import as_object, read_json, write_json
from artifixer.runtime.seeds import numpy_generator

Answer = Literal["left", "right", "tie"]

#: Pairs on a sheet: rows and columns.
SHEET_ROWS, SHEET_COLUMNS = 3, 2

#: Default of the minimum mean difference of the two pictures in 8-bit values.
MIN_DIFFERENCE = 2.0

#: Two-sided 95 % quantile of the normal distribution.
Z95 = 1.959964

#: White space around pictures, and the height of a pair's number, pixels.
MARGIN, TITLE = 12, 28

QUESTION = """Each numbered pair shows one view of a place in two versions, left and right.

Which looks more like a photograph of this place, and where is the fault?

Write one line per pair: its number and a colon, then left, right or tie, then what is wrong with
the other. Look at the pictures only.
"""


@dataclass(frozen=True)
class BlindPair:
    """One pair, as the key stores it. ``ours`` says on which side the first candidate is."""

    other: str
    clip: str
    frame: str
    ours: Literal["left", "right"]
    group: str


@dataclass
class Tally:
    """Answers about the first candidate."""

    wins: int = 0
    losses: int = 0
    ties: int = 0

    def add(self, pair: BlindPair, answer: Answer) -> None:
        if answer == "tie":
            self.ties += 1
        elif answer == pair.ours:
            self.wins += 1
        else:
            self.losses += 1

    @property
    def pairs(self) -> int:
        return self.wins + self.losses + self.ties

    @property
    def share(self) -> float | None:
        """Fraction of wins among decided pairs."""
        decided = self.wins + self.losses
        return self.wins / decided if decided else None

    @property
    def share_with_ties(self) -> float | None:
        """Fraction of wins, with ties as one half."""
        return (self.wins + self.ties / 2) / self.pairs if self.pairs else None


def wilson_interval(wins: int, trials: int) -> tuple[float, float]:
    """95 % interval of a binomial fraction; (0, 1) without trials."""
    if not trials:
        return 0.0, 1.0
    share, spread = wins / trials, Z95**2 / trials
    middle = (share + spread / 2) / (1 + spread)
    half = Z95 / (1 + spread) * math.sqrt(share * (1 - share) / trials + spread / 4 / trials)
    return max(0.0, middle - half), min(1.0, middle + half)


def draw_pairs(
    folders: Mapping[str, Path],
    count: int,
    seed: int,
    groups: Sequence[tuple[str, str]] = (),
    min_difference: float = MIN_DIFFERENCE,
) -> list[BlindPair]:
    """Pairs of the first folder with each other one, in random order and on random sides.

    Raises ``InputError`` when there are fewer than ``count`` views that differ.
    """
    (ours, our_folder), *others = folders.items()
    random = numpy_generator(seed, "blind pairs")
    lists = []
    for other, folder in others:
        for clip in sorted(path.name for path in our_folder.iterdir() if path.is_dir()):
            names = sorted(path.name for path in (our_folder / clip).glob("*.png"))
            missing = [name for name in names if not (folder / clip / name).is_file()]
            if missing:
                raise InputError(
                    f"{folder / clip / missing[0]}: does not exist; expected the same views as "
                    f"{our_folder}"
                )
            different = [
                name
                for name in names
                if _difference(our_folder / clip / name, folder / clip / name) >= min_difference
            ]
            lists.append([(other, clip, name) for name in _spread_order(different)])
    chosen: list[tuple[str, str, str]] = []
    for turn in range(max(map(len, lists), default=0)):
        layer = [views[turn] for views in lists if turn < len(views)]
        # an incomplete last layer is random, so that no clip is preferred by its name
        if len(chosen) + len(layer) > count:
            random.shuffle(layer)
        chosen += layer[: count - len(chosen)]
    if len(chosen) < count:
        raise InputError(
            f"{ours} and {', '.join(other for other, _ in others)} differ in {len(chosen)} views; "
            f"expected at least --pairs {count}"
        )
    random.shuffle(chosen)
    return [
        BlindPair(
            other,
            clip,
            frame,
            "left" if random.random() < 0.5 else "right",
            next((name for name, pattern in groups if fnmatch.fnmatch(clip, pattern)), "other"),
        )
        for other, clip, frame in chosen
    ]


def write_sheets(
    out: Path, pairs: Sequence[BlindPair], folders: Mapping[str, Path], scale: int
) -> int:
    """``sheet_01.png``, ... and the question; returns the number of sheets."""
    out.mkdir(parents=True, exist_ok=True)
    ours = next(iter(folders.values()))
    pictures = []
    for number, pair in enumerate(pairs, start=1):
        sides = [
            read_image(folder / pair.clip / pair.frame) for folder in (ours, folders[pair.other])
        ]
        pictures.append(_pair_picture(number, sides if pair.ours == "left" else sides[::-1], scale))
    per_sheet = SHEET_ROWS * SHEET_COLUMNS
    sheets = [pictures[first : first + per_sheet] for first in range(0, len(pictures), per_sheet)]
    for number, shown in enumerate(sheets, start=1):
        write_png(out / f"sheet_{number:02d}.png", _sheet(shown))
    (out / "question.txt").write_text(QUESTION, encoding="utf-8")
    return len(sheets)


def read_answers(path: Path, count: int) -> list[Answer]:
    """The answers of one judgement file; ``InputError`` names the line that is wrong."""
    text = read_whole(path, "a judgement file").decode("utf-8", errors="replace")
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    if len(lines) != count:
        raise InputError(f"{path}: {len(lines)} lines; expected one for each of {count} pairs")
    answers: list[Answer] = []
    for number, line in enumerate(lines, start=1):
        found = re.fullmatch(r"(?:(\d+)\s*:\s*)?(left|right|tie)\b.*", line, re.IGNORECASE)
        if found is None or (found[1] is not None and int(found[1]) != number):
            raise InputError(
                f"{path}: line {number} is {line[:60]!r}; expected '{number}: ' and left, right or "
                "tie, in the order of the pairs"
            )
        answers.append(found[2].lower())  # type: ignore[arg-type]
    return answers


def tallies(
    pairs: Sequence[BlindPair], judgements: Mapping[str, Sequence[Answer]]
) -> dict[str, Tally]:
    """By ``against OTHER``, ``against OTHER, GROUP`` and, of several judges, ``against OTHER, by
    JUDGE``."""
    found: dict[str, Tally] = {}
    for judge, answers in judgements.items():
        for pair, answer in zip(pairs, answers, strict=True):
            labels = [f"against {pair.other}", f"against {pair.other}, {pair.group}"]
            if len(judgements) > 1:
                labels.append(f"against {pair.other}, by {judge}")
            for label in labels:
                found.setdefault(label, Tally()).add(pair, answer)
    return dict(sorted(found.items()))


def table(rows: Mapping[str, Tally]) -> str:
    """Markdown."""
    lines = [
        "| | pairs | wins | losses | ties | wins of decided | 95 % interval | ties as halves |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for label, tally in rows.items():
        low, high = wilson_interval(tally.wins, tally.wins + tally.losses)
        share, halves = (
            "-" if value is None else f"{value:.0%}"
            for value in (tally.share, tally.share_with_ties)
        )
        lines.append(
            f"| {label} | {tally.pairs} | {tally.wins} | {tally.losses} | {tally.ties} | {share} | "
            f"{low:.0%} to {high:.0%} | {halves} |"
        )
    return "\n".join(lines)


def read_key(path: Path) -> tuple[str, list[BlindPair]]:
    """Name of the first candidate, and the pairs in order."""
    content = as_object(read_json(path), path)
    try:
        pairs = [BlindPair(**entry) for entry in content["pairs"]]
        if any(pair.ours not in ("left", "right") for pair in pairs):
            raise ValueError
        return str(content["candidate"]), pairs
    except (KeyError, TypeError, ValueError):
        raise InputError(f"{path}: is not a key of benchmarks/blind.py make") from None


def make(arguments: argparse.Namespace) -> None:
    """The verb ``make``."""
    folders = dict(_named(text, "NAME=FOLDER") for text in arguments.candidates)
    if len(folders) < 2 or len(folders) < len(arguments.candidates):
        raise InputError(
            f"{' '.join(arguments.candidates)}: expected two or more NAME=FOLDER of different names"
        )
    paths = {name: Path(folder) for name, folder in folders.items()}
    for path in paths.values():
        if not path.is_dir():
            raise InputError(f"{path}: does not exist; expected a folder of clips with frames")
    if arguments.key.resolve().is_relative_to(arguments.out.resolve()):
        raise InputError(
            f"--key {arguments.key}: is inside the folder of the sheets; expected a file outside "
            f"{arguments.out}"
        )
    seed = secrets.randbits(32) if arguments.seed is None else arguments.seed
    groups = [_named(text, "NAME=PATTERN") for text in arguments.group]
    pairs = draw_pairs(paths, arguments.pairs, seed, groups, arguments.min_difference)
    sheets = write_sheets(arguments.out, pairs, paths, arguments.scale)
    content = {
        "candidate": next(iter(paths)),
        "seed": seed,
        "pairs": [vars(pair) for pair in pairs],
    }
    write_json(arguments.key, content)
    print(f"{len(pairs)} pairs on {sheets} sheets in {arguments.out}")


def judge(arguments: argparse.Namespace) -> None:
    """The verb ``judge``."""
    candidate, pairs = read_key(arguments.key)
    judgements = {path.stem: read_answers(path, len(pairs)) for path in arguments.judge}
    print(f"{candidate}, {len(pairs)} pairs, {len(judgements)} judgement(s)\n")
    print(table(tallies(pairs, judgements)))


def _named(text: str, expected: str) -> tuple[str, str]:
    name, _, value = text.partition("=")
    if not name or not value:
        raise InputError(f"{text}: expected {expected}")
    return name, value


def _difference(first: Path, second: Path) -> float:
    one, other = read_image(first), read_image(second)
    if one.shape != other.shape:
        raise InputError(f"{second}: {other.shape[1]}x{other.shape[0]} pixels; {first} has others")
    return float(np.abs(one.astype(np.int16) - other).mean())


def _spread_order(names: Sequence[str]) -> list[str]:
    """The middle one first, then those halfway between: every prefix is evenly spread."""
    order: list[str] = []
    spans = [(0, len(names))]
    while spans:
        first, last = spans.pop(0)
        if first < last:
            middle = (first + last) // 2
            order.append(names[middle])
            spans += [(first, middle), (middle + 1, last)]
    return order


def _pair_picture(
    number: int, sides: Sequence[UInt8[np.ndarray, "h w 3"]], scale: int
) -> Image.Image:
    height, width = sides[0].shape[0] * scale, sides[0].shape[1] * scale
    picture = Image.new(
        "RGB", (2 * width + 3 * MARGIN, height + TITLE + MARGIN), color=(255, 255, 255)
    )
    font = ImageFont.load_default(size=TITLE - 8)
    ImageDraw.Draw(picture).text((MARGIN, 2), str(number), fill=(0, 0, 0), font=font)
    for place, side in enumerate(sides):
        enlarged = Image.fromarray(side).resize((width, height), Image.Resampling.BICUBIC)
        picture.paste(enlarged, (MARGIN + place * (width + MARGIN), TITLE))
    return picture


def _sheet(pictures: Sequence[Image.Image]) -> UInt8[np.ndarray, "height width 3"]:
    width = max(picture.width for picture in pictures)
    height = max(picture.height for picture in pictures)
    rows = -(-len(pictures) // SHEET_COLUMNS)
    sheet = Image.new("RGB", (SHEET_COLUMNS * width, rows * height), color=(255, 255, 255))
    for place, picture in enumerate(pictures):
        sheet.paste(picture, (place % SHEET_COLUMNS * width, place // SHEET_COLUMNS * height))
    return np.asarray(sheet)


def main(words: Sequence[str] | None = None) -> int:
    """One of the two verbs, with the exit codes of ``artifixer``."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    verbs = parser.add_subparsers(dest="verb", required=True)
    making = verbs.add_parser("make")
    making.add_argument("candidates", nargs="+", metavar="NAME=FOLDER")
    making.add_argument("--out", type=Path, required=True)
    making.add_argument("--key", type=Path, required=True)
    making.add_argument("--pairs", type=int, default=60)
    making.add_argument("--scale", type=int, default=3)
    making.add_argument("--seed", type=int, help="drawn where none is given")
    making.add_argument("--group", action="append", default=[], metavar="NAME=PATTERN")
    making.add_argument(
        "--min-difference", type=float, default=MIN_DIFFERENCE, help="mean, in 8-bit values"
    )
    judging = verbs.add_parser("judge")
    judging.add_argument("--key", type=Path, required=True)
    judging.add_argument("--judge", type=Path, nargs="+", required=True)
    arguments = parser.parse_args(words)
    return exit_code_of(lambda: (make if arguments.verb == "make" else judge)(arguments))


if __name__ == "__main__":
    sys.exit(main())
