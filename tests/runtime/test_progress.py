"""Progress: plain lines without a terminal, a bar on one, and the same lines in the log."""

import io
from pathlib import Path

from artifixer.runtime.progress import Progress


class Terminal(io.StringIO):
    """Text output that says it is a terminal."""

    def isatty(self) -> bool:
        return True


def work(output: io.StringIO | None, log_file: Path | None = None) -> None:
    with Progress(("fit", "render"), log_file=log_file, line_seconds=0, output=output) as progress:
        with progress.stage("fit", total=3) as stage:
            for iteration in range(3):
                stage.update(iteration + 1, loss=0.123456, gaussians=12345)
        progress.note("done [not markup]")


def test_plain_lines_without_a_terminal() -> None:
    output = io.StringIO()
    work(output)
    lines = output.getvalue().splitlines()
    assert lines[0].startswith("fit (1/2) 1/3 33%")
    assert "loss=0.1235 gaussians=12,345" in lines[0]
    assert "took 0:00:00" in lines[-2]
    assert lines[-1] == "done [not markup]"
    assert "\x1b" not in output.getvalue()
    assert "\r" not in output.getvalue()


def test_bar_on_a_terminal() -> None:
    output = Terminal()
    work(output)
    assert "\x1b" in output.getvalue()
    assert "3/3" in output.getvalue()
    assert "done [not markup]" in output.getvalue()


def test_a_total_that_becomes_known_later_is_shown_then() -> None:
    for output in (io.StringIO(), Terminal()):
        with (
            Progress(line_seconds=0, output=output) as progress,
            progress.stage("fit", total=0) as stage,
        ):
            stage.update(0)
            stage.total = 40
            stage.update(1)
        text = output.getvalue()
        assert "1/40" in text
        assert "0/0" not in text


def test_log_holds_the_same_lines_either_way(tmp_path: Path) -> None:
    for name, output in (("plain", io.StringIO()), ("bar", Terminal()), ("silent", None)):
        work(output, tmp_path / name)
        lines = (tmp_path / name).read_text().splitlines()
        assert [line.split(" ", 2)[2][:13] for line in lines] == [
            "fit (1/2) 1/3",
            "fit (1/2) 2/3",
            "fit (1/2) 3/3",
            "done [not mar",
        ]
