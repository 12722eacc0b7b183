"""The fuzzer: ``python -m tests.fuzz [CASES] [--seed N] [--target NAME] [--case NUMBER] [--seconds
S]``.

Damages the files of small good folders in seeded ways and lets every reader of the project read
them, in processes that may die. A case is good when reading ends in a result or in one line of
``InputError``, in bounded time and memory, with nothing outside its folder read, written or deleted
and no program started. ``--target NAME --case NUMBER`` repeats one case and prints what happened.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import selectors
import subprocess
import sys
import tempfile
import time
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from PIL import Image

PROJECT = Path(__file__).resolve().parents[2]

#: Seconds of processor time that count as a hang, and of waiting: other programs may have the
#: processor.
HANG_CPU, HANG_WALL = 10.0, 90.0

GOOD = ("read", "refused")


@dataclass(frozen=True)
class Failure:
    """A bad case: its target and number, what kind of bad, and the details."""

    target: str
    number: int
    outcome: str
    detail: str
    changes: list[str]


class Child:
    """A process that runs cases one after the other, and is replaced when it dies or hangs."""

    def __init__(self, seeds: Path, seed: int) -> None:
        self._seeds, self._seed = seeds, seed
        self._folder = tempfile.TemporaryDirectory(prefix="fuzz-", dir=seeds.parent)
        self._process: subprocess.Popen[bytes] | None = None

    def run(self, target: str, number: int) -> dict[str, Any]:
        """The verdict of one case."""
        process = self._started()
        assert process.stdin is not None and process.stdout is not None
        process.stdin.write(f"{target} {number}\n".encode())
        process.stdin.flush()
        line = _line(process, HANG_WALL)
        if line is None:
            self.close()
            return {
                "outcome": "hang",
                "detail": f"no answer in {HANG_WALL:g} seconds",
                "changes": [],
                "cpu": 0,
                "memory": 0,
            }
        if not line:
            code = process.wait()
            self.close()
            return {
                "outcome": "crash",
                "detail": f"the process ended with {code}",
                "changes": [],
                "cpu": 0,
                "memory": 0,
            }
        verdict: dict[str, Any] = json.loads(line)
        if verdict["cpu"] > HANG_CPU and verdict["outcome"] in GOOD:
            verdict |= {
                "outcome": "hang",
                "detail": f"{verdict['cpu']:g} seconds of processor time",
            }
        return verdict

    def close(self) -> None:
        """End the process."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            self._process = None

    def _started(self) -> subprocess.Popen[bytes]:
        if self._process is None:
            cases = Path(self._folder.name)
            _write_outside(cases / "outside")
            command = [
                sys.executable,
                "-m",
                "tests.fuzz.child",
                str(self._seeds),
                str(cases),
                str(self._seed),
            ]
            environment = {
                **os.environ,
                "PYTHONPATH": str(PROJECT),
                "TMPDIR": str(cases / "case"),
                "OMP_NUM_THREADS": "1",
            }
            environment |= {
                "OMP_WAIT_POLICY": "passive",
                "HF_HUB_OFFLINE": "1",
                "PYTHONDONTWRITEBYTECODE": "1",
                "PYTHONWARNINGS": "ignore",
            }
            self._process = subprocess.Popen(
                command,
                cwd=PROJECT,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=None,
                env=environment,
            )
            answer = _line(self._process, 600)
            assert answer == b"ready\n", f"the child did not start: {answer!r}"
        return self._process


