"""``artifixer convert``: Gaussian splats from one file format to another."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro

from artifixer.runtime.counts import counted
from artifixer.runtime.errors import InputError

#: Loaded when the options are right (see ``cli.py``).
WORK_MODULES = ("artifixer.splats.files",)


@dataclass(frozen=True)
class Command:
    """Convert a splat file; the formats follow from the content of IN and the ending of OUT.

    Formats:
      read     .ply, .compressed.ply, .spz, .sog, .splat
      written  .ply, .spz, .sog, .usdz (which needs the extra formats)

    World coordinates are kept. SPZ files have other axes (y up, z back), which are converted when
    reading and writing. Gaussians with non-finite values are left out and counted.

    Examples:
      artifixer convert scene.ply scene.spz
      artifixer convert scene.sog scene.ply
    """

    source: Annotated[Path, tyro.conf.Positional, tyro.conf.arg(metavar="IN")]
    """Splat file to read."""
    target: Annotated[Path, tyro.conf.Positional, tyro.conf.arg(metavar="OUT")]
    """Splat file to write."""
    overwrite: bool = False
    """Replace the target when it exists."""


def run_command(command: Command) -> None:
    from artifixer.splats.files import (
        format_to_write,
        placement_note,
        range_note,
        read_splat_file,
        write_splat_file,
    )

    format_to_write(command.target)
    if command.target.is_dir():
        raise InputError(f"{command.target}: is a folder, expected a file to write")
    if command.target.exists():
        if not command.overwrite:
            raise InputError(
                f"{command.target}: exists; give --overwrite to replace it, or another name"
            )
        if command.source.exists() and command.target.samefile(command.source):
            raise InputError(f"{command.target}: is the file to read; expected another name")
    found = read_splat_file(command.source)
    formats = [format_to_write(command.target).name]
    for note in (
        *found.notes,
        *placement_note(formats, found.origin),
        *range_note(formats, found.splats),
    ):
        print(note, file=sys.stderr)
    write_splat_file(command.target, found.splats, found.origin)
    splats = found.splats
    print(
        f"{counted(len(splats), 'Gaussian')} of degree {splats.sh_degree} in {command.target} "
        f"({command.target.stat().st_size:,} bytes)"
    )