def fuzz(
    cases: int,
    seed: int = 0,
    targets: list[str] | None = None,
    seconds: float | None = None,
    log: Any = None,
) -> tuple[Counter, list[Failure]]:
    """Run cases in turn over the targets; gives how many ended how, and the bad ones. seconds: end
    earlier after about this time.
    """
    from tests.fuzz.targets import TARGETS

    counts: Counter = Counter()
    failures: list[Failure] = []
    with tempfile.TemporaryDirectory(prefix="fuzz-seeds-") as scratch:
        seeds = Path(scratch) / "seeds"
        for name, target in TARGETS.items():
            (seeds / name).mkdir(parents=True)
            target.make(seeds / name)
        child = Child(seeds, seed)
        began = time.monotonic()
        try:
            for name, number in _plan(cases, seed, targets or list(TARGETS)):
                if seconds is not None and time.monotonic() - began > seconds:
                    break
                verdict = child.run(name, number)
                counts[name, verdict["outcome"]] += 1
                if log is not None and counts.total() % 1000 == 0:
                    print(
                        f"{counts.total():,} cases, {len(failures)} bad, "
                        f"{time.monotonic() - began:.0f} s",
                        file=log,
                        flush=True,
                    )
                if verdict["outcome"] not in GOOD:
                    failures.append(
                        Failure(
                            name, number, verdict["outcome"], verdict["detail"], verdict["changes"]
                        )
                    )
                    if log is not None:
                        print(
                            f"{name} {number}: {verdict['outcome']} "
                            f"({'; '.join(verdict['changes'])})\n{verdict['detail']}",
                            file=log,
                            flush=True,
                        )
        finally:
            child.close()
    return counts, failures


def run_one(target: str, number: int, seed: int = 0) -> dict[str, Any]:
    """One case again."""
    from tests.fuzz.targets import TARGETS

    with tempfile.TemporaryDirectory(prefix="fuzz-seeds-") as scratch:
        seeds = Path(scratch) / "seeds"
        for name, entry in TARGETS.items():
            (seeds / name).mkdir(parents=True)
            entry.make(seeds / name)
        child = Child(seeds, seed)
        try:
            return child.run(target, number)
        finally:
            child.close()


def _plan(cases: int, seed: int, targets: list[str]) -> list[tuple[str, int]]:
    """Which targets, as often as they weigh, in an order that does not depend on how many cases
    there are.
    """
    from tests.fuzz.targets import TARGETS

    chance = random.Random(f"plan {seed}")
    weights = [TARGETS[name].weight for name in targets]
    numbers: Counter = Counter()
    plan = []
    for name in chance.choices(targets, weights, k=cases):
        plan.append((name, numbers[name]))
        numbers[name] += 1
    return plan


def _line(process: subprocess.Popen[bytes], seconds: float) -> bytes | None:
    """The next line of the process, b"" when it has ended, None when nothing comes in time."""
    assert process.stdout is not None
    with selectors.DefaultSelector() as selector:
        selector.register(process.stdout, selectors.EVENT_READ)
        if not selector.select(seconds):
            return None
    return process.stdout.readline()


def _write_outside(folder: Path) -> None:
    """What lies beside the cases and is none of their business: a file of every kind that a link
    may stand for.
    """
    folder.mkdir(exist_ok=True)
    (folder / "secret.txt").write_text("secret\n")
    (folder / "secret.json").write_text('{"secret": true}')
    (folder / "secret.ply").write_text(
        "ply\nformat ascii 1.0\nelement vertex 1\nproperty float x\nproperty float y\nproperty "
        "float z\nend_header\n1 2 3\n"
    )
    Image.new("RGB", (64, 48)).save(folder / "secret.png")


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.fuzz")
    parser.add_argument("cases", type=int, nargs="?", default=20_000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--target", action="append")
    parser.add_argument("--case", type=int)
    parser.add_argument("--seconds", type=float)
    options = parser.parse_args()
    from tests.fuzz.targets import TARGETS

    for name in options.target or ():
        if name not in TARGETS:
            parser.exit(2, f"--target {name}: expected one of {', '.join(TARGETS)}\n")
    if options.case is not None and len(options.target or ()) != 1:
        parser.exit(2, f"--case {options.case}: expected one --target beside it\n")
    if options.case is not None:
        verdict = run_one(options.target[0], options.case, options.seed)
        print(json.dumps({**verdict, "detail": None}, indent=2), verdict["detail"], sep="\n")
        return int(verdict["outcome"] not in GOOD)
    counts, failures = fuzz(
        options.cases, options.seed, options.target, options.seconds, log=sys.stdout
    )
    for (name, outcome), count in sorted(counts.items()):
        print(f"{name:<24} {outcome:<10} {count:>6}")
    print(f"{sum(counts.values()):,} cases, {len(failures)} bad")
    return int(bool(failures))


if __name__ == "__main__":
    sys.exit(main())
